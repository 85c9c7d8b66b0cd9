"""The settings of single steps that are not a section of ``params/``."""

from typing import Annotated

from pydantic import Field, PositiveFloat

from nisbench.params.base import Settings
from nisbench.params.datasets import AnyDataset, AnySplit
from nisbench.params.methods import AnyMethod, Importance, Rewind
from nisbench.params.models import AnyModel
from nisbench.params.tasks import AnyTask
from nisbench.params.training import PRECISION, Precision, Training


class DownloadSettings(Settings):
    """Where an archive is and what it is: only the latter counts."""

    urls: Annotated[list[str], Field(exclude=True)]
    """Several files are packed into one archive."""
    md5s: Annotated[list[str | None], Field(exclude=True)]
    """Of each."""
    identity: str


class PrepareSettings(Settings):
    dataset: AnyDataset


class SplitSettings(Settings):
    split: AnySplit
    task: Annotated[AnyTask, Field(exclude=True)]
    """What they are for. It must be defined on each of them, but it changes none of their instances."""


class SearchSettings(Settings):
    """All that a search knows. It does not know which study asks for it."""

    task: AnyTask
    model: AnyModel
    method: AnyMethod
    training: Training
    seed: int


class PruneSettings(Settings):
    task: AnyTask
    model: AnyModel
    importance: Importance
    rounds: int
    rewind: Rewind | None
    recalibrate: bool
    compression_rate: float
    seed: int
    training: Training | None
    """Of what is left, after each round."""
    chosen_on: Annotated[float, Field(exclude_if=lambda share: share == 0)] = 0.0
    """The share of validation that the search kept apart, on which alone the result's validation loss is then taken."""
    deterministic: bool
    precision: Annotated[Precision, PRECISION] = "float32"
    device: Annotated[str, Field(exclude=True)]
    memory_limit: Annotated[PositiveFloat | None, Field(exclude=True)]
