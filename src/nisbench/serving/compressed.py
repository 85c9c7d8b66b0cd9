"""An embedding table that is kept compressed and decoded as it is read. It needs nothing else of this package to be used."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nisbench.embedding.storage import (
    LAYOUTS,
    PRECISIONS,
    Extent,
    Layout,
    Precision,
    codes_of,
    column_type,
    group_size,
    mask_bytes,
    prefix_lengths,
    row_slices,
)
from nisbench.errors import NisbenchError
from nisbench.serving import kernels

WEIGHT_TYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8, "int4": torch.uint8}


def check_ids(ids: Tensor, rows: int) -> None:
    """Raise `IndexError` for an id (n,) that is no row's. A program that is exported does not check."""
    if not torch.compiler.is_compiling() and len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < rows:
        raise IndexError(f"an id is out of range: the table has {rows:,} rows")


class CompressedEmbedding(nn.Module):
    """What ``nn.Embedding`` is, for a table with many zeros: ids -> rows, from a table stored in fewer bytes.

    >>> small = CompressedEmbedding.from_dense(table.weight, layout="auto", values="int8")
    >>> small(ids)          # (..., K) float32
    >>> small.nbytes

    Layouts and precisions are those of `nisbench.embedding.storage`. Its tensors are buffers: nothing is trained. A
    state is loaded into a module of the same shape, whose arguments are `small.extent()`.
    """

    weights: Tensor
    scales: Tensor
    groups: Tensor
    starts: Tensor
    columns: Tensor
    words: Tensor

    def __init__(self, rows: int, width: int, layout: Layout, values: Precision, stored: int) -> None:
        """Empty, with room for `stored` weights (of a dense layout: rows * width)."""
        super().__init__()
        _check_choice("layout", layout, LAYOUTS)
        _check_choice("values", values, PRECISIONS)
        self.rows, self.width, self.layout, self.values, self.stored = rows, width, layout, values, stored
        self.shift = group_size(width).bit_length() - 1
        self._views: tuple[Any, tuple[Any, ...]] | None = None
        count = max(1, stored)
        if layout == "dense":
            shape: tuple[int, ...] = (rows, -(-width // 2) if values == "int4" else width)
        else:
            shape = (-(-count // 2) if values == "int4" else count,)
        self.register_buffer("weights", torch.zeros(shape, dtype=WEIGHT_TYPES[values]))
        if values in {"int8", "int4"}:
            self.register_buffer("scales", torch.zeros(rows, dtype=torch.bfloat16))
        if layout != "dense":
            self.register_buffer("groups", torch.zeros((rows >> self.shift) + 1, dtype=torch.int64))
            self.register_buffer("starts", torch.zeros(rows + 1, dtype=torch.int16))  # unsigned: see `_places`
        if layout == "csr":
            kind = torch.uint8 if column_type(width).itemsize == 1 else torch.int16  # unsigned, too
            self.register_buffer("columns", torch.zeros(count, dtype=kind))
        if layout == "mask":
            self.register_buffer("words", torch.zeros(rows, mask_bytes(width), dtype=torch.uint8))
        self.register_load_state_dict_post_hook(_check_loaded)  # type: ignore[no-untyped-call]

    @classmethod
    def from_dense(
        cls, weight: Tensor | np.ndarray, layout: Layout | Literal["auto"] = "auto", values: Precision = "float32"
    ) -> "CompressedEmbedding":
        """Of a table (N, K), whose zeros are left out. ``auto`` is the layout that takes the fewest bytes.

        Raises `NisbenchError` for weights that are not finite numbers.
        """
        table = weight.detach().cpu().float().numpy() if isinstance(weight, Tensor) else np.asarray(weight, np.float32)
        if table.ndim != 2 or not table.shape[1]:
            raise NisbenchError(f"a table has rows and columns (N, K), not the shape {table.shape}")
        _check_choice("layout", layout, ("auto", *LAYOUTS))
        _check_choice("values", values, PRECISIONS)
        extent = Extent.of(table)
        chosen = extent.smallest(values) if layout == "auto" else layout
        found = cls(len(table), table.shape[1], chosen, values, extent.stored(chosen))
        found._fill(table)
        return found.on_large_pages()

    def _fill(self, table: np.ndarray) -> None:
        """Take over a table (N, K), some rows at a time."""
        counts, done = np.zeros(self.rows, dtype=np.int64), 0
        for part in row_slices(self.rows, self.width):
            rows = table[part]
            if not np.isfinite(rows).all():
                raise NisbenchError("a table with weights that are not finite numbers cannot be compressed")
            codes, scales = codes_of(rows, self.values)
            if scales is not None:
                self.scales[part] = torch.from_numpy(scales.view(np.int16)).view(torch.bfloat16)
            if self.layout == "dense":
                pairs = np.pad(codes, ((0, 0), (0, self.width % 2))) if self.values == "int4" else codes
                self.weights.numpy()[part] = _packed(pairs) if self.values == "int4" else codes
                continue
            kept = rows != 0
            if self.layout == "prefix":
                kept = np.arange(self.width) < prefix_lengths(kept)[:, None]
            counts[part] = kept.sum(axis=1)
            self._append(codes, kept, part, done)
            done += int(counts[part].sum())
        if self.layout != "dense":
            starts = np.concatenate([[0], np.cumsum(counts)])
            groups = starts[:: 1 << self.shift]
            self.groups.copy_(torch.from_numpy(groups))
            within = starts - groups[np.arange(self.rows + 1) >> self.shift]
            self.starts.copy_(torch.from_numpy(within.astype(np.uint16).view(np.int16)))

    def on_large_pages(self) -> "CompressedEmbedding":
        """Move the buffers to large pages. Returns itself."""
        to_large_pages(self)
        return self

    def _append(self, codes: np.ndarray, kept: np.ndarray, part: slice, start: int) -> None:
        """Store the codes of some rows (n, K) that are `kept` (n, K), from the weight number `start` on."""
        weights, flat = self.weights.numpy(), codes[kept]
        if self.values == "int4":
            _pack_into(weights, flat, start)
        else:
            weights[start : start + len(flat)] = flat
        if self.layout == "csr":
            columns, numbers = _view(self.columns), np.nonzero(kept)[1]
            columns[start : start + len(flat)] = numbers
        if self.layout == "mask":
            bits = np.packbits(kept, axis=1, bitorder="little")
            self.words.numpy()[part, : bits.shape[1]] = bits

    # --- reading ----------------------------------------------------------------------------------------------

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of whole-number ids: (...) -> (..., K) float32. Raises `IndexError` for an id that is no row's."""
        flat = ids.reshape(-1)
        if flat.is_cuda:
            check_ids(flat, self.rows)
        if flat.is_cuda or torch.compiler.is_compiling():
            rows = self._gathered(flat.long())
        elif self.layout == "dense" and self.values == "float32":
            rows = nn.functional.embedding(flat, self.weights)
        else:
            rows = self._decoded(flat)
        return rows.view(*ids.shape, self.width)

    def _decoded(self, ids: Tensor) -> Tensor:
        """By compiled code, on a CPU: (n,) -> (n, K)."""
        numbers, (kernel, *stored) = ids.numpy(), self._compiled()
        wrong = kernels.first_outside(numbers, self.rows)
        if wrong >= 0:
            raise IndexError(f"id {numbers[wrong]} is out of range: the table has {self.rows:,} rows")
        out = np.empty((len(numbers), self.width), dtype=np.float32)
        kernel(numbers, *stored, out)
        return torch.from_numpy(out)

    def _compiled(self) -> tuple[Any, ...]:
        """The layout's kernel, and what it takes between ids and output: views of the buffers, made once."""
        weights = self._buffers["weights"]
        if self._views is None or self._views[0] is not weights:  # moved, or loaded anew
            views = {name: _view(tensor) for name, tensor in self.named_buffers()}
            if self.layout == "dense":
                stride = self.width + (self.width % 2 if self.values == "int4" else 0)
                found = [kernels.dense, np.uint64(stride)]
            else:
                per_row = views["weights"].nbytes / max(1, self.rows)
                lines = round(1 + per_row / kernels.LINE)
                found = [getattr(kernels, self.layout), views["groups"], views["starts"], np.uint64(self.shift), lines]
            if self.layout == "csr":
                found.append(views["columns"])
            if self.layout == "mask":
                found.append(views["words"].view(f"u{min(8, self.words.shape[1])}"))
            self._views = weights, (*found, views["weights"].reshape(-1), views.get("scales", NO_SCALES))
        return self._views[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_views": None}  # of a copy's own buffers

    def _gathered(self, ids: Tensor) -> Tensor:
        """By torch's own operations, on any device and in exported programs: (n,) int64 -> (n, K).

        Bits are taken apart by division: ONNX's exporter has no shifts.
        """
        every = torch.arange(self.width, device=ids.device)
        if self.layout == "dense":
            rows = self.weights.index_select(0, ids)
            if self.values == "int4":
                rows = rows.int()[:, every // 2] // (1 + 15 * (every % 2)) & 15
            return self._scaled(rows, ids)
        start, end = self._places(ids), self._places(ids + 1)
        if self.layout == "mask":
            kept = self.words.index_select(0, ids)[:, every // 8].long() // 2 ** (every % 8) & 1
            place, there = start[:, None] + kept.cumsum(1) - kept, kept.float()
        else:
            place = start[:, None] + every
            there = (place < end[:, None]).float()
        place = place.clamp(max=max(1, self.stored) - 1)  # what lies beyond a row is read, and multiplied by 0
        if self.values == "int4":
            codes = self.weights[place // 2].int() // (1 + 15 * (place % 2)) & 15
        else:
            codes = self.weights[place]
        rows = self._scaled(codes, ids) * there
        if self.layout != "csr":
            return rows
        columns = self.columns[place].long() & 0xFFFF
        return torch.zeros_like(rows).scatter_add(1, columns, rows)

    def _places(self, ids: Tensor) -> Tensor:
        """Where rows start among the weights: (n,) int64."""
        return self.groups[ids // (1 << self.shift)] + (self.starts[ids].long() & 0xFFFF)

    def _scaled(self, codes: Tensor, ids: Tensor) -> Tensor:
        """Codes of rows (n, w) as float32 weights."""
        if self.values in {"float32", "float16"}:
            return codes.float()
        numbers = codes.int()
        numbers = (numbers ^ 8) - 8 if self.values == "int4" else numbers
        return numbers.float() * self.scales.index_select(0, ids).float()[:, None]

    # --- what it is -------------------------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """The bytes of all that is stored."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.buffers())

    def extent(self) -> dict[str, Any]:
        """The arguments of an empty module that this one's state can be loaded into."""
        return {name: getattr(self, name) for name in ("rows", "width", "layout", "values", "stored")}

    def extra_repr(self) -> str:
        return f"{self.rows}, {self.width}, layout={self.layout}, values={self.values}, nbytes={self.nbytes}"


def to_large_pages(module: nn.Module) -> None:
    """Move a module's buffers to memory for which NumPy asks the system for large pages.

    Rows lie anywhere in a table. With pages of 4 KiB, the processor would have to look up where most of them are.
    """
    for name, tensor in module.named_buffers():
        view = _view(tensor)
        copy = np.empty(view.shape, view.dtype)
        copy[...] = view
        setattr(module, name, torch.from_numpy(copy).view(tensor.dtype))


def _check_loaded(module: nn.Module, _keys: Any) -> None:
    """Raise `NisbenchError` if a state that was loaded is none that was made from a table: kernels would read elsewhere."""
    assert isinstance(module, CompressedEmbedding)
    tensors = {name: tensor.cpu() for name, tensor in module.named_buffers()}
    if tensors["weights"].dtype != WEIGHT_TYPES[module.values]:
        raise NisbenchError(f"weights of {module.values} cannot be of the type {tensors['weights'].dtype}")
    if module.layout == "dense":
        return
    views = {name: _view(tensor) for name, tensor in tensors.items()}
    starts = views["groups"][np.arange(module.rows + 1) >> module.shift] + views["starts"].astype(np.int64)
    counts = np.diff(starts)
    sound = starts[0] == 0 and starts[-1] == module.stored and (counts >= 0).all() and (counts <= module.width).all()
    if module.layout == "csr":
        sound = sound and (views["columns"] < module.width).all()
    if module.layout == "mask":
        bits = np.unpackbits(views["words"], axis=1, bitorder="little")
        sound = sound and not bits[:, module.width :].any() and (bits.sum(axis=1, dtype=np.int64) == counts).all()
    if not sound:
        raise NisbenchError("the state is not that of a compressed table: its tensors do not fit together")


NO_SCALES = np.zeros(0, dtype=np.uint16)


def _view(tensor: Tensor) -> np.ndarray:
    """A buffer as kernels read it: what torch has in signed or half floats, as unsigned numbers."""
    if tensor.dtype in {torch.int16, torch.float16, torch.bfloat16}:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    found: np.ndarray = tensor.numpy()
    return found


def _packed(codes: np.ndarray) -> np.ndarray:
    """int8 codes (..., 2n) of 4 bits as bytes (..., n), the first of each pair in the lower bits."""
    bits = codes.view(np.uint8) & 15
    packed: np.ndarray = bits[..., 0::2] | (bits[..., 1::2] << 4)
    return packed


def _pack_into(stored: np.ndarray, codes: np.ndarray, start: int) -> None:
    """Write codes of 4 bits (n,) from the half byte number `start` on."""
    if start % 2 and len(codes):
        stored[start // 2] |= (codes[:1].view(np.uint8)[0] & 15) << 4
        start, codes = start + 1, codes[1:]
    if len(codes) % 2:
        codes = np.append(codes, np.int8(0))
    stored[start // 2 : start // 2 + len(codes) // 2] = _packed(codes)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise NisbenchError(f"{name} must be one of {', '.join(known)}, not {value!r}")
