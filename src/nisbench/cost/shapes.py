"""Instances in a data set's shape: its fields, numbers of features and how skewed their frequencies are, with nothing to learn."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from nisbench.data.instances import Instances
from nisbench.search.trial_spec import FeatureStats
from nisbench.tasks.ctr import ClickThroughRate
from nisbench.tasks.rating import RatingPrediction
from nisbench.tasks.task import Task
from nisbench.training.train_step import LARGE

BLOCKS = 10
FEATURES = 1 << 18
"""Where a step reads a batch's rows only, it is timed on a table of so many. It would take as long on a larger one."""

PLANTED = 4
"""The dimension that each feature truly has, to the oracle."""


@dataclass(frozen=True)
class Shape:
    """What the cost of training depends on, of a data set."""

    field_sizes: tuple[int, ...]
    """Features of each field; those of 1 are scalar."""
    skew: tuple[float, ...]
    """Of each field: frequencies fall with this power of their rank."""
    instances: int
    """To train on in an epoch."""

    @property
    def features(self) -> int:
        return sum(self.field_sizes)

    @property
    def scalar_fields(self) -> int:
        return self.field_sizes.count(1)

    @property
    def task(self) -> Task:
        """One with a loss like the data set's; what it measures is of no interest."""
        return ClickThroughRate() if len(self.field_sizes) > 2 else RatingPrediction()


def of_rows_read(shape: Shape, width: int) -> Shape:
    """A smaller shape, of which a batch reads nearly as many different rows: rare features are left out.

    A table of that `width` is still large enough for steps that read rows.
    """
    share = min(1.0, max(FEATURES, 2 * LARGE // width) / shape.features)
    sizes = tuple(size if size == 1 else max(2, int(size * share)) for size in shape.field_sizes)
    return shape if share == 1 else replace(shape, field_sizes=sizes)


@lru_cache(maxsize=4)
def features_stats(shape: Shape) -> FeatureStats:
    """What a method may know of the features, in blocks of the same number of features."""
    frequency = np.concatenate(
        [
            shape.instances * (weights := 1.0 / np.arange(1, size + 1) ** skew) / weights.sum()
            for size, skew in zip(shape.field_sizes, shape.skew, strict=True)
        ]
    )
    block = np.empty(shape.features, dtype=np.int64)
    block[np.argsort(-frequency, kind="stable")] = np.arange(shape.features) * BLOCKS // shape.features
    return FeatureStats.of(block, frequency, shape.field_sizes, planted=np.full(shape.features, PLANTED))


def of_fields(field_sizes: tuple[int, ...], instances: int) -> Shape:
    """Two fields as skewed as MovieLens-1M's, in which a batch of 4,096 has as many different users and items; or more, as clicks'."""
    return Shape(field_sizes, (0.65, 0.8) if len(field_sizes) == 2 else (1.1,) * len(field_sizes), instances)


def of_ratings(users: int, items: int, instances: int) -> Shape:
    """A field of users and one of items."""
    return of_fields((users, items), instances)


def of_clicks(scalar: int, categorical: int, features: int, instances: int) -> Shape:
    """Scalar fields and so many `features` in categorical ones, whose sizes differ by orders of magnitude, as Criteo's do."""
    falling = np.geomspace(1.0, 1e-4, categorical)
    sizes = np.maximum(2, falling / falling.sum() * features).astype(int)
    sizes[0] += features - sizes.sum()
    return of_fields((*[1] * scalar, *sizes.tolist()), instances)


@lru_cache(maxsize=2)
def generate(shape: Shape, count: int, device: torch.device, seed: int = 1) -> Instances:
    """`count` instances on `device`."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.empty(count, len(shape.field_sizes), dtype=torch.int32)
    first = 0
    for field, (size, skew) in enumerate(zip(shape.field_sizes, shape.skew, strict=True)):
        cumulated = (1.0 + torch.arange(size, dtype=torch.float64)).pow(-skew).cumsum(0)
        drawn = torch.rand(count, dtype=torch.float64, generator=generator) * cumulated[-1]
        rank = torch.searchsorted(cumulated, drawn).clamp(max=size - 1)
        ids[:, field] = first + torch.randperm(size, generator=generator)[rank]
        first += size
    uniform = torch.rand(count, generator=generator)
    if len(shape.field_sizes) == 2:
        return Instances(ids.to(device), (1 + 4 * uniform).to(device))
    values = torch.where(torch.tensor(shape.field_sizes) == 1, uniform[:, None], 1.0)
    return Instances(ids.to(device), (uniform < 0.25).float().to(device), values.to(device))
