"""Click-through-rate prediction: logistic loss on logits; exact AUC and logloss of a whole set."""

import torch
from torch import Tensor
from torch.nn import functional

from nisbench.data.instances import Instances
from nisbench.errors import NisbenchError
from nisbench.models.recommender import Recommender


def loss(logits: Tensor, clicks: Tensor) -> Tensor:
    """Mean binary cross-entropy of a batch: both (B,) -> ()."""
    return functional.binary_cross_entropy_with_logits(logits, clicks)


def evaluate(recommender: Recommender, data: Instances) -> dict[str, float]:
    """The metrics over all of `data`; ``loss`` is what early stopping watches."""
    logits = recommender.predict(data)
    logloss = functional.binary_cross_entropy_with_logits(logits.double(), data.labels.double()).item()
    return {"loss": logloss, "auc": auc(logits, data.labels), "logloss": logloss}


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
