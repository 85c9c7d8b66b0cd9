"""The one schema of ``run.json``: what a search and a pruning write of their result, and all others read."""

import math
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # before Python 3.12, pydantic knows only this one

from nisbench.errors import NisbenchError
from nisbench.files import read_json, write_json


class RunFile(BaseModel):
    """Base of what is in the files: types are exact, and nothing is added."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Packages(TypedDict):
    """Versions, of these and others."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    nisbench: str
    torch: str


class Machine(RunFile):
    """What to know of the machine to judge or repeat a result. It names no user, host or path."""

    device: str
    threads: int
    python: str
    system: str
    packages: Packages
    time: str


class Trial(RunFile):
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
    fused: int = 1
    """Trials that were trained together, this one among them. Each has an equal share of the seconds."""
    failed: str | None = None
    """Why the trial has no result: where its loss ceased to be a number."""

    @property
    def loss(self) -> float:
        return math.inf if self.validation_loss is None else self.validation_loss


class SearchRun(RunFile):
    """The result of a search."""

    best_trial: int | None
    """None if all trials failed."""
    weights: int
    seconds: float
    peak_memory_mib: float
    machine: Machine
    trials: Annotated[list[Trial], Field(min_length=1)]
    failed: str | None

    @property
    def best(self) -> Trial | None:
        return None if self.best_trial is None else self.trials[self.best_trial]


class Round(RunFile):
    """One round of pruning and training."""

    compression_rate: float
    threshold: float
    validation_loss: float
    epochs: int
    seconds: float


class FeatureCounts(RunFile):
    count: int
    without_dimensions: int


class PruneRun(RunFile):
    """The result of a pruning, measured on test."""

    metrics: dict[str, float] = {}
    weights: int = 0
    """Embedding weights that the search's selection let exist."""
    nonzeros: int = 0
    """Embedding weights that are left."""
    projection_weights: int = 0
    threshold: float = 0.0
    """Weights of smaller importance were pruned (epsilon of Eq. 9)."""
    coo_bytes: int = 0
    csr_bytes: int = 0
    size_mib: float = 0.0
    """The paper's "Params (M)": MiB of a deflated SciPy COO file."""
    features: FeatureCounts = FeatureCounts(count=0, without_dimensions=0)
    test_instances: int = 0
    rounds: list[Round] = []
    seconds: float
    machine: Machine
    failed: str | None = None
    """Why there is no result, in which case there are no metrics either."""


T = TypeVar("T", bound=RunFile)


def write_run(path: Path, run: RunFile) -> None:
    write_json(path, run.model_dump(mode="json"))


def read_search(path: Path) -> SearchRun:
    run = read_as(SearchRun, path)
    best = run.best_trial
    if (best is None) != (run.failed is not None) or not -1 < (best or 0) < len(run.trials):
        raise NisbenchError(f"{path}: best_trial: there is no trial {best}")
    return run


def read_pruning(path: Path) -> PruneRun:
    return read_as(PruneRun, path)


def read_as(form: type[T], path: Path) -> T:
    """The content of a JSON file in that form. Raises `NisbenchError` that names the first key that is wrong."""
    found: T = checked(TypeAdapter(form), read_json(path), path)
    return found


def checked(form: TypeAdapter[Any], value: Any, path: Path) -> Any:
    """`value`, read from `path`, in that form."""
    try:
        return form.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the whole file"
        problem = f"{path}: {key}: {first['msg'].lower()}. It was not written by this version of nisbench"
        raise NisbenchError(f"{problem}, or it is damaged: delete it and run again") from None
