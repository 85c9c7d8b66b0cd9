"""Quantisation-aware training: one dimension and one bit width for all features (LSQ+, Bhalgat et al. 2020, arXiv 2004.09576).

Weights are trained in the bits that they are stored in. The dimension is as large as the budget in bytes allows: it is `uniform`
with more dimensions of fewer bits.
"""

import torch

from nisbench.embedding.quantised import QuantisedTable, Storage
from nisbench.embedding.table import SelectedTable
from nisbench.errors import NisbenchError
from nisbench.params.methods import Quantised
from nisbench.search.budget import allowed, tuned
from nisbench.search.trial_spec import FeatureStats, TrialSpec


def propose(settings: Quantised, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """One trial per pair of a penalty and a learning rate."""
    n = len(features.block)
    found = dimension(n, k, settings.bits, settings.budget)

    def table(drawn: SelectedTable) -> QuantisedTable:
        return QuantisedTable(drawn, torch.zeros(n, dtype=torch.int64), [settings.bits], settings.step_learning_rate)

    selection = torch.zeros(len(features), k)
    selection[:, :found] = 1
    return tuned(settings, TrialSpec(f"{found} dimensions of {settings.bits} bits", selection, table=table))


def dimension(features: int, k: int, bits: int, budget: float) -> int:
    """The most dimensions, at most `k`, within a share of `k` float32 dimensions. Raises `NisbenchError` if there is no room for one.

    A model with wider embeddings keeps within that share, too: its offsets and steps are no larger in proportion.
    """
    limit, found = allowed(budget, features * k), k
    while found and Storage(features, found, (bits,)).weights(features * found * bits) > limit:
        found -= 1
    if not found:
        raise NisbenchError(
            f"one dimension of {bits} bits takes {4 * Storage(features, 1, (bits,)).weights(features * bits):,} bytes, but the "
            f"budget is {4 * limit:,}; leave out this compression rate"
        )
    return found
