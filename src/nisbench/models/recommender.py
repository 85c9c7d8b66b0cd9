"""A whole recommender: the selected embeddings and, on top of them, a model that knows nothing of selections."""

from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor, nn

from nisbench.data.instances import Instances
from nisbench.embedding import SelectedEmbedding, xavier_std
from nisbench.params.settings import AnyModel
from nisbench.seeds import derived


@dataclass(frozen=True)
class Shape:
    """What a model must know of its inputs."""

    features: int
    """N, over all fields."""
    fields: int
    """M."""
    k: int
    """Dimension of the embeddings it is given."""
    label_mean: float
    """Of the training instances."""


class Recommender(nn.Module):
    """y = G(theta, X), X the selected embeddings of an instance (paper, Eq. 2 and 4)."""

    def __init__(self, embedding: SelectedEmbedding, model: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding
        self.model = model

    def forward(self, batch: Instances) -> Tensor:
        """Predictions (B,)."""
        prediction: Tensor = self.model(self.embedding(batch.ids, batch.values), batch.ids, batch.values)
        return prediction


def build(
    settings: AnyModel,
    *,
    block: Tensor,
    selection: Tensor,
    soft: bool = False,
    embedding_std: float | str,
    fields: int,
    label_mean: float,
    seed: int,
) -> Recommender:
    """A new recommender on the CPU, its weights drawn from `seed`; `block` is (N,), `selection` (L, K)."""
    generator = torch.Generator().manual_seed(derived(seed, "embedding"))
    n, k = len(block), selection.shape[1]
    std = xavier_std(n, k) if isinstance(embedding_std, str) else embedding_std
    embedding = SelectedEmbedding(block, selection, std, generator, soft)
    with torch.random.fork_rng(devices=[]):  # torch's own layers draw from the global generator
        torch.manual_seed(derived(seed, "model"))
        model = build_model(settings, Shape(n, fields, embedding.weight.shape[1], label_mean))
    return Recommender(embedding, model)


def build_model(settings: AnyModel, shape: Shape) -> nn.Module:
    """The model that `settings` describe, from the module named by its kind."""
    model: nn.Module = import_module(f"nisbench.models.{settings.kind}").build(settings, shape)
    return model
