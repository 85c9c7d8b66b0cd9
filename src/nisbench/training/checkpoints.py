"""Weights and half-done trials as safetensors: nothing is ever unpickled."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nisbench.errors import NisbenchError
from nisbench.files import atomic_write
from nisbench.logs import log
from nisbench.models.recommender import Recommender
from nisbench.training.selection_optimizer import SelectionOptimizer
from nisbench.training.train_step import TrainStep


@dataclass(frozen=True)
class Checkpoint:
    best: dict[str, Tensor]
    progress: dict[str, Any]


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any] | None = None) -> None:
    """Write `tensors`, with `about` as JSON in the file's metadata."""
    copies = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(copies, temporary, metadata={"nisbench": json.dumps(about or {})})


def load_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file that `save_tensors` wrote, and its `about`. Raises `NisbenchError` if it is damaged."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            about = json.loads((file.metadata() or {}).get("nisbench", "{}"))
            if not isinstance(about, dict):
                raise ValueError("its metadata is not of nisbench")  # noqa: TRY004, TRY301
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise NisbenchError(f"{path}: not a readable file of weights: {error}. Delete it and run again.") from error


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


def save_checkpoint(
    path: Path,
    recommender: Recommender,
    train_step: TrainStep,
    selection_optimizer: SelectionOptimizer | None,
    best: dict[str, Tensor],
    progress: dict[str, Any],
) -> None:
    """Save all that the rest of the trial depends on."""
    tensors = {f"now.{name}": tensor for name, tensor in recommender.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in train_step.state().items()}
    if selection_optimizer:
        tensors |= {f"selection.{name}": tensor for name, tensor in selection_optimizer.state().items()}
    save_tensors(path, tensors, progress)


def load_checkpoint(
    path: Path,
    recommender: Recommender,
    train_step: TrainStep,
    selection_optimizer: SelectionOptimizer | None,
) -> Checkpoint | None:
    """Restore a trial to where `save_checkpoint` saved it; None if the file is missing or damaged.

    Raises `NisbenchError` if it is the checkpoint of another trial.
    """
    if not path.exists():
        return None
    try:
        tensors, progress = load_tensors(path, next(recommender.parameters()).device)
    except NisbenchError as error:
        log.warning("the trial begins again: %s", error)
        return None

    try:
        recommender.load_state_dict(under(tensors, "now."))
        train_step.load_state(under(tensors, "optimizer."))
        if selection_optimizer:
            selection_optimizer.load_state(under(tensors, "selection."))
    except (KeyError, RuntimeError) as error:  # some of it may be in place by now
        raise NisbenchError(
            f"{path}: of another trial: {' '.join(str(error).split())} Delete it and run again."
        ) from error
    return Checkpoint(under(tensors, "best."), progress)
