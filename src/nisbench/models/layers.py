"""Parts that models share."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class FirstOrder(nn.Module):
    """The sum over an instance's features of one learned number each (times its value, for a scalar field)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, 1))

    def forward(self, ids: Tensor, values: Tensor | None = None) -> Tensor:
        """(B, M) ids, and (B, M) values or None -> (B,)."""
        weights = functional.embedding(ids, self.weight)[..., 0]
        return (weights if values is None else weights * values).sum(1)


class SecondOrder(nn.Module):
    """The sum over all pairs of an instance's embeddings of their inner product (Rendle 2010, Eq. 5).

    With the reduction "mean", the inner products are divided by the dimension, as in the released code.
    """

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.mean = reduction == "mean"

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, M, d) -> (B,)."""
        by_dimension = embeddings.sum(1).square() - embeddings.square().sum(1)
        return 0.5 * (by_dimension.mean(1) if self.mean else by_dimension.sum(1))


def hidden_layers(inputs: int, hidden: list[int | str], d: int) -> tuple[nn.Sequential, int]:
    """Linear layers of these widths ("2d": twice `d`), each with a ReLU, on (B, inputs); and the last one's width."""
    widths = [inputs, *(width if isinstance(width, int) else int(width[:-1] or 1) * d for width in hidden)]
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers), widths[-1]


def perceptron(inputs: int, hidden: list[int | str], d: int) -> nn.Sequential:
    """Hidden layers and a single output: (B, inputs) -> (B,)."""
    layers, width = hidden_layers(inputs, hidden, d)
    return nn.Sequential(layers, nn.Linear(width, 1), nn.Flatten(0))
