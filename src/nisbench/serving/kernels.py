"""Looking up rows of a compressed table on a CPU, compiled: rows are decoded one by one, and fetched ahead of their turn.

A lookup waits for memory more than it computes: first for where a row starts, and then for its weights. Both are
asked for some rows ahead, so that they have come when their row's turn comes.

What differs by precision is chosen by the type of the array of weights: float32; uint16, the bits of float16; int8;
uint8, two int4 in each byte, the first in the lower bits.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from nisbench.embedding.quantised import UNROUNDED

compiled: Any = njit(cache=True, nogil=True, error_model="numpy")
an_intrinsic: Any = intrinsic  # whose types are those of the code that is called, not of the call

STARTS_AHEAD, WEIGHTS_AHEAD = 24, 12
"""Rows ahead at which a row's start, and its weights, are fetched."""
LINE = 64
"""Bytes of a cache line. `lines` are as many of them as a row's weights lie in, on the average."""
HALF_BIAS = np.float32(2.0**112)
"""Moves the exponent of a float16 that is read as a float32 to its place."""
ONE = np.uint64(1)
"""Places are unsigned: numba tests signed ones for being counted from the end, which costs half of the speed."""


# --- what numba lacks -----------------------------------------------------------------------------------------


@an_intrinsic  # type: ignore[untyped-decorator]
def prefetch(_context: Any, array: Any, index: Any) -> Any:  # noqa: ARG001 - the number of arguments matters
    """Have the cache line of an array's item fetched. The index may lie outside: that does nothing."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(function, [pointer, *(number(value) for value in (0, 3, 1))])  # to read, to keep, data
        return context.get_dummy_value()

    return types.void(array, types.intp), code


@an_intrinsic  # type: ignore[untyped-decorator]
def lowest_bit(_context: Any, word: Any) -> Any:  # noqa: ARG001 - the number of arguments matters
    """The place of the lowest bit that is set in a uint64 other than 0."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.uint64(types.uint64), code


def scale_of(weights: Any, scales: Any, row: Any) -> Any:
    """The factor of a row's weights, from its upper 16 bits; 1 for floats, which have none."""


@overload(scale_of, strict=False)
def _scale_of(weights: Any, scales: Any, row: Any) -> Any:  # noqa: ARG001 - numba reads the names
    if weights.dtype in {types.float32, types.uint16}:
        return lambda weights, scales, row: np.float32(1)  # noqa: ARG005
    return lambda weights, scales, row: np.uint32(np.uint32(scales[row]) << 16).view(np.float32)  # noqa: ARG005


def weight_at(weights: Any, place: Any, scale: Any) -> Any:
    """One weight as a float32."""


@overload(weight_at, strict=False)
def _weight_at(weights: Any, place: Any, scale: Any) -> Any:  # noqa: ARG001 - numba reads the names
    if weights.dtype == types.float32:
        return lambda weights, place, scale: weights[place]  # noqa: ARG005
    if weights.dtype == types.uint16:

        def of_half(weights: Any, place: Any, scale: Any) -> Any:  # noqa: ARG001
            bits = np.uint32(weights[place])
            size = np.uint32((bits & np.uint32(0x7FFF)) << 13).view(np.float32) * HALF_BIAS
            return -size if bits & np.uint32(0x8000) else size

        return of_half
    if weights.dtype == types.int8:
        return lambda weights, place, scale: scale * np.float32(weights[place])

    def of_half_byte(weights: Any, place: Any, scale: Any) -> Any:
        bits = (np.int32(weights[place >> ONE]) >> np.int32((place & ONE) << np.uint64(2))) & np.int32(15)
        return scale * np.float32((bits ^ np.int32(8)) - np.int32(8))

    return of_half_byte


def item_of(weights: Any, place: Any) -> Any:
    """The index of the item that holds a weight."""


@overload(item_of, strict=False)
def _item_of(weights: Any, place: Any) -> Any:  # noqa: ARG001 - numba reads the names
    if weights.dtype == types.uint8:
        return lambda weights, place: np.intp(place >> ONE)  # noqa: ARG005
    return lambda weights, place: np.intp(place)  # noqa: ARG005


# --- layouts --------------------------------------------------------------------------------------------------


@compiled  # type: ignore[untyped-decorator]
def first_outside(ids: Any, rows: Any) -> Any:
    """The index of the first id that is no row's; -1 if there is none."""
    for i in range(len(ids)):
        if ids[i] < 0 or ids[i] >= rows:
            return i
    return -1


@compiled  # type: ignore[untyped-decorator]
def start_of(row: Any, groups: Any, starts: Any, shift: Any) -> Any:
    """Where a row starts among the weights. `row` and `shift` are uint64, as is the place."""
    return np.uint64(groups[row >> shift]) + np.uint64(starts[row])


@compiled  # type: ignore[untyped-decorator]
def dense(ids: Any, stride: Any, weights: Any, scales: Any, out: Any) -> None:
    """Rows are `stride` (uint64) weights apart."""
    count, width = out.shape
    step = max(1, LINE // weights.itemsize)
    for i in range(count):
        if i + WEIGHTS_AHEAD < count:
            ahead = np.uint64(ids[i + WEIGHTS_AHEAD]) * stride
            for k in range(0, width, step):
                prefetch(weights, item_of(weights, ahead + np.uint64(k)))
        row = np.uint64(ids[i])
        scale = scale_of(weights, scales, row)
        start, decoded = row * stride, out[i]
        for k in range(width):
            decoded[k] = weight_at(weights, start + np.uint64(k), scale)


@compiled  # type: ignore[untyped-decorator]
def prefix(ids: Any, groups: Any, starts: Any, shift: Any, lines: Any, weights: Any, scales: Any, out: Any) -> None:
    count, width = out.shape
    step = np.uint64(max(1, LINE // weights.itemsize))
    for i in range(count):
        if i + STARTS_AHEAD < count:
            prefetch(starts, np.intp(ids[i + STARTS_AHEAD]))
        if i + WEIGHTS_AHEAD < count:
            place = start_of(np.uint64(ids[i + WEIGHTS_AHEAD]), groups, starts, shift)
            for line in range(lines):
                prefetch(weights, item_of(weights, place + np.uint64(line) * step))
        row = np.uint64(ids[i])
        scale = scale_of(weights, scales, row)
        start = start_of(row, groups, starts, shift)
        filled = np.int64(start_of(row + ONE, groups, starts, shift) - start)
        decoded = out[i]
        for k in range(width):  # one loop for both parts: its length is the same for all rows, so it needs no guessing
            decoded[k] = weight_at(weights, start + np.uint64(k), scale) if k < filled else np.float32(0)


@compiled  # type: ignore[untyped-decorator]
def csr(
    ids: Any, groups: Any, starts: Any, shift: Any, lines: Any, columns: Any, weights: Any, scales: Any, out: Any
) -> None:
    count, width = out.shape
    step = np.uint64(max(1, LINE // weights.itemsize))
    for i in range(count):
        if i + STARTS_AHEAD < count:
            prefetch(starts, np.intp(ids[i + STARTS_AHEAD]))
        if i + WEIGHTS_AHEAD < count:
            place = start_of(np.uint64(ids[i + WEIGHTS_AHEAD]), groups, starts, shift)
            for line in range(lines):
                prefetch(weights, item_of(weights, place + np.uint64(line) * step))
            prefetch(columns, np.intp(place))
        row = np.uint64(ids[i])
        scale = scale_of(weights, scales, row)
        decoded = out[i]
        for k in range(width):
            decoded[k] = np.float32(0)
        place, end = start_of(row, groups, starts, shift), start_of(row + ONE, groups, starts, shift)
        while place < end:
            decoded[np.uint64(columns[place])] = weight_at(weights, place, scale)
            place += ONE


@compiled  # type: ignore[untyped-decorator]
def mask(
    ids: Any, groups: Any, starts: Any, shift: Any, lines: Any, words: Any, weights: Any, scales: Any, out: Any
) -> None:
    """`words` (N, w) are unsigned; bit b of word j is column j * 64 + b (there is one word only if it is smaller)."""
    count, width = out.shape
    per_row = words.shape[1]
    step = np.uint64(max(1, LINE // weights.itemsize))
    for i in range(count):
        if i + STARTS_AHEAD < count:
            ahead = np.intp(ids[i + STARTS_AHEAD])
            prefetch(starts, ahead)
            prefetch(words, ahead * per_row)
        if i + WEIGHTS_AHEAD < count:
            place = start_of(np.uint64(ids[i + WEIGHTS_AHEAD]), groups, starts, shift)
            for line in range(lines):
                prefetch(weights, item_of(weights, place + np.uint64(line) * step))
        row = np.uint64(ids[i])
        scale = scale_of(weights, scales, row)
        place = start_of(row, groups, starts, shift)
        decoded = out[i]
        for k in range(width):
            decoded[k] = np.float32(0)
        for j in range(per_row):
            left = np.uint64(words[row, j])
            while left:
                decoded[np.uint64(64 * j) + lowest_bit(left)] = weight_at(weights, place, scale)
                place += ONE
                left &= left - ONE


@compiled  # type: ignore[untyped-decorator]
def run_of(first: Any, row: Any) -> Any:
    """The run of rows that a row is in: the last one whose first row is not beyond it."""
    low, high = 0, len(first)
    while high - low > 1:
        middle = (low + high) >> 1
        if first[middle] <= row:
            low = middle
        else:
            high = middle
    return low


@compiled  # type: ignore[untyped-decorator]
def quantised(
    ids: Any, first: Any, place: Any, bits: Any, steps: Any, codes: Any, unrounded: Any, offset: Any, out: Any
) -> None:
    """`first`, `place`, `bits` and `steps` (R,) are of runs of rows; see `QuantisedEmbedding`."""
    count, width = out.shape
    for i in range(count):
        if i + WEIGHTS_AHEAD < count:
            ahead = np.int64(ids[i + WEIGHTS_AHEAD])
            run = run_of(first, ahead)
            taken = width * bits[run]
            if bits[run] == UNROUNDED:
                for k in range(0, width, LINE >> 2):
                    prefetch(unrounded, (place[run] + ahead - first[run]) * width + k)
            else:
                start = place[run] + ((ahead - first[run]) * taken >> 3)
                for k in range(0, taken >> 3, LINE):
                    prefetch(codes, start + k)
        run = run_of(first, ids[i])
        number, width_of_code = np.uint64(ids[i] - first[run]), np.uint64(bits[run])
        decoded = out[i]
        if width_of_code == 0:
            decoded[:] = np.float32(0)
        elif width_of_code == UNROUNDED:
            decoded[:] = unrounded[np.uint64(place[run]) + number]
        else:
            half, ones = np.int32(1 << (bits[run] - 1)), np.uint32((1 << bits[run]) - 1)
            step = steps[run]
            at = (np.uint64(place[run]) << np.uint64(3)) + number * np.uint64(width) * width_of_code
            for k in range(width):
                byte = at >> np.uint64(3)
                two = np.uint32(codes[byte]) | np.uint32(codes[byte + ONE]) << np.uint32(8)
                code = (two >> np.uint32(at & np.uint64(7))) & ones
                decoded[k] = np.float32(np.int32(code) - half) * step + offset[k]
                at += width_of_code
