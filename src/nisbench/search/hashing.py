"""The hashing trick (Weinberger et al. 2009, arXiv 0902.2206): the features of a field share fewer rows.

A field's features are numbered, and the number modulo the field's rows is a feature's row. So rows are shared evenly, which a hash
of tokens would not do.
"""

import numpy as np
import torch

from nisbench.embedding.composed import HashedTable
from nisbench.embedding.table import SelectedTable
from nisbench.params.methods import Hashing
from nisbench.search.budget import allowed, fitted, numbered, sizes_of_fields, tuned
from nisbench.search.trial_spec import FeatureStats, TrialSpec


def propose(settings: Hashing, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """One trial per pair of a penalty and a learning rate."""

    def table(drawn: SelectedTable) -> HashedTable:
        return HashedTable(drawn, torch.from_numpy(rows(settings, features, seed)))

    return tuned(settings, TrialSpec("", torch.ones(len(features), k), table=table))


def rows(settings: Hashing, features: FeatureStats, seed: int) -> np.ndarray:
    """(N,) the row of each feature. Every field has at least one, and its share of those that the budget allows."""
    sizes = sizes_of_fields(features)
    counts = fitted(sizes, 1, 1, sizes, allowed(settings.budget, int(sizes.sum())))
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    found: np.ndarray = first[features.field] + numbered(features, settings.order, seed) % counts[features.field]
    return found
