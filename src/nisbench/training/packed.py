"""Several trials trained at once: what they have in common, the batches, is read once for all.

Each has the result that it would have alone, to rounding: its weights are drawn alike, every epoch has the same batches, and it
stops where it would have stopped. Its columns then leave the table.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from nisbench.console import log
from nisbench.data.instances import Instances
from nisbench.errors import NisbenchError
from nisbench.evaluation.tasks import Task
from nisbench.models.recommender import Recommender
from nisbench.models.side_by_side import narrowed, pack, unpack
from nisbench.params.settings import Training
from nisbench.training import optimizers
from nisbench.training.checkpoints import load_tensors, save_tensors
from nisbench.training.trainer import SILENCE, Batches, Progress, divergence, run_epoch, snapshot


def train_packed(
    recommenders: Sequence[Recommender],
    titles: Sequence[str],
    training: Instances,
    validation: Instances,
    task: Task,
    settings: Training,
    seed: int,
    checkpoint: Path | None = None,
) -> list[Progress | None]:
    """`trainer.train` for several recommenders, of one model and for the same features; an epoch's seconds are shared among them.

    None for those whose loss ceased to be a number. That a result is one shows that none of the others spoilt it.
    """
    if settings.learning_rate_drop != 1:
        raise ValueError("trials whose learning rates part cannot be packed")
    trials = Trials(recommenders, titles, settings)
    state = trials.load(checkpoint) if checkpoint else {}
    running = [i for i in range(len(recommenders)) if trials.goes_on(i)]
    packed = None
    saved = said = time.perf_counter()
    while running:
        members = [recommenders[i] for i in running]
        if packed is None:
            packed = pack(members)
            optimizer = optimizers.build(packed, task, settings, fields=training.ids.shape[1])
            if state:
                optimizer.load_state(state)
        started = time.perf_counter()
        epoch = trials.progress[running[0]].epoch
        batches = Batches(training, validation, settings.batch_size, (seed, epoch))
        step_losses = run_epoch(packed, batches, task, optimizer, settings.learning_rate, None)
        unpack(packed, members)
        for i, losses in zip(running, step_losses.unbind(1), strict=True):
            trials.validate(i, losses, task.validation_loss(recommenders[i], validation))
        now = time.perf_counter()
        for i in running:
            trials.progress[i].seconds += (now - started) / len(running)

        spoken = logging.INFO if now - said > SILENCE else logging.DEBUG
        said = now if spoken == logging.INFO else said
        best = min(trials.progress[i].best_loss for i in running)
        log.log(spoken, "%d trials: epoch %d: best validation loss %.5f", len(running), epoch + 1, best)
        stay = [place for place, i in enumerate(running) if trials.goes_on(i)]
        if len(stay) < len(running):
            state = narrowed(optimizer.state(), packed.widths, stay) if stay else {}
            running, packed = [running[place] for place in stay], None
        if checkpoint and running and now - saved >= settings.checkpoint_seconds:
            trials.save(checkpoint, running, optimizer.state() if packed else state)
            saved = now

    for recommender, weights in zip(recommenders, trials.best, strict=True):
        recommender.load_state_dict(weights)
    return [None if i in trials.failed else progress for i, progress in enumerate(trials.progress)]


class Trials:
    """How far each trial of a pack is, and its best weights so far."""

    def __init__(self, recommenders: Sequence[Recommender], titles: Sequence[str], settings: Training) -> None:
        self.recommenders, self.titles, self.settings = recommenders, titles, settings
        self.progress = [Progress(settings.learning_rate) for _ in recommenders]
        self.best: list[dict[str, Any]] = [snapshot(recommender) for recommender in recommenders]
        self.failed: set[int] = set()

    def goes_on(self, i: int) -> bool:
        progress = self.progress[i]
        stale = progress.epoch - progress.best_epoch
        return i not in self.failed and progress.epoch < self.settings.max_epochs and stale < self.settings.patience

    def validate(self, i: int, step_losses: Tensor, loss: float) -> None:
        """Take down a trial's training and validation losses of one more epoch."""
        progress = self.progress[i]
        progress.epoch += 1
        if cause := divergence(step_losses, loss, progress.epoch):
            log.warning("%s: %s", self.titles[i], cause)
            self.failed.add(i)
            return
        progress.losses.append(loss)
        if loss < progress.best_loss:
            progress.best_epoch, progress.best_loss = progress.epoch, loss
            self.best[i] = snapshot(self.recommenders[i], self.best[i])

    def save(self, path: Path, running: list[int], optimizer: dict[str, Tensor]) -> None:
        """Save all that the rest of the trials depends on."""
        tensors = {f"optimizer.{name}": tensor for name, tensor in optimizer.items()}
        for i, best in enumerate(self.best):
            tensors |= {f"best.{i}.{name}": tensor for name, tensor in best.items()}
        for i in running:
            tensors |= {f"now.{i}.{name}": tensor for name, tensor in self.recommenders[i].named_parameters()}
        about = {"progress": [asdict(each) for each in self.progress], "failed": sorted(self.failed)}
        save_tensors(path, tensors, {"titles": list(self.titles), **about})

    def load(self, path: Path) -> dict[str, Tensor]:
        """Put the trials back to where `save` saved them, and return the optimizer's state; nothing if it did not, or not these."""
        if not path.exists():
            return {}
        try:
            tensors, about = load_tensors(path, self.recommenders[0].embedding.weight.device)
        except NisbenchError as error:
            log.warning("the trials begin again: %s", error)
            return {}
        if about.get("titles") != list(self.titles):
            return {}

        def under(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        self.progress, self.failed = [Progress(**each) for each in about["progress"]], set(about["failed"])
        for i, recommender in enumerate(self.recommenders):
            self.best[i] = under(f"best.{i}.")
            if now := under(f"now.{i}."):
                recommender.load_state_dict(now, strict=False)
        log.info("%d trials: going on after epoch %d", len(self.titles), max(each.epoch for each in self.progress))
        return under("optimizer.")
