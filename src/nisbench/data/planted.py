"""Features of known truth, which generated data sets share.

Features of a field occur with Zipf frequencies. Every feature has a *planted dimension*: only its first that many true
embedding weights differ from 0. It falls with the feature's frequency level and scatters around it, so frequency alone
does not tell it.
"""

from dataclasses import dataclass

import numpy as np

from nisbench.params.datasets import Planted


@dataclass(frozen=True)
class PlantedField:
    """A categorical field's features: what they are and how often they occur."""

    dimensions: np.ndarray
    """(n,) int64 planted dimensions."""
    embeddings: np.ndarray
    """(n, rank) true embeddings."""
    cumulated: np.ndarray
    """(n,) cumulated probabilities, by falling frequency."""
    by_rank: np.ndarray
    """(n,) the feature of each frequency rank."""

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """`count` occurrences: (count,) numbers of features."""
        rank = np.searchsorted(self.cumulated, generator.random(count), side="right")
        return self.by_rank[np.minimum(rank, len(self.by_rank) - 1)]


def field(size: int, settings: Planted, generator: np.random.Generator) -> PlantedField:
    """A field of `size` features."""
    by_rank = generator.permutation(size)  # a feature's number must not tell its frequency
    rank_of = np.argsort(by_rank)
    probability = (1.0 + np.arange(size)) ** -settings.zipf_exponent
    dimensions = planted_dimensions(rank_of, settings, generator)
    exists = np.arange(settings.rank) < dimensions[:, None]
    embeddings = generator.standard_normal((size, settings.rank)) * exists
    return PlantedField(dimensions, embeddings, np.cumsum(probability / probability.sum()), by_rank)


def planted_dimensions(rank_of: np.ndarray, settings: Planted, generator: np.random.Generator) -> np.ndarray:
    """Dimensions (n,) in 1..rank of features with these frequency ranks (0 = most frequent)."""
    level = rank_of * settings.levels // len(rank_of)
    centre = settings.rank - level * (settings.rank - 1) / max(settings.levels - 1, 1)
    spread = generator.integers(-settings.scatter, settings.scatter, size=len(rank_of), endpoint=True)
    return np.clip(np.rint(centre + spread), 1, settings.rank).astype(np.int64)
