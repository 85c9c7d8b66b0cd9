"""Differentiable neural input search (paper, section 2.4): the selection is learned by gradient descent.

First order: after each step of the weights on a training batch, one step of the soft selection alpha descends the loss
of a validation batch, with the weights held fixed (Algorithm 1 with xi = 0).
"""

import torch
from torch import Tensor

from nisbench.data.instances import Instances
from nisbench.evaluation.tasks import Task
from nisbench.models.recommender import Recommender
from nisbench.params.settings import DNIS
from nisbench.search.proposal import Blocks, Proposal


def propose(settings: DNIS, blocks: Blocks, k: int, seed: int) -> list[Proposal]:
    """A single trial, from alpha = 1 everywhere."""

    def learner(recommender: Recommender, task: Task) -> AlphaLearner:
        return AlphaLearner(recommender, task, settings)

    return [Proposal("soft selection", torch.ones(len(blocks), k), learner)]


class AlphaLearner:
    """Learns alpha in [0, 1]: by Adam, on gradients normalised row by row."""

    def __init__(self, recommender: Recommender, task: Task, settings: DNIS) -> None:
        self.task = task
        self.alpha = recommender.embedding.selection
        self.epsilon = settings.gradient_epsilon
        self.optimizer = torch.optim.Adam([self.alpha], settings.learning_rate, fused=True)

    def step(self, recommender: Recommender, batch: Instances) -> None:
        self.alpha.grad = normalised(alpha_gradient(recommender, self.task, batch), self.epsilon)
        self.optimizer.step()
        self.alpha.clamp_(0, 1)

    def state(self) -> dict[str, Tensor]:
        return dict(self.optimizer.state_dict()["state"].get(0, {}))

    def load_state(self, state: dict[str, Tensor]) -> None:
        whole = self.optimizer.state_dict()
        whole["state"] = {0: state} if state else {}
        self.optimizer.load_state_dict(whole)


def alpha_gradient(recommender: Recommender, task: Task, batch: Instances) -> Tensor:
    """Gradient (L, K) of the batch's loss by alpha alone; no gradient of the weights is computed."""
    alpha = recommender.embedding.selection.requires_grad_()
    try:
        (gradient,) = torch.autograd.grad(task.loss(recommender(batch), batch.labels), alpha)
    finally:
        alpha.requires_grad_(False)
    return gradient


def normalised(gradient: Tensor, epsilon: float) -> Tensor:
    """Each row divided by its mean absolute value + epsilon (Eq. 8), so that rare blocks learn as fast as frequent ones."""
    return gradient / (gradient.abs().mean(1, keepdim=True) + epsilon)
