"""Models without embeddings: a constant, or a weight per feature added to it."""

import torch
from torch import Tensor, nn

from nisbench.embedding.batch import Embeddings
from nisbench.models.recommender import Shape
from nisbench.params.models import FirstOrder


class FirstOrderOnly(nn.Module):
    """Prediction = the task's best constant prediction + first-order weights."""

    prior: Tensor

    def __init__(self, shape: Shape, *, biases: bool) -> None:
        super().__init__()
        self.register_buffer("prior", torch.tensor(shape.prior))
        self.first_order = biases

    def forward(self, embeddings: Embeddings, first_order: Tensor | None) -> Tensor:
        """(B,) sums of first-order weights, if any -> (B,) predictions."""
        if first_order is None:
            # The second term is there for training to find a gradient, of zeros.
            return self.prior.expand(len(embeddings.ids)) + 0 * embeddings.table.sum()
        return self.prior + first_order


def build(settings: FirstOrder, shape: Shape) -> nn.Module:
    return FirstOrderOnly(shape, **settings.arguments())
