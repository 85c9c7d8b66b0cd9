"""Matrix factorisation with biases (Koren, Bell & Volinsky 2009)."""

import torch
from torch import Tensor, nn

from nisbench.embedding import Embeddings
from nisbench.models.layers import FirstOrder
from nisbench.models.recommender import Shape
from nisbench.params.settings import MF


class MatrixFactorisation(nn.Module):
    """Rating = global mean + user bias + item bias + inner product of the two embeddings."""

    mean: Tensor

    def __init__(self, settings: MF, shape: Shape) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(shape.prior if settings.global_mean else 0.0))
        self.biases = FirstOrder(shape.features) if settings.biases else None
        self.reduce = torch.mean if settings.reduction == "mean" else torch.sum

    def forward(self, embeddings: Embeddings, ids: Tensor, values: Tensor | None) -> Tensor:
        """(B, 2, d) embeddings -> (B,) ratings."""
        user, item = embeddings.each.unbind(1)
        rating = self.mean + self.reduce(user * item, 1)
        return rating if self.biases is None else rating + self.biases(ids, values)


def build(settings: MF, shape: Shape) -> nn.Module:
    return MatrixFactorisation(settings, shape)
