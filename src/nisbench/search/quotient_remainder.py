"""The quotient-remainder trick (Shi et al. 2020, arXiv 1909.02107): two small tables per field, and no two features alike.

A field's features are numbered. Divided by c, the quotient is a feature's row in one table and the remainder its row in the other.
"""

import numpy as np
import torch

from nisbench.embedding.composed import QuotientRemainderTable
from nisbench.embedding.table import SelectedTable
from nisbench.params.methods import QuotientRemainder
from nisbench.search.budget import allowed, finest, numbered, sizes_of_fields, tuned
from nisbench.search.trial_spec import FeatureStats, TrialSpec


def propose(settings: QuotientRemainder, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """One trial per pair of a penalty and a learning rate."""

    def table(drawn: SelectedTable) -> QuotientRemainderTable:
        quotient, remainder = (torch.from_numpy(rows) for rows in rows_of_features(settings, features, seed))
        generator = torch.Generator().manual_seed(seed)
        return QuotientRemainderTable(drawn, quotient, remainder, settings.combine, generator)

    return tuned(settings, TrialSpec("", torch.ones(len(features), k), table=table))


def rows_of_features(settings: QuotientRemainder, features: FeatureStats, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) rows of quotients and (N,) of remainders; -1 where a field has a row for each feature, because that is smaller."""
    sizes = sizes_of_fields(features)
    divisor = divisors(sizes, allowed(settings.budget, int(sizes.sum())))
    quotients, remainders = -(-sizes // divisor), np.where(divisor > 1, divisor, 0)
    first = [np.concatenate([[0], np.cumsum(counts)[:-1]])[features.field] for counts in (quotients, remainders)]
    number, of_feature = numbered(features, settings.order, seed), divisor[features.field]
    remainder = np.where(of_feature > 1, first[1] + number % of_feature, -1)
    return first[0] + number // of_feature, remainder


def divisors(sizes: np.ndarray, limit: int) -> np.ndarray:
    """(M,) the divisor c of each field of so many features, for at most `limit` rows in all; 1 = a row for each feature.

    A field takes ceil(n / c) + c rows, which falls up to about c = sqrt(n). At each level, a field has the c up to that level
    which takes fewest.
    """
    c = np.arange(1, int(sizes.max() ** 0.5) + 2)[:, None]
    rows = -(-sizes // c) + np.where(c > 1, c, 0)
    fewest = np.minimum.accumulate(rows)
    levels = finest(fewest, limit)
    return 1 + np.array([rows[: level + 1, field].argmin() for field, level in enumerate(levels)])
