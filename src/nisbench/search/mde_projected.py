"""Mixed dimension embeddings with blocks of their own and projections (Ginart et al. 2019, arXiv 1909.11810).

A block's dimension is lambda p^a, with p the mean probability of a feature of the block, within its field, and a the
temperature. Lambda gives the block of highest p the base dimension or, under a budget, is the largest that keeps within
it.
"""

from collections.abc import Callable

import numpy as np
import torch

from nisbench.params.methods import MDEProjected, ProjectedSetting
from nisbench.search.trial_spec import FeatureStats, TrialSpec, prefix_selection


def propose(settings: MDEProjected, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """One trial per setting."""
    block = own_blocks(settings, features)
    sizes = np.bincount(block)
    probability = np.bincount(block, weights=features.frequency) / sizes
    # Every instance has one feature of each field: the field's occurrences are those of all instances.
    probability /= np.bincount(features.field, weights=features.frequency).max()
    specs = []
    for setting in settings.settings:
        found = dimensions(setting, probability, sizes, settings, k)
        within = "" if setting.budget is None else f", budget {setting.budget:g}"
        name = (
            f"base {setting.base_dimension}, temperature {setting.temperature:g}{within}: {'-'.join(map(str, found))}"
        )
        specs.append(
            TrialSpec(name, prefix_selection(found, k), block=torch.from_numpy(block), projected=setting.base_dimension)
        )
    return specs


def own_blocks(settings: MDEProjected, features: FeatureStats) -> np.ndarray:
    """(N,) block of each feature: its field or, within fields, blocks of equal mass by falling frequency."""
    if settings.blocks_per_field is None:
        return features.field
    block = np.empty(len(features.field), dtype=np.int64)
    first = 0
    for field in range(int(features.field.max()) + 1):
        members = np.flatnonzero(features.field == field)
        ordered = members[np.argsort(-features.frequency[members], kind="stable")]
        before = np.cumsum(features.frequency[ordered]) - features.frequency[ordered]
        total = max(features.frequency[members].sum(), 1)
        number = np.minimum(before * settings.blocks_per_field // total, settings.blocks_per_field - 1)
        # A very frequent feature may leave the block after its own empty: numbers are made contiguous.
        block[ordered] = first + np.unique(number, return_inverse=True)[1]
        first = int(block[ordered].max()) + 1
    return block


def dimensions(
    setting: ProjectedSetting, probability: np.ndarray, sizes: np.ndarray, settings: MDEProjected, k: int
) -> np.ndarray:
    """(L,) dimensions in [1, k]: `probability` (L,) is the mean over a block's features, `sizes` (L,) their number."""
    power = np.maximum(probability, 1e-12) ** setting.temperature
    most = min(k, setting.base_dimension)

    def at(factor: float, rounding: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        found = factor * power
        if settings.power_of_two:
            found = 2 ** rounding(np.log2(np.maximum(found, 1)))
        whole: np.ndarray = rounding(found).clip(1, most).astype(np.int64)
        return whole

    if setting.budget is None:
        return at(setting.base_dimension / power.max(), np.rint)
    low, high = 0.0, most / power.min()
    if at(high, np.ceil) @ sizes <= setting.budget * sizes.sum():
        return at(high, np.ceil)
    for _ in range(100):  # the largest factor whose dimensions, rounded down and cut off, are within the budget
        middle = (low + high) / 2
        if at(middle, np.floor) @ sizes <= setting.budget * sizes.sum():
            low = middle
        else:
            high = middle
    return at(low, np.floor)
