"""A control that the paper lacks: one dimension for all features, tuned together with the L2 penalty."""

from itertools import product

import numpy as np

from nisbench.params.methods import UniformTuned
from nisbench.search.trial_spec import FeatureStats, TrialSpec, prefix_selection


def propose(settings: UniformTuned, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """One trial per pair of a dimension and a penalty."""
    return [
        TrialSpec(f"dimension {d}, L2 {l2:g}", prefix_selection(np.full(len(features), d), k), l2=l2)
        for d, l2 in product(settings.dimensions, settings.l2)
    ]
