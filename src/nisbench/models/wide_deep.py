"""Wide & Deep (Cheng et al. 2016, arXiv 1606.07792), without crossed features, as in the DNIS paper's code."""

from torch import Tensor, nn

from nisbench.embedding.batch import Embeddings
from nisbench.models.layers import perceptron
from nisbench.models.recommender import Shape
from nisbench.params.models import Layers, WideDeep


class WideAndDeep(nn.Module):
    """Logit = first-order weights + MLP of the embeddings side by side."""

    first_order = True

    def __init__(self, shape: Shape, *, hidden: Layers) -> None:
        super().__init__()
        (d,) = shape.widths
        self.deep = perceptron(shape.field_sizes, hidden, d)

    def forward(self, embeddings: Embeddings, first_order: Tensor) -> Tensor:
        """(B, M, d) embeddings, (B,) first-order terms -> (B,) logits."""
        logit: Tensor = first_order + self.deep(embeddings)
        return logit


def build(settings: WideDeep, shape: Shape) -> nn.Module:
    return WideAndDeep(shape, **settings.arguments())
