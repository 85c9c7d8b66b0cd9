"""The one schema of ``run.json``: what a search and a pruning write of their result, and all others read."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

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

    @property
    def cores_used(self) -> int:
        """The threads of a CPU. A GPU counts as one."""
        return self.threads if self.device.startswith("CPU") else 1


Stopped = Literal["patience", "max_epochs", "diverged"]
"""Why a training stopped: the loss had not fallen for long enough; it was cut off; or the loss ceased to be a number."""

ALONE = 0.05
"""Where other processes keep less than this share of the machine's cores busy, a time counts as measured alone."""


class Trial(RunFile):
    """What is kept of one trained selection."""

    name: str
    validation_loss: float | None
    """None where the trial failed."""
    best_epoch: int
    epochs: int
    """Epochs done. This and `best_epoch` count those of a warm start."""
    warm_start_epochs: int
    """How many of them were a warm start."""
    stopped: Stopped
    learning_rate: float
    """Of the weights, as a further epoch would have had it: how far a schedule came."""
    weights: int
    """Embedding weights that the selection lets exist."""
    seconds: float
    """0 where an earlier trial had the same selection, whose result this is."""
    peak_memory_mib: float
    other_load: float | None
    """Share of the machine's cores that other processes kept busy meanwhile, from 0 to 1. Of a trial that was resumed: since then.
    None where the system does not tell."""
    losses: list[float]
    """Validation loss after each epoch."""
    fused: int = 1
    """Trials that were trained together, this one among them. Each has an equal share of the seconds."""
    failed: str | None = None
    """Why the trial has no result: where its loss ceased to be a number."""

    @property
    def loss(self) -> float:
        return math.inf if self.validation_loss is None else self.validation_loss

    @property
    def measured_alone(self) -> bool:
        """Whether its seconds are its own, on a machine that did little else."""
        return self.fused == 1 and self.other_load is not None and self.other_load < ALONE


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

    @property
    def cut_off(self) -> list[Trial]:
        """The trials that `max_epochs` stopped: they may not have ended their descent."""
        return [trial for trial in self.trials if trial.stopped == "max_epochs"]

    @property
    def core_seconds(self) -> float:
        return self.seconds * self.machine.cores_used

    @property
    def measured_alone(self) -> bool:
        return all(trial.measured_alone for trial in self.trials)


class Round(RunFile):
    """One round of pruning and training."""

    compression_rate: float
    threshold: float
    validation_loss: float
    best_epoch: int
    """0 = the weights before the first epoch."""
    epochs: int
    stopped: Stopped
    seconds: float
    other_load: float | None
    """As of a trial."""

    @property
    def measured_alone(self) -> bool:
        return self.other_load is not None and self.other_load < ALONE


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
    bytes: dict[str, dict[str, int]] = {}
    """What the embeddings take: layout -> precision -> bytes (`nisbench.embedding.storage`). Projections are not in it."""
    rounded_metrics: dict[str, dict[str, float]] = {}
    """Precision -> what `metrics` are where the embeddings are rounded to it, without training after it."""
    offset: float = 0.0
    """The number that recalibration adds to all predictions (logits, where the task predicts these)."""
    mean_prediction: float | None = None
    """On test: of probabilities, where the task predicts logits. None where the task has no base rate."""
    mean_label: float | None = None
    """On test: the base rate."""
    size_mib: float = 0.0
    """The paper's "Params (M)": MiB of a deflated SciPy COO file."""
    features: FeatureCounts = FeatureCounts(count=0, without_dimensions=0)
    test_instances: int = 0
    rounds: list[Round] = []
    seconds: float
    machine: Machine
    failed: str | None = None
    """Why there is no result, in which case there are no metrics either."""

    @property
    def cut_off(self) -> list[Round]:
        """The rounds whose training `max_epochs` stopped."""
        return [one for one in self.rounds if one.stopped == "max_epochs"]

    @property
    def core_seconds(self) -> float:
        """Of training what is left. Pruning itself costs next to nothing."""
        return sum(one.seconds for one in self.rounds) * self.machine.cores_used

    def metrics_at(self, precision: str = "float32") -> dict[str, float]:
        """Quality on test with embeddings of that precision."""
        return self.metrics if precision == "float32" else self.rounded_metrics.get(precision, {})

    @property
    def mean_error(self) -> float | None:
        """The mean prediction on test less the base rate."""
        if self.mean_prediction is None or self.mean_label is None:
            return None
        return self.mean_prediction - self.mean_label

    def stored_bytes(self, precision: str = "float32") -> int:
        """What the embeddings take in the layout that takes the least, and their projections (float32), if any."""
        return min((of[precision] for of in self.bytes.values()), default=0) + 4 * self.projection_weights


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
