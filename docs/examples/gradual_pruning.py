"""A search method: prune while training, gradually (Zhu & Gupta 2017, arXiv 1710.01878).

All embeddings have all dimensions at first. Before each epoch the smallest weights are masked, more and more of them, until the
share that is asked for is gone. What is left trains on, and can make up for what went.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from nisbench.models.recommender import Recommender
from nisbench.params.methods import Method
from nisbench.search.trial_spec import FeatureStats, TrialSpec
from nisbench.training.selection_optimizer import SelectionOptimizer


class GradualPruning(Method):
    """Magnitude pruning on a rising schedule, during training."""

    kind: Literal["gradual_pruning"]
    sparsity: Annotated[float, Field(gt=0, lt=1)]
    """Share of the weights that are 0 in the end."""
    ramp_epochs: PositiveInt
    """Epochs over which the share rises to that."""


def propose(settings: GradualPruning, features: FeatureStats, k: int, _seed: int) -> list[TrialSpec]:
    """A single trial. Each feature is a block of its own, so that the selection can mask single weights."""
    n = len(features.block)
    return [TrialSpec("gradual", torch.ones(n, k), lambda *_: MaskOptimizer(settings), block=torch.arange(n))]


class MaskOptimizer(SelectionOptimizer):
    """Makes the selection a mask of 0 and 1. A masked weight is kept, and could come back, but has no gradient."""

    def __init__(self, settings: GradualPruning) -> None:
        self.settings, self.epoch = settings, torch.zeros(())

    def begin_epoch(self, recommender: Recommender, _learning_rate: float) -> None:
        """Eq. 1, from a sparsity of 0 on, in steps of an epoch."""
        self.epoch += 1
        ramp = min(1.0, self.epoch.item() / self.settings.ramp_epochs)
        mask(recommender, self.settings.sparsity * (1 - (1 - ramp) ** 3))

    def finalize(self, recommender: Recommender) -> None:
        """Validation sees the final sparsity after every epoch. Otherwise an early, denser model would be kept as the best."""
        mask(recommender, self.settings.sparsity)

    def state(self) -> dict[str, Tensor]:
        """What a killed trial goes on with, beside its weights."""
        return {"epoch": self.epoch}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.epoch = state["epoch"]


def mask(recommender: Recommender, sparsity: float) -> None:
    """Select the largest weights: 1 for each, and 0 for the share `sparsity` of all."""
    table = recommender.selected
    largest = table.weight.abs().flatten().topk(round((1 - sparsity) * table.weight.numel())).indices
    table.selection.zero_().view(-1)[largest] = 1


EXAMPLE = {
    "kind": "gradual_pruning",
    "title": "Gradual pruning",
    "importance": "effective",
    "rounds": 0,
    "sparsity": 0.75,
    "ramp_epochs": 5,
}
