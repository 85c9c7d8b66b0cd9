"""Random dimensions by parametric laws, exactly on budget: the control of BET (Qu et al. 2024, arXiv 2310.14884).

A trial draws a share of the budget for each field, and the slope of a law by which dimensions fall with the rank of a feature by
frequency within its field. Two or three random numbers stand for thousands of dimensions.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from scipy.special import ndtri

from nisbench.params.methods import Laws
from nisbench.params.methods.baselines import Law
from nisbench.search.budget import allowed, fitted, numbered, sizes_of_fields
from nisbench.search.trial_spec import FeatureStats, TrialSpec, prefix_selection

LAWS: Mapping[Law, Callable[[np.ndarray, float], np.ndarray]] = {
    "power": lambda x, slope: x**-slope,
    "exponential": lambda x, slope: np.exp(-slope * x),
    "normal": lambda x, slope: np.exp(-((slope * x) ** 2) / 2),
    "log_normal": lambda x, slope: np.exp(slope * ndtri(1 - x)),
}
"""Dimensions up to a factor, at the relative rank x in (0, 1) within a field: 0 is the most frequent feature."""


def propose(settings: Laws, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """`trials` draws. Features of the same dimension are the trial's blocks."""
    generator = np.random.default_rng(seed)
    specs = []
    for number in range(settings.trials):
        law, steepest = sorted(settings.laws.items())[number % len(settings.laws)]
        shares = generator.dirichlet(np.ones(len(sizes_of_fields(features))))
        slope = generator.uniform(0, steepest)
        found = dimensions(settings, features, k, LAWS[law], slope, shares)
        sizes, block = np.unique(found, return_inverse=True)
        mean = ", ".join(f"{found[features.field == field].mean():.3g}" for field in range(min(3, len(shares))))
        name = f"{law}, slope {slope:.3g}, mean dimensions {mean}{', ...' if len(shares) > 3 else ''}"
        specs.append(TrialSpec(name, prefix_selection(sizes, k), block=torch.from_numpy(block)))
    return specs


def dimensions(
    settings: Laws,
    features: FeatureStats,
    k: int,
    law: Callable[[np.ndarray, float], np.ndarray],
    slope: float,
    shares: np.ndarray,
) -> np.ndarray:
    """(N,) dimensions that use up the budget; `shares` (M,) are the fields'. A field that is full leaves the rest to the others."""
    sizes, low = sizes_of_fields(features), settings.min_dimension
    budgets = fitted(shares, 1, low * sizes, k * sizes, allowed(settings.budget, k * int(sizes.sum())))
    rank = numbered(features, "frequency", 0)
    found = np.empty(len(rank), dtype=np.int64)
    for field, (size, budget) in enumerate(zip(sizes, budgets, strict=True)):
        relative = (np.arange(size) + 0.5) / size
        members = np.flatnonzero(features.field == field)
        found[members] = fitted(law(relative, slope), 1, low, k, int(budget))[rank[members]]
    return found
