"""Click-through-rate prediction: logistic loss on logits; exact AUC and logloss of a whole set."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from nisbench.data.instances import Instances
from nisbench.data.parquet import open_instances
from nisbench.errors import NisbenchError
from nisbench.models.recommender import Recommender
from nisbench.params.tasks import CTR
from nisbench.tasks.task import Task


class ClickThroughRate(Task):
    """Labels are 1 for a click and 0 for none, predictions are logits."""

    def prior(self, training: Instances) -> float:
        return float(torch.logit(training.labels.double().mean(), eps=1e-9))

    def losses(self, predictions: Tensor, labels: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(predictions, labels, reduction="none")

    def validation_loss(self, recommender: Recommender, data: Instances) -> float:
        return logloss(recommender.predict(data), data.labels)

    def evaluate(self, recommender: Recommender, data: Instances) -> dict[str, float]:
        logits = recommender.predict(data)
        return {"auc": auc(logits, data.labels), "logloss": logloss(logits, data.labels)}


def check(_settings: CTR, splits: Mapping[str, Path]) -> None:
    """Raise `NisbenchError` if labels are not those of clicks, or AUC is undefined: without a click, or with nothing else."""
    of_one_kind = []
    for name, path in splits.items():
        labels = open_instances(path).column("label")
        clicks, others = int((labels == 1).sum()), int((labels == 0).sum())
        if clicks + others < len(labels):
            raise NisbenchError(f"{path}: some labels are neither 0 nor 1, which is how clicks are labelled")
        if not clicks or not others:
            of_one_kind.append(f"{name} ({len(labels):,} instances, {'none' if others else 'all'} of them clicks)")
    if of_one_kind:
        raise NisbenchError(
            f"AUC is not defined on {' and '.join(of_one_kind)}. Give the data set's `split` another seed or other proportions, or "
            "use more instances. If all labels are alike, `label` names the wrong column, or label.positive_above is wrong"
        )


def build(_settings: CTR, _splits: Mapping[str, Path], _device: torch.device) -> Task:
    return ClickThroughRate()


def logloss(logits: Tensor, labels: Tensor) -> float:
    """Mean binary cross-entropy of a whole set: both (n,), summed in double precision."""
    return functional.binary_cross_entropy_with_logits(logits.double(), labels.double()).item()


def auc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs that are in order, ties counting half.

    Both (n,), labels 0 or 1. Exact: counted in integers, by one sort on the tensors' device.
    """
    ordered, order = scores.sort()
    _, sizes = torch.unique_consecutive(ordered, return_counts=True)  # of groups of equal scores, ascending
    ends = sizes.cumsum(0)
    positives_up_to = labels[order].long().cumsum(0)[ends - 1]
    positives = positives_up_to.diff(prepend=positives_up_to.new_zeros(1))
    negatives = sizes - positives
    below = negatives.cumsum(0) - negatives
    pairs = int(positives.sum()) * int(negatives.sum())
    if pairs == 0:
        raise NisbenchError("AUC needs instances with a click and without; there are only the one or the other")
    return int((positives * (2 * below + negatives)).sum()) / (2 * pairs)
