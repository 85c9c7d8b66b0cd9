"""The one schema of ``run.json``: what a search and a pruning write of their result, and all others read."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from typing_extensions import TypedDict  # before Python 3.12, pydantic knows only this one

from nisbench.errors import shortened
from nisbench.files import bad_file, read_json, write_json


class RunFile(BaseModel):
    """Base of what is in the files: types are exact, and nothing is added."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Count = Annotated[int, Field(ge=0, lt=2**53)]
"""Whole numbers that every reader can hold, floats among them."""
Seconds = Annotated[float, Field(ge=0, lt=1e11)]
Size = Annotated[float, Field(ge=0, lt=1e11)]
"""In MiB."""
Share = Annotated[float, Field(ge=0, le=1)]
Measure = Annotated[float, Field(gt=-1e100, lt=1e100)]
"""A loss or a metric. Those of float32 predictions are smaller by far, and means over seeds cannot overflow."""


class Packages(TypedDict):
    """Versions, of these and others."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    nisbench: str
    torch: str


class Machine(RunFile):
    """What to know of the machine to judge or repeat a result. It names no user, host or path."""

    device: str
    threads: Annotated[int, Field(ge=1, lt=2**31)]
    python: str
    system: str
    packages: Packages
    time: str

    @property
    def cores_used(self) -> int:
        """The threads of a CPU. A GPU counts as one."""
        return self.threads if self.device.startswith("CPU") else 1


Stopped = Literal["patience", "max_epochs", "planned", "diverged"]
"""Why a training stopped: the loss had not fallen for long enough; it was cut off; the method had planned so many epochs; or the
loss ceased to be a number."""

ALONE = 0.05
"""Where other processes keep less than this share of the machine's cores busy, a time counts as measured alone."""


class Trial(RunFile):
    """What is kept of one trained selection."""

    name: str
    validation_loss: Measure | None
    """None where the trial failed."""
    best_epoch: Count
    epochs: Count
    """Epochs done. This and `best_epoch` count those of a warm start."""
    warm_start_epochs: Count
    """How many of them were a warm start."""
    stopped: Stopped
    learning_rate: Annotated[float, Field(ge=0, lt=1e100)]
    """Of the weights, as a further epoch would have had it: how far a schedule came."""
    weights: Count
    """Embedding weights that the selection lets exist."""
    seconds: Seconds
    """0 where an earlier trial had the same selection, whose result this is."""
    peak_memory_mib: Size
    other_load: Share | None
    """Share of the machine's cores that other processes kept busy meanwhile, from 0 to 1. Of a trial that was resumed: since then.
    None where the system does not tell."""
    losses: list[Measure]
    """Validation loss after each epoch."""
    fused: Annotated[int, Field(ge=1, lt=2**31)] = 1
    """Trials that were trained together, this one among them. Each has an equal share of the seconds."""
    failed: str | None = None
    """Why the trial has no result: where its loss ceased to be a number."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.validation_loss is None) != (self.failed is not None):
            raise ValueError("a trial has either a validation loss or a reason for its failure")
        if self.best_epoch > len(self.losses):
            raise ValueError(f"best_epoch is {self.best_epoch}, of {len(self.losses)} epochs")
        return self

    @property
    def loss(self) -> float:
        return math.inf if self.validation_loss is None else self.validation_loss

    @property
    def measured_alone(self) -> bool:
        """Whether its seconds are its own, on a machine that did little else."""
        return self.fused == 1 and self.other_load is not None and self.other_load < ALONE


class SearchRun(RunFile):
    """The result of a search."""

    best_trial: Count | None
    """None if all trials failed."""
    weights: Count
    seconds: Seconds
    peak_memory_mib: Size
    machine: Machine
    trials: Annotated[list[Trial], Field(min_length=1)]
    failed: str | None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.best_trial is None:
            if self.failed is None or self.weights:
                raise ValueError("best_trial: there is none, so there must be a reason for it, and no weights")
        elif self.best_trial >= len(self.trials):
            raise ValueError(f"best_trial: there is no trial {self.best_trial}, of {len(self.trials)}")
        elif self.failed is not None or self.trials[self.best_trial].failed is not None:
            raise ValueError("best_trial: it failed")
        elif self.weights != self.trials[self.best_trial].weights:
            raise ValueError("weights: they are not the best trial's")
        return self

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

    compression_rate: Annotated[float, Field(ge=1, lt=1e100)]
    threshold: Annotated[float, Field(ge=0, lt=1e100)]
    validation_loss: Measure
    best_epoch: Count
    """0 = the weights before the first epoch."""
    epochs: Count
    stopped: Stopped
    seconds: Seconds
    other_load: Share | None
    """As of a trial."""

    @property
    def measured_alone(self) -> bool:
        return self.other_load is not None and self.other_load < ALONE


class FeatureCounts(RunFile):
    count: Count
    without_dimensions: Count


class PruneRun(RunFile):
    """The result of a pruning, measured on test."""

    metrics: dict[str, Measure] = {}
    validation_loss: Measure | None = None
    """Of the pruned model: where a grid tunes a method, it chooses. A search that learns its selection has learned from it."""
    weights: Count = 0
    """Embedding weights that the search's selection let exist."""
    nonzeros: Count = 0
    """Embedding weights that are left."""
    projection_weights: Count = 0
    threshold: Annotated[float, Field(ge=0, lt=1e100)] = 0.0
    """Weights of smaller importance were pruned (epsilon of Eq. 9)."""
    bytes: dict[str, dict[str, Count]] = {}
    """What the embeddings take: layout -> precision -> bytes (`nisbench.embedding.storage`). Projections are not in it."""
    rounded_metrics: dict[str, dict[str, float]] = {}
    """Precision -> what `metrics` are where the embeddings are rounded to it, without training after it."""
    offset: float = 0.0
    """The number that recalibration adds to all predictions (logits, where the task predicts these)."""
    mean_prediction: float | None = None
    """On test: of probabilities, where the task predicts logits. None where the task has no base rate."""
    mean_label: float | None = None
    """On test: the base rate."""
    size_mib: Size = 0.0
    """The paper's "Params (M)": MiB of a deflated SciPy COO file."""
    features: FeatureCounts = FeatureCounts(count=0, without_dimensions=0)
    test_instances: Count = 0
    rounds: list[Round] = []
    seconds: Seconds
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
        return (
            min((of[precision] for of in self.bytes.values() if precision in of), default=0)
            + 4 * self.projection_weights
        )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if bool(self.metrics) != (self.failed is None):
            raise ValueError("a pruning has either metrics or a reason for its failure")
        if self.nonzeros > self.weights:
            raise ValueError(f"nonzeros: {self.nonzeros} of {self.weights} weights")
        if self.features.without_dimensions > self.features.count:
            raise ValueError(
                f"features: {self.features.without_dimensions} of {self.features.count} without dimensions"
            )
        return self


T = TypeVar("T", bound=RunFile)


def write_run(path: Path, run: RunFile) -> None:
    write_json(path, run.model_dump(mode="json"))


def read_search(path: Path) -> SearchRun:
    return read_as(SearchRun, path)


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
        said = first["msg"].removeprefix("Value error, ").lower()
        raise bad_file(
            path,
            f"{shortened(key)}: {shortened(said, 300)}. This version of nisbench did not write it, or it is damaged",
        ) from None
