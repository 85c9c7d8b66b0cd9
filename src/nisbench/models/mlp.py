"""A multi-layer perceptron over the concatenated embeddings (He et al. 2017, arXiv 1708.05031, section 3.3)."""

import torch
from torch import Tensor, nn

from nisbench.embedding.batch import Embeddings
from nisbench.models.layers import perceptron
from nisbench.models.recommender import Shape
from nisbench.params.models import MLP, Layers


class MultiLayerPerceptron(nn.Module):
    """Rating = global mean + MLP of the embeddings side by side."""

    mean: Tensor

    def __init__(self, shape: Shape, *, global_mean: bool = True, hidden: Layers) -> None:
        super().__init__()
        (d,) = shape.widths
        self.register_buffer("mean", torch.tensor(shape.prior if global_mean else 0.0))
        self.deep = perceptron(shape.field_sizes, hidden, d)

    def forward(self, embeddings: Embeddings, first_order: None = None) -> Tensor:
        """(B, M, d) embeddings -> (B,) ratings."""
        rating: Tensor = self.mean + self.deep(embeddings)
        return rating


def build(settings: MLP, shape: Shape) -> nn.Module:
    return MultiLayerPerceptron(shape, **settings.arguments())
