"""The full table: all dimensions for all features, for pruning by weight (Han et al. 2015, arXiv 1506.02626)."""

import torch

from nisbench.params.methods import FullTable
from nisbench.search.trial_spec import FeatureStats, TrialSpec


def propose(settings: FullTable, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """A single trial."""
    return [TrialSpec(f"dimension {k}", torch.ones(len(features), k))]
