"""What a study will take: from step times measured on the device at hand, the epochs that runs like its own took, and sizes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import Any, cast

import torch

from nisbench.cost import shapes, steps
from nisbench.cost.shapes import Shape
from nisbench.cost.steps import Cost
from nisbench.data.parquet import field_sizes, open_parquet
from nisbench.errors import NisbenchError
from nisbench.files import read_json, write_json
from nisbench.identity import canonical_json, core_source
from nisbench.machine import provenance
from nisbench.params.step_settings import PruneSettings, SearchSettings
from nisbench.run_files import read_search
from nisbench.search.context import SearchContext
from nisbench.search.trial_spec import TrialSpec
from nisbench.search.trials import duplicate_of, trials_to_fuse
from nisbench.steps import Step
from nisbench.studies import Cell, StudyPlan

ASSUMED_EPOCHS = 20
"""Of a trial, where no run says."""

MEASURED = 3
"""Trials of a search that are timed, or groups of such as train at once: the first, the last and those between."""

KEPT = Path("logs", "costs.json")
"""What was measured already, by device and code."""


@dataclass(frozen=True)
class Estimate:
    """Of one search and its prunings."""

    dataset: str
    model: str
    method: str
    trials: int
    epochs: float
    """Of a trial, on average."""
    assumed: bool
    """Whether no run says how many epochs."""
    seconds: float
    memory_mib: float
    disk_mib: float


def of_study(
    plan: StudyPlan, done: Callable[[Step], bool], device: torch.device, say: Callable[[str], None]
) -> tuple[list[Estimate], list[str]]:
    """Estimates of the searches that are to do, and the names of data sets whose shape is not known yet."""
    epochs = Epochs(plan, done)
    found, unknown = [], []
    for cell in {cell.search.id: cell for cell in plan.cells if not done(cell.search)}.values():
        shape = shape_of(plan, cell)
        if shape is None:
            unknown.append(cell.dataset)
            continue
        say(f"timing {cell.dataset} {cell.search.label}")
        found.append(of_search(plan, cell, shape, *epochs.of(cell), device))
    return found, list(dict.fromkeys(unknown))


def of_search(
    plan: StudyPlan, cell: Cell, shape: Shape, epochs: float, assumed: bool, device: torch.device
) -> Estimate:
    settings = cell.settings
    task, training = settings.task, settings.training
    examples = shape.instances * task.examples_per_instance
    evaluated = shape.instances // 8 * task.predictions_per_instance
    groups, costs = measured(shape, settings, device)
    of_epoch = [c.step * math.ceil(examples / training.batch_size) + c.epoch + c.prediction * evaluated for c in costs]
    trials = sum(groups)
    prunings = [cast(PruneSettings, other.prune.settings) for other in plan.cells if other.search.id == cell.search.id]
    per_trial = sum(of_epoch) / sum(_sampled(groups))
    columns = training.base_dimension * sum(settings.model.embedding_multiples)
    fields = len(shape.field_sizes)
    row = 4 * (fields * (1 if fields == 2 else 2) + 1)
    held = 4 * shape.features * columns * 5 + examples * row * 9 / 8
    pruned = sum(6 * shape.features * columns / each.compression_rate + 8 * shape.features for each in prunings)
    written = 4 * shape.features * columns + pruned
    return Estimate(
        dataset=cell.dataset,
        model=cell.model,
        method=cell.method,
        trials=trials,
        epochs=epochs,
        assumed=assumed,
        seconds=per_trial * (trials + sum(each.rounds for each in prunings)) * epochs,
        memory_mib=held / 2**20 + (400 if device.type == "cpu" else 0),
        disk_mib=written / 2**20,
    )


# --- step times -----------------------------------------------------------------------------------------------


def measured(shape: Shape, settings: SearchSettings, device: torch.device) -> tuple[list[int], list[Cost]]:
    """How many trials a search trains at once, group by group, and what some of the groups cost."""
    search = steps.search_in(shape, settings, device)
    specs = search.specs()
    groups = list(groups_of(search, specs))
    machine = provenance(device)
    key = {
        "shape": asdict(shape),
        "settings": settings.model_dump(mode="json", exclude={"seed"}),
        "fused": settings.training.fused_trials,
        "machine": [machine.device, machine.threads, machine.packages["torch"]],
        "code": core_source("search"),
    }
    name = sha256(canonical_json(key).encode()).hexdigest()[:16]
    kept = _kept()
    if name not in kept:
        kept[name] = [asdict(steps.cost(search, group)) for group in _sampled(groups)]
        write_json(KEPT, kept)
    return [len(group) for group in groups], [Cost(**each) for each in kept[name]]


def groups_of(search: SearchContext, specs: list[TrialSpec]) -> Iterator[list[TrialSpec]]:
    """The specs that a search trains at once, group by group, those that come of others included."""
    taken: set[int] = set()
    for index, spec in enumerate(specs):
        if index in taken or duplicate_of(index, specs) is not None:
            continue
        group = trials_to_fuse(index, specs, search)
        taken.update(group)
        yield [specs[i] for i in group]
        if spec.then:
            yield [spec.then(spec.selection)]


def _sampled(groups: list[Any]) -> list[Any]:
    """At most `MEASURED` of them, spread evenly."""
    if len(groups) <= MEASURED:
        return groups
    return [groups[round(i * (len(groups) - 1) / (MEASURED - 1))] for i in range(MEASURED)]


def _kept() -> dict[str, Any]:
    try:
        return cast(dict[str, Any], read_json(KEPT))
    except (NisbenchError, OSError):
        return {}


# --- shapes and epochs ----------------------------------------------------------------------------------------


def shape_of(plan: StudyPlan, cell: Cell) -> Shape | None:
    """A data set's shape: as it is prepared, else as its settings, or the paper's Table 1, say. None if nobody does."""
    train = Path(cell.search.needs["split"].path("train"))
    if train.exists():
        return shapes.of_fields(field_sizes(train), open_parquet(train).metadata.num_rows)
    settings = plan.dataset_of(cell)
    if expected := settings.expected_size():
        sizes, instances = expected
        return shapes.of_fields(sizes, instances * 8 // 10)
    known = plan.params.reference.datasets.get(cell.dataset)
    if known is None:
        return None
    instances = known.instances * 8 // 10
    if known.fields == 2:
        return shapes.of_ratings(known.features * 4 // 5, known.features - known.features * 4 // 5, instances)
    scalar = settings.number_fields
    return shapes.of_clicks(scalar, known.fields - scalar, known.features - scalar, instances)


class Epochs:
    """How many epochs trials took, in the runs that there are."""

    def __init__(self, plan: StudyPlan, done: Callable[[Step], bool]) -> None:
        self.cells = {cell.search.id: cell for cell in plan.cells if done(cell.search)}

    def of(self, cell: Cell) -> tuple[float, bool]:
        """A mean over the runs that are most like the cell's, at most as many as there may be; and whether it is assumed."""
        most = cell.settings.training.max_epochs
        for alike in (
            lambda other: (other.dataset, other.model, other.method) == (cell.dataset, cell.model, cell.method),
            lambda other: (other.dataset, other.model) == (cell.dataset, cell.model),
            lambda other: other.settings.task.kind_name() == cell.settings.task.kind_name(),
        ):
            counts = [count for other in self.cells.values() if alike(other) for count in self._counts(other.search)]
            if counts:
                return min(most, mean(counts)), False
        return min(most, ASSUMED_EPOCHS), True

    @staticmethod
    @cache
    def _counts(search: Step) -> list[int]:
        return [len(trial.losses) for trial in read_search(search.path("run")).trials if trial.seconds]
