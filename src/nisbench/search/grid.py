"""Grid Search: one dimension for all features, every candidate tried."""

import numpy as np

from nisbench.params.settings import GridSearch
from nisbench.search.proposal import Blocks, Proposal, prefix_selection


def propose(settings: GridSearch, blocks: Blocks, k: int, seed: int) -> list[Proposal]:
    """One trial per candidate dimension."""
    return [Proposal(f"dimension {d}", prefix_selection(np.full(len(blocks), d), k)) for d in settings.dimensions]
