"""A model: DCN-v2, deep & cross network (Wang et al. 2020, arXiv 2008.13535), in its stacked form."""

from typing import ClassVar, Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from nisbench.embedding.batch import Embeddings
from nisbench.models.layers import hidden_layers
from nisbench.models.recommender import Shape
from nisbench.params.models import Layers, Model


class DCNv2(Model):
    """Cross layers, which multiply features explicitly, and an MLP on top of them."""

    kind: Literal["dcn_v2"]
    cross_layers: PositiveInt
    """Number of cross layers: they form products of up to one feature more than this."""
    hidden: Layers
    """Widths of the MLP's hidden layers."""

    tasks: ClassVar[tuple[str, ...]] = ("ctr",)


class DeepCrossNetwork(nn.Module):
    """Logit = first-order weights + a linear layer on the MLP of the cross layers' result."""

    first_order = True  # ask for the sums of one learned number per feature

    def __init__(self, shape: Shape, *, cross_layers: int, hidden: list[int | str]) -> None:
        super().__init__()
        (d,) = shape.widths  # of the embeddings; a model with several per feature says so in `embedding_multiples`
        width = len(shape.field_sizes) * d
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(cross_layers))
        self.deep, last = hidden_layers(width, hidden, d)
        self.output = nn.Linear(last, 1)

    def forward(self, embeddings: Embeddings, first_order: Tensor) -> Tensor:
        """(B, M, d) embeddings, (B,) first-order terms -> (B,) logits."""
        x0 = x = embeddings.dense().flatten(1)
        for layer in self.cross:
            x = x0 * layer(x) + x  # Eq. 1
        return first_order + self.output(self.deep(x))[:, 0]


def build(settings: DCNv2, shape: Shape) -> nn.Module:
    return DeepCrossNetwork(shape, **settings.arguments())


EXAMPLE = {"kind": "dcn_v2", "title": "DCN-v2", "cross_layers": 2, "hidden": ["2d", "d"]}
