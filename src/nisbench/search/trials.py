"""A search: train a recommender under each selection that a method proposes, and let validation pick one.

Each trial is saved as it ends and its weights are kept while they are the best so far, so that a killed search goes on
where it stopped. A trial that diverges is taken down as failed, and the others go on. The test instances are not among what a
search is given.
"""

import math
import shutil
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import psutil
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from nisbench.console import duration, log
from nisbench.data import instances
from nisbench.data.instances import Instances
from nisbench.data.parquet import field_sizes, read_table
from nisbench.embedding import used_columns
from nisbench.errors import NisbenchError
from nisbench.evaluation import tasks
from nisbench.evaluation.tasks import Task
from nisbench.files import read_json, write_json
from nisbench.machine import peak_memory_mib, provenance
from nisbench.models import recommender as recommenders
from nisbench.models.recommender import Recommender
from nisbench.params.settings import Training
from nisbench.runs import SearchSettings
from nisbench.search.proposal import Blocks, Proposal
from nisbench.seeds import derived
from nisbench.training.checkpoints import is_readable, load_tensors, save_tensors
from nisbench.training.packed import train_packed
from nisbench.training.trainer import DivergenceError, Progress, snapshot, train


@dataclass(frozen=True)
class Trial:
    """What is kept of one trained selection."""

    name: str
    validation_loss: float | None
    """None where the trial failed."""
    best_epoch: int
    weights: int
    """Embedding weights that the selection lets exist."""
    seconds: float
    """0 where an earlier trial had the same selection, whose result this is."""
    peak_memory_mib: float
    losses: list[float]
    """Validation loss after each epoch."""
    at_once: int = 1
    """Trials that were trained together, this one among them, each with an equal share of the seconds."""
    failed: str | None = None
    """Why the trial has no result: where its loss ceased to be a number."""

    @property
    def loss(self) -> float:
        return math.inf if self.validation_loss is None else self.validation_loss


def run(
    settings: SearchSettings,
    train_file: Path,
    validation_file: Path,
    features_file: Path,
    folder: Path,
    device: torch.device,
) -> None:
    """Run a search's trials; leave ``run.json`` and the best's ``weights.safetensors`` in `folder`.

    If all trials fail, the latter is empty, and the former says so.
    """
    search = prepare(settings, train_file, validation_file, features_file, folder / "trials", device)
    proposals, best = search.proposals(), None
    trials: list[Trial] = []
    for index, proposal in enumerate(proposals):  # which may grow on the way
        twin = twin_of(index, proposals)
        if twin is not None:  # the same selection, seed and data make the same model
            trial = replace(trials[twin], name=f"{proposal.name} (as trial {twin + 1})", seconds=0.0)
        else:
            trial = search.saved_trial(index, proposals) or search.train_from(index, proposals)
        number = f"trial {index + 1} of {len(proposals)}"
        if trial.failed:
            log.warning("%s: %s: failed: %s", number, trial.name, trial.failed)
        else:
            log.info("%s: %s: validation loss %.5f, %s", number, trial.name, trial.loss, duration(trial.seconds))
        trials.append(trial)
        if trial.failed:
            search.weights_file(index).unlink(missing_ok=True)
        elif proposal.then:
            proposals.append(proposal.then(search.ended_with(index)))
        elif best is None or trial.loss < trials[best].loss:
            if best is not None:
                search.weights_file(best).unlink(missing_ok=True)
            best = index
        else:
            search.weights_file(index).unlink(missing_ok=True)
    failed = None
    if best is None:
        failed = f"{trials[0].name}: {trials[0].failed}"
        failed = failed if len(trials) == 1 else f"all {len(trials)} trials; the first, {failed}"
        log.warning("the search has no result: %s", failed)
        save_tensors(folder / "weights.safetensors", {}, {"failed": failed})
    else:
        log.info("best: %s", trials[best].name)
        save_tensors(folder / "weights.safetensors", *load_tensors(search.weights_file(best)))
    result = {
        "best_trial": best,
        "weights": 0 if best is None else trials[best].weights,
        "seconds": sum(trial.seconds for trial in trials),
        "peak_memory_mib": max(trial.peak_memory_mib for trial in trials),
        "machine": provenance(device),
        "trials": [asdict(trial) for trial in trials],
        "failed": failed,
    }
    write_json(folder / "run.json", result)
    shutil.rmtree(search.folder)


def prepare(
    settings: SearchSettings,
    train_file: Path,
    validation_file: Path,
    features_file: Path,
    folder: Path,
    device: torch.device,
) -> "Search":
    """Read what a search's trials need. They are saved in `folder`."""
    features = read_table(features_file)
    sizes = field_sizes(train_file)
    planted = features["planted_dimension"].to_numpy() if "planted_dimension" in features.column_names else None
    block = features["block"].to_numpy()
    if settings.method.kind == "dnis" and settings.method.blocks == "shuffled":
        block = np.random.default_rng(derived(settings.seed, "method")).permutation(block)
    return Search(
        settings=settings,
        task=tasks.build(settings.task, {"train": train_file, "validation": validation_file}, device),
        training=instances.read(train_file, device),
        validation=instances.read(validation_file, device),
        field_sizes=sizes,
        block=torch.tensor(block),
        blocks=Blocks.of(block, features["frequency"].to_numpy(), sizes, planted),
        folder=folder,
        device=device,
    )


@dataclass(frozen=True)
class Search:
    """What all trials of a search have in common."""

    settings: SearchSettings
    task: Task
    training: Instances
    validation: Instances
    field_sizes: tuple[int, ...]
    block: Tensor
    blocks: Blocks
    folder: Path
    """Where trials are saved until all are done."""
    device: torch.device

    def proposals(self) -> list[Proposal]:
        method = import_module(f"nisbench.search.{self.settings.method.kind}")
        k, seed = self.settings.training.base_dimension, derived(self.settings.seed, "method")
        proposals: list[Proposal] = method.propose(self.settings.method, self.blocks, k, seed)
        return proposals

    def results_file(self, index: int) -> Path:
        """The results of the trials that were trained at once, this one the first of them; null for one to train by itself."""
        return self.folder / f"{index}.json"

    def weights_file(self, index: int) -> Path:
        return self.folder / f"{index}.safetensors"

    def saved(self) -> dict[int, Trial | None]:
        """What is known of the trials: results, and None of those that failed among others and are to be trained by themselves."""
        known: dict[int, Trial | None] = {}
        for path in sorted(self.folder.glob("*.json"), key=lambda path: path.stem):
            known |= {i: trial or known.get(i) for i, trial in _read_trials(path).items()}
        return known

    def saved_trial(self, index: int, proposals: list[Proposal]) -> Trial | None:
        """The trial as an interrupted search saved it, unless it may be needed and its weights are gone."""
        saved = {i: trial for i, trial in self.saved().items() if trial}
        if index not in saved:
            return None
        results = [i for i in saved if i >= len(proposals) or not proposals[i].then]
        best = min(results, key=lambda i: (saved[i].loss, i), default=None)
        needed = (index == best or proposals[index].then) and not saved[index].failed
        return None if needed and not self.weights_file(index).exists() else saved[index]

    def ended_with(self, index: int) -> Tensor:
        """The selection (L, K) that a trial ended with, which all parts of its embeddings share."""
        tensors, about = load_tensors(self.weights_file(index))
        multiple = recommenders.parts_of(self.settings.model)[0]
        return tensors["embedding.selection"][:, : about["widths"][0] : multiple]

    def train_from(self, index: int, proposals: list[Proposal]) -> Trial:
        """Train the trial, and with it those to come that may train along; they are found saved when they are asked for."""
        together = self.together(index, proposals)
        if len(together) > 1:
            self.pack(together, proposals)
        return self.saved_trial(index, proposals) or self.trial(index, proposals[index])

    def together(self, index: int, proposals: list[Proposal]) -> list[int]:
        """The trials to train at once, this one first: plain ones on the same terms, as many as there is room for."""
        first, settings = proposals[index], self.settings.training
        if not first.plain or settings.learning_rate_drop != 1:
            return [index]
        room = columns_at_once(self.device, len(self.block), settings.batch_size * len(self.field_sizes))
        chosen, known = [index], self.saved()
        for i in range(index + 1, len(proposals) if index not in known else 0):
            other = proposals[i]
            terms = (other.l2, other.patience) == (first.l2, first.patience)
            if not (other.plain and terms) or twin_of(i, proposals) is not None or i in known:
                continue
            columns = sum(self.columns(proposals[each]) for each in [*chosen, i])
            if len(chosen) == settings.trials_at_once or columns > room:
                break
            chosen.append(i)
        return chosen

    def trial(self, index: int, proposal: Proposal) -> Trial:
        """Train under one selection, save its weights and then its result."""
        recommender, settings = self.recommender(proposal), self.training_of(proposal)
        warm, main = (self.checkpoint(index, phase) for phase in ("warm-start", "checkpoint"))
        data, seed, before = (self.training, self.validation, self.task), self.settings.seed, None
        try:
            if proposal.warm_start_epochs and not is_readable(main):
                few = settings.model_copy(update={"max_epochs": proposal.warm_start_epochs})
                before = train(recommender, *data, few, seed, checkpoint=warm, title=f"{proposal.name}, warm start")
            learner = proposal.learner(recommender, self.task) if proposal.learner else None
            progress = train(
                recommender, *data, settings, seed, learner=learner, before=before, checkpoint=main, title=proposal.name
            )
        except DivergenceError as error:
            trial = replace(self.result(proposal, error.progress), validation_loss=None, failed=error.cause)
        else:
            trial = self.result(proposal, progress)
            self.save_weights(index, recommender)
        write_json(self.results_file(index), {index: asdict(trial)})
        for checkpoint in (warm, main):
            checkpoint.unlink(missing_ok=True)
        return trial

    def pack(self, indices: list[int], proposals: list[Proposal]) -> None:
        """Train several trials at once, save the best one's weights and then all results.

        Those whose loss ceases to be a number are left to be trained by themselves: in a pack, one may spoil the next one's.
        """
        chosen = [proposals[i] for i in indices]
        recommenders, titles = [self.recommender(each) for each in chosen], [each.name for each in chosen]
        log.info("training %d trials at once: %s", len(chosen), "; ".join(titles))
        checkpoint, settings = self.checkpoint(indices[0], "pack"), self.training_of(chosen[0])
        data = self.training, self.validation, self.task
        progress = train_packed(recommenders, titles, *data, settings, self.settings.seed, checkpoint)
        results = {
            i: self.result(proposal, each, at_once=len(chosen)) if each else None
            for i, proposal, each in zip(indices, chosen, progress, strict=True)
        }
        losses = {i: result.loss for i, result in results.items() if result}
        if losses:
            best = min(losses, key=lambda i: losses[i])
            self.save_weights(best, recommenders[indices.index(best)])
        write_json(self.results_file(indices[0]), {i: result and asdict(result) for i, result in results.items()})
        checkpoint.unlink(missing_ok=True)

    def recommender(self, proposal: Proposal) -> Recommender:
        """The one to train, as it begins."""
        return recommenders.build(
            self.settings.model,
            block=self.block if proposal.block is None else proposal.block,
            selection=proposal.selection,
            soft=proposal.learner is not None,
            projected=proposal.projected,
            embedding_std=self.settings.training.embedding_std,
            field_sizes=self.field_sizes,
            prior=self.task.prior(self.training),
            seed=self.settings.seed,
        ).to(self.device)

    def training_of(self, proposal: Proposal) -> Training:
        """The terms that a proposal is trained on: some are its own."""
        own = {"l2": proposal.l2, "patience": proposal.patience}
        return self.settings.training.model_copy(
            update={name: value for name, value in own.items() if value is not None}
        )

    def checkpoint(self, index: int, phase: str) -> Path:
        """Where training is saved, to be gone on with on the same kind of device."""
        return self.folder / f"{index}.{self.device.type}-{phase}.safetensors"

    def columns(self, proposal: Proposal) -> int:
        """The columns of the table that a proposal's embeddings take."""
        return len(used_columns(proposal.selection)) * sum(recommenders.parts_of(self.settings.model))

    def result(self, proposal: Proposal, progress: Progress, at_once: int = 1) -> Trial:
        block = self.block if proposal.block is None else proposal.block
        dimensions = proposal.selection.ne(0).sum(1).numpy() * sum(recommenders.parts_of(self.settings.model))
        return Trial(
            name=proposal.name,
            validation_loss=progress.best_loss,
            best_epoch=progress.best_epoch,
            weights=int(dimensions[block.numpy()].sum()),
            seconds=progress.seconds,
            peak_memory_mib=peak_memory_mib(self.device),
            losses=progress.losses,
            at_once=at_once,
        )

    def save_weights(self, index: int, recommender: Recommender) -> None:
        projection = recommender.projection
        about = {"widths": recommender.widths, "projection": projection and [projection.parts, projection.base]}
        save_tensors(self.weights_file(index), snapshot(recommender), about)


def twin_of(index: int, proposals: list[Proposal]) -> int | None:
    """An earlier proposal that is the same as this one, if there is one."""
    return next((i for i in range(index) if proposals[i].same_as(proposals[index])), None)


def columns_at_once(device: torch.device, features: int, ids: int) -> int:
    """The columns of a table that trials may have together, for so many `features`, and `ids` in a batch.

    They must fit into memory, with Adam's moments, the best weights and what a step computes. On a CPU, where a batch reads much of
    the table, it should also stay in the cache; where it reads few rows, what is read of it.
    """
    if device.type == "cuda":
        memory, paying = torch.cuda.get_device_properties(device).total_memory, (1 << 27) // ids
    else:
        memory, paying = (
            psutil.virtual_memory().total,
            (1 << 23) // ids if features > 4 * ids else (1 << 21) // features,
        )
    bytes_per_column = 4 * (6 * features + 6 * ids)
    return int(min(paying, memory // 4 // bytes_per_column))


_TRIALS = TypeAdapter(dict[int, Trial | None])


def _read_trials(path: Path) -> dict[int, Trial | None]:
    try:
        return _TRIALS.validate_python(read_json(path))
    except (NisbenchError, ValidationError):
        log.warning("%s is damaged: its trials are trained again", path)
        return {}
