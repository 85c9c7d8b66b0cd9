"""Steps and their ids: what a result is called and where it lives.

A *step* is one unit of work with files as its result: a download, a preparation, a split, a blocking, a search, a pruning. Its
*id* is a hash of its settings by value, of the ids of the steps it needs, and of the code that computes it (`nisbench.identity`).
The id is part of the step's folder, so a file that exists is right, and a file that is missing must be made. Names of entries in
``params/``, their order and their titles enter neither id nor folder. `nisbench.studies` says which steps a study has.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from nisbench.errors import without_password
from nisbench.files import kept_md5_sum
from nisbench.identity import canonical_json, core_identity, kind_source
from nisbench.params.base import Kind, Settings
from nisbench.params.datasets import Archive, Dataset, file_name
from nisbench.params.methods import Method
from nisbench.params.models import Model
from nisbench.params.step_settings import (
    DownloadSettings,
    PrepareSettings,
    PruneSettings,
    SearchSettings,
    SplitSettings,
)
from nisbench.params.tasks import Task
from nisbench.params.training import Training

StepName = Literal["download", "prepare", "split", "block", "search", "prune"]
STEPS: tuple[StepName, ...] = get_args(StepName)

STAGES: dict[str, tuple[StepName, ...]] = {
    "data": ("download", "prepare", "split", "block"),
    "search": ("search",),
    "prune": ("prune",),
}
"""DVC's stages per data set, and the steps in them."""

FILES: dict[StepName, dict[str, str]] = {
    "download": {"archive": "archive"},
    "prepare": {"instances": "instances.parquet", "vocabulary": "vocabulary.parquet"},
    "split": {"train": "train.parquet", "validation": "validation.parquet", "test": "test.parquet"},
    "block": {"features": "features.parquet"},
    "search": {"run": "run.json", "weights": "weights.safetensors"},
    "prune": {"run": "run.json", "scheme": "scheme.safetensors", "model": "model.safetensors"},
}
"""What each kind of step makes: a name for each file in its folder."""

ID_LENGTH = 12


@dataclass(frozen=True, eq=False)
class Step:
    """One unit of work. `needs` holds, by step name, the steps whose files it reads."""

    name: StepName
    dataset: str
    """The label of the data set's settings, a folder's name."""
    label: str
    """What tells runs on a data set apart, for people: the id alone names the step."""
    settings: Settings
    needs: Mapping[str, "Step"]
    kinds: tuple[type[Kind], ...] = ()
    """The kinds whose code it runs."""
    root: Path = Path()
    """The folder that holds ``data/`` and ``results/``."""
    id: str = field(init=False)

    def __post_init__(self) -> None:
        identity = {
            "step": self.name,
            "place": [self.dataset, self.label, dict(self.files)],  # one id, one folder, the same files in it
            "settings": hashed_form(self),
            "needs": {name: step.id for name, step in self.needs.items()},
            **self.code,
        }
        digest = hashlib.sha256(canonical_json(identity).encode()).hexdigest()
        object.__setattr__(self, "id", digest[:ID_LENGTH])

    @property
    def code(self) -> dict[str, Any]:
        """The code that computes it: its kinds' sources and its core. A download is what its archive is, whoever fetches it."""
        if self.name == "download":
            return {}
        return {"kinds": [kind_source(kind) for kind in self.kinds], "core": core_identity(self.name)}

    @property
    def files(self) -> Mapping[str, str]:
        return FILES[self.name]

    @cached_property
    def folder(self) -> Path:
        if self.name in {"search", "prune"}:
            return self.root / "results" / "runs" / self.dataset / self.name / f"{self.label}-{self.id}"
        return self.root / "data" / self.dataset / f"{self.name}-{self.id}"

    def path(self, file: str) -> Path:
        return self.folder / self.files[file]

    @property
    def record(self) -> Path:
        """The file that is written last, once all others are complete; see `nisbench.records`."""
        return self.folder / "step.json"

    def paths(self) -> list[str]:
        """All files that exist once the step is done."""
        return list(self._paths)

    @cached_property
    def _paths(self) -> tuple[str, ...]:
        """Made once: Snakemake, plans and reports ask for them again and again."""
        return (*(str(self.path(file)) for file in self.files), str(self.record))

    def title(self) -> str:
        return f"{self.name} {self.dataset} {self.label}".strip()

    def upstream(self) -> Iterator["Step"]:
        """All steps that this one needs, directly or not, and itself last."""
        for step in self.needs.values():
            yield from step.upstream()
        yield self


def hashed_form(step: Step) -> Any:
    """The settings that enter the id: the content of the files depends on them."""
    settings = step.settings
    form = settings.model_dump(mode="json")
    if isinstance(settings, PrepareSettings):  # how a data set is split, blocked and fetched is other steps' business
        elsewhere = {*Dataset.model_fields, *(Archive.model_fields if isinstance(settings.dataset, Archive) else ())}
        form["dataset"] = {key: value for key, value in form["dataset"].items() if key not in elsewhere}
        if settings.dataset.fits_train:
            form["dataset"]["split"] = settings.dataset.model_dump(mode="json", include={"split"})["split"]
    if isinstance(settings, SearchSettings | PruneSettings):  # what settings classes add to what params/ says
        form["model"]["embedding_multiples"] = list(settings.model.embedding_multiples)
        form["task"]["metrics"] = [metric.name for metric in settings.task.metrics]
    return form


def block_step(dataset: Dataset, task: Task, root: Path = Path()) -> Step:
    """The last of a data set's own steps, with download (if any), prepare and split below it. `task` is the one it is for."""
    name = dataset.slug
    needs = {"download": download_step(dataset, root)} if isinstance(dataset, Archive) else {}
    prepare = Step("prepare", name, "", PrepareSettings(dataset=dataset), needs, (type(dataset),), root)
    split = Step("split", name, "", SplitSettings(split=dataset.split, task=task), {"prepare": prepare}, root=root)
    return Step("block", name, "", dataset.blocks, {"prepare": prepare, "split": split}, root=root)


def download_step(dataset: Archive, root: Path = Path()) -> Step:
    # Without an MD5 sum, an address stands for what it holds today, and a local file for its content.
    urls = dataset.urls
    found = [_file_identity(url, dataset) for url in urls]
    named = [f"{file_name(url)} {identity}" for url, (identity, _) in zip(urls, found, strict=True)]
    identity = found[0][0] if len(urls) == 1 else "\n".join(named)
    settings = DownloadSettings(urls=urls, md5s=[md5 for _, md5 in found], identity=identity)
    return Step("download", dataset.slug, "", settings, {}, root=root)


def _file_identity(url: str, dataset: Archive) -> tuple[str, str | None]:
    """What a file is, and the MD5 sum to check it by."""
    if dataset.md5:
        return dataset.md5, dataset.repacked_md5 or dataset.md5
    if os.path.isfile(url):  # noqa: PTH113 - Path.is_file raises where an address is too long for a name
        identity = _md5_of_local(Path(url))
        return identity, identity  # it may change between planning and fetching
    return without_password(url), None


def _md5_of_local(path: Path) -> str:
    found = path.stat()
    return _md5_of_state(path, found.st_size, found.st_mtime_ns)


@cache
def _md5_of_state(path: Path, _size: int, _time: int) -> str:
    return kept_md5_sum(path)


def search_step(block: Step, task: Task, model: Model, method: Method, training: Training, seed: int) -> Step:
    """The search of a method. Methods that differ in their pruning only share it."""
    network = method.own_model or model
    settings = SearchSettings(task=task, model=network, method=method, training=training, seed=seed)
    return Step(
        "search",
        block.dataset,
        f"{network.slug}-{method.slug}-seed{seed}",
        settings,
        {"split": block.needs["split"], "block": block},
        (type(task), type(network), type(method)),
        block.root,
    )


def prune_step(search: Step, method: Method, rate: float) -> Step:
    """The pruning of a search's result at one compression rate, which also measures it on test."""
    searched = search.settings
    assert isinstance(searched, SearchSettings)
    rate = 1.0 if method.budgeted else rate  # the search has kept within the budget already
    rounds = method.rounds_at(rate)
    settings = PruneSettings(
        task=searched.task,
        model=searched.model,
        importance=method.importance,
        rounds=rounds,
        rewind=method.rewind if rounds else None,
        recalibrate=searched.training.recalibrate and searched.task.has_base_rate,
        compression_rate=rate,
        seed=searched.seed,
        training=searched.training if rounds else None,
        chosen_on=method.chosen_on,
        deterministic=searched.training.deterministic,
        precision=searched.training.precision,
        device=searched.training.device,
        memory_limit=searched.training.memory_limit,
    )
    special = "" if method.importance == "effective" else f"-{method.importance}"
    special += f"-rounds{rounds}-{method.rewind}" if rounds else ""
    special += "-recalibrated" if settings.recalibrate else ""
    return Step(
        "prune",
        search.dataset,
        f"{search.label}{special}-cr{rate_name(rate)}",
        settings,
        {"split": search.needs["split"], "search": search},
        (type(searched.task), type(searched.model)),
        search.root,
    )


def rate_name(rate: float) -> str:
    """A compression rate as names show it: 2, 2.5, 1e06."""
    return f"{rate:.12g}".replace("+", "")
