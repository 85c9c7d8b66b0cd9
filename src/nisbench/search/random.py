"""Random Search: random dimensions that descend with the blocks' frequency (paper, section 3.1)."""

import numpy as np

from nisbench.params.methods import RandomSearch
from nisbench.search.trial_spec import FeatureStats, TrialSpec, prefix_selection


def propose(settings: RandomSearch, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """`trials` random staircases."""
    generator = np.random.default_rng(seed)
    stairs = [staircase(len(features), settings.min_dimension, k, generator) for _ in range(settings.trials)]
    return [TrialSpec(f"dimensions {'-'.join(map(str, stair))}", prefix_selection(stair, k)) for stair in stairs]


def staircase(length: int, low: int, k: int, generator: np.random.Generator) -> np.ndarray:
    """(length,) descending dimensions in [low, k), drawn as in the released code: each uniform from the last to k."""
    drawn = []
    for _ in range(length):
        low = int(generator.integers(low, k))
        drawn.append(low)
    return np.array(drawn[::-1])
