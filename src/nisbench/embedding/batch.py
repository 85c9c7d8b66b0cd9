"""The embeddings of a batch."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from nisbench.embedding.autograd import ProductByField, SumOfRows, rows_of
from nisbench.embedding.distinct_rows import SumOfDistinct, known

LEAST_PROJECTED = 8
"""With fewer columns, it is faster to multiply gathered embeddings than to add up products computed once per row."""


class Embeddings:
    """The embeddings of a batch, all of them or sums over them, as a model asks for them.

    Where the table has fewer rows than the batch has ids, the terms of a sum are computed once per row and no embedding
    is gathered: far fewer operations, and far less memory to move.
    """

    def __init__(self, ids: Tensor, values: Tensor | None, table: Tensor, scales: Tensor | None = None) -> None:
        """Rows of `table` (N, width) for `ids` (B, M), times `values` (B, M) and `scales` (B, M, width) where given."""
        self.ids, self.values, self.table, self.scales = ids, values, table, scales
        self.columns: tuple[int, ...] | None = None
        """How many columns of `ids` each field has, where one has several: then a field's embedding is their sum."""

    def dense(self) -> Tensor:
        """All embeddings: (B, M, width)."""
        return self._dense

    @cached_property
    def _dense(self) -> Tensor:
        embeddings = rows_of(self.table, self.ids)
        if self.scales is not None:
            embeddings = embeddings * self.scales
        if self.values is not None:
            embeddings = embeddings * self.values[..., None]
        if self.columns is None:
            return embeddings
        return torch.stack([of_field.sum(1) for of_field in torch.split(embeddings, list(self.columns), 1)], 1)

    def sums(self) -> tuple[Tensor, Tensor]:
        """Over the M of an instance: the sum of its embeddings (B, width), and of their squared lengths (B,)."""
        if self.columns is None and self._repetitive(1):
            summed, squares = self._summed(self.table), rows_of(self.table.square().sum(-1, keepdim=True), self.ids)
            squared = (squares if self.values is None else squares * self.values.square()[..., None]).sum(1)
            return summed, squared[:, 0]
        return self._dense.sum(1), self._dense.square().sum(-1, keepdim=True).sum(1)[:, 0]

    def linear(self, weight: Tensor, bias: Tensor, field_sizes: Sequence[int]) -> Tensor:
        """A linear layer on an instance's embeddings side by side: weight (out, M * width), bias (out,) -> (B, out).

        `field_sizes` are the numbers of features of the M fields, in the order of their ids.
        """
        width = self.table.shape[1]
        all_features = len(self.table) == sum(field_sizes)
        if not (all_features and self._repetitive(4) and width >= LEAST_PROJECTED):
            return functional.linear(self._dense.flatten(1), weight, bias)
        by_field = weight.view(len(weight), len(field_sizes), width).permute(1, 2, 0)
        products: Tensor = ProductByField.apply(self.table, by_field, list(field_sizes))  # type: ignore[no-untyped-call]
        return self._summed(products) + bias

    def _repetitive(self, times: int) -> bool:
        """Whether the batch has at least `times` as many ids as the table has rows, and no scales of its own."""
        return self.scales is None and self.ids.numel() >= times * len(self.table)

    def _summed(self, table: Tensor) -> Tensor:
        """The sums over an instance's features of their rows in `table` (N, w), times their values: (B, w)."""
        if distinct := known(self.ids):
            of_distinct: Tensor = SumOfDistinct.apply(table, self.values, distinct)  # type: ignore[no-untyped-call]
            return of_distinct
        count, m = self.ids.shape
        starts = torch.arange(0, count * m, m, dtype=self.ids.dtype, device=self.ids.device)
        weights = None if self.values is None else self.values.flatten()
        summed: Tensor = SumOfRows.apply(self.ids.flatten(), starts, weights, table)  # type: ignore[no-untyped-call]
        return summed


class RowPerId(Embeddings):
    """The embeddings of a batch whose table has a row for each of its ids: nothing is gained by a sum over that table first."""

    def __init__(self, ids: Tensor, values: Tensor | None, rows: Tensor) -> None:
        """`rows` are (B * M, width), those of ids (B, M) one after another."""
        super().__init__(torch.arange(ids.numel(), device=ids.device).view(ids.shape), values, rows)

    def linear(self, weight: Tensor, bias: Tensor, field_sizes: Sequence[int]) -> Tensor:  # noqa: ARG002
        return functional.linear(self.dense().flatten(1), weight, bias)

    def _repetitive(self, times: int) -> bool:  # noqa: ARG002
        return False
