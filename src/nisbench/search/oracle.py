"""The oracle: on generated data, each feature is given the dimensions that were planted in it."""

import torch

from nisbench.params.settings import Oracle
from nisbench.search.proposal import Blocks, Proposal, prefix_selection


def propose(settings: Oracle, blocks: Blocks, k: int, seed: int) -> list[Proposal]:
    """A single trial, in which each feature is a block of its own."""
    assert blocks.planted is not None
    selection = prefix_selection(blocks.planted.copy(), k)  # a copy: torch warns of arrays that are read only
    return [Proposal("planted dimensions", selection, block=torch.arange(len(selection)))]
