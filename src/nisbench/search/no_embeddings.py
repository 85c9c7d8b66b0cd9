"""Controls without embeddings: what the global mean explains, and what first-order weights add to it."""

import torch

from nisbench.params.methods import NoEmbeddings
from nisbench.search.trial_spec import FeatureStats, TrialSpec


def propose(settings: NoEmbeddings, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """A single trial, in which no feature has a dimension."""
    return [TrialSpec("first-order weights" if settings.biases else "a constant", torch.zeros(len(features), k))]
