"""The embedding layer with its selection, and the mixed dimension scheme that is derived from it.

A *selection* is an (L, K) matrix over feature blocks: 1 = the dimension exists, 0 = it does not, between = softly.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn import functional

from nisbench.errors import NisbenchError
from nisbench.files import whole_file
from nisbench.row_functions import ProductByField, SumOfRows, rows_of

LEAST_PROJECTED = 8
"""Embeddings of fewer columns are multiplied faster than their products with a layer's weights are added up."""


class SelectedEmbedding(nn.Module):
    """Embeddings e~_i = e_i * selection[block(i)] (paper, Eq. 4); a scalar field's row is multiplied by its value.

    `weight` (N, width) is learned; `block` (N,) int32 and `selection` (L, width) are not, by this module. `soft` says that
    something else changes the selection during training.
    """

    weight: nn.Parameter
    block: Tensor
    selection: Tensor

    def __init__(self, block: Tensor, selection: Tensor, weight: Tensor, soft: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_buffer("block", block.to(torch.int32))
        self.register_buffer("selection", selection)
        self.scaled = soft or bool((selection != 1).any())  # else there is nothing to multiply by

    def forward(self, ids: Tensor, values: Tensor | None = None) -> "Embeddings":
        """The embeddings of a batch: (B, M) ids, and (B, M) values or None."""
        if not self.scaled:
            return Embeddings(ids, values, self.weight)
        if len(self.weight) <= ids.numel():  # cheaper to scale each row of the table once than each occurrence of it
            return Embeddings(ids, values, self.weight * rows_of(self.selection, self.block))
        return Embeddings(
            ids, values, self.weight, rows_of(self.selection, self.block.index_select(0, ids.flatten()).view(ids.shape))
        )

    def rows(self, features: Tensor) -> Tensor:
        """The embeddings e~ of some features, each once: (n,) -> (n, width)."""
        return self.scaled_rows(rows_of(self.weight, features), features)

    def scaled_rows(self, weights: Tensor, features: Tensor) -> Tensor:
        """The embeddings e~ (n, width) of features (n,) that have these weights (n, width)."""
        return weights * rows_of(self.selection, self.block[features]) if self.scaled else weights


class Embeddings:
    """The embeddings of a batch, as a model may ask for them: each by itself, or what they sum to.

    Where the table has fewer rows than the batch has ids, what a sum is of is computed per row and added up where it lies, and
    no embedding is gathered: far fewer operations, and far less memory to move.
    """

    def __init__(
        self,
        ids: Tensor,
        values: Tensor | None,
        table: Tensor,
        scales: Tensor | None = None,
        each: Callable[[], Tensor] | None = None,
    ) -> None:
        """Rows of `table` (N, width) for `ids` (B, M), times `values` (B, M) and `scales` (B, M, width) where given.

        `each` stands in for how they are got.
        """
        self.ids, self.values, self.table, self.scales, self.from_elsewhere = ids, values, table, scales, each

    def split(self, widths: Sequence[int]) -> list["Embeddings"]:
        """Those of parts of so many columns, which are read from the table together when one of them is asked for."""

        @cache
        def parts() -> tuple[Tensor, ...]:
            return torch.split(self.each, list(widths), 2)

        def part(i: int) -> Tensor:
            return parts()[i]

        tables = torch.split(self.table, list(widths), 1)
        return [Embeddings(self.ids, self.values, t, each=partial(part, i)) for i, t in enumerate(tables)]

    @cached_property
    def each(self) -> Tensor:
        """(B, M, width)."""
        if self.from_elsewhere:
            return self.from_elsewhere()
        embeddings = rows_of(self.table, self.ids)
        if self.scales is not None:
            embeddings = embeddings * self.scales
        return embeddings if self.values is None else embeddings * self.values[..., None]

    def sums(self, parts: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Over the M of an instance: the sum of its embeddings (B, width), and of their squared lengths (B,).

        With `parts`, which sums the columns of T parts, (..., width) -> (..., T), the squared lengths of each: (B, T).
        """

        def lengths(embeddings: Tensor) -> Tensor:
            squares = embeddings.square()
            return squares.sum(-1, keepdim=True) if parts is None else parts(squares)

        if self._repetitive(1):
            summed, squared = self._summed(self.table), rows_of(lengths(self.table), self.ids)
            squared = (squared if self.values is None else squared * self.values.square()[..., None]).sum(1)
        else:
            summed, squared = self.each.sum(1), lengths(self.each).sum(1)
        return summed, squared[:, 0] if parts is None else squared

    def linear(self, weight: Tensor, bias: Tensor, field_sizes: Sequence[int]) -> Tensor:
        """A linear layer on an instance's embeddings side by side: weight (out, M * width), bias (out,) -> (B, out).

        `field_sizes` are the numbers of features of the M fields, in the order of their ids.
        """
        width = self.table.shape[1]
        all_features = len(self.table) == sum(field_sizes)
        if not (all_features and self._repetitive(4) and width >= LEAST_PROJECTED):
            return functional.linear(self.each.flatten(1), weight, bias)
        by_field = weight.view(len(weight), len(field_sizes), width).permute(1, 2, 0)
        products: Tensor = ProductByField.apply(self.table, by_field, list(field_sizes))  # type: ignore[no-untyped-call]
        return self._summed(products) + bias

    def _repetitive(self, times: int) -> bool:
        """Whether the batch has at least so many times as many ids as the table has rows, and no scales of its own."""
        return self.scales is None and self.ids.numel() >= times * len(self.table)

    def _summed(self, table: Tensor) -> Tensor:
        """The sums over an instance's features of their rows in `table` (N, w), times their values: (B, w)."""
        count, m = self.ids.shape
        starts = torch.arange(0, count * m, m, dtype=self.ids.dtype, device=self.ids.device)
        weights = None if self.values is None else self.values.flatten()
        summed: Tensor = SumOfRows.apply(self.ids.flatten(), starts, weights, table)  # type: ignore[no-untyped-call]
        return summed


def merged(weight: Tensor, selection: Tensor, block: Tensor) -> Tensor:
    """E~ (N, width): the selection (L, width) multiplied into the weights (N, width), each feature's by its block's (N,)."""
    return weight * selection[block.long()]


def used_columns(selection: Tensor) -> Tensor:
    """(L, K) -> indices of the columns that any block selects, or the first if none does."""
    used = selection.ne(0).any(0).nonzero()[:, 0]
    return used if len(used) else torch.zeros(1, dtype=torch.long)


def xavier_std(features: int, k: int) -> float:
    """Standard deviation that Glorot & Bengio (2010) give an (N, K) table, as in the released code."""
    return float((2.0 / (features + k)) ** 0.5)


@dataclass(frozen=True)
class DimensionScheme:
    """A mixed dimension scheme D with its values V (paper, section 2.2), features one after another.

    Feature i has the dimensions ``dimensions[offsets[i]:offsets[i + 1]]``, ascending, with these ``values``.
    """

    k: int
    offsets: np.ndarray
    """(N + 1,) int64."""
    dimensions: np.ndarray
    """(nonzeros,) uint16, or uint32 where K asks for it."""
    values: np.ndarray
    """(nonzeros,) float32."""

    @classmethod
    def from_dense(cls, embeddings: np.ndarray) -> "DimensionScheme":
        """The non-zero weights of an (N, K) matrix."""
        features, dimensions = np.nonzero(embeddings)
        counts = np.bincount(features, minlength=len(embeddings))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        values = embeddings[features, dimensions].astype(np.float32)
        kind = np.uint16 if embeddings.shape[1] <= 1 << 16 else np.uint32
        return cls(embeddings.shape[1], offsets, dimensions.astype(kind), values)

    def to_dense(self) -> np.ndarray:
        """(N, K) float32, with 0 where a dimension does not exist."""
        dense = np.zeros((len(self.offsets) - 1, self.k), dtype=np.float32)
        dense[np.repeat(np.arange(len(dense)), self.sizes()), self.dimensions] = self.values
        return dense

    def sizes(self) -> np.ndarray:
        """The number of dimensions of each feature: (N,) int64."""
        return np.diff(self.offsets)

    def save(self, path: Path) -> None:
        tensors = {"offsets": self.offsets, "dimensions": self.dimensions, "values": self.values}
        with whole_file(path) as temporary:
            save_file(tensors, temporary, metadata={"nisbench": json.dumps({"k": self.k})})

    @classmethod
    def load(cls, path: Path) -> "DimensionScheme":
        try:
            with safe_open(path, framework="numpy") as file:
                k = json.loads(file.metadata()["nisbench"])["k"]
                scheme = cls(k, *(file.get_tensor(name) for name in ("offsets", "dimensions", "values")))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise NisbenchError(f"{path}: not a readable dimension scheme: {error}") from error
        offsets, count = scheme.offsets, len(scheme.values)
        ends = (
            offsets.ndim == 1
            and len(offsets)
            and offsets[0] == 0
            and offsets[-1] == count
            and (np.diff(offsets) >= 0).all()
        )
        if not ends or scheme.dimensions.shape != (count,) or (count and scheme.dimensions.max() >= k):
            raise NisbenchError(f"{path}: not a dimension scheme: its parts do not fit together")
        return scheme
