"""A control that the paper lacks: one dimension for all features, tuned together with the L2 penalty."""

from itertools import product

import numpy as np

from nisbench.params.settings import UniformTuned
from nisbench.search.proposal import Blocks, Proposal, prefix_selection


def propose(settings: UniformTuned, blocks: Blocks, k: int, seed: int) -> list[Proposal]:
    """One trial per pair of a dimension and a penalty."""
    return [
        Proposal(f"dimension {d}, L2 {l2:g}", prefix_selection(np.full(len(blocks), d), k), l2=l2)
        for d, l2 in product(settings.dimensions, settings.l2)
    ]
