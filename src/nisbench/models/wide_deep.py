"""Wide & Deep (Cheng et al. 2016, arXiv 1606.07792); the wide part has no crossed features, as in the DNIS paper's code."""

from torch import Tensor, nn

from nisbench.embedding import Embeddings
from nisbench.models.layers import FirstOrder, perceptron
from nisbench.models.recommender import Shape
from nisbench.params.settings import WideDeep


class WideAndDeep(nn.Module):
    """Logit = first-order weights + MLP of the embeddings side by side."""

    def __init__(self, settings: WideDeep, shape: Shape) -> None:
        super().__init__()
        (d,) = shape.widths
        self.first_order = FirstOrder(shape.features)
        self.deep = perceptron(shape.field_sizes, settings.hidden, d)

    def forward(self, embeddings: Embeddings, ids: Tensor, values: Tensor | None) -> Tensor:
        """(B, M, d) embeddings -> (B,) logits."""
        logit: Tensor = self.first_order(ids, values) + self.deep(embeddings)
        return logit


def build(settings: WideDeep, shape: Shape) -> nn.Module:
    return WideAndDeep(settings, shape)
