"""The oracle: on generated data, each feature is given the dimensions that were planted in it."""

import torch

from nisbench.errors import NisbenchError
from nisbench.params.methods import Oracle
from nisbench.search.trial_spec import FeatureStats, TrialSpec, prefix_selection


def propose(settings: Oracle, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """A single trial, in which each feature is a block of its own."""
    if features.planted is None:
        raise NisbenchError("the oracle is for generated data alone: the features have no column planted_dimension")
    selection = prefix_selection(features.planted.copy(), k)  # a copy: torch warns of arrays that are read only
    return [TrialSpec("planted dimensions", selection, block=torch.arange(len(selection)))]
