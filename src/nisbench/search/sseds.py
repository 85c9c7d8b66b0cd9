"""Single-shot embedding dimension search: SSEDS (Qu et al. 2022, arXiv 2204.03281), after its description.

The full table is trained. Then one pass over the data gives each dimension of each block its saliency: how much the loss would
change if its weights were scaled. Pruning keeps the most salient dimensions within the budget, whole, and trains them anew.

The paper's unit is the field. Here it is the data set's block: data of two fields would leave two decisions.
"""

import torch
from torch import Tensor

from nisbench.embedding.table import SelectedTable
from nisbench.models.recommender import Recommender
from nisbench.params.methods import SSEDS
from nisbench.search.trial_spec import FeatureStats, TrialSpec
from nisbench.tasks.task import LearningSplit
from nisbench.training.trainer import Data

BATCH = 4096


def propose(settings: SSEDS, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """A single trial: the full table, ranked once it is trained."""

    def finish(recommender: Recommender, data: Data) -> None:
        table = recommender.selected
        values = saliency(recommender, data, settings.saliency_on, seed, settings.absolute)
        if settings.per_weight:
            values = values / torch.as_tensor(features.sizes, device=values.device)[:, None]
        # From 1, because 0 would not exist; the same for all weights of a dimension of a block, which go or stay together.
        _, ranks = torch.unique(values, return_inverse=True)
        table.importance = (ranks + 1).float()[table.block.long()]

    return [TrialSpec("full table", torch.ones(len(features), k), finish=finish)]


def saliency(recommender: Recommender, data: Data, on: LearningSplit, seed: int, absolute: bool) -> Tensor:
    """How much the loss depends on each dimension of each block, in one pass over a split: (L, width).

    It is the gradient by a factor of 1 on these weights: the sum over the block of weight times gradient. With `absolute`, the
    absolute values of batches are added up: where training has converged, the gradients of all of train cancel out.
    """
    instances = data.task.examples(on, data.training if on == "train" else data.validation, seed)
    table = recommender.selected
    total = torch.zeros_like(table.selection)
    for start in range(0, len(instances), BATCH):
        batch = instances[slice(start, start + BATCH)]
        (gradient,) = torch.autograd.grad(data.task.loss(recommender(batch), batch.labels), table.weight)
        of_batch = by_block(table, table.weight.detach() * gradient) * (len(batch) / len(instances))
        total += of_batch.abs() if absolute else of_batch
    return total.abs()


def by_block(table: SelectedTable, values: Tensor) -> Tensor:
    """The sums of values (N, width) over each block: (L, width)."""
    return torch.zeros_like(table.selection).index_add_(0, table.block.long(), values)
