"""Instances in memory: three tensors on the training device."""

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nisbench.data.parquet import Field, open_instances


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
        def rows(tensor: Tensor) -> Tensor:  # several times faster than indexing by a tensor
            return tensor[index] if isinstance(index, slice) else tensor.index_select(0, index)

        values = None if self.values is None else rows(self.values)
        return Instances(rows(self.ids), rows(self.labels), values, self.columns)


def read(path: Path, device: torch.device) -> Instances:
    """Load a file of instances onto `device`, column by column. Raises `NisbenchError` if something in it is not as it must be."""
    file = open_instances(path)
    fields = file.fields
    labels = torch.from_numpy(file.column("label"))
    n = len(labels)
    columns = tuple(field.most for field in fields)
    ids = torch.empty((n, sum(columns)), dtype=torch.int32)
    weighted = any(field.kind == "scalar" or field.most > 1 for field in fields)
    values = torch.ones((n, sum(columns))) if weighted else None
    for i, field in zip(accumulate(columns, initial=0), fields, strict=False):
        if field.most > 1:
            assert values is not None
            end = i + field.most
            ids[:, i:end], values[:, i:end] = several(file.lists(field.name), field)
        elif field.kind == "categorical":
            ids[:, i] = torch.from_numpy(file.column(field.name))
        else:
            assert values is not None
            ids[:, i] = field.first
            values[:, i] = torch.from_numpy(file.column(field.name))
    return Instances(
        ids.to(device),
        labels.to(device),
        None if values is None else values.to(device),
        columns if max(columns, default=1) > 1 else None,
    )


def several(features: tuple[np.ndarray, np.ndarray], field: Field) -> tuple[Tensor, Tensor]:
    """Columns of ids and of their weights, (n, most) each, for lists of a field's features, one after another, and their lengths."""
    flat, lengths = features
    row = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    ids = np.full((len(lengths), field.most), field.first, dtype=np.int32)
    weights = np.zeros(ids.shape, dtype=np.float32)
    ids[row, within], weights[row, within] = flat, 1 / lengths[row]
    return torch.from_numpy(ids), torch.from_numpy(weights)
