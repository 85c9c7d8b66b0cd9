"""What a study will take: from step times measured on the device at hand, the epochs that runs like its own took, and sizes.

Most steps are plain: the weights alone are trained, under a selection that stays as it is. What such a step takes depends on the
model, the shape of the data and the width of the table, whichever method asks for it. It is timed at a few widths (`ANCHORS`) and
interpolated between them. All other steps are timed as their method has them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import Any, cast

import torch

from nisbench.cost import remaining, shapes, steps
from nisbench.cost.resources import memory_to_train
from nisbench.cost.shapes import Shape
from nisbench.cost.steps import Cost, TimedTraining
from nisbench.data.parquet import field_sizes, open_parquet
from nisbench.errors import NisbenchError
from nisbench.files import read_json, write_json
from nisbench.identity import canonical_json, core_source, kind_source
from nisbench.machine import provenance
from nisbench.params.methods import Budgeted
from nisbench.params.step_settings import PruneSettings, SearchSettings
from nisbench.run_files import read_pruning, read_search
from nisbench.search.context import SearchContext
from nisbench.search.trial_spec import TrialSpec
from nisbench.search.trials import duplicate_of, trials_to_fuse
from nisbench.steps import Step
from nisbench.studies import Cell, StudyPlan
from nisbench.training.fused import columns_of

ASSUMED_EPOCHS = 20
"""Of a trial, where no run says."""

ANCHORS = (4, 16, 64, 256)
"""Widths of tables at which steps are timed."""

MOST_TIMED = 3
"""Trials of a search that are timed, where each is of its own kind: the first, the last and those between."""

KEPT = Path("logs", "costs.json")
"""What was measured already, by device and code."""

Say = Callable[[str, int, int], None]
"""What is being timed, its number from 1, and how many there are to time."""


@dataclass(frozen=True)
class Estimate:
    """Of one search and its prunings."""

    search: str
    """Its id."""
    dataset: str
    model: str
    method: str
    trials: int
    epochs: float
    """Of a trial, on average."""
    assumed: bool
    """Whether no run says how many epochs."""
    seconds: float
    memory_bytes: float
    disk_bytes: float


def of_study(
    plan: StudyPlan, done: Callable[[Step], bool], device: torch.device, say: Say
) -> tuple[list[Estimate], list[str]]:
    """Estimates of the searches that are to do, and the names of data sets whose shape is not known yet."""
    epochs = Epochs(plan, done)
    known: list[tuple[Cell, Shape, Trials]] = []
    unknown: list[str] = []
    to_do: dict[str, Cell] = {}
    for cell in plan.cells:
        if cell.search.id not in to_do and not done(cell.search):
            to_do[cell.search.id] = cell
    for cell in to_do.values():
        if shape := shape_of(plan, cell):
            rounds = any(each.rounds for each in prunings_of(plan, cell))
            known.append((cell, shape, Trials.of(shape, cell.settings, device, rounds)))
        else:
            unknown.append(cell.dataset)
    wanted = {timing.key: timing for _, _, trials in known for timing in trials.timings}
    costs = measured(list(wanted.values()), device, say)
    found = [of_search(plan, *each, costs, epochs, device) for each in known]
    remaining.write(plan.name, {each.search: each.seconds for each in found})
    return found, list(dict.fromkeys(unknown))


def of_search(
    plan: StudyPlan,
    cell: Cell,
    shape: Shape,
    trials: "Trials",
    costs: dict[str, Cost],
    epochs_of: "Epochs",
    device: torch.device,
) -> Estimate:
    settings = cell.settings
    task, training = settings.task, settings.training
    batches = math.ceil(shape.instances * task.examples_per_instance / training.batch_size)
    evaluated = shape.instances // 8 * task.predictions_per_instance
    prunings = prunings_of(plan, cell)
    usual, assumed = epochs_of.of(cell)

    def per_epoch(cost: Cost) -> float:
        return cost.step * batches + cost.epoch + cost.prediction * evaluated

    per_trial = mean(per_epoch(cost) * (epochs or usual) for cost, epochs in trials.costs(costs))
    rounds = sum(each.rounds for each in prunings)
    retrained = per_epoch(trials.retrained.cost(costs)) * epochs_of.of_round(cell, usual) if trials.retrained else 0.0
    columns = training.base_dimension * sum(settings.model.embedding_multiples)
    held = memory_to_train(settings.model, task, training, shape.field_sizes, shape.instances)
    left = trials.share_left * shape.features * columns
    pruned = sum(6 * left / each.compression_rate + 8 * shape.features for each in prunings)
    return Estimate(
        search=cell.search.id,
        dataset=cell.dataset,
        model=cell.model,
        method=cell.method,
        trials=trials.count,
        epochs=mean(epochs or usual for _, epochs in trials.costs(costs)),
        assumed=assumed and not all(part.epochs for part in trials.parts),
        seconds=per_trial * trials.count + retrained * rounds,
        memory_bytes=held + (400 << 20 if device.type == "cpu" else 0),
        disk_bytes=4 * shape.features * columns + pruned,
    )


def prunings_of(plan: StudyPlan, cell: Cell) -> list[PruneSettings]:
    """The prunings of a cell's search that the study asks for."""
    found = {other.prune.id: other.prune.settings for other in plan.cells if other.search.id == cell.search.id}
    return [cast(PruneSettings, settings) for settings in found.values()]


def trials_of(settings: SearchSettings) -> int:
    """How many trials a search trains, on whichever data."""
    context = steps.search_in(shapes.of_ratings(60, 40, 1000), settings, torch.device("cpu"), steps=0)
    return sum(len(group) for group in groups_of(context, context.specs()))


# --- which steps to time --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """A step to time: all that its time depends on."""

    shape: Shape
    settings: SearchSettings
    """The base dimension is the width at which it is timed."""
    widths: tuple[int, ...] | None
    """Of plain trials that are trained at once, whichever method asks for them. None: a trial of the method's own kind."""
    index: int = 0
    """Of the method's trial, among `expanded`."""

    @property
    def key(self) -> str:
        settings, own = self.settings, self.widths is None
        training = settings.training
        form = {
            "shape": asdict(self.shape),
            "model": settings.model.model_dump(mode="json"),
            "method": settings.method.model_dump(mode="json") if own else None,
            "trial": [self.index, training.base_dimension] if own else self.widths,
            "batch": training.batch_size,
            "l2": training.l2 > 0,
            "deterministic": training.deterministic,
            "precision": training.precision,
            "code": [kind_source(type(kind)) for kind in (settings.model, *([settings.method] if own else []))],
        }
        return canonical_json(form)

    def __str__(self) -> str:
        if self.widths is None:
            what = f"{self.settings.method.slug}, K = {self.settings.training.base_dimension}"
        elif len(self.widths) == 1:
            what = f"plain, {self.widths[0]} columns"
        else:
            what = f"{len(self.widths)} trials at once, {sum(self.widths)} columns"
        penalty = ", L2" if self.settings.training.l2 else ""
        return f"{self.settings.model.slug}, {what}{penalty}, {self.shape.features:,} features"

    def cost(self, device: torch.device) -> Cost:
        width = sum(self.widths) if self.widths else self.settings.training.base_dimension
        smaller = shapes.of_rows_read(self.shape, width)
        if smaller != self.shape and (training := self._training(smaller, device)).reads_rows:
            cost = steps.cost(training)
            return replace(cost, epoch=cost.epoch * self.shape.features / smaller.features)
        return steps.cost(self._training(self.shape, device))

    def _training(self, shape: Shape, device: torch.device) -> TimedTraining:
        search = steps.search_in(shape, self.settings, device)
        if self.widths is None:
            return TimedTraining(search, [expanded(search.specs())[self.index]])
        ones = [torch.ones(len(search.features), width) for width in self.widths]
        return TimedTraining(search, [TrialSpec("plain", selection) for selection in ones])


@dataclass(frozen=True)
class Part:
    """Trials of a search with the same step time: timed at one width, or between two."""

    trials: int
    timings: tuple[Timing, ...]
    shares: tuple[float, ...]
    """What each timing counts. They may be negative, beyond the widths that are timed."""
    epochs: int | None = None
    """Of a trial, where its method fixes them."""

    def cost(self, costs: dict[str, Cost]) -> Cost:
        found = [costs[timing.key] for timing in self.timings]

        def mixed(name: str) -> float:
            values: list[float] = [getattr(cost, name) for cost in found]
            on_line = sum(share * value for share, value in zip(self.shares, values, strict=True))
            return max(on_line, min(values) / 8)  # where times are noisy, the line may go below zero

        return Cost(mixed("step"), mixed("epoch"), mixed("prediction"))


@dataclass(frozen=True)
class Trials:
    """What a search trains, and what is to be timed for it."""

    count: int
    parts: tuple[Part, ...]
    retrained: Part | None = None
    """A round of training after pruning, if there are any: as long as one of the whole table, whichever rows it begins with."""
    share_left: float = 1.0
    """Of the full table's weights, what a search within a budget leaves."""

    @classmethod
    def of(cls, shape: Shape, settings: SearchSettings, device: torch.device, rounds: bool = False) -> "Trials":
        context = steps.search_in(shape, settings, device, steps=0)
        specs = context.specs()
        groups = groups_of(context, specs)
        plain = [group for group in groups if len(group) == 1 and is_plain(group[0])]
        others = [group for group in groups if group not in plain]
        parts = [plain_part(context, shape, group[0]) for group in plain]
        parts += [own_part(context, shape, specs, group) for group in _sampled(others)]
        full = TrialSpec("", torch.ones(len(context.features), settings.training.base_dimension))
        retrained = plain_part(context, shape, full) if rounds else None
        # Other tables than the selected one are stored as dense ones.
        left = settings.method.budget if isinstance(settings.method, Budgeted) and specs[0].table is None else 1.0
        return cls(sum(map(len, groups)), tuple(parts), retrained, left)

    @property
    def timings(self) -> Iterator[Timing]:
        for part in (*self.parts, *([self.retrained] if self.retrained else [])):
            yield from part.timings

    def costs(self, costs: dict[str, Cost]) -> Iterator[tuple[Cost, int | None]]:
        """Of each trial's share of a step; and its epochs, if they are fixed."""
        for part in self.parts:
            cost = part.cost(costs)
            share = 1 / part.trials
            shared = Cost(cost.step * share, cost.epoch * share, cost.prediction * share)
            yield from [(shared, part.epochs)] * part.trials


def is_plain(spec: TrialSpec) -> bool:
    return spec.is_fixed and bool(spec.selection.any())


def plain_part(context: SearchContext, shape: Shape, spec: TrialSpec) -> Part:
    """A trial that is trained alone, under a selection that stays as it is."""
    width = columns_of(spec.selection)
    settings = _with(context.settings, l2=context.training_of(spec).l2)
    anchors, shares = interpolated(width)
    return Part(1, tuple(Timing(shape, _with(settings, base_dimension=w), (w,)) for w in anchors), shares)


def own_part(context: SearchContext, shape: Shape, specs: Sequence[TrialSpec], group: list[TrialSpec]) -> Part:
    """A trial of the method's own kind, or several that are trained at once. What its `finish` takes is not known."""
    settings = _with(context.settings, l2=context.training_of(group[0]).l2)
    if len(group) > 1:
        widths = tuple(sorted(columns_of(spec.selection) for spec in group))
        return Part(len(group), (Timing(shape, settings, widths),), (1.0,))
    k, method = settings.training.base_dimension, settings.method
    index = next(i for i, spec in enumerate(specs) if spec is group[0])
    anchors, shares = interpolated(k)
    # What a budget leaves at one width is not in proportion to what it leaves at another, or is nothing.
    if method.budgeted or any(True for width in anchors for _ in method.problems(width)):
        anchors, shares = (k,), (1.0,)
    timings = tuple(Timing(shape, _with(settings, base_dimension=w), None, index) for w in anchors)
    return Part(1, timings, shares, group[0].epochs)


def interpolated(width: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The nearest widths that are timed, and what each counts: on the line through both."""
    if width in ANCHORS:
        return (width,), (1.0,)
    low = max((i for i in range(len(ANCHORS) - 1) if ANCHORS[i] < width), default=0)
    below, above = ANCHORS[low], ANCHORS[low + 1]
    share = (width - below) / (above - below)
    return (below, above), (1 - share, share)


def expanded(specs: Sequence[TrialSpec]) -> list[TrialSpec]:
    """The specs, and those that come of others, in the order in which a search trains them."""
    found = list(specs)
    for spec in found:  # which grows
        found += _following(spec)
    return found


def _following(spec: TrialSpec) -> list[TrialSpec]:
    """What comes of a trial, as if it had a loss of 0 and its selection had stayed as it was."""
    return [*(spec.next(0.0) if spec.next else []), *([spec.then(spec.selection)] if spec.then else [])]


def groups_of(search: SearchContext, specs: list[TrialSpec]) -> list[list[TrialSpec]]:
    """The specs that a search trains at once, group by group. `specs` grows by those that come of others, as in the search."""
    found, taken = list[list[TrialSpec]](), set[int]()
    for index, spec in enumerate(specs):
        if index not in taken and duplicate_of(index, specs) is None:
            group = trials_to_fuse(index, specs, search)
            taken.update(group)
            found.append([specs[i] for i in group])
        specs += _following(spec)
    return found


def _with(settings: SearchSettings, **changed: Any) -> SearchSettings:
    return settings.model_copy(update={"training": settings.training.model_copy(update=changed)})


def _sampled(groups: list[Any]) -> list[Any]:
    """At most `MOST_TIMED` of them, spread evenly."""
    if len(groups) <= MOST_TIMED:
        return groups
    return [groups[round(i * (len(groups) - 1) / (MOST_TIMED - 1))] for i in range(MOST_TIMED)]


def measured(timings: list[Timing], device: torch.device, say: Say) -> dict[str, Cost]:
    """What each step costs, by its key: as measured before on this device with this code, or now."""
    machine = provenance(device)
    about = [machine.device, machine.threads, machine.packages["torch"], core_source("search")]
    names = {timing.key: sha256(canonical_json([*about, timing.key]).encode()).hexdigest()[:16] for timing in timings}
    kept = _kept()
    missing = [timing for timing in timings if names[timing.key] not in kept]
    missing.sort(key=lambda timing: timing.shape.features)  # the same data one after another
    for number, timing in enumerate(missing, 1):
        say(str(timing), number, len(missing))
        kept[names[timing.key]] = timing.cost(device)
        write_json(KEPT, {name: asdict(cost) for name, cost in kept.items()})  # an interruption loses nothing
    return {key: kept[name] for key, name in names.items()}


def _kept() -> dict[str, Cost]:
    try:
        return {name: Cost(**cost) for name, cost in read_json(KEPT).items() if isinstance(cost, dict)}
    except (NisbenchError, OSError, TypeError, AttributeError):
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
        self.pruned = {cell.prune.id: cell for cell in plan.cells if done(cell.prune)}

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

    def of_round(self, cell: Cell, usual: float) -> float:
        """A round's after pruning: a mean over those of the same data, model and method, or as `usual`."""
        alike = (cell.dataset, cell.model, cell.method)
        cells = [other for other in self.pruned.values() if (other.dataset, other.model, other.method) == alike]
        counts = [one.epochs for other in cells for one in read_pruning(other.prune.path("run")).rounds]
        return mean(counts) if counts else usual

    @staticmethod
    @cache
    def _counts(search: Step) -> list[int]:
        """Of trials that stopped by themselves, or at the most epochs."""
        trials = read_search(search.path("run")).trials
        return [len(trial.losses) for trial in trials if trial.seconds and trial.stopped != "planned"]
