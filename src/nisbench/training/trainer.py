"""The training loop: the whole of it, for every model and method.

Each epoch goes once through the training instances in a random order that depends on nothing but the seed and the
epoch's number, so a trial that is killed and resumed is trained on the same batches. The host does not wait for the
device within an epoch, except where a method must (second-order DNIS, projections of large tables).
"""

import logging
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nisbench.data.instances import Instances
from nisbench.errors import NisbenchError
from nisbench.logs import duration, log
from nisbench.models.recommender import Recommender
from nisbench.params.training import Training
from nisbench.seeds import Stream, derived
from nisbench.tasks.task import Task
from nisbench.training import train_step
from nisbench.training.checkpoints import load_checkpoint, save_checkpoint
from nisbench.training.selection_optimizer import SelectionOptimizer
from nisbench.training.step_loop import StepLoop

SILENCE = 15
"""Seconds after which a running trial reports its progress."""


class DivergenceError(NisbenchError):
    """Raised where a loss ceases to be a number. `progress` is how far the training had come."""

    progress: "Progress"


@dataclass(frozen=True)
class Data:
    """What trials are trained and validated on."""

    training: Instances
    validation: Instances
    task: Task
    held_in: Instances | None = None
    """What a selection learns from, where that is not all of validation."""


@dataclass
class Progress:
    """How far a trial has come: what a checkpoint keeps beside the tensors."""

    learning_rate: float
    epoch: int = 0
    """Epochs done."""
    first_epoch: int = 0
    """Epochs done in an earlier phase."""
    best_epoch: int = 0
    best_loss: float = float("inf")
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    """Validation loss after each epoch."""

    def stopped(self, settings: Training) -> Literal["patience", "max_epochs"] | None:
        """Which of the two has run out; None while the trial needs another epoch."""
        if self.epoch - self.best_epoch >= settings.patience:
            return "patience"
        return "max_epochs" if self.epoch >= self.first_epoch + settings.max_epochs else None

    def is_active(self, settings: Training) -> bool:
        """Whether the trial needs another epoch."""
        return self.stopped(settings) is None

    def add(self, loss: float, settings: Training, keep_last: bool = False) -> bool:
        """Add one more epoch's validation loss. Returns whether it is the lowest so far, or the last is to be kept anyway."""
        self.losses.append(loss)
        if loss < self.best_loss or keep_last:
            self.best_epoch, self.best_loss = self.epoch, loss
            return True
        self.learning_rate *= settings.learning_rate_drop
        return False


def train(
    recommender: Recommender,
    data: Data,
    settings: Training,
    seed: int,
    *,
    selection_optimizer: SelectionOptimizer | None = None,
    before: Progress | None = None,
    best_loss: float = math.inf,
    keep_last: bool = False,
    checkpoint: Path | None = None,
    title: str = "trial",
) -> Progress:
    """Train until the validation loss has not fallen for ``patience`` epochs, and keep the best epoch's weights.

    `before` is the progress of an earlier phase that this one continues: its epochs count, its losses do not.
    `best_loss` is the validation loss of the initial weights, which are the result if no epoch lowers it. With
    `keep_last`, validation only watches: the last of ``max_epochs`` epochs is the result. With a
    `checkpoint` path, the state is saved there from time to time and loaded from there if it exists: the result is the
    same as without the interruption. Raises `DivergenceError` if a loss is not finite.
    """
    stepper = train_step.build(recommender, data.task, settings, fields=data.training.id_columns)
    progress = Progress(settings.learning_rate, best_loss=best_loss)
    if before:
        progress.epoch = progress.first_epoch = progress.best_epoch = before.epoch
        progress.seconds, progress.losses = before.seconds, list(before.losses)
    best = snapshot(recommender)
    loaded = load_checkpoint(checkpoint, recommender, stepper, selection_optimizer) if checkpoint else None
    if loaded:
        best, progress = loaded.best, Progress(**loaded.progress)
        log.info("%s: resuming after epoch %d", title, progress.epoch)
    loop = StepLoop(recommender, stepper, selection_optimizer, settings.batch_size)
    heartbeat, saved, started = Heartbeat(), time.perf_counter(), time.perf_counter()
    already = progress.seconds

    while progress.is_active(settings):
        if selection_optimizer:
            selection_optimizer.begin_epoch(recommender, progress.learning_rate)
        step_losses = run_epoch(loop, Epoch(data, seed, progress.epoch), progress.learning_rate)
        if selection_optimizer:
            selection_optimizer.finalize(recommender)
        loss = data.task.validation_loss(recommender, data.validation)
        progress.epoch += 1
        now = time.perf_counter()
        progress.seconds = already + now - started
        try:
            check_finite(step_losses, loss, progress.epoch)
        except DivergenceError as error:
            error.progress = progress
            raise
        if progress.add(loss, settings, keep_last):
            best = snapshot(recommender, best)
        heartbeat.log(
            "%s: epoch %d of at most %d: validation loss %.5f; best %.5f at epoch %d, stops %d later; %s",
            title, progress.epoch, progress.first_epoch + settings.max_epochs, loss, progress.best_loss, progress.best_epoch,
            settings.patience, duration(progress.seconds),
        )  # fmt: skip
        if checkpoint and now - saved >= settings.checkpoint_seconds:
            save_checkpoint(checkpoint, recommender, stepper, selection_optimizer, best, asdict(progress))
            saved = now

    recommender.load_state_dict(best)
    return progress


class Heartbeat:
    """Reports progress: each line goes to the log file, and one to the terminal after every `SILENCE` seconds."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def log(self, message: str, *values: object) -> None:
        level, now = logging.DEBUG, time.perf_counter()
        if now - self.last > SILENCE:
            level, self.last = logging.INFO, now
        log.log(level, message, *values)


@dataclass(frozen=True)
class Epoch:
    """What an epoch goes through: examples of `training` in a random order and, for each batch, one of `validation`."""

    data: Data
    seed: int
    number: int
    """From 0."""


def run_epoch(loop: StepLoop, epoch: Epoch, learning_rate: float) -> Tensor:
    """One pass over the training examples.

    A step of the selection, on a validation batch, may follow each step of the weights. Returns the training loss at
    each step, (steps,), on the device; of T fused recommenders (steps, T).
    """
    data, seed, number = epoch.data, epoch.seed, epoch.number
    device = data.training.labels.device
    training = data.task.examples("train", data.training, derived(seed, "training_examples", number))
    order = shuffled(len(training), len(training), (seed, number), "training_batches", device)
    validation = selection_order = None
    if loop.selection_optimizer:
        learned_from = data.validation if data.held_in is None else data.held_in
        validation = data.task.examples("validation", learned_from, derived(seed, "validation_examples", number))
        selection_order = shuffled(len(validation), len(training), (seed, number), "validation_batches", device)
    loop.begin(training, order, validation, selection_order, learning_rate)
    loop.run()
    loop.stepper.sync()
    return loop.step_losses()


def check_finite(step_losses: Tensor, validation_loss: float, epoch: int) -> None:
    """Raise `DivergenceError`, which says where, if a loss of an epoch is not a number."""
    wrong = step_losses.isfinite().logical_not().nonzero()
    if len(wrong):
        step = int(wrong[0])
        raise DivergenceError(
            f"the training loss is {step_losses[step].item()} at step {step + 1} of {len(step_losses)} of epoch {epoch}; "
            "lower the learning rates"
        )
    if not math.isfinite(validation_loss):
        raise DivergenceError(f"the validation loss is {validation_loss} after epoch {epoch}; lower the learning rates")


def shuffled(n: int, length: int, seeds: tuple[int, int], stream: Stream, device: torch.device) -> Tensor:
    """(length,) indices below `n`: random orders of all `n` in a row, fixed by `seeds` (run, epoch) and `stream`.

    A GPU is done with an epoch soon: for it, the next epoch's order is drawn meanwhile.
    """
    if device.type == "cpu":
        return drawn(n, length, seeds, stream)
    order = _DRAWN_AHEAD.pop((n, length, seeds, stream), None)
    now = order.result() if order else drawn(n, length, seeds, stream)
    following = seeds[0], seeds[1] + 1
    _DRAWN_AHEAD[n, length, following, stream] = _drawer().submit(drawn, n, length, following, stream)
    while (
        len(_DRAWN_AHEAD) > 2
    ):  # one of training's and one of validation's; those of a trial that has ended are not wanted
        del _DRAWN_AHEAD[next(iter(_DRAWN_AHEAD))]
    return now.to(device)


def drawn(n: int, length: int, seeds: tuple[int, int], stream: Stream) -> Tensor:
    """The same on the CPU: there, so that CPU and GPU runs see the same batches."""
    run_seed, epoch = seeds
    generator = torch.Generator().manual_seed(derived(run_seed, stream, epoch))
    orders = [torch.randperm(n, generator=generator) for _ in range(-(-length // n))]
    return torch.cat(orders)[:length]


_DRAWN_AHEAD: dict[tuple[int, int, tuple[int, int], Stream], Future[Tensor]] = {}


@cache
def _drawer() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="orders")


@torch.no_grad()
def snapshot(recommender: Recommender, into: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A copy of all weights and buffers, the selection among them; `into` an older copy's memory, if there is one."""
    now = recommender.state_dict()
    if into is None:
        return {name: tensor.clone() for name, tensor in now.items()}
    for name, tensor in now.items():
        into[name].copy_(tensor)
    return into
