"""Matrix factorisation with biases (Koren, Bell & Volinsky 2009)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nisbench.embedding import Embeddings
from nisbench.models.recommender import Shape
from nisbench.params.settings import MF


class MatrixFactorisation(nn.Module):
    """Rating = global mean + user bias + item bias + inner product of the two embeddings."""

    mean: Tensor

    def __init__(self, settings: MF, shape: Shape) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(shape.prior if settings.global_mean else 0.0))
        self.first_order = settings.biases
        self.reduce = torch.mean if settings.reduction == "mean" else torch.sum

    def forward(self, embeddings: Embeddings, first_order: Tensor | None) -> Tensor:
        """(B, 2, d) embeddings, (B,) sums of the biases if any -> (B,) ratings."""
        user, item = embeddings.each.unbind(1)
        rating = self.mean + self.reduce(user * item, 1)
        return rating if first_order is None else rating + first_order

    @staticmethod
    def together(
        models: "Sequence[MatrixFactorisation]",
        embeddings: Embeddings,
        first_order: Tensor | None,
        parts: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """As `forward`, of T factorisations side by side: (B, 2, columns) embeddings, (B, T) sums of biases -> (B, T)."""
        user, item = embeddings.each.unbind(1)
        products: Tensor = parts(user * item)
        if models[0].reduce is torch.mean:
            products = products / parts(torch.ones_like(user[:1]))
        rating = models[0].mean + products
        return rating if first_order is None else rating + first_order


def build(settings: MF, shape: Shape) -> nn.Module:
    return MatrixFactorisation(settings, shape)
