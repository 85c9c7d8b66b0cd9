"""Trials that are not done: saved from time to time, to be resumed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nisbench.errors import NisbenchError
from nisbench.logs import log
from nisbench.models.recommender import Recommender
from nisbench.tensor_files import load_tensors, save_tensors, under
from nisbench.training.selection_optimizer import SelectionOptimizer
from nisbench.training.train_step import TrainStep


@dataclass(frozen=True)
class Checkpoint:
    best: dict[str, Tensor]
    progress: dict[str, Any]


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
