"""Instances in memory: three tensors on the training device."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nisbench.data.parquet import open_instances


@dataclass(frozen=True)
class Instances:
    """Instances as tensors on the training device; a batch is an index into them."""

    ids: Tensor
    """(n, M) int32 feature ids."""
    labels: Tensor
    """(n,) float32."""
    values: Tensor | None = None
    """(n, M) float32 values of scalar fields, 1 for categorical ones; None where all fields are categorical."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Instances":
        def rows(tensor: Tensor) -> Tensor:  # several times faster than indexing by a tensor
            return tensor[index] if isinstance(index, slice) else tensor.index_select(0, index)

        return Instances(rows(self.ids), rows(self.labels), None if self.values is None else rows(self.values))


def read(path: Path, device: torch.device) -> Instances:
    """Load a file of instances onto `device`, column by column. Raises `NisbenchError` if something in it is not as it must be."""
    file = open_instances(path)
    fields = file.fields
    labels = torch.from_numpy(file.column("label"))
    n = len(labels)
    ids = torch.empty((n, len(fields)), dtype=torch.int32)
    scalar = any(field.kind == "scalar" for field in fields)
    values = torch.ones((n, len(fields))) if scalar else None
    for i, field in enumerate(fields):
        if field.kind == "categorical":
            ids[:, i] = torch.from_numpy(file.column(field.name))
        else:
            assert values is not None
            ids[:, i] = field.first
            values[:, i] = torch.from_numpy(file.column(field.name))
    return Instances(ids.to(device), labels.to(device), None if values is None else values.to(device))
