"""Weights as safetensors files: nothing is ever unpickled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nisbench.errors import NisbenchError
from nisbench.files import atomic_write, bad_file, check_regular


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any] | None = None) -> None:
    """Write `tensors`, with `about` as JSON in the file's metadata."""
    copies = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(copies, temporary, metadata={"nisbench": json.dumps(about or {})})


def load_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file that `save_tensors` wrote, and its `about`. Raises `NisbenchError` if it is damaged."""
    try:
        with safe_open(check_regular(path), framework="pt", device=str(device)) as file:
            about = json.loads((file.metadata() or {}).get("nisbench", "{}"))
            if not isinstance(about, dict):
                raise ValueError("its metadata is not of nisbench")  # noqa: TRY004, TRY301
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise bad_file(path, f"not a readable file of weights: {error}") from error


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Raise `NisbenchError` if tensors read from `path` have not the names, shapes and types expected, or are not finite."""
    if tensors.keys() != expected.keys():
        wrong = min(tensors.keys() ^ expected.keys())
        raise bad_file(path, f"{wrong} {'is missing' if wrong in expected else 'is not a tensor of this model'}")
    for name, tensor in tensors.items():
        wanted = expected[name]
        if (tensor.shape, tensor.dtype) != (wanted.shape, wanted.dtype):
            found, right = (f"{tuple(each.shape)} of {each.dtype}" for each in (tensor, wanted))
            raise bad_file(path, f"{name} is {found}, not {right}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise bad_file(path, f"{name}: some values are not finite numbers")


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def is_readable(path: Path) -> bool:
    """Whether a file that `save_tensors` wrote exists and is undamaged."""
    try:
        load_tensors(path)
    except NisbenchError:
        return False
    return True
