"""What `lazy_adam_static` does with rows, as kernels for a GPU: each row is read once and written once, by a program of its own."""

import triton
import triton.language as tl
from torch import Tensor

from nisbench.training import lazy_adam_schedule as of
from nisbench.training.adam import BETA1, BETA2, EPSILON

Tables = tuple[Tensor, Tensor, Tensor]

ROWS_AT_ONCE = 1 << 62
"""Of a whole table: all."""

TILE = 256
"""Weights that a program works on at once, or a row if that has more."""

PROGRAMS = 1 << 14
"""That go through as many rows as there are: enough to fill the largest GPUs."""

COLUMNS: tl.constexpr = tl.constexpr(of.COLUMNS)
DEGREE: tl.constexpr = tl.constexpr(of.DEGREE)
SCALE: tl.constexpr = tl.constexpr(of.SCALE)
DECAY1: tl.constexpr = tl.constexpr(of.DECAY1)
DECAY2: tl.constexpr = tl.constexpr(of.DECAY2)
SIZE: tl.constexpr = tl.constexpr(of.SIZE)
ROOT: tl.constexpr = tl.constexpr(of.ROOT)
KEEP1: tl.constexpr = tl.constexpr(BETA1)
TAKE1: tl.constexpr = tl.constexpr(1 - BETA1)
KEEP2: tl.constexpr = tl.constexpr(BETA2)
TAKE2: tl.constexpr = tl.constexpr(1 - BETA2)
EPS: tl.constexpr = tl.constexpr(EPSILON)


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
    """As in `lazy_adam_torch`."""
    w, m, v = tables
    grid, sizes = _launch(rows, w)
    _catch_up[grid](
        rows, count, w, m, v, synced, schedule, now, w if out is None else out, learning_rate, w.shape[1],
        READ=out is not None, LAST=last, **sizes,
    )  # fmt: skip


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
    """As in `lazy_adam_torch`."""
    w, m, v = tables
    grid, sizes = _launch(rows, w)
    _step[grid](
        rows, count, w, m, v, gradient.contiguous(), schedule, now, now if synced is None else synced, learning_rate, w.shape[1],
        LAST=synced is not None, **sizes,
    )  # fmt: skip


def _launch(rows: Tensor, table: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """How many programs, and the size of each one's tile."""
    columns = triton.next_power_of_2(table.shape[1])
    at_once = max(1, TILE // columns)
    programs = min(triton.cdiv(len(rows), at_once), PROGRAMS)
    return (programs,), {"ROWS": at_once, "BLOCK": columns, "num_warps": max(1, min(8, columns // 128))}


@triton.jit
def _catch_up(
    rows, count, w, m, v, synced, schedule, now, out, rate, width,
    READ: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)[None, :]
    many = tl.load(count)
    t = tl.load(now).to(tl.int32)
    of_now = schedule + t * COLUMNS
    for start in range(tl.program_id(0).to(tl.int64) * ROWS, many, tl.num_programs(0) * ROWS):
        slot = start + tl.arange(0, ROWS)
        used = slot < many
        row = tl.load(rows + slot, mask=used, other=0)
        s = tl.load(synced + row, mask=used, other=0)
        behind = used & (s < t)
        place = row[:, None] * width + column
        read = used[:, None] & (column < width)
        move = behind[:, None] & (column < width)
        weight = tl.load(w + place, mask=read, other=0.0)
        first = tl.load(m + place, mask=move, other=0.0)
        second = tl.load(v + place, mask=move, other=0.0)
        of_pending = schedule + (t - s) * COLUMNS
        first_now = first * tl.load(of_pending + DECAY1, mask=behind, other=1.0)[:, None]
        second_now = second * tl.load(of_pending + DECAY2, mask=behind, other=1.0)[:, None]
        of_since = schedule + s * COLUMNS
        scale = tl.load(of_since + SCALE, mask=behind, other=0.0)[:, None]
        below, theta = _theta(second, scale)
        value = tl.load(of_since + DEGREE, mask=behind, other=0.0)[:, None] * theta
        for power in tl.static_range(1, DEGREE):
            value = (value + tl.load(of_since + (DEGREE - power), mask=behind, other=0.0)[:, None]) * theta
        before = (value + tl.load(of_since, mask=behind, other=0.0)[:, None]) * first / below
        below, theta = _theta(second_now, tl.load(of_now + SCALE))
        value = tl.load(of_now + DEGREE) * theta
        for power in tl.static_range(1, DEGREE):
            value = (value + tl.load(of_now + (DEGREE - power))) * theta
        weight -= rate * (before - (value + tl.load(of_now)) * first_now / below)
        tl.store(w + place, weight, mask=move)
        tl.store(m + place, first_now, mask=move)
        tl.store(v + place, second_now, mask=move)
        if LAST:
            tl.store(synced + row, tl.zeros((ROWS,), tl.int32) + t, mask=behind)
        if READ:
            tl.store(out + slot[:, None] * width + column, weight, mask=read)


@triton.jit
def _theta(second, scale):
    """What a second moment's root is divided by in the steps to come, and the polynomials' argument."""
    root = tl.sqrt(second) * scale
    return root + EPS, root / (root + EPS)


@triton.jit
def _step(
    rows, count, w, m, v, gradient, schedule, now, synced, rate, width,
    LAST: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)[None, :]
    many = tl.load(count)
    t = tl.load(now).to(tl.int32) + 1
    size = rate * tl.load(schedule + t * COLUMNS + SIZE)
    scale = tl.load(schedule + t * COLUMNS + ROOT)
    for start in range(tl.program_id(0).to(tl.int64) * ROWS, many, tl.num_programs(0) * ROWS):
        slot = start + tl.arange(0, ROWS)
        used = slot < many
        row = tl.load(rows + slot, mask=used, other=0)
        place = row[:, None] * width + column
        there = used[:, None] & (column < width)
        g = tl.load(gradient + slot[:, None] * width + column, mask=there, other=0.0)
        first = KEEP1 * tl.load(m + place, mask=there, other=0.0) + TAKE1 * g
        second = KEEP2 * tl.load(v + place, mask=there, other=0.0) + TAKE2 * g * g
        weight = tl.load(w + place, mask=there, other=0.0) - size * first / (tl.sqrt(second) * scale + EPS)
        tl.store(m + place, first, mask=there)
        tl.store(v + place, second, mask=there)
        tl.store(w + place, weight, mask=there)
        if LAST:
            tl.store(synced + row, tl.zeros((ROWS,), tl.int32) + t, mask=used)
