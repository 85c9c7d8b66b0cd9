"""Projections of mixed dimensions to a common one (Ginart et al. 2019, arXiv 1909.11810, section 3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nisbench.embedding.batch import Embeddings, RowPerId
from nisbench.embedding.table import Table, xavier_std


class Projection(nn.Module):
    """Embedding i of block b becomes e_i P_b: its first d_b columns times a (d_b, base) matrix without bias.

    Where d_b is the base dimension, nothing is projected, as in the authors' code.
    If a model has several embeddings per feature, each has dimensions and matrices of its own.
    """

    block: Tensor
    order: Tensor
    back: Tensor

    def __init__(
        self,
        block: Tensor,
        dimensions: Sequence[Sequence[int]],
        common: Sequence[int],
        generator: torch.Generator | None = None,
    ) -> None:
        """`block` is (N,). Per embedding, `dimensions` holds those of the L blocks, and `common` the common one."""
        super().__init__()
        self.dimensions, self.common = dimensions, tuple(common)
        self.weights = nn.ParameterList(
            torch.empty(d, width).normal_(0.0, xavier_std(max(d, 1), width), generator=generator)
            for of_blocks, width in zip(dimensions, common, strict=True)
            for d in of_blocks
            if d < width
        )
        order, self.sizes = self._sorted(block)
        self.register_buffer("block", block.to(torch.int32))
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    def forward(self, table: Table, ids: Tensor, values: Tensor | None) -> Embeddings:
        """A batch's projected embeddings (B, M, common dimensions of all): ids (B, M), and values (B, M) or None."""
        if torch.compiler.is_compiling():
            flat = ids.flatten()
            return RowPerId(ids, values, self._by_all_blocks(table.rows(flat), self.block[flat]))
        if len(self.block) <= ids.numel():
            projected = self._projected(table.rows(self.order), self.sizes)[self.back]
            return Embeddings(ids, values, projected)
        rows, at = torch.unique(ids, return_inverse=True)
        order, sizes = self._sorted(self.block[rows])
        projected = self._projected(table.rows(rows[order]), sizes)[order.argsort()]
        return Embeddings(at.to(ids.dtype), values, projected)

    def _by_all_blocks(self, rows: Tensor, block: Tensor) -> Tensor:
        """Rows (n, widths of all embeddings) of blocks (n,), projected, without sizes that depend on blocks: for programs."""
        columns, weights, found = 0, iter(self.weights), []
        for dimensions, width in zip(self.dimensions, self.common, strict=True):
            projected = rows.new_zeros(rows.shape[0], width)
            for number, d in enumerate(dimensions):
                own = rows[:, columns : columns + d]
                projected = torch.where(
                    (block == number)[:, None], own @ next(weights) if d < width else own, projected
                )
            found.append(projected)
            columns += max(dimensions)
        return torch.cat(found, 1)

    def _sorted(self, block: Tensor) -> tuple[Tensor, list[int]]:
        """An order that sorts rows by block, and the number of rows of each block."""
        return block.argsort(stable=True), torch.bincount(block.long(), minlength=len(self.dimensions[0])).tolist()

    def _projected(self, rows: Tensor, sizes: list[int]) -> Tensor:
        """Rows (n, widths of all embeddings), sorted by block, projected: (n, common dimensions of all embeddings)."""
        blocks, columns, weights, projected = torch.split(rows, sizes), 0, iter(self.weights), []
        for dimensions, width in zip(self.dimensions, self.common, strict=True):
            own = [block[:, columns : columns + d] for block, d in zip(blocks, dimensions, strict=True)]
            widened = [block @ next(weights) if d < width else block for block, d in zip(own, dimensions, strict=True)]
            projected.append(torch.cat(widened))
            columns += max(dimensions)
        return torch.cat(projected, 1)
