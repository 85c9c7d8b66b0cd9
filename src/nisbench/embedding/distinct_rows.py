"""The distinct rows that a batch reads, without asking the device how many there are.

On a GPU, a tensor whose shape depends on data makes the host wait, and cannot be part of a captured graph. Here all shapes depend
on the batch's shape alone: what is not used of a tensor is padding. The ids are sorted, so that the gradients of a row's occurrences
lie side by side and are summed in a fixed order.
"""

from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class DistinctRows:
    """Of ids (B, M), n = B * M of them: at most C distinct rows."""

    rows: Tensor
    """(C,) int64: the distinct ids, ascending; behind them, the first one again and again."""
    count: Tensor
    """() int64: how many there are."""
    at: Tensor
    """(B, M) int64: the index in `rows` of each id. `rows_of` and `Embeddings` find this object by it."""
    order: Tensor
    """(n,) int64: the places of the flattened ids, sorted by id."""
    number: Tensor
    """(n,) int64: the index in `rows` of each of these."""
    starts: Tensor
    """(C + 1,) int64: where each row's occurrences start in `order`; n behind the last row."""

    @classmethod
    def of(cls, ids: Tensor, most: int) -> "DistinctRows":
        """Those of `ids` (B, M), of which at most `most` differ."""
        n = ids.numel()
        most = min(n, most)
        ordered, order = ids.flatten().sort(stable=True)
        first = torch.ones(n, dtype=torch.bool, device=ids.device)
        torch.ne(ordered[1:], ordered[:-1], out=first[1:])
        number = first.cumsum(0) - 1
        count = number[-1] + 1
        at = torch.empty_like(order).scatter_(0, order, number).view(ids.shape)
        starts = torch.full((most + 2,), n, device=ids.device)
        # What is not the first of its row is written behind the last place, which nobody reads.
        starts.scatter_(0, torch.where(first, number, most + 1), torch.arange(n, device=ids.device))
        starts = starts[: most + 1]
        slots = torch.arange(most, device=ids.device)
        rows = ordered.index_select(0, starts[:most].where(slots < count, 0)).long()
        found = cls(rows, count, at, order, number, starts)
        at.distinct_rows = found  # type: ignore[attr-defined]
        return found

    def __len__(self) -> int:
        """C."""
        return len(self.rows)


def known(ids: Tensor) -> DistinctRows | None:
    """The distinct rows that `ids` number, if they were made by `DistinctRows`."""
    found: DistinctRows | None = getattr(ids, "distinct_rows", None)
    return found


class RowsOfDistinct(torch.autograd.Function):
    """Rows of a table (C, w) for each id: (B, M, w)."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, distinct: DistinctRows) -> Tensor:
        ctx.distinct = distinct
        return table.index_select(0, distinct.at.flatten()).view(*distinct.at.shape, table.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        return summed_by_row(gradient.flatten(0, 1), None, ctx.distinct), None


class SumOfDistinct(torch.autograd.Function):
    """The sums of an instance's rows of a table (C, w), times `weights` (B, M) where given: (B, w)."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, weights: Tensor | None, distinct: DistinctRows) -> Tensor:
        ctx.distinct, ctx.weights = distinct, weights
        return functional.embedding_bag(distinct.at, table, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        return summed_by_row(gradient, ctx.weights, ctx.distinct), None, None


def summed_by_row(gradient: Tensor, weights: Tensor | None, distinct: DistinctRows) -> Tensor:
    """The sums over each row's occurrences: (C, w), 0 in the padding.

    `gradient` is (n, w), one per occurrence, or (B, w), one per instance. It is multiplied by `weights` (B, M) of the occurrences.
    """
    if kernels := triton_kernels(gradient.device):
        summed: Tensor = kernels.summed_by_row(gradient, weights, distinct)
        return summed
    per = distinct.at.numel() // len(gradient)
    each = gradient if per == 1 else gradient.repeat_interleave(per, 0)
    if weights is not None:
        each = each * weights.flatten()[:, None]
    by_row: Tensor = torch.ops.aten.embedding_dense_backward(each, distinct.at.flatten(), len(distinct), -1, False)
    return by_row


@cache
def triton_kernels(device: torch.device) -> ModuleType | None:
    """The compiled kernels, on a GPU whose torch comes with Triton."""
    if device.type != "cuda":
        return None
    try:
        from nisbench.embedding import distinct_rows_triton  # noqa: PLC0415 - only where there is a GPU
    except ImportError:
        return None
    return distinct_rows_triton
