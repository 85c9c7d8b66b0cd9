"""Run ids: what a result is called and where it lives.

A *step* is one unit of work with files as its result: a download, a preparation, a split, a blocking, a search, a
pruning. Its *id* is a hash of its resolved settings, the ids of the steps it depends on, and the version of the code
that computes it. The id is part of the step's folder, so a file that exists is right, and a file that is missing must
be made. The *plan* of a study is the graph of its steps.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field

from nisbench.code_version import canonical_json, code_version
from nisbench.errors import NisbenchError
from nisbench.files import md5_of_local
from nisbench.params.checks import nearest
from nisbench.params.loading import Config, load
from nisbench.params.settings import (
    AnyDataset,
    AnyMethod,
    AnyModel,
    AnySplit,
    AnyTask,
    Archive,
    FirstOrderModel,
    Params,
    Settings,
    Study,
    Training,
)

StepName = Literal["download", "prepare", "split", "block", "search", "prune"]
STEPS: tuple[StepName, ...] = ("download", "prepare", "split", "block", "search", "prune")

STAGES: dict[str, tuple[StepName, ...]] = {
    "data": ("download", "prepare", "split", "block"),
    "search": ("search",),
    "prune": ("prune",),
}
"""DVC's stages per data set, and the steps in them."""

ID_LENGTH = 12


# --- settings of the steps that are not a section of params/ as they stand -------------------------------------


class DownloadSettings(Settings):
    """Where an archive is and what it is: only the latter counts."""

    url: Annotated[str, Field(exclude=True)]
    md5: Annotated[str | None, Field(exclude=True)]
    identity: str


class PrepareSettings(Settings):
    dataset: AnyDataset


class SplitSettings(Settings):
    split: AnySplit


class SearchSettings(Settings):
    """All that a search is told; it cannot tell which study asks."""

    task: AnyTask
    model: AnyModel | FirstOrderModel
    method: AnyMethod
    training: Training
    seed: int


class PruneSettings(Settings):
    task: AnyTask
    model: AnyModel | FirstOrderModel
    prune_by: Literal["scaled", "weights", "random"]
    rounds: int
    compression_rate: float
    seed: int
    training: Training | None
    """Of what is left, after each round."""
    device: Annotated[str, Field(exclude=True)]


# --- steps ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Step:
    """One unit of work. `needs` holds, by step name, the steps whose files it reads."""

    name: StepName
    dataset: str
    label: str
    settings: Settings
    needs: Mapping[str, "Step"]
    modules: tuple[str, ...]
    files: Mapping[str, str]
    """What the step makes: a name for each file in its folder."""
    id: str = field(init=False)

    def __post_init__(self) -> None:
        identity = {
            "step": self.name,
            "dataset": self.dataset,
            "label": self.label,
            "settings": hashed_form(self),
            "needs": {name: step.id for name, step in self.needs.items()},
            "code": code_version(self.modules),
        }
        digest = hashlib.sha256(canonical_json(identity).encode()).hexdigest()
        object.__setattr__(self, "id", digest[:ID_LENGTH])

    @property
    def folder(self) -> PurePosixPath:
        """Relative to the project's top folder."""
        if self.name in ("search", "prune"):
            return PurePosixPath("results/runs", self.dataset, self.name, f"{self.label}-{self.id}")
        return PurePosixPath("data", self.dataset, f"{self.name}-{self.id}")

    def path(self, file: str) -> PurePosixPath:
        return self.folder / self.files[file]

    def paths(self) -> list[str]:
        return [str(self.path(file)) for file in self.files]

    def title(self) -> str:
        return f"{self.name} {self.dataset} {self.label}".strip()

    def upstream(self) -> Iterator["Step"]:
        """All steps that this one needs, directly or not, and itself last."""
        for step in self.needs.values():
            yield from step.upstream()
        yield self


def hashed_form(step: Step) -> Any:
    """The part of the settings that enters the id: what the files look like depends on it."""
    form = step.settings.model_dump(mode="json")
    if step.name == "prepare":  # how a data set is split, blocked and fetched is the other steps' business
        form["dataset"] = {
            k: v for k, v in form["dataset"].items() if k not in ("task", "split", "blocks", "url", "md5")
        }
    return form


# --- the plan -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A place in one of a study's grids, and the pruning that fills it."""

    grid: str
    """The grid's name where it has overrides or a title, which set it apart from the others; else empty."""
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
class StudyPlan:
    """A study's parameters, its grids in the order of its tables' rows, and its data sets' blocking steps."""

    name: str
    params: Params
    cells: tuple[Cell, ...]
    blocks: tuple[Step, ...]
    by_grid: Mapping[str, Params]
    titles: Mapping[tuple[str, str], str]
    """Of data sets, models and methods, by the grid that sets them apart (or "") and "dataset NAME" and so on."""

    @property
    def study(self) -> Study:
        return self.params.studies[self.name]

    def dataset_of(self, cell: Cell) -> AnyDataset:
        """The settings of a cell's data set."""
        return self.by_grid[cell.grid].datasets[cell.dataset]

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
            "code": code_version(("nisbench.report.tables",)),
        }
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:ID_LENGTH]

    @property
    def folder(self) -> PurePosixPath:
        return PurePosixPath("results", self.name)

    @property
    def manifest(self) -> PurePosixPath:
        """Named by the study's id: as long as it exists, the tables beside it are of today's runs."""
        return self.folder / f"runs-{self.id}.json"

    def outputs(self) -> list[str]:
        names = [name for table in self.study.tables for name in table_files(table)]
        return [str(self.folder / name) for name in [*names, "summary.csv", "metrics.json"]] + [str(self.manifest)]


def table_files(table: str) -> list[str]:
    """What a table consists of: the recovery table has a picture beside it, and the picture's data."""
    picture = ["recovery.png", "recovery.svg", "recovery_dimensions.csv"] if table == "recovery" else []
    return [f"{table}.md", f"{table}.csv", *picture]


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
    return Plan(config, studies, steps)


def plan_study(name: str, config: Config) -> StudyPlan:
    study = config.by_study[name].studies[name]
    blocks: dict[str, Step] = {}
    by_grid: dict[str, Params] = {}
    cells: dict[Any, Cell] = {}
    titles: dict[tuple[str, str], str] = {}
    for key, grid in study.grids.items():
        params = config.by_grid[name, key]
        apart = key if grid.overrides or grid.title else ""
        by_grid[apart] = params
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
    return StudyPlan(name, config.by_study[name], tuple(cells.values()), tuple(blocks.values()), by_grid, titles)


def block_step(name: str, dataset: AnyDataset) -> Step:
    """The last of a data set's own steps, with download (if any), prepare and split below it."""
    needs: dict[str, Step] = {}
    if isinstance(dataset, Archive):
        needs["download"] = download_step(name, dataset)
    prepare = Step(
        "prepare",
        name,
        "",
        PrepareSettings(dataset=dataset),
        needs,
        (f"nisbench.data.{dataset.format}",),
        {"instances": "instances.parquet", "vocabulary": "vocabulary.parquet"},
    )
    split = Step(
        "split",
        name,
        "",
        SplitSettings(split=dataset.split),
        {"prepare": prepare},
        ("nisbench.data.split",),
        {part: f"{part}.parquet" for part in ("train", "validation", "test")},
    )
    return Step(
        "block",
        name,
        "",
        dataset.blocks,
        {"prepare": prepare, "split": split},
        ("nisbench.data.blocks",),
        {"features": "features.parquet"},
    )


def download_step(name: str, dataset: Archive) -> Step:
    # Without an MD5 sum, an address names what it holds today, and a local file is what is in it.
    local = Path(dataset.url)
    identity = dataset.md5 or (md5_of_local(local) if local.is_file() else dataset.url)
    settings = DownloadSettings(url=dataset.url, md5=dataset.md5, identity=identity)
    return Step("download", name, "", settings, {}, (), {"archive": "archive"})


def search_step(block: Step, model: str, method: str, seed: int, params: Params) -> Step:
    """The search of a method; methods that differ in how they are pruned, or in name, share the first one's."""
    searched = params.methods[method]
    first = next(name for name, each in params.methods.items() if each.model_dump() == searched.model_dump())
    if searched.kind == "no_embeddings":  # a control that stands in for any model
        network: AnyModel | FirstOrderModel = FirstOrderModel(kind="first_order", title="", biases=searched.biases)
    else:
        network = params.models[model]
    settings = SearchSettings(
        task=params.task_of(block.dataset),
        model=network,
        method=searched,
        training=params.training,
        seed=seed,
    )
    modules = (
        "nisbench.search.trials",
        f"nisbench.evaluation.{settings.task.kind}",
        f"nisbench.models.{settings.model.kind}",
        f"nisbench.search.{settings.method.kind}",
    )
    return Step(
        "search",
        block.dataset,
        f"{model}-{first}-seed{seed}",
        settings,
        {"split": block.needs["split"], "block": block},
        modules,
        {"run": "run.json", "weights": "weights.safetensors"},
    )


def prune_step(search: Step, label: str, method: AnyMethod, rate: float, params: Params) -> Step:
    assert isinstance(search.settings, SearchSettings)
    rounds = method.rounds if rate > 1 else 0
    settings = PruneSettings(
        task=search.settings.task,
        model=search.settings.model,
        prune_by=method.prune_by,
        rounds=rounds,
        compression_rate=rate,
        seed=search.settings.seed,
        training=search.settings.training if rounds else None,
        device=params.training.device,
    )
    return Step(
        "prune",
        search.dataset,
        f"{label}-cr{rate_name(rate)}",
        settings,
        {"split": search.needs["split"], "search": search},
        (
            "nisbench.search.pruning",
            f"nisbench.models.{settings.model.kind}",
            f"nisbench.evaluation.{settings.task.kind}",
        ),
        {"run": "run.json", "scheme": "scheme.safetensors"},
    )


def rate_name(rate: float) -> str:
    """A compression rate as it stands in names: 2, 2.5, 1e06."""
    return f"{rate:.12g}".replace("+", "")
