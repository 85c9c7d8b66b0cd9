"""Learned thresholds: PEP (Liu et al. 2021, arXiv 2101.07577).

Weights and thresholds are trained together, on train alone. Thresholds rise, and weights fall below them. The published settings
start thresholds where they have no gradient (a sigmoid of -150 is 0), and weight decay, which Adam turns into steps of the
learning rate, is what makes them rise. Start, learning rate and decay are settings here.

The search ends when few weights are left. It serves every budget: weights are ranked by the step at which they were last above their thresholds, and then by how
far they are above or below. Pruning keeps the highest ranks and trains them anew, from the initial weights as in the paper's
lottery ticket, or from others (`rewind`).
"""

import torch
from torch import Tensor

from nisbench.data.instances import Instances
from nisbench.embedding.table import Rate, SelectedTable
from nisbench.embedding.thresholded import ThresholdedTable
from nisbench.logs import log
from nisbench.models.recommender import Recommender
from nisbench.params.methods import PEP
from nisbench.search.trial_spec import FeatureStats, TrialSpec
from nisbench.training.selection_optimizer import PacedOptimizer
from nisbench.training.trainer import Data


def propose(settings: PEP, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """A single trial, whose end validation does not choose."""

    def table(drawn: SelectedTable) -> ThresholdedTable:
        n, width = drawn.features, drawn.width
        shapes = {
            "weight": (n, width),
            "feature": (n, 1),
            "dimension": (1, width),
            "block": (len(features), 1),
            "table": (1, 1),
        }
        rate = Rate(settings.threshold_learning_rate, settings.threshold_decay)
        shape = shapes[settings.threshold_per]
        return ThresholdedTable(drawn, shape, settings.threshold_start, rate, settings.threshold_per == "block")

    return [
        TrialSpec(
            f"thresholds per {settings.threshold_per}",
            torch.ones(len(features), k),
            lambda *_: Observer(settings),  # type: ignore[abstract] # the other methods do nothing
            table=table,
            finish=rank,
            epochs=settings.epochs,
            l2=settings.l2,
        )
    ]


class Observer(PacedOptimizer):
    """Notes which weights are above their thresholds."""

    def __init__(self, settings: PEP) -> None:
        self.settings, self.steps, self.left = settings, torch.zeros((), dtype=torch.int32), torch.ones(())

    def step(self, recommender: Recommender, validation: Instances, training: Instances) -> None:  # noqa: ARG002
        self.steps += 1
        if int(self.steps) % self.settings.observe_every == 0:
            observe(recommender, self.steps)

    def finalize(self, recommender: Recommender) -> None:
        self.left.copy_(share_left(recommender))

    def finished(self) -> bool:
        return float(self.left) <= self.settings.until

    def state(self) -> dict[str, Tensor]:
        return {"steps": self.steps, "left": self.left}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.steps.copy_(state["steps"])
        self.left.copy_(state["left"])


def observe(recommender: Recommender, step: Tensor) -> None:
    table = recommender.embedding
    assert isinstance(table, ThresholdedTable)
    table.last_alive.masked_fill_(table.margins() > 0, int(step))


def share_left(recommender: Recommender) -> Tensor:
    """The share of weights above their thresholds: ()."""
    table = recommender.embedding
    assert isinstance(table, ThresholdedTable)
    return (table.margins() > 0).float().mean()


def rank(recommender: Recommender, _data: Data) -> None:
    """Rank all weights, from 1: by the last step above the threshold and, where that is the same, by the margin."""
    table = recommender.embedding
    assert isinstance(table, ThresholdedTable)
    left = float(share_left(recommender))
    log.info("thresholds have taken %.1f %% of the weights", 100 * (1 - left))
    by_margin = table.margins().flatten().argsort(stable=True)
    order = by_margin[table.last_alive.flatten()[by_margin].argsort(stable=True)]
    ranks = torch.empty(len(order), dtype=torch.float64)
    ranks[order.cpu()] = torch.arange(1, len(order) + 1, dtype=torch.float64)
    table.importance = ranks.view(table.weight.shape)
