"""Low rank: each field's table is a product A B, with A (n, r) and B (r, K) trained from scratch.

It is the baseline that MDE generalises (Ginart et al. 2019, arXiv 1909.11810): as many blocks as fields, each with one dimension.
"""

import numpy as np
import torch

from nisbench.embedding.composed import LowRankTable
from nisbench.embedding.table import SelectedTable
from nisbench.params.methods import LowRank
from nisbench.search.budget import allowed, finest, sizes_of_fields, tuned
from nisbench.search.trial_spec import FeatureStats, TrialSpec


def propose(settings: LowRank, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """One trial per pair of a penalty and a learning rate."""

    def table(drawn: SelectedTable) -> LowRankTable:
        sizes = sizes_of_fields(features)
        found = ranks(sizes, drawn.width, allowed(settings.budget, int(sizes.sum()) * drawn.width))
        return LowRankTable(drawn, sizes.tolist(), found, torch.Generator().manual_seed(seed))

    return tuned(settings, TrialSpec("", torch.ones(len(features), k), table=table))


def ranks(sizes: np.ndarray, width: int, limit: int) -> list[int]:
    """The rank of each field of so many features, for at most `limit` weights in all; `width` = not factored.

    A field takes (n + width) * rank weights, or n * width if that is less.
    """
    by_level = np.arange(width, 0, -1)
    factored, whole = np.outer(by_level, sizes + width), sizes * width
    levels = finest(np.minimum(factored, whole), limit)
    smaller = factored[levels, np.arange(len(sizes))] < whole
    found: list[int] = np.where(smaller, by_level[levels], width).tolist()
    return found
