"""The training loop: the whole of it, for every model and method.

Each epoch goes once through the training instances in a random order that depends on nothing but the seed and the
epoch's number, so a trial that is killed and resumed is trained on the same batches. The host does not wait for the
device within an epoch, except where a method must (second-order DNIS, projections of large tables, AutoDim's mixture and
OptEmbed's draws).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nisbench.data.instances import Instances
from nisbench.errors import NisbenchError
from nisbench.logs import duration, log
from nisbench.models.recommender import Recommender
from nisbench.params.training import Training
from nisbench.progress import Ticker, share
from nisbench.seeds import derived
from nisbench.tasks.task import Task
from nisbench.training import train_step
from nisbench.training.checkpoints import load_checkpoint, save_checkpoint
from nisbench.training.order import epoch_order
from nisbench.training.selection_optimizer import SelectionOptimizer
from nisbench.training.step_loop import StepLoop

AT_ONCE = 64
"""Steps of a GPU after which the host looks whether there is something to report or to save."""

SAVING_SHARE = 1 / 20
"""Of a trial's time, at most, goes into saving it."""


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
    """Epochs done in earlier phases."""
    warm_start_epochs: int = 0
    """Those of them before the selection was searched."""
    best_epoch: int = 0
    best_loss: float = float("inf")
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    """Validation loss after each epoch."""
    settled: bool = True
    """Whether validation chose the best epoch, rather than being too early to choose."""

    def stopped(self, settings: Training) -> Literal["patience", "max_epochs"] | None:
        """Which of the two has run out; None while the trial needs another epoch."""
        if self.epoch - max(self.best_epoch, self.first_epoch) >= settings.patience:
            return "patience"
        return "max_epochs" if self.epoch >= self.first_epoch + settings.max_epochs else None

    def is_active(self, settings: Training) -> bool:
        """Whether the trial needs another epoch."""
        return self.stopped(settings) is None

    def add(self, loss: float, settings: Training, keep_last: bool = False, settled: bool = True) -> bool:
        """Add one more epoch's validation loss. Returns whether it is the best: the lowest so far, or the last.

        The last it is with `keep_last`, until the selection is `settled`, and once more then.
        """
        self.losses.append(loss)
        early, self.settled = not (settled and self.settled), settled
        if loss < self.best_loss or keep_last or early:
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
    goes_on: bool = False,
    title: str = "trial",
) -> Progress:
    """Train until the validation loss has not fallen for ``patience`` epochs, and keep the best epoch's weights.

    `before` is the progress of an earlier phase that this one continues: its epochs count, its losses do not.
    `best_loss` is the validation loss of the initial weights, which are the result if no epoch lowers it: of `before`, its best epoch. With
    `keep_last`, validation only watches: the last of ``max_epochs`` epochs is the result. With a
    `checkpoint` path, the state is saved there from time to time and loaded from there if it exists: the result is the
    same as without the interruption. The end is saved only if the trial `goes_on` with another phase. Raises
    `DivergenceError` if a loss is not finite.
    """
    stepper = train_step.build(recommender, data.task, settings, fields=data.training.id_columns)
    progress = Progress(settings.learning_rate, best_loss=best_loss)
    if before:
        progress.epoch = progress.first_epoch = before.epoch
        progress.best_epoch = before.best_epoch if math.isfinite(best_loss) else before.epoch
        progress.warm_start_epochs = before.warm_start_epochs
        progress.seconds, progress.losses = before.seconds, list(before.losses)
    loop = StepLoop(recommender, stepper, selection_optimizer, settings.batch_size)
    trial = RunningTrial(loop, progress, snapshot(recommender), title)
    saver = Saver(settings.checkpoint_seconds, checkpoint)
    trial.resume(saver)

    while trial.progress.is_active(settings) and not says(selection_optimizer, "finished", otherwise=False):
        step_losses = trial.train_epoch(Epoch(data, settings.order, seed, trial.progress.epoch), saver)
        loss = data.task.validation_loss(recommender, data.validation)
        settled = says(selection_optimizer, "settled", otherwise=True)
        trial.finish_epoch(step_losses, loss, settings, keep_last, settled)
        if goes_on or trial.progress.is_active(settings):
            saver.save_if_due(trial.save)

    recommender.load_state_dict(trial.best)
    return trial.progress


def says(optimizer: SelectionOptimizer | None, what: Literal["settled", "finished"], *, otherwise: bool) -> bool:
    """What a selection optimizer answers, if it is a `PacedOptimizer`."""
    method = getattr(optimizer, what, None)
    return bool(method()) if method else otherwise


class Heartbeat(Ticker):
    """Reports how far a trial has come."""


@dataclass
class RunningTrial:
    """A trial that trains, and what a checkpoint of it holds."""

    loop: StepLoop
    progress: Progress
    best: dict[str, Tensor]
    """The weights and buffers of the best epoch so far."""
    title: str
    done: Tensor | None = None
    """The losses of the steps of an epoch that were done before the trial was resumed within it."""
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    counted: float = field(default_factory=time.perf_counter)
    """Up to when `progress` has counted the seconds."""

    def resume(self, saver: "Saver") -> None:
        """Go on from the checkpoint, if there is a usable one."""
        path, loop = saver.path, self.loop
        loaded = load_checkpoint(path, loop.recommender, loop.stepper, loop.selection_optimizer) if path else None
        if not loaded:
            return
        self.best, self.progress, self.done = loaded.best, Progress(**loaded.progress), loaded.losses
        if self.done is None:
            log.info("%s: resuming after epoch %d", self.title, self.progress.epoch)
        else:
            log.info("%s: resuming after step %d of epoch %d", self.title, len(self.done), self.progress.epoch + 1)

    def train_epoch(self, epoch: "Epoch", saver: "Saver") -> Tensor:
        """An epoch, or the rest of it: the loss at each step."""
        loop, optimizer = self.loop, self.loop.selection_optimizer
        if optimizer and self.done is None:
            optimizer.begin_epoch(loop.recommender, self.progress.learning_rate)
        watch = Watch(f"{self.title}: epoch {epoch.number + 1}", self.heartbeat, saver, self.save)
        step_losses = run_epoch(loop, epoch, self.progress.learning_rate, done=self.done, watch=watch)
        self.done = None
        if optimizer:
            optimizer.finalize(loop.recommender)
        return step_losses

    def finish_epoch(
        self, step_losses: Tensor, loss: float, settings: Training, keep_last: bool, settled: bool
    ) -> None:
        """Count an epoch, given its losses, and keep its weights if it is the best. Raises `DivergenceError`."""
        progress = self.progress
        progress.epoch += 1
        self.count_seconds()
        try:
            check_finite(step_losses, loss, progress.epoch)
        except DivergenceError as error:
            error.progress = progress
            raise
        if progress.add(loss, settings, keep_last, settled):
            self.best = snapshot(self.loop.recommender, self.best)
        self.heartbeat.log(
            "%s: epoch %d of at most %d: validation loss %.5f; best %.5f at epoch %d, stops %d later; %s",
            self.title, progress.epoch, progress.first_epoch + settings.max_epochs, loss, progress.best_loss,
            progress.best_epoch, settings.patience, duration(progress.seconds),
        )  # fmt: skip

    def count_seconds(self) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self.counted
        self.counted = now

    def save(self, path: Path, losses: Tensor | None = None) -> None:
        """Save the trial; within an epoch, with the losses of its steps so far."""
        self.count_seconds()
        loop, progress = self.loop, asdict(self.progress)
        save_checkpoint(path, loop.recommender, loop.stepper, loop.selection_optimizer, self.best, progress, losses)


class Saver:
    """Saves trials to a file, if there is one to be: every so many seconds, but only as often as it is worth."""

    def __init__(self, every: float, path: Path | None) -> None:
        self.every, self.path, self.took, self.ended = every, path, 0.0, time.perf_counter()

    def save_if_due(self, save: Callable[..., None], losses: Callable[[], Tensor] | None = None) -> None:
        """Call `save` with the path and, within an epoch, what `losses` gives: those of its steps so far."""
        started = time.perf_counter()
        always = not self.every and losses is None  # 0 seconds: after each epoch, however long saving takes
        if self.path and (always or started - self.ended >= max(self.every, self.took / SAVING_SHARE)):
            save(self.path, losses and losses())
            self.ended = time.perf_counter()
            self.took = self.ended - started


@dataclass
class Watch:
    """Reports how far an epoch has come and saves the trial, both where it is due."""

    what: str
    heartbeat: Heartbeat
    saver: Saver
    save: Callable[..., None]
    started: float = field(default_factory=time.perf_counter)
    already: int | None = None

    def step(self, loop: StepLoop, earlier: Sequence[Tensor]) -> None:
        """To be called after a step that another one follows. `earlier` are losses of the steps before the loop's first."""
        done, of = loop.done * loop.batch_size, len(loop.training)
        self.already = done if self.already is None else self.already
        if self.heartbeat.is_due():
            seconds = time.perf_counter() - self.started
            self.heartbeat.log("%s: example %s", self.what, share(done, of, seconds, self.already))
        self.saver.save_if_due(self.save, lambda: torch.cat([*earlier, loop.step_losses()]))


@dataclass(frozen=True)
class Epoch:
    """What an epoch goes through: examples of `training` in a random order and, for each batch, one of `validation`."""

    data: Data
    order: Literal["shuffled", "blocks"]
    seed: int
    number: int
    """From 0."""


def run_epoch(
    loop: StepLoop, epoch: Epoch, learning_rate: float, *, done: Tensor | None = None, watch: Watch | None = None
) -> Tensor:
    """One pass over the training examples, or the rest of one of which some steps are done, with these losses.

    A step of the selection, on a validation batch, may follow each step of the weights. Returns the training loss at
    each step, (steps,), on the device; of T fused recommenders (steps, T).
    """
    data, kind, seed, number = epoch.data, epoch.order, epoch.seed, epoch.number
    device = data.training.labels.device
    training = data.task.examples("train", data.training, derived(seed, "training_examples", number))
    order = epoch_order(kind, len(training), len(training), (seed, number), "training_batches", device)
    validation = selection_order = None
    if loop.selection_optimizer:
        learned_from = data.validation if data.held_in is None else data.held_in
        validation = data.task.examples("validation", learned_from, derived(seed, "validation_examples", number))
        selection_order = epoch_order(
            kind, len(validation), len(training), (seed, number), "validation_batches", device
        )
    earlier = [] if done is None else [done]
    loop.begin(training, order, validation, selection_order, learning_rate, start=sum(map(len, earlier)))
    while loop.done < loop.steps:
        # Ends at the same steps of an epoch wherever it was begun: a GPU's rows may catch up at such an end.
        loop.run(AT_ONCE - loop.done % AT_ONCE if loop.captures else 1)
        if watch and loop.done < loop.steps:
            watch.step(loop, earlier)
    loop.stepper.sync()
    return torch.cat([*earlier, loop.step_losses()])


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


@torch.no_grad()
def snapshot(recommender: Recommender, into: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A copy of all weights and buffers, the selection among them; `into` an older copy's memory, if there is one."""
    now = recommender.state_dict()
    if into is None:
        return {name: tensor.clone() for name, tensor in now.items()}
    for name, tensor in now.items():
        into[name].copy_(tensor)
    return into
