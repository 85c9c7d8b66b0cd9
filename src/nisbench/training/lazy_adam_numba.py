"""What `lazy_adam` does with rows, compiled for a CPU: one pass over them, where torch needs many over copies."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from nisbench.training.adam import BETA1, BETA2, EPSILON, first_scale

LEAST = 1 << 16
"""Fewer weights than this are not worth a thread of their own."""

compiled: Any = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})


def catch_up(
    rows: Tensor,
    tables: tuple[Tensor, Tensor, Tensor],
    since: Tensor,
    pending: Tensor,
    coefficients: Tensor,
    learning_rate: float,
) -> None:
    """Move rows (n,) of weights and moments (N, width), in place, by `pending` steps (n,) after the steps `since` (n,).

    `coefficients` (n, degree + 1) are those of `lazy_adam`'s polynomials.
    """
    by_row = [
        rows,
        first_scale(since.double()).float(),
        BETA1 ** pending.float(),
        BETA2 ** pending.float(),
        coefficients,
    ]
    work = _catch_up_4 if coefficients.shape[1] == 5 else _catch_up
    _in_threads(work, by_row, tables, np.float32(learning_rate))


def step(
    rows: Tensor, tables: tuple[Tensor, Tensor, Tensor], gradient: Tensor, number: int, learning_rate: float
) -> None:
    """Adam's step `number` on rows (n,) of weights and moments (N, width), by their gradient (n, width), in place."""
    size = np.float32(learning_rate / (1 - BETA1**number))
    root = np.float32(1 / (1 - BETA2**number) ** 0.5)
    _in_threads(_step, [rows, gradient], tables, size, root)


def _in_threads(work: Any, by_row: list[Tensor], tables: tuple[Tensor, Tensor, Tensor], *constants: np.float32) -> None:
    """Call `work` on segments of the rows, in torch's number of threads. `by_row` are tensors with an entry per row."""
    count, width = len(by_row[0]), tables[0].shape[1]
    threads = max(1, min(torch.get_num_threads(), count * width // LEAST))
    arrays, bounds = [table.numpy() for table in tables], [count * i // threads for i in range(threads + 1)]

    def segment(i: int) -> None:
        work(*(tensor.numpy()[bounds[i] : bounds[i + 1]] for tensor in by_row), *arrays, *constants)

    if threads == 1:
        segment(0)
    else:
        list(_threads(threads).map(segment, range(threads)))


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="rows")


EPS, KEEP1, TAKE1, KEEP2, TAKE2 = map(np.float32, (EPSILON, BETA1, 1 - BETA1, BETA2, 1 - BETA2))


@compiled  # type: ignore[untyped-decorator]
def _catch_up_4(rows: Any, scale: Any, decay1: Any, decay2: Any, c: Any, w: Any, m: Any, v: Any, rate: Any) -> None:
    """With polynomials of degree 4, written out so that it is done for many weights at once."""
    for i in range(len(rows)):
        row = rows[i]
        u, d1, d2 = scale[i], decay1[i], decay2[i]
        c0, c1, c2, c3, c4 = c[i, 0], c[i, 1], c[i, 2], c[i, 3], c[i, 4]
        for k in range(w.shape[1]):
            root = np.sqrt(v[row, k]) * u
            below = root + EPS
            theta = root / below
            value = (((c4 * theta + c3) * theta + c2) * theta + c1) * theta + c0
            w[row, k] -= rate * value * m[row, k] / below
            m[row, k] *= d1
            v[row, k] *= d2


@compiled  # type: ignore[untyped-decorator]
def _catch_up(rows: Any, scale: Any, decay1: Any, decay2: Any, c: Any, w: Any, m: Any, v: Any, rate: Any) -> None:
    degree = c.shape[1] - 1
    for i in range(len(rows)):
        row = rows[i]
        for k in range(w.shape[1]):
            root = np.sqrt(v[row, k]) * scale[i]
            below = root + EPS
            theta = root / below
            value = c[i, degree]
            for d in range(degree - 1, -1, -1):
                value = value * theta + c[i, d]
            w[row, k] -= rate * value * m[row, k] / below
            m[row, k] *= decay1[i]
            v[row, k] *= decay2[i]


@compiled  # type: ignore[untyped-decorator]
def _step(rows: Any, gradient: Any, w: Any, m: Any, v: Any, size: Any, root: Any) -> None:
    for i in range(len(rows)):
        row = rows[i]
        for k in range(w.shape[1]):
            g = gradient[i, k]
            first = KEEP1 * m[row, k] + TAKE1 * g
            second = KEEP2 * v[row, k] + TAKE2 * g * g
            m[row, k], v[row, k] = first, second
            w[row, k] -= size * first / (np.sqrt(second) * root + EPS)
