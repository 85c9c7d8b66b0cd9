"""A search: train a recommender under each selection that a method proposes, and let validation pick one.

Each trial is saved as it ends and its weights are kept while they are the best so far, so that a killed search goes on
where it stopped. The test instances are not among what a search is given.
"""

import shutil
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nisbench.console import duration, log
from nisbench.data import instances
from nisbench.data.instances import Instances
from nisbench.data.parquet import field_sizes, read_table
from nisbench.errors import NisbenchError
from nisbench.evaluation import tasks
from nisbench.evaluation.tasks import Task
from nisbench.files import read_json, write_json
from nisbench.machine import peak_memory_mib, provenance
from nisbench.models import recommender as recommenders
from nisbench.runs import SearchSettings
from nisbench.search.proposal import Blocks, Proposal
from nisbench.seeds import derived
from nisbench.training.checkpoints import load_tensors, save_tensors
from nisbench.training.trainer import snapshot, train


@dataclass(frozen=True)
class Trial:
    """What is kept of one trained selection."""

    name: str
    validation_loss: float
    best_epoch: int
    weights: int
    """Embedding weights that the selection lets exist."""
    seconds: float
    """0 where an earlier trial had the same selection, whose result this is."""
    peak_memory_mib: float
    losses: list[float]
    """Validation loss after each epoch."""


def run(
    settings: SearchSettings,
    train_file: Path,
    validation_file: Path,
    features_file: Path,
    folder: Path,
    device: torch.device,
    about: dict[str, Any],
) -> None:
    """Run a search's trials; leave ``run.json``, headed by `about`, and the best's ``weights.safetensors`` in `folder`."""
    features = read_table(features_file, ["block", "frequency"])
    block = features["block"].to_numpy()
    search = Search(
        settings=settings,
        task=tasks.build(settings.task, {"train": train_file, "validation": validation_file}, device),
        training=instances.read(train_file, device),
        validation=instances.read(validation_file, device),
        field_sizes=field_sizes(train_file),
        block=torch.tensor(block),
        blocks=Blocks.of(block, features["frequency"].to_numpy()),
        folder=folder / "trials",
        device=device,
    )
    proposals = search.proposals()
    trials: list[Trial] = []
    best = 0
    for index, proposal in enumerate(proposals):
        twin = next((i for i in range(index) if proposals[i].same_as(proposal)), None)
        if twin is not None:  # the same selection, seed and data make the same model
            trial = replace(trials[twin], name=f"{proposal.name} (as trial {twin + 1})", seconds=0.0)
        else:
            trial = search.saved_trial(index) or search.trial(index, proposal)
        log.info(
            "trial %d of %d: %s: validation loss %.5f, %s",
            index + 1, len(proposals), trial.name, trial.validation_loss, duration(trial.seconds),
        )  # fmt: skip
        trials.append(trial)
        if trial.validation_loss < trials[best].validation_loss:
            search.weights_file(best).unlink(missing_ok=True)
            best = index
        elif index != best:
            search.weights_file(index).unlink(missing_ok=True)
    log.info("best: %s", trials[best].name)

    save_tensors(folder / "weights.safetensors", *load_tensors(search.weights_file(best)))
    result = {
        **about,
        "best_trial": best,
        "weights": trials[best].weights,
        "seconds": sum(trial.seconds for trial in trials),
        "peak_memory_mib": max(trial.peak_memory_mib for trial in trials),
        "machine": provenance(device),
        "trials": [asdict(trial) for trial in trials],
    }
    write_json(folder / "run.json", result)
    shutil.rmtree(search.folder)


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

    def result_file(self, index: int) -> Path:
        return self.folder / f"{index}.json"

    def weights_file(self, index: int) -> Path:
        return self.folder / f"{index}.safetensors"

    def saved_trial(self, index: int) -> Trial | None:
        """The trial as an interrupted search saved it, unless it may be needed and its weights are gone."""
        saved = {int(path.stem): trial for path in self.folder.glob("*.json") if (trial := _read_trial(path))}
        if index not in saved:
            return None
        best = min(saved, key=lambda i: (saved[i].validation_loss, i))
        return None if index == best and not self.weights_file(index).exists() else saved[index]

    def trial(self, index: int, proposal: Proposal) -> Trial:
        """Train under one selection, save its weights and then its result."""
        recommender = recommenders.build(
            self.settings.model,
            block=self.block,
            selection=proposal.selection,
            soft=proposal.learner is not None,
            embedding_std=self.settings.training.embedding_std,
            field_sizes=self.field_sizes,
            prior=self.task.prior(self.training),
            seed=self.settings.seed,
        ).to(self.device)
        checkpoint = self.folder / f"{index}.{self.device.type}-checkpoint.safetensors"  # to go on on the same kind
        progress = train(
            recommender,
            self.training,
            self.validation,
            self.task,
            self.settings.training,
            self.settings.seed,
            learner=proposal.learner(recommender, self.task) if proposal.learner else None,
            checkpoint=checkpoint,
            title=proposal.name,
        )
        dimensions = proposal.selection.ne(0).sum(1).numpy() * sum(recommenders.parts_of(self.settings.model))
        trial = Trial(
            name=proposal.name,
            validation_loss=progress.best_loss,
            best_epoch=progress.best_epoch,
            weights=int(dimensions @ self.blocks.sizes),
            seconds=progress.seconds,
            peak_memory_mib=peak_memory_mib(self.device),
            losses=progress.losses,
        )
        save_tensors(self.weights_file(index), snapshot(recommender), {"widths": recommender.widths})
        write_json(self.result_file(index), asdict(trial))
        checkpoint.unlink(missing_ok=True)
        return trial


def _read_trial(path: Path) -> Trial | None:
    try:
        return Trial(**read_json(path))
    except (NisbenchError, TypeError):
        log.warning("%s is damaged: this trial is trained again", path)
        return None
