"""A study's plan: which steps fill the cells of its grids."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from nisbench.errors import NisbenchError
from nisbench.identity import canonical_json, report_source
from nisbench.params.checks import BASE_DIMENSION, BLOCK_COUNT, drawn
from nisbench.params.datasets import Dataset
from nisbench.params.loading import Config, load, unknown_study
from nisbench.params.methods import Method, rounded_entry
from nisbench.params.models import Model
from nisbench.params.step_settings import PrepareSettings, SearchSettings
from nisbench.params.studies import Grid, Params, Study, Swept
from nisbench.params.tasks import Task
from nisbench.params.training import Training
from nisbench.params.tuning import Tuned, variants, with_values
from nisbench.steps import ID_LENGTH, Step, StepName, block_step, hashed_form, prune_step, search_step


@dataclass(frozen=True)
class Cell:
    """A place in one of a study's grids, and the pruning that fills it."""

    grid: str
    """The name, in `StudyPlan.grids`, of a grid that something sets apart from the others; else empty."""
    dataset: str
    model: str
    method: str
    compression_rate: float
    seed: int
    prune: Step
    tuned: Tuned = ()
    """What its grid tries for its method, and the values here. Cells of one place differ in them, and validation chooses."""

    @property
    def search(self) -> Step:
        return self.prune.needs["search"]

    @property
    def settings(self) -> SearchSettings:
        assert isinstance(self.search.settings, SearchSettings)
        return self.search.settings

    @property
    def key(self) -> tuple[str, str, str, str, float, int]:
        return self.grid, self.dataset, self.model, self.method, self.compression_rate, self.seed


@dataclass(frozen=True)
class GridPlan:
    """What sets a grid apart from the others: its overrides, its title, or what it sweeps."""

    name: str
    title: str
    params: Params
    swept: tuple[str, Swept] | None = None
    """The key that the grid sweeps, and its value here."""

    def sweeps(self, symbol: str) -> bool:
        """Whether the swept key is the one that the paper calls so."""
        return self.swept is not None and paper_symbol(self.swept[0]) == symbol

    @property
    def swept_value(self) -> tuple[str, Swept] | None:
        """The setting, without the entry that has it, and its value here, of a sweep that tables show."""
        return (paper_symbol(self.swept[0]), self.swept[1]) if self.swept and self.tabled else None

    @property
    def tabled(self) -> bool:
        """Whether tables show it: all but a sweep that Figure 2 draws."""
        return self.swept is None or not drawn(self.swept[0])


@dataclass(frozen=True)
class StudyPlan:
    """A study's parameters, its grids in the order of its tables' rows, and its data sets' blocking steps."""

    name: str
    params: Params
    cells: tuple[Cell, ...]
    blocks: Mapping[str, Step]
    """By id. Grids may block the same data set differently, and seeds may split it differently."""
    dataset_names: Mapping[str, str]
    """Of each blocking step: the entry of `datasets` that asks for it."""
    grids: Mapping[str, GridPlan]
    """By name, and by value where a grid sweeps something; as "" those that nothing sets apart."""

    @property
    def study(self) -> Study:
        return self.params.studies[self.name]

    @property
    def first_blocks(self) -> list[Step]:
        """The blocking steps of the first seed: all of them, unless seeds draw their own splits."""
        first = {cell.search.needs["block"].id for cell in self.cells if cell.seed == self.study.seeds[0]}
        return [step for step in self.blocks.values() if step.id in first]

    def seeds_of(self, step: Step) -> list[int]:
        """The seeds whose runs need a step, if seeds draw their own splits; else none."""
        settings = step.settings  # preparing may depend on the split, too
        fitted = isinstance(settings, PrepareSettings) and settings.dataset.fits_train
        drawn = self.study.split_per_seed and (fitted or step.name in {"split", "block"})
        cells = self.cells if drawn else ()
        needed = dict.fromkeys(cell.seed for cell in cells if step.id in {one.id for one in cell.search.upstream()})
        return list(needed)

    @property
    def compared(self) -> tuple[Cell, ...]:
        """The cells that tables show."""
        return tuple(cell for cell in self.cells if self.grids[cell.grid].tabled)

    def title(self, grid: str, *, dataset: str = "", model: str = "", method: str = "") -> str:
        """The titles of the entries named, as one grid has them, joined by commas: of the model, the method, the data set."""
        params, titles = self.grids[grid].params, []
        if model:
            titles.append(params.models[model].title)
        if method:
            titles.append(params.methods[method].title)
        if dataset:
            titles.append(params.datasets[dataset].title)
            if grid:
                titles.append(self.grids[grid].title)
        return ", ".join(filter(None, titles))

    def dataset_of(self, cell: Cell) -> Dataset:
        dataset: Dataset = self.grids[cell.grid].params.datasets[cell.dataset]
        return dataset

    def method_of(self, cell: Cell) -> Method:
        """The settings of a cell's method, as its grid has them."""
        method: Method = self.grids[cell.grid].params.methods[cell.method]
        return method

    def task_of(self, grid: str, dataset: str) -> Task:
        return self.grids[grid].params.task_of(dataset)

    @property
    def steps(self) -> dict[str, Step]:
        """All steps by id, each after those it needs."""
        leaves = [*self.blocks.values(), *(cell.prune for cell in self.cells)]
        return {step.id: step for leaf in leaves for step in leaf.upstream()}

    @property
    def id(self) -> str:
        """Changes when any of the study's runs, names, titles, references or the report's code does."""
        titles = [self.title(c.grid, dataset=c.dataset, model=c.model, method=c.method) for c in self.cells]
        identity = {
            "runs": [[*cell.key, *cell.tuned, cell.prune.id] for cell in self.cells],
            "data": list(self.blocks),
            "study": self.study.model_dump(mode="json"),
            "reference": self.params.reference.model_dump(mode="json"),
            "titles": list(dict.fromkeys(titles)),
            "code": report_source(),
        }
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:ID_LENGTH]

    @property
    def folder(self) -> Path:
        return Path("results", self.name)


@dataclass(frozen=True)
class Plan:
    """The plans of all studies, and their steps by id."""

    config: Config
    studies: Mapping[str, StudyPlan]
    steps: Mapping[str, Step]

    def study(self, name: str) -> StudyPlan:
        if name not in self.studies:
            raise unknown_study(name, self.studies)
        return self.studies[name]

    def step(self, prefix: str, name: StepName | None = None) -> Step:
        """The step whose id begins with `prefix`, of that name if one is given."""
        whole = self.steps.get(prefix)
        if whole and name in (None, whole.name):
            return whole
        others = [step for step in self.steps.values() if step.id.startswith(prefix)]
        found = [step for step in others if name in (None, step.name)]
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(f"{step.id} ({step.title()})" for step in found[:5])
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            raise NisbenchError(f"{prefix!r} is the beginning of several ids: {shown}{more}. Give more of it.")
        if len(others) == 1:
            other = others[0]
            raise NisbenchError(f"{prefix} is the id of a {other.name} step. Run: nisbench {other.name} {other.id}")
        if set(prefix) <= set("0123456789abcdef") and len(prefix) >= 6:
            of, what = list(self.studies), name or "step"
            asked = f"The study {of[0]} asks for no {what}" if len(of) == 1 else f"No study asks for a {what}"
            raise NisbenchError(
                f"{asked} with the id {prefix!r}: the parameters or the code have changed since that "
                "id was planned. `nisbench plan STUDY` lists today's ids. A running snakemake must be started again."
            )
        raise NisbenchError(
            f"{prefix!r} is neither a study nor the beginning of a step's id. `nisbench studies` lists the studies, "
            "`nisbench plan STUDY` a study's ids."
        )

    @property
    def datasets(self) -> list[str]:
        """The labels of all data sets."""
        return list(dict.fromkeys(step.dataset for step in self.steps.values()))

    def of_dataset(self, dataset: str, *names: StepName) -> list[Step]:
        """The steps of those names on the data sets of that label."""
        return [step for step in self.steps.values() if step.dataset == dataset and step.name in names]


def plan(root: Path, config: Config | None = None, only: str | None = None) -> Plan:
    """Read the parameters at `root` and resolve the steps and ids of every study, or of `only` one, which is faster."""
    config = config or load(root, only=only)
    studies = {name: plan_study(name, config) for name in config.by_study}
    planned = [step for study in studies.values() for step in study.steps.values()]
    every = [
        (dataset, params.task_of(name))
        for params in (config.params, *config.by_grid.values())
        for name, dataset in params.datasets.items()
    ]
    for dataset, task in {tuple(one.model_dump_json() for one in both): both for both in every}.values():
        planned += block_step(dataset, task).upstream()  # a data set that no study uses can still be fetched
    steps: dict[str, Step] = {}
    for step in planned:
        other = steps.setdefault(step.id, step)
        if other is not step and (other.name, hashed_form(other)) != (step.name, hashed_form(step)):
            raise NisbenchError(f"Two different runs share the id {step.id}: {other.title()} and {step.title()}.")
    for study in studies.values():
        _check_variants(study)
    return Plan(config, studies, steps)


def plan_study(name: str, config: Config, root: Path = Path()) -> StudyPlan:
    """The plan of one study, whose steps' files are below `root`."""
    study = config.by_study[name].studies[name]
    blocks: dict[str, Step] = {}
    dataset_names: dict[str, str] = {}
    grids: dict[str, GridPlan] = {}
    cells: dict[Any, Cell] = {}
    for (of_study, key, variant), of_grid in config.by_grid.items():
        if of_study != name:
            continue
        grid = study.grids[key]
        apart = key if grid.overrides or grid.title or variant else ""
        title = grid.title or apart
        if variant:
            apart = f"{key}_{variant[1]}"
            title = ", ".join(filter(None, [grid.title, f"{paper_symbol(variant[0])} = {variant[1]}"]))
        if apart and apart in grids:
            raise NisbenchError(f"params/studies: {name} has two grids, or swept values, named {apart}. Rename one.")
        params = _with_rounded(of_grid, grid, grids.get(apart))
        grids[apart] = GridPlan(key, title, params, variant)
        block_of: dict[tuple[str, int], Step] = {}
        for dataset in grid.datasets:
            settings, task = params.datasets[dataset], params.task_of(dataset)
            shared = None if study.split_per_seed else block_step(settings, task, root)
            for seed in study.seeds:
                step = block_of[dataset, seed] = shared or block_step(settings.redrawn(seed), task, root)
                blocks[step.id] = step
                dataset_names.setdefault(step.id, dataset)
        for dataset, model, entry, precision, seed in product(
            grid.datasets, grid.models, grid.methods, grid.quantise, study.seeds
        ):
            named = rounded_entry(entry, precision)
            method, task = params.methods[named], params.task_of(dataset)
            task = task.redrawn(seed) if study.split_per_seed else task
            block, network = block_of[dataset, seed], params.models[model]
            for tuned in variants((grid.tune or {}).get(entry)):
                tried, training = with_values(method, params.training, tuned)
                for rate, pruning in _prunings(block, task, network, tried, training, seed, grid.methods[entry]):
                    cell = Cell(apart, dataset, model, named, rate, seed, pruning, tuned)
                    cells[*cell.key, tuned] = cell  # grids may overlap
    return StudyPlan(name, config.by_study[name], tuple(cells.values()), blocks, dataset_names, grids)


def _prunings(
    block: Step, task: Task, model: Model, method: Method, training: Training, seed: int, rates: Sequence[float]
) -> Iterator[tuple[float, Step]]:
    """A pruning at each rate. One search serves all rates, unless the method is budgeted: then each has its own."""
    search = None
    for rate in rates:
        if search is None or method.budgeted:
            search = search_step(block, task, model, method.at(rate), training, seed)
        yield rate, prune_step(search, method, rate)


def _with_rounded(params: Params, grid: Grid, beside: GridPlan | None) -> Params:
    """The parameters with an entry for each method in each precision that a grid asks for, or one `beside` it.

    Grids without settings of their own are shown as one, with the entries of all.
    """
    entries = {
        rounded_entry(entry, precision): method.model_copy(
            update={"quantise": precision, "title": f"{method.title}, {precision}"}
        )
        for entry, precision in product(grid.methods, filter(None, grid.quantise))
        for method in [params.methods[entry]]
    }
    if beside:
        entries = beside.params.methods | entries
    return params.model_copy(update={"methods": params.methods | entries}) if entries else params


def _check_variants(study: StudyPlan) -> None:
    """Raise `NisbenchError` if a grid sweeps, or tunes, a key that some of its runs do not depend on."""
    seen: dict[tuple[str, str], Cell] = {}
    for cell in study.cells:
        grid = study.grids[cell.grid]
        other = seen.setdefault((grid.name, cell.prune.id), cell)
        if other.tuned != cell.tuned and other.key == cell.key:
            keys = [key for (key, a), (_, b) in zip(other.tuned, cell.tuned, strict=True) if a != b]
            raise NisbenchError(
                f"studies.{study.name}.grids.{grid.name}.tune.{cell.method}: {', '.join(keys)} changes "
                f"nothing for {cell.model} on {cell.dataset}. Leave it out."
            )
        if grid.swept and other.grid != cell.grid:
            raise NisbenchError(
                f"studies.{study.name}.grids.{grid.name}.sweep: {grid.swept[0]} changes nothing for {cell.model} on "
                f"{cell.dataset} with {cell.method}. Put these into a grid of their own."
            )


def paper_symbol(key: str) -> str:
    """The paper's letter for a parameter, if it has one; else the last of its dotted key."""
    if key == BASE_DIMENSION:
        return "K"
    return "L" if BLOCK_COUNT.match(key) else key.rsplit(".", 1)[-1]
