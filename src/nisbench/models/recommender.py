"""A whole recommender: an embedding table and, on top of it, a model that knows nothing of selections."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nisbench.data.instances import Instances
from nisbench.embedding.autograd import rows_of
from nisbench.embedding.table import SelectedTable, Table, used_columns, xavier_std
from nisbench.models.projection import Projection
from nisbench.params import tasks as settings_of
from nisbench.params.models import Model
from nisbench.seeds import derived

PREDICTION_FLOATS = 1 << 24
"""Embedding weights gathered at once to predict: 64 MiB."""

TABLE = "embedding."
"""Prefix of the names of the table's tensors."""

IMPORTANCE = f"{TABLE}importance"
"""In a search's file of weights: how the search ranked them for pruning, (N, width), if it did."""


@dataclass(frozen=True)
class Shape:
    """What a model must know of its inputs."""

    field_sizes: tuple[int, ...]
    """The number of features of each of the M fields, in the order of their ids."""
    widths: tuple[int, ...]
    """The dimension of each of its embeddings (see `Model.embedding_multiples`)."""
    prior: float
    """The task's best constant prediction, given train."""

    @property
    def features(self) -> int:
        """N, over all fields."""
        return sum(self.field_sizes)


@dataclass(frozen=True)
class ReadRows:
    """The rows of a batch, where they were found before its prediction."""

    ids: Tensor
    """(B, M): the batch's own tensor."""
    rows: Tensor
    """(U,): its features, each once, or what else it may read."""
    at: Tensor
    """(B, M): the index of each id among them."""


class Recommender(nn.Module):
    """y = G(theta, X), X the selected embeddings of an instance (paper, Eq. 2 and 4)."""

    def __init__(
        self,
        embedding: Table,
        model: nn.Module,
        widths: tuple[int, ...],
        projection: Projection | None = None,
        columns: Sequence[Sequence[int]] = (),
        field_sizes: Sequence[int] = (),
    ) -> None:
        """`widths` are of the embeddings that the model sees. A model with `first_order` gets a number per feature.

        `columns` are those that were kept of the columns drawn for each embedding: what it takes to draw them again. `field_sizes`
        are the fields' numbers of features, where they are known.
        """
        super().__init__()
        self.embedding = embedding
        self.model = model
        self.widths = widths
        self.projection = projection
        self.columns = [list(kept) for kept in columns]
        self.field_sizes = tuple(field_sizes)
        self.read: ReadRows | None = None
        """Of a large table: rows that are up to date, found for a batch that is to be predicted next."""
        self.first_order = (
            nn.Parameter(torch.zeros(embedding.features)) if getattr(model, "first_order", False) else None
        )

    @property
    def selected(self) -> SelectedTable:
        """The table, for code that works with selected tables only."""
        assert isinstance(self.embedding, SelectedTable), "this trial has a table of another kind"
        return self.embedding

    def forward(
        self, batch: Instances, weights: Mapping[str, Tensor] | None = None, scales: Tensor | None = None
    ) -> Tensor:
        """Predictions (B,).

        `weights`, named as in `named_parameters`, replace the recommender's own: all of those with a row per feature,
        and any of the model's. They may hold the rows of U features only; the batch's ids are then indices of these
        rows. `scales` (U, width) multiply the embedding weights among them (see `SelectedTable.scales`).
        """
        of_model: dict[str, Tensor] = {}
        if weights is None and self.read is not None and self.read.ids is batch.ids:
            rows, batch = self.read.rows, replace(batch, ids=self.read.at)
            weights = {name: table.index_select(0, rows) for name, table in self.row_parameters().items()}
            scales = self.selected.scales(rows)
        if weights is None:
            table, project = self.embedding, self.projection
            embeddings = project(table, batch.ids, batch.values) if project else table(batch.ids, batch.values)
            linear = first_order(self.first_order, batch.ids, batch.values)
        elif self.projection is not None:
            raise NotImplementedError("projected embeddings depend on all rows of their table")
        else:
            embeddings = self.selected(batch.ids, batch.values, weights["embedding.weight"], scales)
            linear = first_order(weights.get("first_order"), batch.ids, batch.values)
            of_model = {name.removeprefix("model."): w for name, w in weights.items() if name.startswith("model.")}
        embeddings.columns = batch.columns
        inputs = embeddings, linear
        prediction: Tensor = functional_call(self.model, of_model, inputs) if of_model else self.model(*inputs)
        return prediction

    def most_distinct(self, batch: Instances) -> int:
        """More features than a batch of this shape cannot have."""
        count, m = batch.ids.shape
        columns = batch.columns or (1,) * m
        if len(self.field_sizes) != len(columns):
            return min(count * m, self.embedding.features)
        return sum(min(count * k, size) for k, size in zip(columns, self.field_sizes, strict=True))

    def row_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters with a row per feature, by name: embeddings (N, width) and first-order weights (N,)."""
        own = dict(self.embedding.named_parameters())
        tables = {TABLE + name: own[name] for name in self.embedding.row_parameters}
        return tables if self.first_order is None else tables | {"first_order": self.first_order}

    def set_selection(self, selection: Tensor) -> None:
        """Put a selection (L, K) into the table, for each of the model's embeddings alike."""
        multiples = [width // selection.shape[1] for width in self.widths]
        self.selected.selection.copy_(torch.cat([selection.repeat_interleave(m, 1) for m in multiples], 1))

    def freeze_network(self) -> None:
        """Train embeddings and first-order weights only."""
        self.model.requires_grad_(False)

    @torch.no_grad()
    def predict(self, data: Instances) -> Tensor:
        """Predictions (n,) for any number of instances, a batch at a time, in the evaluation mode of torch's modules."""
        width = max(self.embedding.width, sum(self.widths))
        batch = max(1, PREDICTION_FLOATS // (data.id_columns * width))
        was_training = self.training
        self.eval()
        predictions = torch.cat([self(data[start : start + batch]) for start in range(0, len(data), batch)])
        self.train(was_training)
        return predictions


def first_order(weights: Tensor | None, ids: Tensor, values: Tensor | None) -> Tensor | None:
    """The sums over an instance's features of their weights times their values: (N,), ids and values (B, M) -> (B,).

    With T weights per feature: (N, T) -> (B, T).
    """
    if weights is None:
        return None
    if weights.dim() == 2:
        gathered = rows_of(weights, ids)
        return (gathered if values is None else gathered * values[..., None]).sum(1)
    if weights.is_cuda:  # where gradients of index_select would depend on the order of additions
        gathered = rows_of(weights[:, None], ids)[..., 0]
    else:  # many times faster
        gathered = weights.index_select(0, ids.flatten()).view(ids.shape)
    return (gathered if values is None else gathered * values).sum(1)


def build(
    settings: Model,
    *,
    block: Tensor,
    selection: Tensor,
    soft: bool = False,
    table: Callable[[SelectedTable], Table] | None = None,
    projected: int | None = None,
    embedding_std: float | str,
    field_sizes: Sequence[int],
    prior: float,
    seed: int,
    start: float = 0.0,
) -> Recommender:
    """A new recommender on the CPU, its weights drawn from `seed`. `block` is (N,), `selection` (L, K).

    If a model has several embeddings per feature, one selected dimension selects `multiple` dimensions in each (4 in
    the MLP embeddings of top-k's NeuMF). A soft selection is then learned for every dimension of either table. Columns
    that no block selects are not kept. With `projected`, the selection's prefixes are projected to that dimension,
    which is what the model sees. `table` turns the table drawn here into one of another kind. First-order weights begin with
    equal shares of `start`, so that every prediction does.
    """
    generator = torch.Generator().manual_seed(derived(seed, "embedding"))
    n = len(block)
    weights, selections, columns = [], [], []
    for multiple in settings.embedding_multiples:
        repeated = selection.repeat_interleave(multiple, dim=1)
        k = repeated.shape[1]
        std = xavier_std(n, k) if isinstance(embedding_std, str) else embedding_std
        used = used_columns(repeated)
        # Drawn at full size on the CPU: a feature's weights depend neither on the trial's width nor on the device.
        weight = torch.empty(n, k).normal_(0.0, std, generator=generator)
        weights.append(weight if len(used) == k else weight[:, used])
        selections.append(repeated[:, used])
        columns.append(used.tolist())
    widths = tuple(one.shape[1] for one in selections)
    weight = torch.cat(weights, 1) if len(weights) > 1 else weights[0]
    drawn = SelectedTable(block, torch.cat(selections, 1), weight, soft, widths)
    projection = None
    if projected:
        widths = tuple(projected * multiple for multiple in settings.embedding_multiples)
        projection = Projection(block, [one.ne(0).sum(1).tolist() for one in selections], widths, generator)
    with torch.random.fork_rng(devices=[]):  # torch's own layers draw from the global generator
        torch.manual_seed(derived(seed, "model"))
        model = build_model(settings, Shape(tuple(field_sizes), widths, prior))
    recommender = Recommender(table(drawn) if table else drawn, model, widths, projection, columns, field_sizes)
    if start and recommender.first_order is not None:
        spread(start, recommender.first_order.data, field_sizes)
    return recommender


def start_of(model: Model, task: settings_of.Task, prior: float) -> float:
    """What all first-order weights of an instance begin with, together.

    Logits begin near 0 anyway. A rating may be far from it, and some models have no mean of their own.
    """
    return 0.0 if model.has_mean or task.predicts_logits else prior


def spread(start: float, weights: Tensor, field_sizes: Sequence[int]) -> None:
    """Set the weights (N,) of all fields of more than one feature to equal shares of `start`."""
    among = sum(size > 1 for size in field_sizes)
    for size, of_field in zip(field_sizes, torch.split(weights, list(field_sizes)), strict=True):
        if size > 1:
            of_field.fill_(start / among)


def build_model(settings: Model, shape: Shape) -> nn.Module:
    """The model that `settings` describe, from its kind's module."""
    model: nn.Module = settings.module().build(settings, shape)
    return model
