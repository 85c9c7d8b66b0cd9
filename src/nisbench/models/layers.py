"""Parts that models share."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from nisbench.embedding.batch import Embeddings


class SecondOrder(nn.Module):
    """The sum over all pairs of an instance's embeddings of their inner product (Rendle 2010, Eq. 5).

    With the reduction "mean", the inner products are divided by the dimension d, as in the released code.
    """

    def __init__(self, reduction: str, d: int) -> None:
        super().__init__()
        self.factor = 0.5 / d if reduction == "mean" else 0.5

    def forward(self, embeddings: Embeddings) -> Tensor:
        """(B, M, d) -> (B,)."""
        summed, squared_lengths = embeddings.sums()
        return self.factor * (summed.square().sum(1) - squared_lengths)


class LinearOfEmbeddings(nn.Linear):
    """A linear layer on an instance's embeddings side by side; see `Embeddings.linear` for how it is computed."""

    def __init__(self, field_sizes: Sequence[int], d: int, outputs: int) -> None:
        super().__init__(len(field_sizes) * d, outputs)
        self.field_sizes = field_sizes

    def forward(self, embeddings: Embeddings) -> Tensor:  # type: ignore[override]
        """(B, M, d) -> (B, outputs)."""
        return embeddings.linear(self.weight, self.bias, self.field_sizes)


def layer_width(width: int | str, d: int) -> int:
    """A hidden layer's width as params give it: a number, or "2d" for twice `d`."""
    return width if isinstance(width, int) else int(width[:-1] or 1) * d


def hidden_layers(inputs: int, hidden: list[int | str], d: int) -> tuple[nn.Sequential, int]:
    """Linear layers of these widths ("2d": twice `d`), each with a ReLU, on (B, inputs); and the last one's width."""
    widths = [inputs, *(layer_width(width, d) for width in hidden)]
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers), widths[-1]


def perceptron(field_sizes: Sequence[int], hidden: list[int | str], d: int) -> nn.Sequential:
    """Hidden layers on an instance's embeddings side by side, and a single output: `Embeddings` (B, M, d) -> (B,)."""
    first = LinearOfEmbeddings(field_sizes, d, layer_width(hidden[0], d))
    layers, width = hidden_layers(first.out_features, hidden[1:], d)
    return nn.Sequential(first, nn.ReLU(), layers, nn.Linear(width, 1), nn.Flatten(0))
