"""What a search method answers with: selections to try."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nisbench.evaluation.tasks import Task
from nisbench.models.recommender import Recommender
from nisbench.training.learner import SelectionLearner


@dataclass(frozen=True)
class Blocks:
    """What a method may know of the features."""

    sizes: np.ndarray
    """(L,) features in each block; block 0 holds the most frequent."""
    mass: np.ndarray
    """(L,) share of all feature occurrences in train that fall into each block."""
    frequency: np.ndarray
    """(N,) occurrences of each feature in train."""
    field: np.ndarray
    """(N,) the number of each feature's field."""
    planted: np.ndarray | None = None
    """(N,) the dimensions that features of generated data truly have: for the oracle alone."""

    @classmethod
    def of(
        cls, block: np.ndarray, frequency: np.ndarray, field_sizes: Sequence[int], planted: np.ndarray | None = None
    ) -> "Blocks":
        occurrences = np.bincount(block, weights=frequency)
        field = np.repeat(np.arange(len(field_sizes)), field_sizes)
        return cls(np.bincount(block), occurrences / occurrences.sum(), frequency, field, planted)

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class Proposal:
    """One trial: a selection to train under, and, if it is to change on the way, what changes it."""

    name: str
    selection: Tensor
    """(L, K) float32."""
    learner: Callable[[Recommender, Task], SelectionLearner] | None = None
    warm_start_epochs: int = 0
    """Epochs of training, at most, before the learner begins."""
    then: "Callable[[Tensor], Proposal] | None" = None
    """Given the selection (L, K) that this trial ends with, the one to train anew; only the latter is a result."""
    block: Tensor | None = None
    """(N,) the row of the selection that each feature has, in place of the data set's blocks."""
    projected: int | None = None
    """Project embeddings to this common dimension, block by block."""
    l2: float | None = None
    """Stands in for training.l2, where given."""
    patience: int | None = None
    """Stands in for training.patience, where given."""

    @property
    def plain(self) -> bool:
        """Whether weights alone are trained, under a selection of the data set's blocks that stays as it is."""
        return self.learner is None and self.then is None and self.block is None and self.projected is None

    def same_as(self, other: "Proposal") -> bool:
        """Whether training under the one is training under the other."""
        terms = (self.l2, self.patience) == (other.l2, other.patience)
        return self.plain and other.plain and terms and torch.equal(self.selection, other.selection)


def prefix_selection(dimensions: np.ndarray, k: int) -> Tensor:
    """(L, K): block b has its first ``dimensions[b]`` dimensions, at most K of them."""
    return (torch.arange(k) < torch.as_tensor(dimensions)[:, None]).float()
