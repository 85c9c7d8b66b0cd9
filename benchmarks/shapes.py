"""Generated instances in the shapes of the data sets: their fields, numbers of features and skewed frequencies, nothing to learn."""

from dataclasses import dataclass
from typing import Literal

import torch

from nisbench.data.instances import Instances
from nisbench.evaluation.ctr import ClickThroughRate
from nisbench.evaluation.rating import RatingPrediction
from nisbench.evaluation.tasks import Task


@dataclass(frozen=True)
class Shape:
    """A data set's shape."""

    field_sizes: tuple[int, ...]
    scalar_fields: int
    models: tuple[str, ...]
    instances: int
    """In the real train set."""

    @property
    def task(self) -> Task:
        return ClickThroughRate() if self.scalar_fields else RatingPrediction()

    @property
    def features(self) -> int:
        return sum(self.field_sizes)


RATING, CTR = ("mf", "mlp", "neumf"), ("fm", "wide_deep", "deepfm")

# Criteo's vocabularies differ in size by orders of magnitude; these add up to the paper's 2.1 million features.
CRITEO = (1_000_000, 500_000, 250_000, 125_000, 80_000, 50_000, 30_000, 20_000, *[5_000] * 4, *[1_000] * 6, *[100] * 8)

SHAPES = {
    "movielens_1m": Shape((6_040, 3_706), 0, RATING, 800_167),
    "movielens_20m": Shape((138_493, 26_744), 0, RATING, 16_000_210),
    "criteo": Shape((1,) * 13 + CRITEO, 13, CTR, 36_672_494),
}


def of_features(features: int) -> Shape:
    """Two fields of so many features in all."""
    return Shape((features // 2, features - features // 2), 0, RATING, features)


def generate(shape: Shape, count: int, zipf: float = 1.1, seed: int = 1) -> Instances:
    """`count` instances; within a field, frequencies fall with the power `zipf` of their rank."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.empty(count, len(shape.field_sizes), dtype=torch.int32)
    first = 0
    for field, size in enumerate(shape.field_sizes):
        cumulated = (1.0 + torch.arange(size, dtype=torch.float64)).pow(-zipf).cumsum(0)
        drawn = torch.rand(count, dtype=torch.float64, generator=generator) * cumulated[-1]
        rank = torch.searchsorted(cumulated, drawn).clamp(max=size - 1)
        ids[:, field] = first + torch.randperm(size, generator=generator)[rank]
        first += size
    uniform = torch.rand(count, generator=generator)
    if not shape.scalar_fields:
        return Instances(ids, 1 + 4 * uniform)
    values = torch.ones(ids.shape)
    values[:, : shape.scalar_fields] = torch.rand(count, shape.scalar_fields, generator=generator)
    return Instances(ids, (uniform < 0.25).float(), values)


Mode = Literal["train", "dnis", "dnis_second_order", "grid_search"]
