"""Rating prediction: mean squared error, of unclipped predictions."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from nisbench.data.instances import Instances
from nisbench.models.recommender import Recommender
from nisbench.params.tasks import Rating
from nisbench.tasks.task import Task


class RatingPrediction(Task):
    """Labels are ratings, predictions too."""

    def prior(self, training: Instances) -> float:
        return float(training.labels.double().mean())

    def losses(self, predictions: Tensor, labels: Tensor) -> Tensor:
        return functional.mse_loss(predictions, labels, reduction="none")

    def validation_loss(self, recommender: Recommender, data: Instances) -> float:
        return (recommender.predict(data) - data.labels).double().square().mean().item()

    def evaluate(self, recommender: Recommender, data: Instances) -> dict[str, float]:
        return {"mse": self.validation_loss(recommender, data)}


def build(_settings: Rating, _splits: Mapping[str, Path], _device: torch.device) -> Task:
    return RatingPrediction()
