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
    losses: Tensor | None
    """Of the steps of an epoch that are done, (steps,); None between two epochs."""


def save_checkpoint(
    path: Path,
    recommender: Recommender,
    train_step: TrainStep,
    selection_optimizer: SelectionOptimizer | None,
    best: dict[str, Tensor],
    progress: dict[str, Any],
    losses: Tensor | None = None,
) -> None:
    """Save all that the rest of the trial depends on; within an epoch, with the `losses` of the steps that are done.

    Within an epoch, steps that are pending for some rows stay pending: the trial has the same result whenever it was saved.
    """
    tensors = {f"now.{name}": tensor for name, tensor in recommender.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in train_step.state().items()}
    if selection_optimizer:
        tensors |= {f"selection.{name}": tensor for name, tensor in selection_optimizer.state().items()}
    if losses is not None:
        tensors |= {"losses": losses} | {f"pending.{name}": tensor for name, tensor in train_step.pending().items()}
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

    losses = tensors.get("losses")
    if selection_optimizer and losses is not None:
        selection_optimizer.begin_epoch(recommender, progress["learning_rate"])  # what it changes is restored next
    try:
        recommender.load_state_dict(under(tensors, "now."))
        train_step.load_state(under(tensors, "optimizer."))
        if losses is not None:
            train_step.load_pending(under(tensors, "pending."))
        if selection_optimizer:
            selection_optimizer.load_state(under(tensors, "selection."))
    except (KeyError, RuntimeError) as error:  # some of it may be in place by now
        raise NisbenchError(
            f"{path}: of another trial: {' '.join(str(error).split())} Delete it and run again."
        ) from error
    return Checkpoint(under(tensors, "best."), progress, losses)
