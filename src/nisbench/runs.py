"""Run ids: what a result is called and where it lives.

A *step* is one unit of work with files as its result: a download, a preparation, a split, a blocking, a search, a
pruning. Its *id* is a hash of its resolved settings, the ids of the steps it depends on, and the version of the code
that computes it. The id is part of the step's folder, so a file that exists is right, and a file that is missing must
be made. Which steps a study has is for `nisbench.studies` to say.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field

from nisbench.code_version import canonical_json, code_version
from nisbench.files import md5_of_local
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
    deterministic: bool
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
            "code": self.code,
        }
        digest = hashlib.sha256(canonical_json(identity).encode()).hexdigest()
        object.__setattr__(self, "id", digest[:ID_LENGTH])

    @property
    def code(self) -> str:
        """The version of the code that computes it."""
        return code_version(self.modules)

    @property
    def folder(self) -> PurePosixPath:
        """Relative to the project's top folder."""
        if self.name in ("search", "prune"):
            return PurePosixPath("results/runs", self.dataset, self.name, f"{self.label}-{self.id}")
        return PurePosixPath("data", self.dataset, f"{self.name}-{self.id}")

    def path(self, file: str) -> PurePosixPath:
        return self.folder / self.files[file]

    @property
    def record(self) -> PurePosixPath:
        """What is written last, once all else is whole; see `nisbench.records`."""
        return self.folder / "step.json"

    def paths(self) -> list[str]:
        """All that is there once the step is done."""
        return [*(str(self.path(file)) for file in self.files), str(self.record)]

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
    local = os.path.isfile(dataset.url)  # noqa: PTH113 - Path.is_file raises where an address is too long for a name
    identity = dataset.md5 or (md5_of_local(Path(dataset.url)) if local else dataset.url)
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
        deterministic=params.training.deterministic,
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
