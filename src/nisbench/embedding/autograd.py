"""Linear functions of a table's rows with gradients of any order. Torch's own lack these, or compute them slowly."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nisbench.embedding.distinct_rows import RowsOfDistinct, known


def rows_of(table: Tensor, ids: Tensor) -> Tensor:
    """The rows of a table (N, w) that have these numbers: ids (...) -> (..., w), with gradients of any order.

    Where the ids number `DistinctRows`, only of the first order.
    """
    if distinct := known(ids):
        rows: Tensor = RowsOfDistinct.apply(table, distinct)  # type: ignore[no-untyped-call]
        return rows
    if table.is_cuda:  # whose additions in `gather`'s gradient have no fixed order
        return functional.embedding(ids, table)
    index = ids.flatten().long()[:, None].expand(-1, table.shape[1])
    return table.gather(0, index).view(*ids.shape, table.shape[1])  # its gradient is summed up to 4 times faster


class ProductByField(torch.autograd.Function):
    """Rows (N, a), field after field, times their field's matrix of (M, a, b): (N, b), with gradients of any order."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrices: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        ctx.save_for_backward(rows, matrices)
        products = rows.new_empty(len(rows), matrices.shape[2])
        for of_field, matrix, product in zip(
            torch.split(rows, sizes), matrices, torch.split(products, sizes), strict=True
        ):
            torch.mm(of_field, matrix, out=product)
        return products

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        rows, matrices = ctx.saved_tensors
        by_rows = ProductByField.apply(gradient, matrices.transpose(1, 2), ctx.sizes)  # type: ignore[no-untyped-call]
        return by_rows, OuterByField.apply(rows, gradient, ctx.sizes), None  # type: ignore[no-untyped-call]


class OuterByField(torch.autograd.Function):
    """Rows (N, a) transposed times rows (N, b), field by field: (M, a, b). Gradient of `ProductByField` by matrices."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        ctx.save_for_backward(left, right)
        products = left.new_empty(len(sizes), left.shape[1], right.shape[1])
        for a, b, product in zip(torch.split(left, sizes), torch.split(right, sizes), products, strict=True):
            torch.mm(a.T, b, out=product)
        return products

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        left, right = ctx.saved_tensors
        by_left = ProductByField.apply(right, gradient.transpose(1, 2), ctx.sizes)  # type: ignore[no-untyped-call]
        return by_left, ProductByField.apply(left, gradient, ctx.sizes), None  # type: ignore[no-untyped-call]


class SumOfRows(torch.autograd.Function):
    """`embedding_bag` of mode "sum", with gradients of any order, which torch's own lacks.

    It is linear in the table: the gradient of its gradient is itself.
    """

    @staticmethod
    def forward(ctx: Any, ids: Tensor, starts: Tensor, weights: Tensor | None, table: Tensor) -> Tensor:
        ctx.given = ids, starts, weights
        with torch.enable_grad():
            ctx.leaf = table.detach().requires_grad_()
            ctx.summed = functional.embedding_bag(ids, ctx.leaf, starts, mode="sum", per_sample_weights=weights)
        summed: Tensor = ctx.summed.detach()
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        spread: Tensor = SpreadToRows.apply(ctx.given, ctx.leaf, ctx.summed, gradient)  # type: ignore[no-untyped-call]
        return None, None, None, spread


class SpreadToRows(torch.autograd.Function):
    """The gradient of `SumOfRows` by its table, given that of its sums (B, w)."""

    @staticmethod
    def forward(
        ctx: Any, given: tuple[Tensor, Tensor, Tensor | None], leaf: Tensor, summed: Tensor, gradient: Tensor
    ) -> Tensor:
        ctx.given = given
        (spread,) = torch.autograd.grad(summed, leaf, gradient, retain_graph=True)
        return spread

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        summed: Tensor = SumOfRows.apply(*ctx.given, gradient)  # type: ignore[no-untyped-call]
        return None, None, None, summed
