"""What `distinct_rows` sums, as kernels for a GPU.

A batch's ids are skewed: one row may occur in each instance, and most rows once. So occurrences, sorted by row, are cut into chunks of
the same length. A program sums a chunk's occurrences row by row, and a second kernel adds up each row's chunks. If chunk c has
occurrences of row k, their sum is row k + c of the partial sums: k + c grows from each pair (k, c) to the next, so no two of them
share a row, and those of one k lie side by side. All sums have a fixed order.
"""

import triton
import triton.language as tl
from torch import Tensor

from nisbench.embedding.distinct_rows import DistinctRows

CHUNK = 32
"""Occurrences that a program sums."""

WARPS = 4
"""That share this work: of fewer, each would hold more of the tile than there are registers."""

PROGRAMS = 4096
"""Of a kernel that goes through as many rows as there are: enough to fill the largest GPUs."""


def summed_by_row(gradient: Tensor, weights: Tensor | None, distinct: DistinctRows) -> Tensor:
    """As in `distinct_rows`."""
    n, width, most = distinct.at.numel(), gradient.shape[1], len(distinct)
    gradient = gradient.contiguous()
    chunks = triton.cdiv(n, CHUNK)
    partial = gradient.new_empty(most + chunks, width)
    summed = gradient.new_zeros(most, width)
    block = min(128, max(16, triton.next_power_of_2(width)))  # a matrix product's sides are 16 or more
    columns = triton.cdiv(width, block)
    by_instance = n // len(gradient)
    _sum_chunks[(chunks, columns)](
        gradient, gradient if weights is None else weights.contiguous(), distinct.order, distinct.number, partial,
        n, width, by_instance, WEIGHTED=weights is not None, CHUNK=CHUNK, BLOCK=block, num_warps=WARPS,
    )  # fmt: skip
    _add_chunks[(min(most, PROGRAMS), columns)](
        partial, distinct.starts, distinct.count, summed, width, CHUNK=CHUNK, BLOCK=block, num_warps=1
    )
    return summed


@triton.jit
def _sum_chunks(
    gradient, weights, order, number, partial, n, width, by_instance,
    WEIGHTED: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The sums of a chunk's occurrences, row by row."""
    chunk = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, CHUNK)
    place = chunk * CHUNK + lane
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = place < n
    occurrence = tl.load(order + place, mask=there, other=0)
    row = tl.load(number + place, mask=there, other=-1)
    first = tl.load(number + chunk * CHUNK)
    last = tl.max(row, 0)
    tile = (occurrence // by_instance)[:, None] * width + column[None, :]
    each = tl.load(gradient + tile, mask=there[:, None] & (column < width)[None, :], other=0.0)
    if WEIGHTED:
        each = each * tl.load(weights + occurrence, mask=there, other=0.0)[:, None]
    # Which of the chunk's rows (down) each occurrence (across) belongs to.
    belongs = (first + lane)[:, None] == row[None, :]
    sums = tl.dot(belongs.to(tl.float32), each, input_precision="ieee")
    to = (first + chunk + lane)[:, None] * width + column[None, :]
    tl.store(partial + to, sums, mask=((first + lane) <= last)[:, None] & (column < width)[None, :])


@triton.jit
def _add_chunks(partial, starts, count, summed, width, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """The sums of each row's chunks."""
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, 8)
    rows = tl.load(count)
    for row in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
        first = row + tl.load(starts + row) // CHUNK
        last = row + (tl.load(starts + row + 1) - 1) // CHUNK
        total = tl.zeros((BLOCK,), tl.float32)
        for start in range(first, last + 1, 8):
            part = start + lane
            tile = part[:, None] * width + column[None, :]
            here = (part <= last)[:, None] & (column < width)[None, :]
            total += tl.sum(tl.load(partial + tile, mask=here, other=0.0), 0)
        tl.store(summed + row * width + column, total, mask=column < width)
