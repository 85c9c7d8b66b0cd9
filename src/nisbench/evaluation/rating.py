"""Rating prediction: mean squared error, of unclipped predictions."""

from torch import Tensor
from torch.nn import functional

from nisbench.data.instances import Instances
from nisbench.models.recommender import Recommender


def loss(predictions: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of a batch: both (B,) -> ()."""
    return functional.mse_loss(predictions, labels)


def evaluate(recommender: Recommender, data: Instances) -> dict[str, float]:
    """The metrics over all of `data`; ``loss`` is what early stopping watches."""
    mse = (recommender.predict(data) - data.labels).double().square().mean().item()
    return {"loss": mse, "mse": mse}
