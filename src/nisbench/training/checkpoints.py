"""Weights and half-done trials as safetensors: nothing is ever unpickled."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nisbench.console import log
from nisbench.errors import NisbenchError
from nisbench.files import whole_file
from nisbench.models.recommender import Recommender
from nisbench.training.learner import SelectionLearner
from nisbench.training.optimizers import Optimizer


@dataclass(frozen=True)
class Checkpoint:
    best: dict[str, Tensor]
    progress: dict[str, Any]


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any] | None = None) -> None:
    """Write `tensors`, with `about` as JSON in the file's metadata."""
    copies = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        save_file(copies, temporary, metadata={"nisbench": json.dumps(about or {})})


def load_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file written by `save_tensors`, and what it says of them."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            about = json.loads((file.metadata() or {}).get("nisbench", "{}"))
            if not isinstance(about, dict):
                raise ValueError("its metadata is not of nisbench")  # noqa: TRY004, TRY301
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise NisbenchError(f"{path}: not a readable file of weights: {error}. Delete it and run again.") from error


def is_readable(path: Path) -> bool:
    """Whether a file written by `save_tensors` is there and whole."""
    try:
        load_tensors(path)
    except NisbenchError:
        return False
    return True


def save_checkpoint(
    path: Path,
    recommender: Recommender,
    optimizer: Optimizer,
    learner: SelectionLearner | None,
    best: dict[str, Tensor],
    progress: dict[str, Any],
) -> None:
    """Save all that the rest of the trial depends on."""
    tensors = {f"now.{name}": tensor for name, tensor in recommender.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.state().items()}
    if learner:
        tensors |= {f"learner.{name}": tensor for name, tensor in learner.state().items()}
    save_tensors(path, tensors, progress)


def load_checkpoint(
    path: Path,
    recommender: Recommender,
    optimizer: Optimizer,
    learner: SelectionLearner | None,
) -> Checkpoint | None:
    """Put a trial back to where `save_checkpoint` saved it; None if it did not, or if the file is damaged."""
    if not path.exists():
        return None
    try:
        tensors, progress = load_tensors(path, recommender.embedding.weight.device)
    except NisbenchError as error:
        log.warning("the trial begins again: %s", error)
        return None

    def under(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    try:
        recommender.load_state_dict(under("now."))
        optimizer.load_state(under("optimizer."))
        if learner:
            learner.load_state(under("learner."))
    except (KeyError, RuntimeError) as error:  # some of it may be in place by now
        raise NisbenchError(
            f"{path}: not this trial's: {' '.join(str(error).split())} Delete it and run again."
        ) from error
    return Checkpoint(under("best."), progress)
