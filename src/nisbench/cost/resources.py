"""What a step asks a scheduler for: memory, time, a GPU. It imports no torch: Snakemake asks for every job."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

from nisbench import memory
from nisbench.cost import remaining
from nisbench.data import parquet
from nisbench.params.models import Model
from nisbench.params.step_settings import PrepareSettings, PruneSettings, SearchSettings
from nisbench.params.tasks import Task
from nisbench.params.training import Training
from nisbench.steps import Step, StepName

PROGRAM = 1 << 30
"""Bytes of a process that has imported its libraries and holds no data."""

MARGIN = 1.2
"""What is asked for, by what is expected."""

PER_INSTANCE = 80
"""Bytes of memory that preparing and splitting take for an instance (measured: 79 and 59 for Criteo's)."""

MINUTES: dict[StepName, int] = {"download": 240, "prepare": 240, "split": 60, "block": 30, "search": 1440, "prune": 120}
"""Of a step that nobody has estimated."""


@dataclass(frozen=True)
class Resources:
    """What a job of Snakemake may use, by the names that Snakemake and its executors know."""

    mem_mb: int
    runtime: int
    """Minutes."""
    gpu: int


def resources_of(step: Step) -> Resources:
    """What a step asks for. Where its data are not there yet, it is what their settings say, or a guess."""
    of_training = step.name in {"search", "prune"}
    memory = _training(step) if of_training else _preparing(step)
    minutes = MINUTES[step.name]
    if step.name == "search" and (seconds := remaining.seconds_of(step)):
        minutes = 10 + math.ceil(2 * seconds / 60)  # estimates are for an idle machine
    return Resources(
        math.ceil(MARGIN * (PROGRAM + memory) / 2**20), minutes, int(of_training and _device(step) != "cpu")
    )


def memory_to_train(
    model: Model, task: Task, training: Training, field_sizes: Sequence[int], instances: int, *, copies: int = 5
) -> float:
    """Bytes of a model's table, its gradients and Adam's moments, the best epoch's copy, and the training and validation `instances`.

    These stay in files where there is no room for them; see `nisbench.data.instances`.
    """
    columns = training.base_dimension * sum(model.embedding_multiples)
    tables = 4.0 * sum(field_sizes) * columns * copies
    data = instances * task.examples_per_instance * 4 * (len(field_sizes) + 1) * 9 / 8
    return tables if tables + data + memory.PROCESS > memory.limit(training.memory_limit) else tables + data


def _device(step: Step) -> str:
    settings = step.settings
    return settings.training.device if isinstance(settings, SearchSettings) else cast(PruneSettings, settings).device


def _training(step: Step) -> float:
    """Of a search or a pruning, which holds no more than its search did."""
    search = step.needs.get("search", step)
    settings = cast(SearchSettings, search.settings)
    field_sizes, instances = _size(search.needs["split"], "train") or ((), 0)
    return memory_to_train(settings.model, settings.task, settings.training, field_sizes, instances)


def _preparing(step: Step) -> float:
    """Of a download, a preparation, a split or a blocking."""
    prepare = next((each for each in step.upstream() if each.name == "prepare"), None)
    if prepare is None:
        return 0.0
    dataset = cast(PrepareSettings, prepare.settings).dataset
    if size := _size(prepare, "instances"):
        return max(dataset.memory_to_prepare(), PER_INSTANCE * size[1])
    archive = prepare.needs["download"].path("archive") if "download" in prepare.needs else None
    return float(archive.stat().st_size) if archive and archive.exists() else 0.0


def _size(step: Step, file: str) -> tuple[tuple[int, ...], int] | None:
    """The number of features of each field, and of instances, as a file or the settings say. None if nobody does."""
    if (path := Path(step.path(file))).exists():
        return _size_of(path)
    prepare = step.needs.get("prepare", step)
    expected = cast(PrepareSettings, prepare.settings).dataset.expected_size()
    return expected and (expected[0], expected[1] * 8 // 10 if file == "train" else expected[1])


@lru_cache
def _size_of(path: Path) -> tuple[tuple[int, ...], int]:
    return parquet.field_sizes(path), parquet.open_parquet(path).metadata.num_rows
