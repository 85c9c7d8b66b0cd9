"""Is a difference between two methods more than noise? Paired t-tests over seeds.

Two methods are paired by seed: the seed draws initial weights and the order of batches. The split is one and the same,
so what is tested is whether a difference would stay with other seeds, not with other data.
"""

from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.05
ROUNDING = 1e-9
"""Relative to what is compared: less is no difference."""

Better = Literal["lower", "higher"]


def paired(a: pd.Series, b: pd.Series) -> float:
    """Two-sided p-value of a paired t-test over seeds; NaN with fewer than two, 1 where all pairs are equal."""
    difference = (a - b).dropna().to_numpy()
    if len(difference) < 2:
        return float("nan")
    largest = np.abs(difference).max()
    if largest <= ROUNDING * max(a.abs().max(), b.abs().max()):
        return 1.0
    if np.ptp(difference) <= ROUNDING * largest:  # the same at every seed, as metrics that count can be: t is infinite
        return float(2.0 ** (1 - len(difference)))  # by their signs
    return float(stats.ttest_1samp(difference, 0).pvalue)


def against_best(values: pd.DataFrame, better: Better) -> pd.Series:
    """For each row of `values` (methods, seeds): the p-value of its difference from the row with the best mean.

    Adjusted for their number by Benjamini and Hochberg (1995): of the rows told apart from the best, at most 5 % are
    expected to be told apart by chance. As the best row is chosen by these same values, it may be a few more. The best
    row has 1; all rows have NaN where there is one seed only.
    """
    means = values.mean(axis=1)[values.notna().all(axis=1)]  # a method that failed at a seed is not compared
    if means.empty:
        return pd.Series(float("nan"), index=values.index)
    best = means.idxmin() if better == "lower" else means.idxmax()
    of_best = values.loc[means.index][means.index == best].iloc[0]
    raw = pd.Series(
        {key: paired(row, of_best) for key, row in values.loc[means.index].iterrows() if key != best}, dtype=float
    )
    if raw.isna().any():
        return pd.Series(float("nan"), index=values.index)
    adjusted: dict[Any, float] = (
        dict(zip(raw.index, stats.false_discovery_control(raw), strict=True)) if len(raw) else {}
    )
    alone = float("nan") if values.shape[1] < 2 else 1.0
    of_rows = adjusted | {best: alone}
    return pd.Series([of_rows.get(key, float("nan")) for key in values.index], index=values.index)


def marked(means: pd.Series, p: pd.Series, better: Better) -> pd.Series:
    """Which rows to mark: those better than every row that is told apart from the best; none if no row is."""
    worse = means[p < LEVEL]
    if worse.empty:
        return pd.Series(data=False, index=means.index)
    found: pd.Series = means < worse.min() if better == "lower" else means > worse.max()
    return found & p.notna()
