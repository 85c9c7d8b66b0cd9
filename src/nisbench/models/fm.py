"""Factorisation machine (Rendle 2010)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nisbench.embedding import Embeddings
from nisbench.models.layers import SecondOrder
from nisbench.models.recommender import Shape
from nisbench.params.settings import FM


class FactorisationMachine(nn.Module):
    """Logit = bias + first-order weights + inner products of all pairs of embeddings."""

    first_order = True

    def __init__(self, settings: FM, shape: Shape) -> None:
        super().__init__()
        (d,) = shape.widths
        self.bias = nn.Parameter(torch.zeros(()))
        self.second_order = SecondOrder(settings.reduction, d)

    def forward(self, embeddings: Embeddings, first_order: Tensor) -> Tensor:
        """(B, M, d) embeddings, (B,) first-order terms -> (B,) logits."""
        logit: Tensor = self.bias + first_order + self.second_order(embeddings)
        return logit

    @staticmethod
    def together(
        models: "Sequence[FactorisationMachine]",
        embeddings: Embeddings,
        first_order: Tensor,
        parts: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """As `forward`, of T machines side by side: (B, M, columns) embeddings, (B, T) first-order terms -> (B, T)."""
        bias = torch.stack([model.bias for model in models])
        layers = [model.second_order for model in models]
        return bias + first_order + SecondOrder.together(layers, embeddings, parts)


def build(settings: FM, shape: Shape) -> nn.Module:
    return FactorisationMachine(settings, shape)
