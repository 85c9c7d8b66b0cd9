"""A study's plan: which steps fill the cells of its grids, and which files its report consists of."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from nisbench.code_version import canonical_json, code_version
from nisbench.errors import NisbenchError
from nisbench.params.checks import BASE_DIMENSION, BLOCK_COUNT, nearest
from nisbench.params.loading import Config, load
from nisbench.params.settings import AnyDataset, Figure, Params, Study, Varied
from nisbench.runs import ID_LENGTH, SearchSettings, Step, StepName, block_step, hashed_form, prune_step, search_step


@dataclass(frozen=True)
class Cell:
    """A place in one of a study's grids, and the pruning that fills it."""

    grid: str
    """The name, in `StudyPlan.grids`, of the grid where that is set apart from the others; else empty."""
    dataset: str
    model: str
    method: str
    compression_rate: float
    seed: int
    prune: Step

    @property
    def search(self) -> Step:
        return self.prune.needs["search"]

    @property
    def settings(self) -> SearchSettings:
        assert isinstance(self.search.settings, SearchSettings)
        return self.search.settings


@dataclass(frozen=True)
class GridPlan:
    """What sets a grid apart from the others: its overrides, its title, or what it varies."""

    name: str
    title: str
    params: Params
    varied: tuple[str, Varied] | None = None
    """The key that the grid varies, and its value here."""


@dataclass(frozen=True)
class StudyPlan:
    """A study's parameters, its grids in the order of its tables' rows, and its data sets' blocking steps."""

    name: str
    params: Params
    cells: tuple[Cell, ...]
    blocks: tuple[Step, ...]
    grids: Mapping[str, GridPlan]
    """By name, and by value where a grid varies something; as "" those that nothing sets apart."""
    titles: Mapping[tuple[str, str], str]
    """Of data sets, models and methods, by the grid that sets them apart (or "") and "dataset NAME" and so on."""

    @property
    def study(self) -> Study:
        return self.params.studies[self.name]

    @property
    def compared(self) -> tuple[Cell, ...]:
        """The cells of grids that vary nothing: what tables show."""
        return tuple(cell for cell in self.cells if self.grids[cell.grid].varied is None)

    def dataset_of(self, cell: Cell) -> AnyDataset:
        """The settings of a cell's data set."""
        return self.grids[cell.grid].params.datasets[cell.dataset]

    def heading(self, grid: str, dataset: str) -> str:
        """A data set's title, and that of the grid that is set apart."""
        title = self.titles[grid, f"dataset {dataset}"]
        return f"{title}, {self.grids[grid].title}" if grid else title

    @property
    def steps(self) -> dict[str, Step]:
        """All steps by id, each after those it needs."""
        leaves = [*self.blocks, *(cell.prune for cell in self.cells)]
        return {step.id: step for leaf in leaves for step in leaf.upstream()}

    @property
    def id(self) -> str:
        """Changes when any of the study's runs, titles, references or the tables' code does."""
        identity = {
            "runs": [[cell.grid, cell.prune.id] for cell in self.cells],
            "data": [step.id for step in self.blocks],
            "study": self.study.model_dump(mode="json"),
            "reference": self.params.reference.model_dump(mode="json"),
            "titles": {" ".join(key): title for key, title in self.titles.items()},
            "code": code_version(("nisbench.report.assembly",)),
        }
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:ID_LENGTH]

    @property
    def folder(self) -> PurePosixPath:
        return PurePosixPath("results", self.name)

    @property
    def manifest(self) -> PurePosixPath:
        """Named by the study's id: as long as it exists, the tables beside it are of today's runs."""
        return self.folder / f"runs-{self.id}.json"

    @property
    def curves(self) -> dict[str, list[Cell]]:
        """Of each search method on each model and data set: the file of its learning curves, and a cell per search."""
        files: dict[str, list[Cell]] = {}
        seen = set()
        for cell in self.compared:
            if cell.search.id not in seen:
                seen.add(cell.search.id)
                name = "-".join(filter(None, [cell.dataset, cell.grid, cell.model, cell.method]))
                files.setdefault(f"curves/{name}.svg", []).append(cell)
        return files

    def outputs(self) -> list[str]:
        """All files of the report, relative to the project's top folder; the manifest, which is written last, is the last."""
        study = self.study
        names = [name for part in (*study.tables, *study.figures) for name in report_files(part)]
        whole = [*names, *self.curves, "README.md", "page.html", "claims.csv", "summary.csv", "metrics.json"]
        return [*(str(self.folder / name) for name in whole), str(self.manifest)]


def report_files(part: str) -> list[str]:
    """What a table or a figure consists of. The recovery table has a picture beside it, and the picture's data."""
    if part in get_args(Figure):
        return [f"{part}.png", f"{part}.svg", f"{part}.csv"]
    picture = ["recovery.png", "recovery.svg", "recovery_dimensions.csv"] if part == "recovery" else []
    return [f"{part}.md", f"{part}.csv", f"{part}.tex", *picture]


@dataclass(frozen=True)
class Plan:
    """The plans of all studies, and their steps by id."""

    config: Config
    studies: Mapping[str, StudyPlan]
    steps: Mapping[str, Step]

    def study(self, name: str) -> StudyPlan:
        if name not in self.studies:
            raise NisbenchError(f"There is no study {name!r} in params/studies{nearest(name, self.studies)}")
        return self.studies[name]

    def step(self, prefix: str, name: StepName | None = None) -> Step:
        """The step whose id begins with `prefix`, of that name if one is given."""
        found = [step for step in self.steps.values() if step.id.startswith(prefix) and name in (None, step.name)]
        if len(found) == 1:
            return found[0]
        others = [step for step in self.steps.values() if step.id.startswith(prefix)]
        if not found and len(others) == 1:
            other = others[0]
            raise NisbenchError(f"{prefix} is the id of a {other.name} step. Run: nisbench {other.name} {other.id}")
        if found:
            raise NisbenchError(f"{prefix!r} is the beginning of several ids: {', '.join(s.id for s in found)}.")
        raise NisbenchError(
            f"No study asks for a {name or 'step'} with the id {prefix!r}: the parameters or the code have changed since that id "
            "was planned. `nisbench plan STUDY` lists today's ids; a running snakemake must be started again."
        )

    @property
    def datasets(self) -> list[str]:
        """All that there are, those in a study's or grid's overrides included."""
        return list(dict.fromkeys(step.dataset for step in self.steps.values()))

    def of_dataset(self, dataset: str, *names: StepName) -> list[Step]:
        return [step for step in self.steps.values() if step.dataset == dataset and step.name in names]


def plan(root: Path, config: Config | None = None) -> Plan:
    """Read the parameters at `root` and resolve every study's steps and ids."""
    config = config or load(root)
    studies = {name: plan_study(name, config) for name in config.by_study}
    planned = [step for study in studies.values() for step in study.steps.values()]
    known = config.params.datasets | {n: d for params in config.by_grid.values() for n, d in params.datasets.items()}
    for name, dataset in known.items():  # a data set that no study uses can still be fetched
        planned += block_step(name, dataset).upstream()
    steps: dict[str, Step] = {}
    for step in planned:
        other = steps.setdefault(step.id, step)
        if (other.title(), hashed_form(other)) != (step.title(), hashed_form(step)):
            raise NisbenchError(
                f"Two different runs share the id {step.id}: {other.title()} and {step.title()}. Rename one of them."
            )
    for study in studies.values():
        _check_variants(study)
    return Plan(config, studies, steps)


def plan_study(name: str, config: Config) -> StudyPlan:
    study = config.by_study[name].studies[name]
    blocks: dict[str, Step] = {}
    grids: dict[str, GridPlan] = {}
    cells: dict[Any, Cell] = {}
    titles: dict[tuple[str, str], str] = {}
    for (of_study, key, variant), params in config.by_grid.items():
        if of_study != name:
            continue
        grid = study.grids[key]
        apart = key if grid.overrides or grid.title or variant else ""
        title = grid.title or apart
        if variant:
            apart = f"{key}_{variant[1]}"
            title = ", ".join(filter(None, [grid.title, f"{symbol(variant[0])} = {variant[1]}"]))
        if apart and apart in grids:
            raise NisbenchError(
                f"params/studies: {name} has two grids, or values that one varies, named {apart}. Rename one."
            )
        grids[apart] = GridPlan(key, title, params, variant)
        for names, entries, kind in (
            (grid.datasets, params.datasets, "dataset"),
            (grid.models, params.models, "model"),
            (grid.methods, params.methods, "method"),
        ):
            titles |= {(apart, f"{kind} {entry}"): entries[entry].title for entry in names}
        block_of = {dataset: block_step(dataset, params.datasets[dataset]) for dataset in grid.datasets}
        blocks |= {step.id: step for step in block_of.values()}
        for dataset, model, method, seed in product(grid.datasets, grid.models, grid.methods, study.seeds):
            search = search_step(block_of[dataset], model, method, seed, params)
            for rate in grid.methods[method]:
                cell = Cell(
                    apart,
                    dataset,
                    model,
                    method,
                    rate,
                    seed,
                    prune_step(search, f"{model}-{method}-seed{seed}", params.methods[method], rate, params),
                )
                cells[apart, dataset, model, method, rate, seed] = cell  # grids may overlap
    return StudyPlan(name, config.by_study[name], tuple(cells.values()), tuple(blocks.values()), grids, titles)


def _check_variants(study: StudyPlan) -> None:
    """Raise `NisbenchError` if a grid varies what some of its runs do not depend on."""
    seen: dict[tuple[str, str], Cell] = {}
    for cell in study.cells:
        grid = study.grids[cell.grid]
        other = seen.setdefault((grid.name, cell.prune.id), cell)
        if grid.varied and other.grid != cell.grid:
            raise NisbenchError(
                f"studies.{study.name}.grids.{grid.name}.vary: {grid.varied[0]} changes nothing for {cell.model} on "
                f"{cell.dataset} with {cell.method}. Take these into a grid of their own."
            )


def symbol(key: str) -> str:
    """What a varied parameter is called in figures: by the paper's letter, if it has one."""
    if key == BASE_DIMENSION:
        return "K"
    return "L" if BLOCK_COUNT.match(key) else key.rsplit(".", 1)[-1]
