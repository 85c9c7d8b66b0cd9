"""Projections of mixed dimensions to a common one (Ginart et al. 2019, arXiv 1909.11810, section 3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nisbench.embedding import Embeddings, SelectedEmbedding, xavier_std


class Projection(nn.Module):
    """Embedding i of block b becomes e_i P_b: its first d_b columns times a (d_b, base) matrix without bias.

    Where d_b is the base dimension, nothing is projected, as in the authors' code.
    A model may have several embeddings per feature: each part has dimensions and matrices of its own.
    """

    block: Tensor
    order: Tensor
    back: Tensor

    def __init__(
        self,
        block: Tensor,
        parts: Sequence[Sequence[int]],
        base: Sequence[int],
        generator: torch.Generator | None = None,
    ) -> None:
        """`block` is (N,); of each part, `parts` holds the L blocks' dimensions, and `base` the common one."""
        super().__init__()
        self.parts, self.base = parts, tuple(base)
        self.weights = nn.ParameterList(
            torch.empty(d, common).normal_(0.0, xavier_std(max(d, 1), common), generator=generator)
            for dimensions, common in zip(parts, base, strict=True)
            for d in dimensions
            if d < common
        )
        order, self.sizes = self._sorted(block)
        self.register_buffer("block", block.to(torch.int32))
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    def forward(self, embedding: SelectedEmbedding, ids: Tensor, values: Tensor | None) -> Embeddings:
        """The projected embeddings (B, M, common dimensions of all parts) of a batch: ids (B, M), and values (B, M) or None."""
        if len(self.block) <= ids.numel():
            projected = self._projected(embedding.rows(self.order), self.sizes)[self.back]
            return Embeddings(ids, values, projected)
        rows, places = torch.unique(ids, return_inverse=True)
        order, sizes = self._sorted(self.block[rows])
        projected = self._projected(embedding.rows(rows[order]), sizes)[order.argsort()]
        return Embeddings(places.to(ids.dtype), values, projected)

    def _sorted(self, block: Tensor) -> tuple[Tensor, list[int]]:
        """An order in which rows of a block stand together, and how many each block has."""
        return block.argsort(stable=True), torch.bincount(block.long(), minlength=len(self.parts[0])).tolist()

    def _projected(self, rows: Tensor, sizes: list[int]) -> Tensor:
        """Rows (n, widths of all parts), sorted by block, each projected: (n, common dimensions of all parts)."""
        blocks, columns, weights, projected = torch.split(rows, sizes), 0, iter(self.weights), []
        for dimensions, common in zip(self.parts, self.base, strict=True):
            of_part = [each[:, columns : columns + d] for each, d in zip(blocks, dimensions, strict=True)]
            whole = [each @ next(weights) if d < common else each for each, d in zip(of_part, dimensions, strict=True)]
            projected.append(torch.cat(whole))
            columns += max(dimensions)
        return torch.cat(projected, 1)
