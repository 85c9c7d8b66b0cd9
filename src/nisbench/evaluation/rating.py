"""Rating prediction: mean squared error, of unclipped predictions."""

import torch
from torch import Tensor
from torch.nn import functional

from nisbench.data.instances import Instances
from nisbench.models.recommender import Recommender

BATCH = 1 << 16


def loss(predictions: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of a batch: both (B,) -> ()."""
    return functional.mse_loss(predictions, labels)


@torch.no_grad()
def evaluate(recommender: Recommender, data: Instances) -> dict[str, float]:
    """The metrics over all of `data`; ``loss`` is what early stopping watches."""
    total = torch.zeros((), dtype=torch.float64, device=data.labels.device)
    for start in range(0, len(data), BATCH):
        batch = data[start : start + BATCH]
        total += (recommender(batch) - batch.labels).double().square().sum()
    mse = total.item() / len(data)
    return {"loss": mse, "mse": mse}
