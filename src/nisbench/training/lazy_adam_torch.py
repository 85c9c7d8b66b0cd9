"""What `lazy_adam` does with rows, in operations of torch: for devices that `lazy_adam_numba` is not compiled for."""

import torch
from torch import Tensor
from torch.optim.adam import adam

from nisbench.training.adam import BETA1, BETA2, EPSILON, first_scale

Tables = tuple[Tensor, Tensor, Tensor]


def catch_up(
    rows: Tensor, tables: Tables, since: Tensor, pending: Tensor, coefficients: Tensor, learning_rate: float
) -> None:
    """Move rows (n,) of weights and moments (N, width), in place, by `pending` steps (n,) after the steps `since` (n,).

    `coefficients` (n, degree + 1) are those of `lazy_adam`'s polynomials.
    """
    w, m, v = (table.index_select(0, rows) for table in tables)
    below = v.sqrt().mul_(first_scale(since.double())[:, None].float()).add_(EPSILON)
    theta = (below - EPSILON).div_(below)
    *lower, highest = coefficients.T[..., None].unbind()
    value = highest.expand_as(theta)
    for coefficient in reversed(lower):
        value = torch.addcmul(coefficient, value, theta)
    w.addcdiv_(value * m, below, value=-learning_rate)
    steps = pending[:, None].float()
    _write(rows, tables, (w, m * BETA1**steps, v * BETA2**steps))


def step(rows: Tensor, tables: Tables, gradient: Tensor, number: int, learning_rate: float) -> None:
    """Adam's step `number` on rows (n,) of weights and moments (N, width), by their gradient (n, width), in place."""
    w, m, v = (table.index_select(0, rows) for table in tables)
    before = torch.full((), float(number - 1), device=w.device)
    adam(
        [w], [gradient], [m], [v], [], [before], fused=True, amsgrad=False, beta1=BETA1, beta2=BETA2,
        lr=learning_rate, weight_decay=0.0, eps=EPSILON, maximize=False,
    )  # fmt: skip
    _write(rows, tables, (w, m, v))


def _write(rows: Tensor, tables: Tables, values: Tables) -> None:
    for table, value in zip(tables, values, strict=True):
        table.index_copy_(0, rows, value)
