"""The training loop: the whole of it, for every model and method.

Each epoch goes once through the training instances in a random order that depends on nothing but the seed and the
epoch's number, so a trial that is killed and taken up again is trained on the same batches. The host does not wait
for the device within an epoch, save where a method must (second-order DNIS, projections of large tables).
"""

import logging
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nisbench.console import log
from nisbench.data.instances import Instances
from nisbench.errors import NisbenchError
from nisbench.evaluation.tasks import Task
from nisbench.models.recommender import Recommender
from nisbench.params.settings import Training
from nisbench.seeds import Stream, derived
from nisbench.training import optimizers
from nisbench.training.checkpoints import load_checkpoint, save_checkpoint
from nisbench.training.learner import SelectionLearner
from nisbench.training.optimizers import Optimizer


class DivergenceError(NisbenchError):
    """A training whose loss ceased to be a number; `progress` is how far it was, `cause` where that was."""

    def __init__(self, title: str, cause: str, progress: "Progress") -> None:
        super().__init__(f"{title}: {cause}; lower the learning rates")
        self.cause, self.progress = cause, progress


SILENCE = 15  # seconds after which a running trial says how far it is


@dataclass
class Progress:
    """How far a trial is: what a checkpoint keeps beside the tensors."""

    learning_rate: float
    epoch: int = 0
    """Epochs done."""
    first_epoch: int = 0
    """Those of an earlier phase."""
    best_epoch: int = 0
    best_loss: float = float("inf")
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    """Validation loss after each epoch."""


def train(
    recommender: Recommender,
    training: Instances,
    validation: Instances,
    task: Task,
    settings: Training,
    seed: int,
    learner: SelectionLearner | None = None,
    before: Progress | None = None,
    best_loss: float = math.inf,
    checkpoint: Path | None = None,
    title: str = "trial",
) -> Progress:
    """Train until the validation loss has not fallen for ``patience`` epochs, and keep the best epoch's weights.

    `before` is the progress of an earlier phase, from whose weights this one goes on: its epochs count, its losses do not.
    `best_loss` is the validation loss of the weights as they are, where they are a result if no epoch lowers it.
    With a `checkpoint` path, the state is saved there from time to time, and taken up from there if it exists: the
    result is the same as without the interruption.
    """
    optimizer = optimizers.build(recommender, task, settings, fields=training.ids.shape[1])
    progress = Progress(settings.learning_rate, best_loss=best_loss)
    if before:
        progress.epoch = progress.first_epoch = progress.best_epoch = before.epoch
        progress.seconds, progress.losses = before.seconds, list(before.losses)
    best = snapshot(recommender)
    loaded = load_checkpoint(checkpoint, recommender, optimizer, learner) if checkpoint else None
    if loaded:
        best, progress = loaded.best, Progress(**loaded.progress)
        log.info("%s: going on after epoch %d", title, progress.epoch)
    saved = said = started = time.perf_counter()
    already = progress.seconds

    last = progress.first_epoch + settings.max_epochs
    while progress.epoch < last and progress.epoch - progress.best_epoch < settings.patience:
        if learner:
            learner.begin_epoch(recommender, progress.learning_rate)
        batches = Batches(training, validation, settings.batch_size, (seed, progress.epoch))
        step_losses = run_epoch(recommender, batches, task, optimizer, progress.learning_rate, learner)
        if learner:
            learner.settle(recommender)
        loss = task.validation_loss(recommender, validation)
        progress.epoch += 1
        if cause := divergence(step_losses, loss, progress.epoch):
            progress.seconds = already + time.perf_counter() - started
            raise DivergenceError(title, cause, progress)
        progress.losses.append(loss)
        if loss < progress.best_loss:
            progress.best_epoch, progress.best_loss = progress.epoch, loss
            best = snapshot(recommender, best)
        else:
            progress.learning_rate *= settings.learning_rate_drop
        now = time.perf_counter()
        progress.seconds = already + now - started
        spoken = logging.INFO if now - said > SILENCE else logging.DEBUG
        said = now if spoken == logging.INFO else said
        log.log(spoken, "%s: epoch %d: validation loss %.5f, %.1f s", title, progress.epoch, loss, progress.seconds)
        if checkpoint and now - saved >= settings.checkpoint_seconds:
            save_checkpoint(checkpoint, recommender, optimizer, learner, best, asdict(progress))
            saved = now

    recommender.load_state_dict(best)
    return progress


@dataclass(frozen=True)
class Batches:
    """What an epoch's batches come from: examples of `training` in a random order and, for each batch, one of `validation`."""

    training: Instances
    validation: Instances
    size: int
    seeds: tuple[int, int]
    """The run's, and the epoch."""


def run_epoch(
    recommender: Recommender,
    batches: Batches,
    task: Task,
    optimizer: Optimizer,
    learning_rate: float,
    learner: SelectionLearner | None,
) -> Tensor:
    """One pass over the examples of the training instances; with a learner, each step is followed by one of its own on a validation batch.

    Returns the training loss at each step, (steps,), on the device; of T recommenders (steps, T).
    """
    seed, epoch = batches.seeds
    size, device = batches.size, batches.training.labels.device
    training = task.examples("train", batches.training, derived(seed, "training examples", epoch))
    order = shuffled(len(training), len(training), batches.seeds, "training batches", device)
    if learner:
        validation = task.examples("validation", batches.validation, derived(seed, "validation examples", epoch))
        selection_order = shuffled(len(validation), len(training), batches.seeds, "validation batches", device)
    losses = []
    for start in range(0, len(training), size):
        batch = training[order[start : start + size]]
        losses.append(optimizer.step(batch, learning_rate))
        if learner:
            held_out = validation[selection_order[start : start + size]]
            optimizer.settle(held_out)
            learner.step(recommender, held_out, batch)
    optimizer.settle()
    return torch.stack(losses)


def divergence(step_losses: Tensor, validation_loss: float, epoch: int) -> str | None:
    """Where in an epoch the loss ceased to be a number, if it did."""
    wrong = step_losses.isfinite().logical_not().nonzero()
    if len(wrong):
        step = int(wrong[0])
        return (
            f"the training loss is {step_losses[step].item()} at step {step + 1} of {len(step_losses)} of epoch {epoch}"
        )
    return None if math.isfinite(validation_loss) else f"the validation loss is {validation_loss} after epoch {epoch}"


def shuffled(n: int, length: int, seeds: tuple[int, int], stream: Stream, device: torch.device) -> Tensor:
    """(length,) indices below `n`: random orders of all `n`, one after another, fixed by `seeds` and `stream`."""
    run_seed, epoch = seeds
    # Drawn on the CPU, so that CPU and GPU runs see the same batches.
    generator = torch.Generator().manual_seed(derived(run_seed, stream, epoch))
    orders = [torch.randperm(n, generator=generator) for _ in range(-(-length // n))]
    return torch.cat(orders)[:length].to(device)


@torch.no_grad()
def snapshot(recommender: Recommender, into: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A copy of all weights and buffers, the selection among them; `into` an older copy's memory, if there is one."""
    now = recommender.state_dict()
    if into is None:
        return {name: tensor.clone() for name, tensor in now.items()}
    for name, tensor in now.items():
        into[name].copy_(tensor)
    return into
