"""Trials trained together, as one model whose columns are those of all: each batch is read once for all of them.

Each trial has the result that it would have alone, up to rounding: its weights are drawn alike, every epoch has the
same batches, and it stops where it would have stopped. Its columns then leave the table. This is worth it for matrix
factorisation, whose step is mostly reading rows. Other models spend their time in layers, which cannot be shared. Only
this module and the search, which chooses the trials to train together, know of fused trials.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from nisbench.data.instances import Instances
from nisbench.embedding.batch import Embeddings
from nisbench.embedding.table import SelectedTable, used_columns
from nisbench.errors import NisbenchError
from nisbench.logs import log
from nisbench.models.mf import MatrixFactorisation
from nisbench.models.recommender import Recommender
from nisbench.params.models import MF, Model
from nisbench.params.training import Training
from nisbench.tasks.task import Task
from nisbench.tensor_files import load_tensors, save_tensors, under
from nisbench.training import train_step
from nisbench.training.step_loop import StepLoop
from nisbench.training.train_step import TrainStep
from nisbench.training.trainer import (
    Data,
    DivergenceError,
    Epoch,
    Heartbeat,
    Progress,
    Saver,
    Watch,
    check_finite,
    run_epoch,
    snapshot,
)

# --- which trials to fuse -------------------------------------------------------------------------------------


def can_fuse(model: Model, settings: Training) -> bool:
    """Whether trials of this model can train together: their learning rates must stay the same."""
    return type(model) is MF and settings.learning_rate_drop == 1 and settings.fused_trials > 1


def columns_of(selection: Tensor) -> int:
    """The columns of the table that a trial takes."""
    return len(used_columns(selection))


def columns_with_room(device: torch.device, features: int, batch_ids: int) -> int:
    """The columns that fused trials may have together, given the number of `features` and of ids in a batch.

    They must fit into memory, with Adam's moments, the best weights and what a step computes. On a CPU, the
    table should also stay in the cache if a batch reads much of it, and else the rows that a batch reads.
    """
    if device.type == "cuda":
        memory, fast = torch.cuda.get_device_properties(device).total_memory, (1 << 27) // batch_ids
    else:
        memory = psutil.virtual_memory().total
        fast = (1 << 23) // batch_ids if features > 4 * batch_ids else (1 << 21) // features
    bytes_per_column = 4 * (6 * features + 6 * batch_ids)
    return int(min(fast, memory // 4 // bytes_per_column))


# --- several factorisations as one ----------------------------------------------------------------------------


class SegmentSum(torch.autograd.Function):
    """The sums of segments of columns, whose widths are given: (..., columns) -> (..., T)."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, widths: list[int]) -> Tensor:
        ctx.widths = widths
        return torch.stack([segment.sum(-1) for segment in torch.split(columns, widths, -1)], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        segments = zip(torch.split(gradient, 1, -1), ctx.widths, strict=True)
        return torch.cat([one.expand(*one.shape[:-1], width) for one, width in segments], -1), None


class FusedFactorisation(nn.Module):
    """T matrix factorisations, each on its segment of the columns."""

    divisors: Tensor

    def __init__(self, models: Sequence[MatrixFactorisation], widths: Sequence[int]) -> None:
        super().__init__()
        self.mean, self.first_order = models[0].mean, models[0].first_order
        self.averages, self.widths = models[0].reduce is torch.mean, list(widths)
        self.register_buffer("divisors", torch.tensor(self.widths, dtype=torch.float32), persistent=False)

    def forward(self, embeddings: Embeddings, first_order: Tensor | None) -> Tensor:
        """(B, 2, columns) embeddings, (B, T) sums of biases if any -> (B, T) predictions."""
        user, item = embeddings.dense().unbind(1)
        products: Tensor = SegmentSum.apply(user * item, self.widths)  # type: ignore[no-untyped-call]
        if self.averages:
            products = products / self.divisors
        rating = self.mean + products
        return rating if first_order is None else rating + first_order


def fuse(members: Sequence[Recommender]) -> Recommender:
    """One recommender of T for the same features: instances (B,) -> predictions (B, T). Weights are copied."""
    tables = [member.selected for member in members]
    wide = SelectedTable(
        tables[0].block,
        torch.cat([table.selection for table in tables], 1),
        torch.cat([table.weight.detach() for table in tables], 1),
    )
    widths = tuple(table.width for table in tables)
    models = [member.model for member in members if isinstance(member.model, MatrixFactorisation)]
    fused = Recommender(wide, FusedFactorisation(models, widths), widths, field_sizes=members[0].field_sizes)
    if fused.first_order is not None:
        biases = [member.first_order for member in members if member.first_order is not None]
        fused.first_order = nn.Parameter(torch.stack([bias.detach() for bias in biases], 1))
    return fused.to(wide.weight.device)


@torch.no_grad()
def copy_back(fused: Recommender, members: Sequence[Recommender]) -> None:
    """Copy the fused weights into the members."""
    weights = torch.split(fused.selected.weight, list(fused.widths), 1)
    for i, (member, weight) in enumerate(zip(members, weights, strict=True)):
        member.selected.weight.copy_(weight)
        if fused.first_order is not None and member.first_order is not None:
            member.first_order.copy_(fused.first_order[:, i])


def narrowed(state: Mapping[str, Tensor], widths: Sequence[int], kept: Sequence[int]) -> dict[str, Tensor]:
    """A step's state for fused trials of these `widths`, narrowed to the members whose indices are `kept`."""
    columns = torch.cat([torch.arange(sum(widths[:i]), sum(widths[: i + 1])) for i in kept])
    narrow = {}
    for name, tensor in state.items():
        if tensor.dim() == 2:
            index = columns if name.startswith("embedding.weight.") else torch.tensor(kept)
            narrow[name] = tensor.index_select(1, index.to(tensor.device))
        else:
            narrow[name] = tensor
    return narrow


class LossPerTrial(Task):
    """A task whose loss is one number per fused trial. For training only."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def losses(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """(B, T) predictions, (B,) labels -> (B, T)."""
        return self.task.losses(predictions, labels[:, None].expand_as(predictions))

    def prior(self, training: Instances) -> float:
        return self.task.prior(training)

    def validation_loss(self, recommender: Recommender, data: Instances) -> float:
        raise NotImplementedError

    def evaluate(self, recommender: Recommender, data: Instances) -> dict[str, float]:
        raise NotImplementedError


PENDING = "pending."
"""Begins the names of what a step's state holds within an epoch only."""

# --- training -------------------------------------------------------------------------------------------------


def train_fused(
    recommenders: Sequence[Recommender],
    titles: Sequence[str],
    data: Data,
    settings: Training,
    seed: int,
    checkpoint: Path | None = None,
) -> list[Progress | None]:
    """`trainer.train` for several matrix factorisations of the same features. An epoch's seconds are shared among them.

    None for those whose loss ceased to be a number. A finite result proves that no other trial contaminated it.
    """
    trials = FusedTrials(recommenders, titles, data.task, settings)
    saver = Saver(settings.checkpoint_seconds, checkpoint)
    if checkpoint:
        trials.load(checkpoint)
    while trials.running:
        number = trials.fuse(data.training.id_columns)
        what = f"{len(trials.running)} of {len(titles)} trials: epoch {number + 1}"
        watch = Watch(what, trials.heartbeat, saver, trials.save)
        epoch = Epoch(data, settings.order, seed, number)
        step_losses = run_epoch(trials.loop, epoch, settings.learning_rate, done=trials.done, watch=watch)
        trials.finish_epoch(step_losses, data.validation)
        if trials.running:
            saver.save_if_due(trials.save)

    for recommender, weights in zip(recommenders, trials.best, strict=True):
        recommender.load_state_dict(weights)
    return [None if i in trials.failed else progress for i, progress in enumerate(trials.progress)]


class FusedTrials:
    """The progress of each of the fused trials, its best weights so far, and the recommender that trains those that still do."""

    fused: Recommender
    stepper: TrainStep
    loop: StepLoop

    def __init__(
        self, recommenders: Sequence[Recommender], titles: Sequence[str], task: Task, settings: Training
    ) -> None:
        self.recommenders, self.titles, self.task, self.settings = recommenders, titles, task, settings
        self.progress = [Progress(settings.learning_rate) for _ in recommenders]
        self.best: list[dict[str, Any]] = [snapshot(recommender) for recommender in recommenders]
        self.failed: set[int] = set()
        self.running = self.active(range(len(recommenders)))
        self.heartbeat, self.counted = Heartbeat(), time.perf_counter()
        self.state: dict[str, Tensor] | None = {}
        """Of the step, for the trials that are to be fused next; None while they are fused."""
        self.done: Tensor | None = None
        """The losses of an epoch's steps that were done before the trials were resumed within it."""

    def active(self, among: Sequence[int]) -> list[int]:
        return [i for i in among if i not in self.failed and self.progress[i].is_active(self.settings)]

    @property
    def members(self) -> list[Recommender]:
        """Of those that still train."""
        return [self.recommenders[i] for i in self.running]

    def fuse(self, fields: int) -> int:
        """Fuse the trials that still train, unless they are. Returns the number of their next epoch."""
        if self.state is not None:
            self.fused = fuse(self.members)
            self.stepper = train_step.build(self.fused, LossPerTrial(self.task), self.settings, fields)
            pending = under(self.state, PENDING)
            if self.state:
                self.stepper.load_state({name: one for name, one in self.state.items() if not name.startswith(PENDING)})
            if self.done is not None:
                self.stepper.load_pending(pending)
            self.loop = StepLoop(self.fused, self.stepper, None, self.settings.batch_size)
            self.state = None
        return self.progress[self.running[0]].epoch

    def finish_epoch(self, step_losses: Tensor, validation: Instances) -> None:
        """Count an epoch of all that train, given their losses (steps, T), and let those go that are done."""
        self.done = None
        copy_back(self.fused, self.members)
        for i, losses in zip(self.running, step_losses.unbind(1), strict=True):
            self._add(i, losses, self.task.validation_loss(self.recommenders[i], validation))
        self.count_seconds()
        best = min(self.progress[i].best_loss for i in self.running)
        self.heartbeat.log(
            "%d of %d trials still train: epoch %d of at most %d: best validation loss %.5f",
            len(self.running), len(self.titles), self.progress[self.running[0]].epoch, self.settings.max_epochs, best,
        )  # fmt: skip
        still = self.active(self.running)
        if len(still) < len(self.running):
            kept = [self.running.index(i) for i in still]
            self.state = narrowed(self.stepper.state(), self.fused.widths, kept) if still else {}
            self.running = still

    def _add(self, i: int, step_losses: Tensor, loss: float) -> None:
        """Add a trial's training and validation losses of one more epoch."""
        progress = self.progress[i]
        progress.epoch += 1
        try:
            check_finite(step_losses, loss, progress.epoch)
        except DivergenceError as error:
            log.warning("%s: %s", self.titles[i], error)
            self.failed.add(i)
            return
        if progress.add(loss, self.settings):
            self.best[i] = snapshot(self.recommenders[i], self.best[i])

    def count_seconds(self) -> None:
        """An epoch's seconds are shared among those that train."""
        now = time.perf_counter()
        for i in self.running:
            self.progress[i].seconds += (now - self.counted) / len(self.running)
        self.counted = now

    def save(self, path: Path, losses: Tensor | None = None) -> None:
        """Save all that the rest of the trials depends on; within an epoch, with the losses of its steps so far."""
        self.count_seconds()
        state = self.stepper.state() if self.state is None else self.state
        tensors = {f"optimizer.{name}": tensor for name, tensor in state.items()}
        if losses is not None:
            copy_back(self.fused, self.members)
            tensors |= {f"optimizer.{PENDING}{name}": tensor for name, tensor in self.stepper.pending().items()}
            tensors["losses"] = losses
        for i, best in enumerate(self.best):
            tensors |= {f"best.{i}.{name}": tensor for name, tensor in best.items()}
        for i in self.running:
            tensors |= {f"now.{i}.{name}": tensor for name, tensor in self.recommenders[i].named_parameters()}
        about = {"progress": [asdict(progress) for progress in self.progress], "failed": sorted(self.failed)}
        save_tensors(path, tensors, {"titles": list(self.titles), **about})

    def load(self, path: Path) -> None:
        """Restore the trials to where `save` saved them, if there is a usable file."""
        if not path.exists():
            return
        try:
            tensors, about = load_tensors(path, self.recommenders[0].selected.weight.device)
        except NisbenchError as error:
            log.warning("the trials begin again: %s", error)
            return
        if about.get("titles") != list(self.titles):
            return
        self.progress, self.failed = [Progress(**progress) for progress in about["progress"]], set(about["failed"])
        for i, recommender in enumerate(self.recommenders):
            self.best[i] = under(tensors, f"best.{i}.")
            if now := under(tensors, f"now.{i}."):
                recommender.load_state_dict(now, strict=False)
        self.state, self.done = under(tensors, "optimizer."), tensors.get("losses")
        self.running = self.active(range(len(self.recommenders)))
        log.info("%d trials: resuming after epoch %d", len(self.titles), max(one.epoch for one in self.progress))
