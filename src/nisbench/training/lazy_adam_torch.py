"""What `lazy_adam_static` does with rows, in operations of torch: what its kernels are tested against, and where there are none."""

import torch
from torch import Tensor

from nisbench.training import lazy_adam_schedule as of
from nisbench.training.adam import BETA1, BETA2, EPSILON

Tables = tuple[Tensor, Tensor, Tensor]

ROWS_AT_ONCE = 1 << 18
"""Of a whole table."""


def catch_up(
    rows: Tensor,
    count: Tensor,
    tables: Tables,
    synced: Tensor,
    schedule: Tensor,
    now: Tensor,
    learning_rate: float,
    out: Tensor | None,
    last: bool,
) -> None:
    """Bring rows of weights and moments (N, width) from the steps `synced` (N,) to step `now`, in place; copy the weights to `out`.

    The first `count` of `rows` (C,) are different; the others are equal to the first. With `last`, `synced` is set, too.
    """
    w, m, v = (table.index_select(0, rows) for table in tables)
    since = synced.index_select(0, rows).long()
    pending = schedule.index_select(0, now - since)
    m_now, v_now = m * pending[:, of.DECAY1, None], v * pending[:, of.DECAY2, None]
    to_come = _to_come(m, v, schedule.index_select(0, since)) - _to_come(
        m_now, v_now, schedule.index_select(0, now.view(1))
    )
    w = w - learning_rate * to_come
    _write(rows, tables, (w, m_now, v_now))
    if out is not None:
        used = torch.arange(len(rows), device=rows.device) < count
        out.copy_(torch.where(used[:, None], w, 0))
    if last:
        synced.index_copy_(0, rows, now.to(synced.dtype).expand(len(rows)))


def step(
    rows: Tensor,
    count: Tensor,
    tables: Tables,
    gradient: Tensor,
    schedule: Tensor,
    now: Tensor,
    learning_rate: float,
    synced: Tensor | None,
) -> None:
    """Adam's step after step `now` on rows (C,) of weights and moments (N, width), by their gradient (C, width), in place.

    The first `count` rows are different. Where `synced` (N,) is given, it is set.
    """
    slots = torch.arange(len(rows), device=rows.device)
    gradient = gradient.index_select(0, slots.where(slots < count, 0))  # rows equal to the first are to remain so
    w, m, v = (table.index_select(0, rows) for table in tables)
    at = schedule.index_select(0, (now + 1).view(1))
    m = BETA1 * m + (1 - BETA1) * gradient
    v = BETA2 * v + (1 - BETA2) * gradient * gradient
    w = w - learning_rate * at[:, of.SIZE, None] * m / (v.sqrt() * at[:, of.ROOT, None] + EPSILON)
    _write(rows, tables, (w, m, v))
    if synced is not None:
        synced.index_copy_(0, rows, (now + 1).to(synced.dtype).expand(len(rows)))


def _to_come(m: Tensor, v: Tensor, of_step: Tensor) -> Tensor:
    """M F(v): moments (C, width), and rows of the schedule (C or 1, columns) -> (C, width)."""
    root = v.sqrt() * of_step[:, of.SCALE, None]
    below = root + EPSILON
    theta = root / below
    *lower, highest = of_step[:, of.POLYNOMIAL].T[..., None].unbind()
    value = highest.expand_as(theta)
    for coefficient in reversed(lower):
        value = torch.addcmul(coefficient, value, theta)
    return value * m / below


def _write(rows: Tensor, tables: Tables, values: Tables) -> None:
    for table, value in zip(tables, values, strict=True):
        table.index_copy_(0, rows, value)
