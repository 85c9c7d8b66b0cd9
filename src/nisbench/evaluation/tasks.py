"""What training and search ask of a task: a module of this package, named like the task."""

from importlib import import_module
from typing import Protocol, cast

from torch import Tensor

from nisbench.data.instances import Instances
from nisbench.models.recommender import Recommender


class Task(Protocol):
    """The functions of a task's module."""

    def loss(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch that training lowers: (B,), (B,) -> ()."""

    def evaluate(self, recommender: Recommender, data: Instances) -> dict[str, float]:
        """The metrics over all of `data`; ``loss`` is what validation chooses by."""


def of_name(name: str) -> Task:
    return cast(Task, import_module(f"nisbench.evaluation.{name}"))
