"""The full table: every dimension for every feature, to be pruned weight by weight (Han et al. 2015, arXiv 1506.02626)."""

import torch

from nisbench.params.settings import FullTable
from nisbench.search.proposal import Blocks, Proposal


def propose(settings: FullTable, blocks: Blocks, k: int, seed: int) -> list[Proposal]:
    """A single trial."""
    return [Proposal(f"dimension {k}", torch.ones(len(blocks), k))]
