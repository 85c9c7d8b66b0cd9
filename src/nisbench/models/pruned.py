"""A trained model as pruning leaves it, and the two files that hold all of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from nisbench.embedding.batch import Embeddings
from nisbench.embedding.scheme import DimensionScheme
from nisbench.embedding.table import SelectedTable, Table
from nisbench.errors import NisbenchError, shortened
from nisbench.files import bad_file
from nisbench.models.projection import Projection
from nisbench.models.recommender import IMPORTANCE, TABLE, Recommender, Shape, build_model
from nisbench.params.models import Model
from nisbench.tensor_files import check_tensors, load_tensors, save_tensors

MOST_COLUMNS = 1 << 24


@dataclass(frozen=True)
class Found:
    """What pruning may need of a search's result beside the model."""

    raw: np.ndarray
    """The weights without the selection, (N, width)."""
    ranks: np.ndarray | None
    """How the search ranked them, (N, width): the least goes first, and 0 does not exist. None = it did not."""
    columns: list[list[int]]
    """Which of the columns drawn for each embedding it kept."""


@dataclass(frozen=True)
class PrunedModel:
    """Effective embeddings, in which pruned weights are 0, and all other weights."""

    embeddings: np.ndarray
    """E~, (N, width) float32."""
    others: Mapping[str, Tensor]
    """The state of the recommender without its table."""
    settings: Model
    widths: tuple[int, ...]
    """Of the embeddings that the model sees."""
    field_sizes: tuple[int, ...]
    projection: tuple[list[list[int]], list[int]] | None = None
    """Per embedding of the model, the dimensions of the blocks, and the common dimension that they are projected to."""
    stored_weights: int | None = None
    """What is stored, where the embeddings are composed of fewer weights."""
    quantiser: Mapping[str, Any] | None = None
    """How they come of codes of few bits; see `Table.quantiser`."""
    offset: float = 0.0
    """Added to all predictions of the recommender that is measured and served."""

    @classmethod
    def load_search(
        cls, weights_file: Path, settings: Model, field_sizes: tuple[int, ...]
    ) -> "tuple[PrunedModel, Found]":
        """From a search's ``weights.safetensors``; nothing is pruned yet. With it, what else pruning may need.

        Raises `NisbenchError` if the file holds another model, or numbers that no training leaves.
        """
        tensors, about = load_tensors(weights_file)
        _check_table(tensors, sum(field_sizes), weights_file)
        _check_about(about, tensors["embedding.weight"].shape, tensors, settings, weights_file)
        model = cls.of_search(tensors, about, settings, field_sizes)
        model.check(weights_file)
        ranks = tensors[IMPORTANCE].numpy() if IMPORTANCE in tensors else None
        return model, Found(tensors["embedding.weight"].numpy(), ranks, _columns_in(about, weights_file))

    @classmethod
    def of_search(
        cls, tensors: Mapping[str, Tensor], about: Mapping[str, Any], settings: Model, field_sizes: tuple[int, ...]
    ) -> "PrunedModel":
        """From the content of a search's ``weights.safetensors``; nothing is pruned yet."""
        block, selection, weight = (tensors[TABLE + name] for name in ("block", "selection", "weight"))
        table = SelectedTable(block, selection, weight)
        embeddings = table.effective_weight().detach().numpy()
        widths, others = tuple(about["widths"]), non_embedding_state(tensors)
        return cls(
            embeddings,
            others,
            settings,
            widths,
            field_sizes,
            about["projection"],
            about["stored_weights"],
            about.get("quantiser"),
        )

    def with_embeddings(self, embeddings: np.ndarray, others: Mapping[str, Tensor] | None = None) -> "PrunedModel":
        return replace(self, embeddings=embeddings, others=self.others if others is None else others)

    @property
    def nonzeros(self) -> int:
        """The embedding weights that are stored."""
        return int(np.count_nonzero(self.embeddings)) if self.stored_weights is None else self.stored_weights

    def to_recommender(self) -> Recommender:
        """The recommender that is measured and served."""
        return self.served_from(self._table())

    def served_from(self, table: Table) -> Recommender:
        """The recommender that is measured and served, with a table in the place of the embeddings."""
        recommender = self._recommender(table)
        if self.offset:
            recommender.model = Shifted(recommender.model, self.offset)
        return recommender

    def with_mask(self, mask: np.ndarray) -> Recommender:
        """A recommender to train on, without the weights where `mask` (N, width) is false: each feature is a block of its own."""
        weight, kept = torch.from_numpy(self.embeddings).clone(), torch.from_numpy(mask)
        return self._recommender(SelectedTable(torch.arange(len(weight)), kept.float(), weight * kept))

    def check(self, path: Path, table: Table | None = None) -> None:
        """Raise `NisbenchError` if what was read from `path` are not the weights of such a model (on that table)."""
        expected = self._untrained(table or self._table()).state_dict()
        check_tensors(self.others, non_embedding_state(expected), path)

    def _table(self) -> SelectedTable:
        n, width = self.embeddings.shape
        return SelectedTable(torch.zeros(n), torch.ones(1, width), torch.from_numpy(self.embeddings))

    def _untrained(self, table: Table) -> Recommender:
        shape = Shape(self.field_sizes, self.widths, 0.0)
        projection = Projection(self.others["projection.block"], *self.projection) if self.projection else None
        return Recommender(table, build_model(self.settings, shape), self.widths, projection)

    def _recommender(self, table: Table) -> Recommender:
        recommender = self._untrained(table)
        own = {TABLE + name: tensor for name, tensor in table.state_dict().items()}
        recommender.load_state_dict(own | dict(self.others))
        return recommender

    @property
    def projection_weights(self) -> int:
        return sum(tensor.numel() for name, tensor in self.others.items() if name.startswith("projection.weights"))

    def save(self, scheme_file: Path, model_file: Path) -> None:
        """Write the embeddings as a `DimensionScheme`, and all else as safetensors."""
        DimensionScheme.from_dense(self.embeddings).save(scheme_file)
        save_tensors(model_file, dict(self.others), self.about())

    def about(self) -> dict[str, Any]:
        """What `of_parts` needs to know besides tensors and settings."""
        return {
            "widths": self.widths,
            "field_sizes": self.field_sizes,
            "projection": self.projection,
            "stored_weights": self.stored_weights,
            "quantiser": self.quantiser,
            "offset": self.offset,
        }

    @classmethod
    def load(cls, scheme_file: Path, model_file: Path, settings: Model) -> "PrunedModel":
        """What `save` wrote. Raises `NisbenchError` if a file is damaged, or holds the result of a failed run."""
        others, about = load_tensors(model_file)
        if "widths" not in about:
            raise NisbenchError(f"{model_file}: holds no model, because the run failed; see run.json beside it.")
        scheme = DimensionScheme.load(scheme_file)
        return cls.of_parts(scheme.to_dense(), others, about, settings, model_file)

    @classmethod
    def of_parts(
        cls,
        embeddings: np.ndarray,
        others: Mapping[str, Tensor],
        about: Mapping[str, Any],
        settings: Model,
        path: Path,
        table: Table | None = None,
    ) -> "PrunedModel":
        """From embeddings, and from all other weights and what is said of them, as `path` has them.

        With a `table`, which is to serve, there need be no embeddings. Raises `NisbenchError` if the parts do not fit together.
        """
        shape = embeddings.shape if table is None else (table.features, table.width)
        sizes, offset = about.get("field_sizes"), about.get("offset")
        if not _are_counts(sizes) or sum(sizes) != shape[0]:
            raise bad_file(path, f"its fields have not the {shape[0]:,} features of the table")
        if not isinstance(offset, float) or not math.isfinite(offset):
            raise bad_file(path, f"its offset is {shortened(str(offset))}")
        _check_about(about, shape, others, settings, path)
        widths, stored, quantiser = tuple(about["widths"]), about["stored_weights"], about.get("quantiser")
        model = cls(embeddings, others, settings, widths, tuple(sizes), about["projection"], stored, quantiser, offset)
        model.check(path, table)
        return model


class Shifted(nn.Module):
    """A model whose predictions are moved by one number."""

    def __init__(self, model: nn.Module, offset: float) -> None:
        super().__init__()
        self.model, self.offset = model, offset

    def forward(self, embeddings: Embeddings, first_order: Tensor | None) -> Tensor:
        moved: Tensor = self.model(embeddings, first_order) + self.offset
        return moved


def selection_in(weights_file: Path) -> np.ndarray:
    """The selection (L, columns) float32 in a search's ``weights.safetensors``, a row per block of features."""
    tensors, _ = load_tensors(weights_file)
    _check_table(tensors, len(tensors.get(TABLE + "block", ())), weights_file)
    selection: np.ndarray = tensors[TABLE + "selection"].numpy()
    return selection


def _check_table(tensors: Mapping[str, Tensor], features: int, path: Path) -> None:
    """Raise `NisbenchError` if a search's tensors hold no selected table of so many features."""
    table = {name: tensors.get(name) for name in sorted(TABLE + part for part in ("block", "selection", "weight"))}
    block, selection, weight = table.values()
    if block is None or selection is None or weight is None:
        raise bad_file(path, f"{next(name for name, tensor in table.items() if tensor is None)} is missing")
    if selection.dim() != 2 or not len(selection) or not selection.shape[1]:
        raise bad_file(path, f"embedding.selection is {tuple(selection.shape)}, not (blocks, columns)")
    expected = {
        TABLE + "block": torch.empty(features, dtype=torch.int32),
        TABLE + "selection": torch.empty_like(selection, dtype=torch.float32),
        TABLE + "weight": torch.empty(features, selection.shape[1]),
    }
    if (ranks := tensors.get(IMPORTANCE)) is not None:
        kind = torch.float64 if ranks.dtype == torch.float64 else torch.float32  # more weights than float32 can rank
        expected[IMPORTANCE] = torch.empty(features, selection.shape[1], dtype=kind)
    check_tensors({name: tensor for name, tensor in tensors.items() if name.startswith(TABLE)}, expected, path)
    if ranks is not None and ranks.min() < 0:
        raise bad_file(path, f"{IMPORTANCE}: some values are below 0")
    _check_block(TABLE + "block", block, len(selection), path)
    if selection.min() < 0 or selection.max() > 1:
        raise bad_file(path, "embedding.selection: some values are not between 0 and 1")


def _check_block(name: str, block: Tensor, blocks: int, path: Path) -> None:
    low, high = (int(end) for end in block.aminmax())
    if low < 0 or high >= blocks:
        raise bad_file(path, f"{name}: numbers from {low} to {high}; there are {blocks} blocks")


def _check_about(
    about: Mapping[str, Any], table: Sequence[int], tensors: Mapping[str, Tensor], settings: Model, path: Path
) -> None:
    """Raise `NisbenchError` if what a file says of its model does not fit the table, of that shape, or the tensors.

    Nothing of it may be large: a model is made of it.
    """
    (features, columns), widths, projection = table, about.get("widths"), about.get("projection")
    stored = about.get("stored_weights", "missing")
    if (
        not _are_counts(widths)
        or len(widths) != len(settings.embedding_multiples)
        or "projection" not in about
        or not (stored is None or _are_counts([stored]))
    ):
        raise bad_file(path, f"what it says of its model is {shortened(str(dict(about)))}")
    if projection is None:
        if sum(widths) != columns:
            raise bad_file(path, f"its widths {widths} are not those of a table of {columns} columns")
        return
    block = tensors.get("projection.block")
    if not isinstance(projection, list) or len(projection) != 2 or projection[1] != widths or block is None:
        raise bad_file(path, f"its projection is {shortened(str(projection))}")
    dimensions = projection[0]
    if (
        not isinstance(dimensions, list)
        or len(dimensions) != len(widths)
        or not all(_are_counts(one, least=0) and len(one) == len(dimensions[0]) for one in dimensions)
        or sum(map(max, dimensions)) > columns
        or any(max(one) > width for one, width in zip(dimensions, widths, strict=True))
    ):
        raise bad_file(path, f"its projection has the dimensions {shortened(str(dimensions))}")
    held = sum(tensor.numel() for name, tensor in tensors.items() if name.startswith("projection.weights"))
    if held != sum(d * width for one, width in zip(dimensions, widths, strict=True) for d in one if d < width):
        raise bad_file(path, "its projection has not the weights that its dimensions ask for")
    check_tensors({"projection.block": block}, {"projection.block": torch.empty(features, dtype=torch.int32)}, path)
    _check_block("projection.block", block, len(dimensions[0]), path)


def _columns_in(about: Mapping[str, Any], path: Path) -> list[list[int]]:
    """Of the columns drawn for each embedding, those that the search kept: ascending numbers."""
    found, widths = about.get("columns"), about["widths"]
    if not isinstance(found, list) or len(found) != len(widths):
        raise bad_file(path, f"its columns are {shortened(str(found))}")
    for kept in found:
        if not _are_counts(kept, least=0) or kept != sorted(set(kept)) or kept[-1] >= MOST_COLUMNS:
            raise bad_file(path, f"its columns are {shortened(str(kept))}")
    return found


def _are_counts(value: Any, least: int = 1) -> TypeGuard[list[int]]:
    return isinstance(value, list) and bool(value) and all(type(one) is int and least <= one < 2**31 for one in value)


def non_embedding_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A recommender's tensors, on the CPU, without those of its table."""
    return {name: tensor.cpu() for name, tensor in tensors.items() if not name.startswith(TABLE)}
