"""Instances in memory, on the training device, or in files that are mapped into memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from nisbench import memory
from nisbench.data.parquet import Field, InstancesFile, open_instances
from nisbench.errors import NisbenchError
from nisbench.files import atomic_write
from nisbench.logs import log
from nisbench.progress import Ticker, share

ROWS_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class Instances:
    """Instances as tensors on the training device; a batch is an index into them."""

    ids: Tensor
    """(n, M) int32 feature ids; more columns where a field may have several features, see `columns`."""
    labels: Tensor
    """(n,) float32."""
    values: Tensor | None = None
    """(n, M) float32 values of scalar fields, 1 for categorical ones; None where all fields are categorical. Where a field has
    several features, each of the k that an instance has counts 1 / k, and the columns that are left count 0."""
    columns: tuple[int, ...] | None = None
    """How many columns each field has, where one has several; None = each has one."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Instances":
        values = None if self.values is None else rows_at(self.values, index)
        return Instances(rows_at(self.ids, index), rows_at(self.labels, index), values, self.columns)

    @property
    def id_columns(self) -> int:
        """The number of columns of `ids`, which may have to be made first."""
        return self.ids.shape[1]

    def subset(self, index: Tensor) -> "Instances":
        """Some of the instances, to be kept as these are."""
        return self[index]


def rows_at(tensor: Tensor, index: Tensor | slice) -> Tensor:
    """Rows of a tensor; several times faster than indexing by a tensor."""
    return tensor[index] if isinstance(index, slice) else tensor.index_select(0, index)


# --- compact --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Where the fields of an instance stand in a batch's ids and values, and in a row of cells.

    A row has only what differs between instances, in 4 bytes each: in the columns of its ids, the tokens of categorical fields and,
    as bits, the numbers of scalar ones; then, of each field with several features, how many the instance has.
    """

    fields: tuple[Field, ...]

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """Of ids, that each field has."""
        return tuple(field.most for field in self.fields)

    @cached_property
    def id_columns(self) -> int:
        return sum(self.columns)

    @cached_property
    def several(self) -> list[tuple[int, int]]:
        """The first column of ids, and the number of columns, of each field with several features."""
        firsts = accumulate(self.columns, initial=0)
        return [(first, count) for first, count in zip(firsts, self.columns, strict=False) if count > 1]

    @property
    def cells(self) -> int:
        """Of a row."""
        return self.id_columns + len(self.several)

    @property
    def is_plain(self) -> bool:
        """Whether a row of cells is the instance's ids."""
        return not self.several and all(field.kind == "categorical" for field in self.fields)

    @property
    def bytes(self) -> int:
        """Of an instance and its label."""
        return 4 * self.cells + 4

    def row_cells(self, batch: pa.RecordBatch) -> np.ndarray:
        """The cells (n, cells) int32 of a batch of a file of instances."""
        cells = np.empty((len(batch), self.cells), dtype=np.int32)
        at, counted = 0, self.id_columns
        for field in self.fields:
            column = batch.column(field.name)
            if field.most > 1:
                lengths = np.diff(np.asarray(column.offsets))
                cells[:, at : at + field.most] = in_columns(np.asarray(column.flatten()), lengths, field)
                cells[:, counted] = lengths
                counted += 1
            else:
                cells[:, at] = column.to_numpy().view(np.int32)
            at += field.most
        return cells


def in_columns(flat: np.ndarray, lengths: np.ndarray, field: Field) -> np.ndarray:
    """Lists of a field's features, one after another, and their lengths (n,) -> columns (n, most), filled with the field's first."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    ids = np.full((len(lengths), field.most), field.first, dtype=np.int32)
    ids[row, within] = flat
    return ids


def several(features: tuple[np.ndarray, np.ndarray], field: Field) -> tuple[Tensor, Tensor]:
    """Columns of ids and of their weights, (n, most) each, for lists of a field's features, one after another, and their lengths."""
    flat, lengths = features
    return torch.from_numpy(in_columns(flat, lengths, field)), shares(field.most)[torch.from_numpy(lengths).long()]


class CompactInstances(Instances):
    """Instances of which only the cells are kept; ids and values are made for a batch. All of them at once take much more memory."""

    def __init__(self, layout: Layout, cells: Tensor, labels: Tensor, chosen: Tensor | None = None) -> None:
        """`chosen` are the rows that count, in their order; None = all."""
        device, repeated = cells.device, [field for field in layout.fields for _ in range(field.most)]
        own = {
            "layout": layout,
            "cells": cells,
            "all_labels": labels,
            "chosen": chosen,
            "columns": layout.columns if layout.several else None,
            "is_scalar": torch.tensor([field.kind == "scalar" for field in repeated], device=device),
            "constant_ids": torch.tensor([field.first for field in repeated], dtype=torch.int32, device=device),
            "shares": [shares(count).to(device) for _, count in layout.several],
        }
        vars(self).update(own)  # the class that it derives from is frozen

    layout: Layout
    cells: Tensor
    """(n, cells) int32."""
    all_labels: Tensor
    chosen: Tensor | None
    is_scalar: Tensor
    """(M,)."""
    constant_ids: Tensor
    """(M,) the ids of scalar fields."""
    shares: list[Tensor]

    def __len__(self) -> int:
        return len(self.all_labels) if self.chosen is None else len(self.chosen)

    def __getitem__(self, index: Tensor | slice) -> Instances:
        index = index if self.chosen is None else rows_at(self.chosen, index)
        cells = rows_at(self.cells, index)
        of_ids, counts = cells[:, : self.layout.id_columns], cells[:, self.layout.id_columns :]
        ids = torch.where(self.is_scalar, self.constant_ids, of_ids)
        values = torch.where(self.is_scalar, of_ids.view(torch.float32), 1.0)
        for (first, count), of_counts, used in zip(self.layout.several, self.shares, counts.unbind(1), strict=True):
            values[:, first : first + count] = of_counts.index_select(0, used)
        return Instances(ids, rows_at(self.all_labels, index), values, self.columns)

    @property
    def labels(self) -> Tensor:
        return self.all_labels if self.chosen is None else self.all_labels.index_select(0, self.chosen)

    @property
    def ids(self) -> Tensor:
        return self[:].ids

    @property
    def values(self) -> Tensor | None:
        return self[:].values

    @property
    def id_columns(self) -> int:
        return self.layout.id_columns

    def subset(self, index: Tensor) -> "CompactInstances":
        chosen = index if self.chosen is None else self.chosen.index_select(0, index)
        return CompactInstances(self.layout, self.cells, self.all_labels, chosen)


def shares(most: int) -> Tensor:
    """(most + 1, most): what each column counts where k of them are used, by k: 1 / k for the first k, 0 for the others."""
    used = torch.arange(most) < torch.arange(most + 1)[:, None]
    return used / torch.arange(most + 1).clamp(min=1)[:, None]


# --- reading --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Room:
    """Where instances may be kept: in memory, as far as it goes, and in files."""

    memory_limit: float | None
    """GiB that the process may hold; see `memory.limit`."""
    beside: int
    """Bytes of it that all else takes."""
    folder: Path
    """For the files."""
    order: Literal["shuffled", "blocks"] = "blocks"
    """In which a batch's instances come; any other than by blocks needs the files in the system's cache, which is memory too."""


def size_of(path: Path) -> int:
    """Bytes that a file of instances takes in memory."""
    file = open_instances(path)
    return len(file) * Layout(tuple(file.fields)).bytes


def read_all(paths: Sequence[Path], device: torch.device, room: Room | None = None) -> list[Instances]:
    """Load files of instances, as `read` does: into files that are mapped, where memory has no room for all of them."""
    mapped = room is not None and device.type == "cpu" and not _fits(paths, room)
    return [read(path, device, room.folder / f"{path.stem}.npy" if room and mapped else None) for path in paths]


def _fits(paths: Sequence[Path], room: Room) -> bool:
    """Raises `NisbenchError` if they fit neither into the memory that the process may hold nor into all that there is."""
    size, limit, there = sum(map(size_of, paths)), memory.limit(room.memory_limit), memory.total()
    if size + room.beside <= limit:
        return True
    if room.order == "shuffled" and size + room.beside > there:
        raise NisbenchError(
            f"{paths[0]}: the instances take {size / 2**30:.1f} GiB and the tables {room.beside / 2**30:.1f}, and this machine has "
            f"{there / 2**30:.1f} GiB of memory. Set training.order: blocks, by which a batch is read from few places of a file"
        )
    log.info(
        "instances of %.1f GiB beside tables of %.1f do not fit into %.1f GiB (training.memory_limit): they stay in files in %s",
        size / 2**30, room.beside / 2**30, limit / 2**30, room.folder,
    )  # fmt: skip
    return False


def read(path: Path, device: torch.device, mapped: Path | None = None) -> Instances:
    """Load a file of instances onto `device`, some rows at a time.

    With `mapped`, which names a file, all but labels stays in that file, from which a CPU reads the rows of a batch. It is made
    unless it is there. Raises `NisbenchError` if something in the instances is not as it must be.
    """
    file = open_instances(path)
    layout = Layout(tuple(file.fields))
    labels = torch.empty(len(file))
    if mapped:
        cells = _mapped_cells(file, layout, labels, mapped)
    else:
        cells = torch.empty((len(file), layout.cells), dtype=torch.int32, device=device)
        for rows, batch in _batches(file):
            cells[rows] = torch.from_numpy(layout.row_cells(batch)).to(device)
            labels[rows] = torch.from_numpy(np.array(batch.column("label")))
    labels = labels.to(device)
    return Instances(cells, labels) if layout.is_plain else CompactInstances(layout, cells, labels)


def _mapped_cells(file: InstancesFile, layout: Layout, labels: Tensor, mapped: Path) -> Tensor:
    shape = len(file), layout.cells
    if _is_of(mapped, shape):
        labels.copy_(torch.from_numpy(file.column("label")))
    else:
        with atomic_write(mapped) as temporary, temporary.open("wb") as target:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.int32)), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(target, header)
            for rows, batch in _batches(file):
                target.write(layout.row_cells(batch).data)
                labels[rows] = torch.from_numpy(np.array(batch.column("label")))
    # Copied where it is written to, which nothing does: torch warns of tensors that may not be.
    return torch.from_numpy(np.load(mapped, mmap_mode="c"))


def _is_of(mapped: Path, shape: tuple[int, int]) -> bool:
    """Whether a whole file of cells is there: it is only ever placed whole."""
    try:
        found = np.load(mapped, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return bool(found.shape == shape and found.dtype == np.int32)


def _batches(file: InstancesFile) -> Iterator[tuple[slice, pa.RecordBatch]]:
    start, heartbeat = 0, Ticker()
    for batch in file.batches(ROWS_AT_ONCE):
        yield slice(start, start + len(batch)), batch
        start += len(batch)
        if heartbeat.is_due():
            heartbeat.log("reading %s: %s", file.path.name, share(start, len(file), heartbeat.seconds))
