"""A whole recommender: the selected embeddings and, on top of them, a model that knows nothing of selections."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor, nn

from nisbench.data.instances import Instances
from nisbench.embedding import Embeddings, SelectedEmbedding, used_columns, xavier_std
from nisbench.models.projection import Projection
from nisbench.params.settings import AnyModel, FirstOrderModel
from nisbench.row_functions import rows_of
from nisbench.seeds import derived

PREDICTION_FLOATS = 1 << 24  # embedding weights gathered at once to predict: 64 MiB


@dataclass(frozen=True)
class Shape:
    """What a model must know of its inputs."""

    field_sizes: tuple[int, ...]
    """The number of features of each of the M fields, in the order of their ids."""
    widths: tuple[int, ...]
    """Dimension of the embeddings it is given, of each of its parts (see `parts_of`)."""
    prior: float
    """What its task predicts for all instances alike, knowing train."""

    @property
    def features(self) -> int:
        """N, over all fields."""
        return sum(self.field_sizes)


class Recommender(nn.Module):
    """y = G(theta, X), X the selected embeddings of an instance (paper, Eq. 2 and 4)."""

    def __init__(
        self,
        embedding: SelectedEmbedding,
        model: nn.Module,
        widths: tuple[int, ...],
        projection: Projection | None = None,
    ) -> None:
        """`widths` are those that the model sees, of each of its parts. A model with `first_order` is given a number per feature."""
        super().__init__()
        self.embedding = embedding
        self.model = model
        self.widths = widths
        self.projection = projection
        self.first_order = (
            nn.Parameter(torch.zeros(len(embedding.weight))) if getattr(model, "first_order", False) else None
        )

    def forward(self, batch: Instances) -> Tensor:
        """Predictions (B,)."""
        if self.projection is None:
            embeddings = self.embedding(batch.ids, batch.values)
        else:
            embeddings = self.projection(self.embedding, batch.ids, batch.values)
        prediction: Tensor = self.model(embeddings, first_order(self.first_order, batch.ids, batch.values))
        return prediction

    def tables(self) -> dict[str, nn.Parameter]:
        """The weights that features have each for themselves, by name: of embeddings (N, width) and of first order (N,)."""
        tables = {"embedding.weight": self.embedding.weight}
        return tables if self.first_order is None else tables | {"first_order": self.first_order}

    def on_rows(self, batch: Instances, at: Tensor, rows: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Predictions (B,) from those features' `weights` only, as by `tables`, that are `rows` (U,); `at` (B, M) says which is which."""
        embeddings = Embeddings(at, batch.values, self.embedding.scaled_rows(weights["embedding.weight"], rows))
        prediction: Tensor = self.model(embeddings, first_order(weights.get("first_order"), at, batch.values))
        return prediction

    @torch.no_grad()
    def predict(self, data: Instances) -> Tensor:
        """Predictions (n,) for any number of instances, a batch at a time."""
        width = max(self.embedding.weight.shape[1], sum(self.widths))
        batch = max(1, PREDICTION_FLOATS // (data.ids.shape[1] * width))
        return torch.cat([self(data[start : start + batch]) for start in range(0, len(data), batch)])


def first_order(weights: Tensor | None, ids: Tensor, values: Tensor | None) -> Tensor | None:
    """The sums over an instance's features of one number each, times its value: weights (N,), ids and values (B, M) -> (B,).

    Or of T numbers each: weights (N, T) -> (B, T).
    """
    if weights is None:
        return None
    if weights.dim() == 2:
        each = rows_of(weights, ids)
        return (each if values is None else each * values[..., None]).sum(1)
    if weights.is_cuda:  # where gradients of index_select would depend on the order of additions
        each = rows_of(weights[:, None], ids)[..., 0]
    else:  # many times faster
        each = weights.index_select(0, ids.flatten()).view(ids.shape)
    return (each if values is None else each * values).sum(1)


def build(
    settings: AnyModel | FirstOrderModel,
    *,
    block: Tensor,
    selection: Tensor,
    soft: bool = False,
    projected: int | None = None,
    embedding_std: float | str,
    field_sizes: tuple[int, ...],
    prior: float,
    seed: int,
) -> Recommender:
    """A new recommender on the CPU, its weights drawn from `seed`; `block` is (N,), `selection` (L, K).

    A model may have several embeddings per feature. What is proposed holds for all of them: each dimension stands for as
    many of a part's as that part has more. A soft selection is then learned for each by itself, all being dimensions of
    one block. Columns that no block selects are not held. With `projected`, the selection's prefixes are projected to that
    dimension, and what the model sees has it.
    """
    generator = torch.Generator().manual_seed(derived(seed, "embedding"))
    n = len(block)
    weights, selections = [], []
    for multiple in parts_of(settings):
        part = selection.repeat_interleave(multiple, dim=1)
        k = part.shape[1]
        std = xavier_std(n, k) if isinstance(embedding_std, str) else embedding_std
        used = used_columns(part)
        # Drawn at full size on the CPU: a feature's weights depend neither on the trial's width nor on the device.
        weight = torch.empty(n, k).normal_(0.0, std, generator=generator)
        weights.append(weight if len(used) == k else weight[:, used])
        selections.append(part[:, used])
    widths = tuple(part.shape[1] for part in selections)
    table = torch.cat(weights, 1) if len(weights) > 1 else weights[0]
    embedding = SelectedEmbedding(block, torch.cat(selections, 1), table, soft)
    projection = None
    if projected:
        widths = tuple(projected * multiple for multiple in parts_of(settings))
        projection = Projection(block, [part.ne(0).sum(1).tolist() for part in selections], widths, generator)
    with torch.random.fork_rng(devices=[]):  # torch's own layers draw from the global generator
        torch.manual_seed(derived(seed, "model"))
        model = build_model(settings, Shape(field_sizes, widths, prior))
    return Recommender(embedding, model, widths, projection)


def build_model(settings: AnyModel | FirstOrderModel, shape: Shape) -> nn.Module:
    """The model that `settings` describe, from the module named by its kind."""
    model: nn.Module = import_module(f"nisbench.models.{settings.kind}").build(settings, shape)
    return model


def parts_of(settings: AnyModel | FirstOrderModel) -> tuple[int, ...]:
    """The embeddings that a model has per feature, in multiples of the base dimension: most have one, of that dimension."""
    module = import_module(f"nisbench.models.{settings.kind}")
    parts: tuple[int, ...] = module.parts(settings) if hasattr(module, "parts") else (1,)
    return parts
