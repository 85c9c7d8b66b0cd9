"""How a pruned table can be stored: layouts, precisions of its weights, and the bytes that each pair of them takes.

A *layout* says where the weights of a row are:

* ``dense``: all K of them, zeros included;
* ``prefix``: the first d, for a d of each row's own. No index is needed;
* ``csr``: those that are not 0, each with its column in 8 or 16 bits;
* ``mask``: those that are not 0, and a bit for each of the K columns.

All but ``dense`` also hold where each row starts: 16 bits per row, and 64 bits per group of rows.

A *precision* is float32, float16, int8 or int4. Integers are multiples of a scale of their row's own, which is the
largest absolute weight over 127 or 7, rounded up to bfloat16; so 0 stays exactly 0. The rounding of a weight is the same
in every layout.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from nisbench.errors import NisbenchError

Layout = Literal["dense", "prefix", "csr", "mask"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
Precision = Literal["float32", "float16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

LARGEST_CODE = {"int8": 127, "int4": 7}
LARGEST_HALF = float(np.finfo(np.float16).max)
ROWS_AT_ONCE = 1 << 22
"""Weights that are looked at or rounded at once: 16 MiB in float32."""


# --- bytes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extent:
    """What the bytes of a table depend on."""

    rows: int
    columns: int
    nonzeros: int
    prefix_weights: int
    """The sum over rows of the last column that is not 0, counted from 1."""

    @classmethod
    def of(cls, embeddings: np.ndarray) -> "Extent":
        """Of a table (N, K), without a copy of it."""
        rows, columns = embeddings.shape
        nonzeros = prefix = 0
        for part in row_slices(rows, columns):
            filled = embeddings[part] != 0
            nonzeros += int(np.count_nonzero(filled))
            prefix += int(prefix_lengths(filled).sum())
        return cls(rows, columns, nonzeros, prefix)

    def stored(self, layout: Layout) -> int:
        """The number of weights that a layout holds."""
        return {"dense": self.rows * self.columns, "prefix": self.prefix_weights}.get(layout, self.nonzeros)

    def bytes(self, layout: Layout, precision: Precision) -> int:
        """The bytes of a table in this layout and precision: all that is needed to look a row up."""
        count, rows = self.stored(layout), self.rows
        packed = rows * -(-self.columns // 2) if layout == "dense" else -(-count // 2)
        weights = {"float32": 4 * count, "float16": 2 * count, "int8": count, "int4": packed}[precision]
        if layout != "dense":  # there is always one to read, even if it is not used
            weights = max(weights, {"float32": 4, "float16": 2}.get(precision, 1))
        scales = 2 * rows if precision in LARGEST_CODE else 0
        starts = 0 if layout == "dense" else 2 * (rows + 1) + 8 * (rows // group_size(self.columns) + 1)
        index = {
            "csr": max(count, 1) * column_type(self.columns).itemsize,
            "mask": rows * mask_bytes(self.columns),
        }.get(layout, 0)
        return weights + scales + starts + index

    def smallest(self, precision: Precision) -> Layout:
        """The layout of the fewest bytes; of equal ones the first, which is the simplest."""
        return min(LAYOUTS, key=lambda layout: self.bytes(layout, precision))

    def all_bytes(self) -> dict[str, dict[str, int]]:
        """The bytes of every layout in every precision."""
        return {layout: {of: self.bytes(layout, of) for of in PRECISIONS} for layout in LAYOUTS}


def row_slices(rows: int, columns: int) -> Iterator[slice]:
    """Slices of a table's rows that are small enough to be worked on in a copy."""
    step = max(1, ROWS_AT_ONCE // max(1, columns))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def prefix_lengths(filled: np.ndarray) -> np.ndarray:
    """The length of each row up to its last True: (n, K) -> (n,) int64."""
    from_the_end = np.argmax(filled[:, ::-1], axis=1)
    return np.where(filled.any(axis=1), filled.shape[1] - from_the_end, 0)


def column_type(columns: int) -> np.dtype[np.unsignedinteger]:
    """The type of a column's number in CSR."""
    if columns > 1 << 16:
        raise NisbenchError(f"a table of {columns:,} columns cannot be compressed: there may be 65,536 at most")
    return np.dtype(np.uint8 if columns <= 1 << 8 else np.uint16)


def mask_bytes(columns: int) -> int:
    """Bytes of a row's bit mask: one word of 1, 2 or 4 bytes, or words of 8 bytes."""
    return next((size for size in (1, 2, 4) if columns <= 8 * size), 8 * -(-columns // 64))


def group_size(columns: int) -> int:
    """How many rows share a start in 64 bits: a power of two, at most 64, so that starts within a group fit into 16 bits."""
    size = 64
    while size > 1 and size * columns > 0xFFFF:
        size //= 2
    return size


# --- rounding -------------------------------------------------------------------------------------------------


def codes_of(rows: np.ndarray, precision: Precision) -> tuple[np.ndarray, np.ndarray | None]:
    """Weights (n, K) float32 as codes (n, K) and, for integers, scales (n,) as the upper 16 bits of a float32 (bfloat16).

    Codes are float32, float16, or int8 within what int8 or int4 can hold.
    """
    if precision == "float32":
        return rows, None
    if precision == "float16":
        return np.clip(rows, -LARGEST_HALF, LARGEST_HALF).astype(np.float16), None
    most = LARGEST_CODE[precision]
    exact = (np.abs(rows).max(axis=1, initial=0) / np.float32(most)).astype(np.float32)
    scales = ((exact.view(np.uint32) + np.uint32(0xFFFF)) >> 16).astype(np.uint16)
    codes = np.rint(rows / np.where(scales == 0, 1, widened(scales))[:, None])
    return np.clip(codes, -most, most).astype(np.int8), scales


def widened(scales: np.ndarray) -> np.ndarray:
    """bfloat16 as bits (n,) uint16 -> (n,) float32."""
    found: np.ndarray = (scales.astype(np.uint32) << 16).view(np.float32)
    return found


def rounded(embeddings: np.ndarray, precision: Precision, out: np.ndarray) -> np.ndarray:
    """The weights (N, K) that come back from storage in that precision, written to `out` (N, K) float32."""
    for part in row_slices(*embeddings.shape):
        codes, scales = codes_of(embeddings[part], precision)
        out[part] = codes
        if scales is not None:
            out[part] *= widened(scales)[:, None]
    return out
