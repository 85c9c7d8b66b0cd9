"""Neural matrix factorisation (He et al. 2017, arXiv 1708.05031, section 3.4)."""

import torch
from torch import Tensor, nn

from nisbench.embedding.batch import Embeddings
from nisbench.models.layers import hidden_layers
from nisbench.models.recommender import Shape
from nisbench.params.models import Layers, NeuMF


class NeuralMatrixFactorisation(nn.Module):
    """Rating = global mean + a linear layer over GMF's products and an MLP's output, each with its own embeddings."""

    mean: Tensor

    def __init__(self, shape: Shape, *, global_mean: bool = True, hidden: Layers) -> None:
        """The MLP's embeddings are as wide as `shape` says, whatever multiple of GMF's that is."""
        super().__init__()
        self.widths = shape.widths
        gmf, mlp = shape.widths
        self.register_buffer("mean", torch.tensor(shape.prior if global_mean else 0.0))
        self.deep, last = hidden_layers(len(shape.field_sizes) * mlp, hidden, gmf)
        self.output = nn.Linear(gmf + last, 1)

    def forward(self, embeddings: Embeddings, first_order: None = None) -> Tensor:
        """(B, M, d_gmf + d_mlp) embeddings -> (B,) ratings."""
        gmf, mlp = torch.split(embeddings.dense(), list(self.widths), dim=2)
        user, item = gmf.unbind(1)
        both = torch.cat([user * item, self.deep(mlp.flatten(1))], dim=1)
        rating: Tensor = self.mean + self.output(both)[:, 0]
        return rating


def build(settings: NeuMF, shape: Shape) -> nn.Module:
    return NeuralMatrixFactorisation(shape, global_mean=settings.global_mean, hidden=settings.hidden)
