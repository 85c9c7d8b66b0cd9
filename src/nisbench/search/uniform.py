"""The reference at each size: one dimension for all features, with L2 penalty and learning rate tuned at that size."""

import numpy as np

from nisbench.params.methods import Uniform
from nisbench.search.budget import allowed, tuned
from nisbench.search.trial_spec import FeatureStats, TrialSpec, prefix_selection


def propose(settings: Uniform, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """One trial per pair of a penalty and a learning rate."""
    dimension = allowed(settings.budget, k)
    return tuned(settings, TrialSpec(f"dimension {dimension}", prefix_selection(np.full(len(features), dimension), k)))
