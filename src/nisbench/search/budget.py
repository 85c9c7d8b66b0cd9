"""Budgets: how many weights they allow, and sizes that come as near to them as whole numbers can."""

from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from nisbench.errors import NisbenchError
from nisbench.params.methods import TunedAtBudget
from nisbench.search.trial_spec import FeatureStats, TrialSpec

ROUNDING = 1e-9
"""A compression rate's inverse is rarely exact: 60 weights at 3 / 60 are to be 3."""

LEAST_WEIGHT = 1e-12
"""Of the largest proportion: what is below counts as this."""


def allowed(budget: float, full: int) -> int:
    """The most weights that a share of `full` allows."""
    return int(full * budget + ROUNDING)


def fitted(weights: ArrayLike, sizes: ArrayLike, low: ArrayLike, high: ArrayLike, limit: int) -> np.ndarray:
    """(n,) whole numbers x in proportion to `weights`, in [low, high], with sum(sizes * x) as near to `limit` as it can be.

    They are floor(t * weights), cut off, for the largest t that keeps within the limit. What is left then raises numbers by 1,
    from the first on: none could be raised further. All arguments are (n,) or numbers. Raises `NisbenchError` if `low` is too
    much.
    """
    proportions, size, least, most = np.broadcast_arrays(np.atleast_1d(weights), sizes, low, high)
    if int(least @ size) > limit:
        raise NisbenchError(f"the budget of {limit:,} weights is below the least size, {int(least @ size):,}")
    proportions = np.maximum(proportions / max(proportions.max(), LEAST_WEIGHT), LEAST_WEIGHT)

    def at(factor: float) -> np.ndarray:
        whole: np.ndarray = np.floor(factor * proportions).clip(least, most).astype(np.int64)
        return whole

    below, above = 0.0, 2 * float(most.max()) / LEAST_WEIGHT
    for _ in range(110):
        middle = (below + above) / 2
        if int(at(middle) @ size) <= limit:
            below = middle
        else:
            above = middle
    found = at(below)
    left = limit - int(found @ size)
    while True:
        room = np.flatnonzero((found < most) & (size <= left))
        if not len(room):
            return found
        for i in room:
            if size[i] <= left:
                found[i] += 1
                left -= int(size[i])


def finest(costs: np.ndarray, limit: int) -> np.ndarray:
    """(M,) a level for each field, from 0, so that the levels' costs add up to at most `limit`.

    `costs` are (levels, M), and do not rise with the level. All fields get the first level at which they fit together; then each,
    those of the highest costs first, the first that fits. Raises `NisbenchError` if none fits.
    """
    totals = costs.sum(1)
    if totals[-1] > limit:
        raise NisbenchError(
            f"this method needs at least {100 * totals[-1] / totals[0]:.3g} % of the full table's weights on this data set, but "
            f"its budget is {100 * limit / totals[0]:.3g} %; leave out this compression rate"
        )
    levels = np.full(costs.shape[1], np.argmax(totals <= limit))
    for field in np.argsort(-costs[0], kind="stable"):
        room = limit - costs[levels, np.arange(len(levels))].sum() + costs[levels[field], field]
        levels[field] = np.argmax(costs[:, field] <= room)
    return levels


def numbered(features: FeatureStats, order: str, seed: int) -> np.ndarray:
    """(N,) the number of each feature within its field, from 0: at random, or by falling frequency."""
    if order == "frequency":
        by_field = np.lexsort((-features.frequency, features.field))
    else:
        by_field = np.lexsort((np.random.default_rng(seed).random(len(features.field)), features.field))
    first = np.concatenate([[0], np.cumsum(sizes_of_fields(features))[:-1]])
    numbers = np.empty(len(by_field), dtype=np.int64)
    numbers[by_field] = np.arange(len(by_field)) - first[features.field[by_field]]
    return numbers


def sizes_of_fields(features: FeatureStats) -> np.ndarray:
    """(M,) features of each field."""
    return np.bincount(features.field)


def tuned(settings: TunedAtBudget, spec: TrialSpec) -> list[TrialSpec]:
    """The trial with each pair of an L2 penalty and a learning rate."""
    prefix = f"{spec.name}, " if spec.name else ""
    return [
        replace(spec, name=f"{prefix}L2 {l2:g}, learning rate {rate:g}", l2=l2, learning_rate=rate)
        for l2, rate in product(settings.l2, settings.learning_rate)
    ]
