"""Factorisation machine (Rendle 2010)."""

import torch
from torch import Tensor, nn

from nisbench.embedding.batch import Embeddings
from nisbench.models.layers import SecondOrder
from nisbench.models.recommender import Shape
from nisbench.params.models import FM, Reduction


class FactorisationMachine(nn.Module):
    """Logit = bias + first-order weights + inner products of all pairs of embeddings."""

    first_order = True

    def __init__(self, shape: Shape, *, reduction: Reduction = "sum") -> None:
        super().__init__()
        (d,) = shape.widths
        self.bias = nn.Parameter(torch.zeros(()))
        self.second_order = SecondOrder(reduction, d)

    def forward(self, embeddings: Embeddings, first_order: Tensor) -> Tensor:
        """(B, M, d) embeddings, (B,) first-order terms -> (B,) logits."""
        logit: Tensor = self.bias + first_order + self.second_order(embeddings)
        return logit


def build(settings: FM, shape: Shape) -> nn.Module:
    return FactorisationMachine(shape, **settings.arguments())
