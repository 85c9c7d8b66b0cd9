"""Matrix factorisation with biases (Koren, Bell & Volinsky 2009)."""

import torch
from torch import Tensor, nn

from nisbench.embedding.batch import Embeddings
from nisbench.models.recommender import Shape
from nisbench.params.models import MF, Reduction


class MatrixFactorisation(nn.Module):
    """Rating = global mean + user bias + item bias + inner product of the two embeddings."""

    mean: Tensor

    def __init__(
        self, shape: Shape, *, global_mean: bool = True, biases: bool = True, reduction: Reduction = "sum"
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(shape.prior if global_mean else 0.0))
        self.first_order = biases
        self.reduce = torch.mean if reduction == "mean" else torch.sum

    def forward(self, embeddings: Embeddings, first_order: Tensor | None) -> Tensor:
        """(B, 2, d) embeddings, (B,) sums of the biases if any -> (B,) ratings."""
        user, item = embeddings.dense().unbind(1)
        rating = self.mean + self.reduce(user * item, 1)
        return rating if first_order is None else rating + first_order


def build(settings: MF, shape: Shape) -> nn.Module:
    return MatrixFactorisation(shape, **settings.arguments())
