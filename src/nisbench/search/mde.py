"""Mixed dimension embeddings: dimensions by a power law of popularity (Ginart et al. 2019, arXiv 1909.11810).

As compared in the DNIS paper: on the blocks that all methods share, with prefix dimensions and no projections.
"""

import numpy as np

from nisbench.params.methods import MDE
from nisbench.search.trial_spec import FeatureStats, TrialSpec, prefix_selection


def propose(settings: MDE, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """One trial per pair of base dimension and temperature."""
    specs = []
    for pair in settings.settings:
        stair = staircase(features, pair.base_dimension, pair.temperature, settings.min_dimension, k)
        name = f"base {pair.base_dimension}, temperature {pair.temperature:g}: {'-'.join(map(str, stair))}"
        specs.append(TrialSpec(name, prefix_selection(stair, k)))
    return specs


def staircase(features: FeatureStats, base_dimension: int, temperature: float, low: int, k: int) -> np.ndarray:
    """(L,) dimensions floor(B p_b^a / sum_c p_c^a / n_b) within [low, k].

    The budget B is base_dimension * N weights, p_b a block's share of occurrences, n_b its size, a the temperature.
    What a block may not use beyond k is not given to others.
    """
    power = features.mass**temperature
    budget = base_dimension * features.sizes.sum()
    dimensions: np.ndarray = np.floor(budget * power / power.sum() / features.sizes)
    return dimensions.clip(low, k).astype(np.int64)
