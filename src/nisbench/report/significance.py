"""Is a difference between two methods more than noise? Paired t-tests over seeds.

Two methods are paired by seed. The seed draws initial weights and the order of batches. In a study with
``split_per_seed`` it draws the split too, the same for both methods; elsewhere all seeds share one split. So what is tested is
whether a difference would stay with other initial weights and, where the split is drawn, with other instances to train and to
test on; not whether it would stay on another data set.
"""

from typing import Literal

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


def interval(a: pd.Series, b: pd.Series) -> tuple[float, float, float]:
    """The mean of ``a - b`` over seeds, and the ends of its 95 % confidence interval; NaN for the ends with fewer than two seeds."""
    difference = (a - b).dropna().to_numpy()
    mean, n = float(difference.mean()) if len(difference) else float("nan"), len(difference)
    if n < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1) * difference.std(ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def against_best(values: pd.DataFrame, better: Better) -> pd.DataFrame:
    """For each row of `values` (methods, seeds): `p` of its difference from the best mean, and whether it is `best` or `tied`.

    p is adjusted for the number of rows by Benjamini and Hochberg (1995): of the rows told apart from the best, at most 5 %
    are expected to be told apart by chance. As the best row is chosen by these same values, it may be a few more. The best
    row has none. *Tied* rows are not told apart from it. Rows that failed at a seed are not compared, and with one seed,
    or with nothing to compare, there is no best row.
    """
    p, is_best = np.full(len(values), np.nan), np.zeros(len(values), dtype=bool)
    whole = values.notna().all(axis=1).to_numpy()
    if values.shape[1] > 1 and whole.sum() > 1:
        means = np.where(whole, values.mean(axis=1), np.nan)
        best = int(np.nanargmin(means) if better == "lower" else np.nanargmax(means))
        others = np.flatnonzero(whole & (np.arange(len(values)) != best))
        p[others] = stats.false_discovery_control([paired(values.iloc[i], values.iloc[best]) for i in others])
        is_best[best] = True
    return pd.DataFrame({"p": p, "best": is_best, "tied": p >= LEVEL}, index=values.index)


def rounded(p: float) -> float:
    """A p-value to two significant figures: it has no more to say."""
    return p if np.isnan(p) else float(f"{p:.2g}")


def shown(p: float) -> str:
    """A p-value to two significant figures, as text; nothing where there is none."""
    return "" if np.isnan(p) else f"{p:#.2g}"
