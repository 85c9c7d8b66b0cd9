"""Grid Search: one dimension for all features, every candidate tried."""

import numpy as np

from nisbench.params.methods import GridSearch
from nisbench.search.trial_spec import FeatureStats, TrialSpec, prefix_selection


def propose(settings: GridSearch, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """One trial per candidate dimension."""
    return [TrialSpec(f"dimension {d}", prefix_selection(np.full(len(features), d), k)) for d in settings.dimensions]
