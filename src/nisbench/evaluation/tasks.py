"""What training, search and pruning ask of a task: one module of this package per kind, with a `build` function."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nisbench.data.instances import Instances
from nisbench.models.recommender import Recommender
from nisbench.params.settings import AnyTask

Part = Literal["train", "validation"]


class Task(ABC):
    """What is predicted, how training is told how well it is, and what tables show of it."""

    @abstractmethod
    def prior(self, training: Instances) -> float:
        """The best prediction that is the same for all instances: a model may start from it."""

    def examples(self, part: Part, data: Instances, seed: int) -> Instances:  # noqa: ARG002
        """What an epoch goes through, of the instances `data` of a part; what is drawn for it depends on `seed` alone."""
        return data

    @abstractmethod
    def losses(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """The loss of each prediction, of which training lowers the mean: predictions and labels of one shape -> the same."""

    def loss(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch: predictions (B,), labels (B,) -> (); of T recommenders, predictions (B, T) -> (T,)."""
        if predictions.dim() > labels.dim():
            labels = labels[:, None].expand_as(predictions)
        return self.losses(predictions, labels).mean(0)

    @abstractmethod
    def validation_loss(self, recommender: Recommender, data: Instances) -> float:
        """What validation chooses by, over all of `data`: the lower the better."""

    @abstractmethod
    def evaluate(self, recommender: Recommender, data: Instances) -> dict[str, float]:
        """The metrics over all of `data`."""


def build(settings: AnyTask, parts: Mapping[str, Path], device: torch.device) -> Task:
    """The task that `settings` describe. `parts` are the files there are to know of, by part, the one to evaluate last."""
    task: Task = import_module(f"nisbench.evaluation.{settings.kind}").build(settings, parts, device)
    return task
