"""Factorisation machine (Rendle 2010)."""

import torch
from torch import Tensor, nn

from nisbench.embedding import Embeddings
from nisbench.models.layers import FirstOrder, SecondOrder
from nisbench.models.recommender import Shape
from nisbench.params.settings import FM


class FactorisationMachine(nn.Module):
    """Logit = bias + first-order weights + inner products of all pairs of embeddings."""

    def __init__(self, settings: FM, shape: Shape) -> None:
        super().__init__()
        (d,) = shape.widths
        self.bias = nn.Parameter(torch.zeros(()))
        self.first_order = FirstOrder(shape.features)
        self.second_order = SecondOrder(settings.reduction, d)

    def forward(self, embeddings: Embeddings, ids: Tensor, values: Tensor | None) -> Tensor:
        """(B, M, d) embeddings -> (B,) logits."""
        logit: Tensor = self.bias + self.first_order(ids, values) + self.second_order(embeddings)
        return logit


def build(settings: FM, shape: Shape) -> nn.Module:
    return FactorisationMachine(settings, shape)
