"""An embedding table of few bits per weight, kept as its codes: rows are decoded as they are read.

A weight of b bits is a code times the step of that width, plus the offset of its column (`nisbench.embedding.quantised`). An
embedding of 0 bits is 0, and one of 32 bits is stored as it is. Within a field, rows are in the order of their widths. So which
width a row has, and where its codes are, follows from its number, and nothing of it is stored.

`nisbench.serving.parts` makes it of a run.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nisbench.embedding.quantised import UNROUNDED
from nisbench.errors import NisbenchError, shortened
from nisbench.serving import kernels
from nisbench.serving.compressed import check_ids, to_large_pages

LARGEST = 8
"""The most bits of a code: it lies in two bytes at most."""
MOST, MOST_WEIGHTS = 1 << 31, 1 << 48
"""Rows or columns, and weights, of a table. With fewer, places in bits fit into 64."""
ROWS_AT_ONCE = 1 << 14
"""A multiple of 8, so that the codes of so many rows end with a byte."""


class QuantisedEmbedding(nn.Module):
    """ids -> rows, as `CompressedEmbedding`.

    A *run* is rows, one after another, of one field and one width. Its codes begin with a byte.
    """

    layout: Literal["quantised"] = "quantised"
    values: Literal["codes"] = "codes"
    codes: Tensor
    """(bytes,) uint8: one code after another, the first in the lowest bits."""
    unrounded: Tensor
    """(n, K) float32: the rows of 32 bits."""
    steps: Tensor
    """(W,)"""
    offset: Tensor
    """(K,)"""
    first: Tensor
    """(R,) the first row of each run."""
    place: Tensor
    """(R,) the byte in which its codes begin, or the first of its rows among those of 32 bits."""
    which: Tensor
    """(R,) the number of its width."""

    def __init__(self, width: int, widths: Sequence[int], counts: Sequence[Sequence[int]]) -> None:
        """Empty. `widths` (W,) are bits of a weight, and `counts` (fields, W) the rows that a field has of each."""
        super().__init__()
        known = all(type(b) is int and (0 <= b <= LARGEST or b == UNROUNDED) for b in widths)
        counted = all(len(row) == len(widths) and all(type(n) is int and 0 <= n < MOST for n in row) for row in counts)
        if not known or not counted or not widths or not counts or type(width) is not int or not 0 < width < MOST:
            about = f"{shortened(str(width))} columns, rows of {shortened(str(widths))} bits, and so many of each"
            raise NisbenchError(f"no table has {about}: {shortened(str(counts))}")
        sizes = np.array(counts, dtype=np.int64)
        if int(sizes.sum()) * width >= MOST_WEIGHTS:
            raise NisbenchError(f"no table has {int(sizes.sum()):,} rows of {width:,} columns")
        self.width, self.widths, self.counts = width, list(widths), sizes.tolist()
        self.rows = int(sizes.sum())
        there = sizes > 0
        which, sizes = np.nonzero(there)[1], sizes[there]
        bits = np.array(widths)[which]
        stored = np.where(bits == UNROUNDED, sizes, 0)
        taken = np.where(bits == UNROUNDED, 0, -(-sizes * width * bits // 8))
        place = np.where(bits == UNROUNDED, stored.cumsum() - stored, taken.cumsum() - taken)
        self.register_buffer("codes", torch.zeros(int(taken.sum()) + 1, dtype=torch.uint8))  # two are read at a time
        self.register_buffer("unrounded", torch.zeros(int(stored.sum()), width))
        self.register_buffer("steps", torch.zeros(len(widths)))
        self.register_buffer("offset", torch.zeros(width))
        for name, numbers in {"first": sizes.cumsum() - sizes, "place": place, "which": which}.items():
            # on a CPU, even while the rest is made of nothing
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.int64, device="cpu"), persistent=False)
        self.register_load_state_dict_post_hook(_check_loaded)  # type: ignore[no-untyped-call]

    @classmethod
    def from_dense(
        cls,
        embeddings: np.ndarray,
        sizes: Sequence[int],
        widths: Sequence[int],
        steps: Sequence[float],
        offset: Sequence[float],
        room: float,
    ) -> "tuple[QuantisedEmbedding, np.ndarray] | None":
        """Of embeddings (N, K) that are codes with these steps (W,) and offsets (K,), and which feature each row is: (N,).

        `sizes` are the fields' features. A row has the least bits from which it comes back within `room`. None if a row has none.
        """
        step, shift = np.array(steps, dtype=np.float32), np.array(offset, dtype=np.float32)
        chosen = np.full(len(embeddings), -1)
        for which in np.argsort(widths):
            for part in _slices(len(embeddings)):
                rows = embeddings[part]
                again = decoded(encoded(rows, widths[which], step[which], shift), widths[which], step[which], shift)
                fits = np.abs(again - rows).max(axis=1) <= room
                chosen[part] = np.where((chosen[part] < 0) & fits, which, chosen[part])
        if (chosen < 0).any():
            return None
        field = np.repeat(np.arange(len(sizes)), sizes)
        counts = np.zeros((len(sizes), len(widths)), dtype=np.int64)
        np.add.at(counts, (field, chosen), 1)
        found, order = cls(embeddings.shape[1], widths, counts.tolist()), np.lexsort((chosen, field))
        found.steps.copy_(torch.from_numpy(step))
        found.offset.copy_(torch.from_numpy(shift))
        found._fill(embeddings, order)
        return found, order

    def _fill(self, embeddings: np.ndarray, order: np.ndarray) -> None:
        """Take over embeddings (N, K), of which each row is the one numbered by `order` (N,)."""
        codes, step, shift = self.codes.numpy(), self.steps.numpy(), self.offset.numpy()
        runs = zip(pairwise([*self.first.tolist(), self.rows]), self.place.tolist(), self.which.tolist(), strict=True)
        for (start, end), place, which in runs:
            bits = self.widths[which]
            for part in _slices(end - start):
                rows = embeddings[order[start:end][part]]
                if bits == UNROUNDED:
                    self.unrounded[place + part.start : place + part.stop] = torch.from_numpy(rows)
                elif bits:
                    numbers = encoded(rows, bits, step[which], shift) + (1 << (bits - 1))
                    every = numbers.astype(np.uint8).reshape(-1, 1) >> np.arange(bits, dtype=np.uint8) & 1
                    packed, at = np.packbits(every, bitorder="little"), place + part.start * self.width * bits // 8
                    codes[at : at + len(packed)] = packed

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of whole-number ids: (...) -> (..., K) float32. Raises `IndexError` for an id that is no row's."""
        flat = ids.reshape(-1)
        if flat.is_cuda:
            check_ids(flat, self.rows)
        gathers = flat.is_cuda or torch.compiler.is_compiling()
        rows = self._gathered(flat.long()) if gathers else self._decoded(flat)
        return rows.view(*ids.shape, self.width)

    def _decoded(self, ids: Tensor) -> Tensor:
        """By compiled code, on a CPU: (n,) -> (n, K)."""
        numbers = ids.numpy()
        wrong = kernels.first_outside(numbers, self.rows)
        if wrong >= 0:
            raise IndexError(f"id {numbers[wrong]} is out of range: the table has {self.rows:,} rows")
        out = np.empty((len(numbers), self.width), dtype=np.float32)
        if len(numbers):
            bits = torch.tensor(self.widths)[self.which]
            of_runs = (self.first, self.place, bits, self.steps[self.which])
            stored = (self.codes, self.unrounded, self.offset)
            kernels.quantised(numbers, *(tensor.numpy() for tensor in (*of_runs, *stored)), out)
        return torch.from_numpy(out)

    def _gathered(self, ids: Tensor) -> Tensor:
        """By torch's own operations, on any device and in exported programs: (n,) int64 -> (n, K)."""
        run = (ids[:, None] >= self.first[1:]).sum(1)
        number, place, which = ids - self.first[run], self.place[run], self.which[run]
        column, powers = torch.arange(self.width, device=ids.device), 2 ** torch.arange(8, device=ids.device)
        rows = torch.zeros(ids.shape[0], self.width, device=ids.device)
        for i, bits in enumerate(self.widths):
            if bits == 0 or not any(of_field[i] for of_field in self.counts):
                continue
            if bits == UNROUNDED:
                found = self.unrounded[(place + number).clamp(max=len(self.unrounded) - 1)]
            else:
                at = 8 * place[:, None] + (number[:, None] * self.width + column) * bits
                byte = (at // 8).clamp(max=len(self.codes) - 2)  # of rows of other widths, anything is read
                two = self.codes[byte].long() + 256 * self.codes[byte + 1].long()
                code = two // powers[at % 8] % (1 << bits) - (1 << (bits - 1))
                found = code.float() * self.steps[i] + self.offset
            rows = torch.where((which == i)[:, None], found, rows)
        return rows

    def on_large_pages(self) -> "QuantisedEmbedding":
        """Move the buffers to large pages, as those of `CompressedEmbedding`. Returns itself."""
        to_large_pages(self)
        return self

    @property
    def nbytes(self) -> int:
        """The bytes of all that is stored."""
        return sum(tensor.nbytes for tensor in (self.codes, self.unrounded, self.steps, self.offset))

    def extent(self) -> dict[str, Any]:
        """The arguments of an empty module that this one's state can be loaded into."""
        return {name: getattr(self, name) for name in ("width", "widths", "counts")}

    def extra_repr(self) -> str:
        return f"{self.rows}, {self.width}, widths={self.widths}, nbytes={self.nbytes}"


def encoded(rows: np.ndarray, bits: int, step: np.float32, offset: np.ndarray) -> np.ndarray:
    """Rows (n, K) as codes (n, K) of so many bits; those of 32 as they are."""
    if bits in {0, UNROUNDED}:
        return rows * np.float32(bits > 0)
    most = 1 << (bits - 1)
    codes: np.ndarray = np.clip(np.rint((rows - offset) / step), -most, most - 1)
    return codes


def decoded(codes: np.ndarray, bits: int, step: np.float32, offset: np.ndarray) -> np.ndarray:
    """The rows (n, K) of such codes."""
    rows: np.ndarray = codes if bits in {0, UNROUNDED} else codes * step + offset
    return rows


def _slices(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS_AT_ONCE, rows)) for start in range(0, rows, ROWS_AT_ONCE))


def _check_loaded(module: nn.Module, _keys: Any) -> None:
    """Raise `NisbenchError` if a state that was loaded is none that was made from a table."""
    assert isinstance(module, QuantisedEmbedding)
    floats = (module.unrounded, module.steps, module.offset)
    sound = module.codes.dtype == torch.uint8 and all(tensor.dtype == torch.float32 for tensor in floats)
    if not sound or not all(tensor.isfinite().all() for tensor in floats):
        raise NisbenchError("the state is not that of a quantised table")
