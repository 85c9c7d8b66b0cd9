"""Magnitude pruning while training, on a rising schedule.

`deeplight` is that of DeepLight (Deng et al. 2021, arXiv 2002.06987): the share that is pruned approaches its target
exponentially. `cubic` is that of Zhu and Gupta (2017, arXiv 1710.01878). DeepLight keeps no mask: weights are set to 0 now and
then, and may grow back in between. With a mask, what is pruned stays so for as long as its magnitude is among the least.

Validation always sees the final share. Otherwise it would choose an early, denser model. It chooses no epoch before the schedule
is at its end: until then a loss that does not fall says nothing.
"""

import torch
from torch import Tensor

from nisbench.data.instances import Instances
from nisbench.embedding.table import SelectedTable
from nisbench.models.recommender import Recommender
from nisbench.params.methods import Gradual
from nisbench.search.trial_spec import FeatureStats, TrialSpec
from nisbench.training.selection_optimizer import PacedOptimizer

NEAR = 1e-3
"""How near the schedule must have come to its target, relatively, before validation chooses an epoch (as in Hetu's comparison)."""


def propose(settings: Gradual, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """A single trial. Each feature is a block of its own, so that the selection can mask single weights."""
    n = len(features.block)
    return [
        TrialSpec(
            f"pruned to {100 * settings.budget:g} % while training",
            torch.ones(n, k),
            lambda *_: Pruner(settings),
            block=torch.arange(n),
            table=trained_whole,
            patience=settings.patience,
        )
    ]


def trained_whole(table: SelectedTable) -> SelectedTable:
    """The same table; steps on the rows of a batch would leave the others behind, and all are pruned."""
    table.row_parameters = ()
    return table


class Pruner(PacedOptimizer):
    """Prunes every few steps. A weight under the mask is kept, has no gradient, and is compared with the others at the next."""

    def __init__(self, settings: Gradual) -> None:
        self.settings, self.steps, self.epochs = settings, torch.zeros(()), torch.zeros(())

    def begin_epoch(self, recommender: Recommender, _learning_rate: float) -> None:
        if self.settings.keep_mask and int(self.steps):
            self._prune(recommender)
        else:
            recommender.selected.selection.fill_(1)
        self.epochs += 1

    def step(self, recommender: Recommender, validation: Instances, training: Instances) -> None:  # noqa: ARG002
        if self.epochs > self.settings.warm_start_epochs:
            if int(self.steps) % self.settings.every == 0:
                self._prune(recommender)
            self.steps += 1

    def finalize(self, recommender: Recommender) -> None:
        table = recommender.selected
        table.selection.copy_(largest(table.weight, self.settings.budget))

    def settled(self) -> bool:
        return share(self.settings, int(self.steps)) >= (1 - NEAR) * (1 - self.settings.budget)

    def _prune(self, recommender: Recommender) -> None:
        table = recommender.selected
        kept = largest(table.weight, 1 - share(self.settings, int(self.steps)))
        if self.settings.keep_mask:
            table.selection.copy_(kept)
        else:
            with torch.no_grad():
                table.weight.mul_(kept)

    def state(self) -> dict[str, Tensor]:
        return {"steps": self.steps, "epochs": self.epochs}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.steps.copy_(state["steps"])
        self.epochs.copy_(state["epochs"])


def share(settings: Gradual, step: int) -> float:
    """The share of weights that is pruned after so many steps since the warm start."""
    target = 1 - settings.budget
    if settings.schedule == "cubic":
        return target * (1 - (1 - min(1.0, step / settings.ramp_steps)) ** 3)
    return float(target * (1 - 0.5 ** (step / settings.half_life_steps)))


def largest(weights: Tensor, share_kept: float) -> Tensor:
    """A mask (N, width) of 1 for the share of weights that are largest, and 0 for the others."""
    mask = torch.zeros_like(weights)
    count = int(share_kept * weights.numel() + 1e-9)
    mask.view(-1)[weights.detach().abs().flatten().topk(count).indices] = 1
    return mask
