"""Random Search: random dimensions that descend with the blocks' frequency (paper, section 3.1)."""

import numpy as np

from nisbench.params.settings import RandomSearch
from nisbench.search.proposal import Blocks, Proposal, prefix_selection


def propose(settings: RandomSearch, blocks: Blocks, k: int, seed: int) -> list[Proposal]:
    """`trials` random staircases."""
    generator = np.random.default_rng(seed)
    stairs = [staircase(len(blocks), settings.min_dimension, k, generator) for _ in range(settings.trials)]
    return [Proposal(f"dimensions {'-'.join(map(str, stair))}", prefix_selection(stair, k)) for stair in stairs]


def staircase(length: int, low: int, k: int, generator: np.random.Generator) -> np.ndarray:
    """(length,) descending dimensions in [low, k), drawn as in the released code: each uniform from the last to k."""
    drawn = []
    for _ in range(length):
        low = int(generator.integers(low, k))
        drawn.append(low)
    return np.array(drawn[::-1])
