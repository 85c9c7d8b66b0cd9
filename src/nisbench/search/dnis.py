"""Differentiable neural input search (paper, section 2.4): the selection is learned by gradient descent.

After each step of the weights on a training batch, one step of the soft selection alpha descends the loss of a
validation batch (Algorithm 1). First order holds the weights fixed for it. Second order lets them follow alpha by one
step of descent.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from nisbench.data.instances import Instances
from nisbench.embedding.autograd import rows_of
from nisbench.models.recommender import Recommender
from nisbench.params.methods import DNIS
from nisbench.search.trial_spec import FeatureStats, TrialSpec
from nisbench.tasks.task import Task
from nisbench.training.adam import Adam


def propose(settings: DNIS, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """A single trial, from alpha = 1 everywhere."""

    def optimizer(recommender: Recommender, task: Task) -> AlphaOptimizer:
        return AlphaOptimizer(recommender, task, settings)

    block = None
    if settings.blocks == "shuffled":
        block = torch.from_numpy(np.random.default_rng(seed).permutation(features.block))
    ones = torch.ones(len(features), k)
    warm_start, patience = settings.warm_start_epochs, settings.patience
    return [
        TrialSpec(
            "soft selection", ones, optimizer, warm_start_epochs=warm_start, block=block, patience=patience,
            held_out=settings.held_out, train_further=settings.train_further,
        )
    ]  # fmt: skip


class AlphaOptimizer:
    """Steps of the soft selection alpha, kept in [0, 1]."""

    xi: float
    """Of Eq. 7."""

    def __init__(self, recommender: Recommender, task: Task, settings: DNIS) -> None:
        self.task, self.settings = task, settings
        self.alpha = recommender.selected.selection
        self.adam = Adam({"alpha": self.alpha}) if settings.optimizer == "adam" else None
        if settings.freeze_network:
            recommender.freeze_network()

    @property
    def capturable(self) -> bool:
        """With second order, the host waits for the number of the rows that the batches read."""
        return self.settings.order == 1

    def begin_epoch(self, _recommender: Recommender, learning_rate: float) -> None:
        self.xi = self.settings.inner_learning_rate or learning_rate

    def step(self, recommender: Recommender, validation: Instances, training: Instances) -> None:
        if self.settings.order == 1:
            gradient = first_order(recommender, self.task, validation)
        else:
            gradient = second_order(recommender, self.task, validation, training, self.xi)
        gradient = gradient + self.settings.l1 * self.alpha.sign()  # Eq. 8 is for the gradient of the whole loss
        if self.settings.normalise:
            gradient = normalised(gradient, self.settings.gradient_epsilon)
        self.alpha.grad = gradient
        if self.adam:
            self.adam.step(self.settings.learning_rate)
        else:
            self.alpha.sub_(self.alpha.grad, alpha=self.settings.learning_rate)
        self.alpha.clamp_(0, 1)

    def finalize(self, recommender: Recommender) -> None:
        """Alpha is its own result."""

    def state(self) -> dict[str, Tensor]:
        return self.adam.state() if self.adam else {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if self.adam:
            self.adam.load_state(state)


def first_order(recommender: Recommender, task: Task, batch: Instances) -> Tensor:
    """Gradient (L, K) of the batch's loss by alpha alone; no gradient of the weights is computed."""
    alpha = recommender.selected.selection.requires_grad_()
    try:
        (gradient,) = torch.autograd.grad(task.loss(recommender(batch), batch.labels), alpha)
    finally:
        alpha.requires_grad_(False)
    return gradient


def second_order(recommender: Recommender, task: Task, validation: Instances, training: Instances, xi: float) -> Tensor:
    """Gradient (L, K) by alpha of L_val(Theta - xi * grad L_train(Theta, alpha), alpha): Eq. 7.

    It is exact, by differentiating twice. (The printed Eq. 7 ends in a gradient by alpha; its dimensions want the one
    by Theta'.) Only embeddings of features that are in the batches are differentiated: the cost goes with the batch,
    not with N.
    """
    table, parameters = recommender.selected, dict(recommender.named_parameters())
    theta = {name: parameter.detach() for name, parameter in parameters.items()}
    block = table.block
    if len(block) > training.ids.numel() + validation.ids.numel():
        rows, at = torch.unique(torch.cat([training.ids, validation.ids]), return_inverse=True)
        in_training, in_validation = at[: len(training)], at[len(training) :]
        training = replace(training, ids=in_training)
        validation = replace(validation, ids=in_validation)
        theta |= {name: theta[name][rows] for name in recommender.row_parameters()}
        block = block[rows]
    learned = {name: theta[name].requires_grad_() for name, parameter in parameters.items() if parameter.requires_grad}
    alpha = table.selection.detach().requires_grad_()
    scales = rows_of(alpha, block)

    def loss(batch: Instances, weights: dict[str, Tensor]) -> Tensor:
        return task.loss(recommender(batch, weights, scales), batch.labels)

    by_theta = torch.autograd.grad(
        loss(training, theta), list(learned.values()), create_graph=True, materialize_grads=True
    )
    stepped = {name: torch.add(p, g, alpha=-xi) for (name, p), g in zip(learned.items(), by_theta, strict=True)}
    (gradient,) = torch.autograd.grad(loss(validation, theta | stepped), alpha)
    return gradient


def normalised(gradient: Tensor, epsilon: float) -> Tensor:
    """Each row divided by its mean absolute value + epsilon (Eq. 8): rare blocks learn as fast as frequent ones."""
    return gradient / (gradient.abs().mean(1, keepdim=True) + epsilon)
