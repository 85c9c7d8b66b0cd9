"""What training, search and pruning ask of a task: one module of this package per kind, with a `build` function."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nisbench.data.instances import Instances
from nisbench.data.parquet import open_instances
from nisbench.errors import NisbenchError
from nisbench.models.recommender import Recommender
from nisbench.params import tasks as settings_of

LearningSplit = Literal["train", "validation"]


class Task(ABC):
    """A prediction task: its training loss, validation criterion and test metrics."""

    @abstractmethod
    def prior(self, training: Instances) -> float:
        """The best prediction that is the same for all instances. A model may start from it."""

    def examples(self, split: LearningSplit, data: Instances, seed: int) -> Instances:  # noqa: ARG002
        """What an epoch goes through, given the instances of a split. Anything drawn for it depends on `seed` alone."""
        return data

    @abstractmethod
    def losses(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """The loss of each prediction, of which training lowers the mean: predictions and labels of one shape -> the same."""

    def loss(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch: predictions (B,), labels (B,) -> ()."""
        return self.losses(predictions, labels).mean(0)

    @abstractmethod
    def validation_loss(self, recommender: Recommender, data: Instances) -> float:
        """The criterion of validation, over all of `data`: the lower the better."""

    @abstractmethod
    def evaluate(self, recommender: Recommender, data: Instances) -> dict[str, float]:
        """The metrics over all of `data`: those that the task's settings list."""


def check_splits(settings: settings_of.Task, splits: Mapping[str, Path]) -> None:
    """Raise `NisbenchError` if the task is not defined on one of the files of train, validation and test, in this order.

    What a task asks of them is the business of its module's function `check`, if it has one.
    """
    for path in splits.values():
        open_instances(path)
    check = getattr(settings.module(), "check", None)
    if check:
        check(settings, splits)
    elif settings.has_base_rate:
        labels = open_instances(splits["train"]).column("label")
        if len(labels) > 1 and (labels == labels[0]).all():
            raise NisbenchError(
                f"the label is {labels[0]:g} in every training instance: there is nothing to learn. See the data set's `label`"
            )


def build(settings: settings_of.Task, splits: Mapping[str, Path], device: torch.device) -> Task:
    """The task that `settings` describe. `splits` are the files that it may know of, in order; the last is the one to evaluate."""
    task: Task = settings.module().build(settings, splits, device)
    return task
