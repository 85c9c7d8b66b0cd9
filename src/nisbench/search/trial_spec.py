"""What a search method proposes: the trials to run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nisbench.embedding.table import SelectedTable, Table
from nisbench.models.recommender import Recommender
from nisbench.tasks.task import Task
from nisbench.training.selection_optimizer import SelectionOptimizer
from nisbench.training.trainer import Data


@dataclass(frozen=True)
class FeatureStats:
    """What a method may know of the features. All of it comes from train."""

    block: np.ndarray
    """(N,) the block of each feature; block 0 holds the most frequent."""
    sizes: np.ndarray
    """(L,) features in each block."""
    mass: np.ndarray
    """(L,) share of all feature occurrences that fall into each block."""
    frequency: np.ndarray
    """(N,) occurrences of each feature."""
    field: np.ndarray
    """(N,) the number of each feature's field."""
    planted: np.ndarray | None = None
    """(N,) the true dimensions of features of generated data: for the oracle alone."""

    @classmethod
    def of(
        cls, block: np.ndarray, frequency: np.ndarray, field_sizes: Sequence[int], planted: np.ndarray | None = None
    ) -> "FeatureStats":
        occurrences = np.bincount(block, weights=frequency)
        field = np.repeat(np.arange(len(field_sizes)), field_sizes)
        return cls(block, np.bincount(block), occurrences / occurrences.sum(), frequency, field, planted)

    def __len__(self) -> int:
        """L, the number of blocks."""
        return len(self.sizes)


@dataclass(frozen=True)
class TrialSpec:
    """One trial: a selection to train under and, if the selection is to change during training, what changes it."""

    name: str
    selection: Tensor
    """(L, K) float32."""
    selection_optimizer: Callable[[Recommender, Task], SelectionOptimizer] | None = None
    warm_start_epochs: int = 0
    """Epochs of training, at most, before the selection is optimized."""
    held_out: float = 0.0
    """Share of the validation instances that the selection does not learn from, and the epoch is chosen on; 0 = all serve both."""
    train_further: bool = False
    """Train the weights further once the selection is found."""
    then: "Callable[[Tensor], TrialSpec] | None" = None
    """Given the selection (L, K) that this trial ends with, a trial from scratch. Only that one can be the result."""
    block: Tensor | None = None
    """(N,) the row of the selection that each feature has, in place of the data set's blocks."""
    table: Callable[[SelectedTable], Table] | None = None
    """Makes the table to train from the selected table with its initial weights."""
    finish: Callable[[Recommender, Data], None] | None = None
    """Called once the trial is trained. It may set the table's selection, or rank its weights for pruning."""
    next: "Callable[[float], Sequence[TrialSpec]] | None" = None
    """Given this trial's validation loss (infinity if it failed), the trials to append."""
    epochs: int | None = None
    """Train for exactly so many epochs and keep the last: for what validation must not stop."""
    projected: int | None = None
    """Project embeddings to this common dimension, block by block."""
    l2: float | None = None
    """Replaces training.l2, if given."""
    learning_rate: float | None = None
    """Replaces training.learning_rate, if given."""
    patience: int | None = None
    """Replaces training.patience, if given."""

    @property
    def is_fixed(self) -> bool:
        """Whether weights alone are trained, under a selection of the data set's blocks that stays as it is."""
        special = (
            self.selection_optimizer, self.then, self.finish, self.epochs, self.block, self.table, self.projected,
        )  # fmt: skip
        return all(part is None for part in special)

    def has_terms_of(self, other: "TrialSpec") -> bool:
        """Whether both train with the same settings."""
        return (self.l2, self.learning_rate, self.patience) == (other.l2, other.learning_rate, other.patience)

    def same_as(self, other: "TrialSpec") -> bool:
        """Whether both trials train the same model."""
        both_fixed = self.is_fixed and other.is_fixed and self.has_terms_of(other)
        return both_fixed and torch.equal(self.selection, other.selection)


def prefix_selection(dimensions: np.ndarray, k: int) -> Tensor:
    """(L, K): block b has its first ``dimensions[b]`` dimensions, at most K of them."""
    return (torch.arange(k) < torch.as_tensor(dimensions)[:, None]).float()
