"""DeepFM (Guo et al. 2017, arXiv 1703.04247): a factorisation machine and an MLP over the same embeddings."""

from torch import Tensor, nn

from nisbench.embedding.batch import Embeddings
from nisbench.models.layers import SecondOrder, perceptron
from nisbench.models.recommender import Shape
from nisbench.params.models import DeepFM, Layers, Reduction


class DeepFactorisationMachine(nn.Module):
    """Logit = first-order weights + inner products of all pairs of embeddings + MLP of the embeddings side by side."""

    first_order = True

    def __init__(self, shape: Shape, *, reduction: Reduction = "sum", hidden: Layers) -> None:
        super().__init__()
        (d,) = shape.widths
        self.second_order = SecondOrder(reduction, d)
        self.deep = perceptron(shape.field_sizes, hidden, d)

    def forward(self, embeddings: Embeddings, first_order: Tensor) -> Tensor:
        """(B, M, d) embeddings, (B,) first-order terms -> (B,) logits."""
        fm = first_order + self.second_order(embeddings)
        logit: Tensor = fm + self.deep(embeddings)
        return logit


def build(settings: DeepFM, shape: Shape) -> nn.Module:
    return DeepFactorisationMachine(shape, **settings.arguments())
