"""Controls without embeddings: what the global mean explains, and what first-order weights add to it."""

import torch

from nisbench.params.settings import NoEmbeddings
from nisbench.search.proposal import Blocks, Proposal


def propose(settings: NoEmbeddings, blocks: Blocks, k: int, seed: int) -> list[Proposal]:
    """A single trial, in which no feature has a dimension."""
    return [Proposal("first-order weights" if settings.biases else "a constant", torch.zeros(len(blocks), k))]
