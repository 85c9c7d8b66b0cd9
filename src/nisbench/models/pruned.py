"""A trained model as pruning leaves it, and the two files that hold all of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nisbench.embedding.batch import Embeddings
from nisbench.embedding.scheme import DimensionScheme
from nisbench.embedding.table import SelectedTable, Table
from nisbench.errors import NisbenchError
from nisbench.models.projection import Projection
from nisbench.models.recommender import TABLE, Recommender, Shape, build_model
from nisbench.params.models import Model
from nisbench.tensor_files import load_tensors, save_tensors


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
    offset: float = 0.0
    """Added to all predictions of the recommender that is measured and served."""

    @classmethod
    def of_search(
        cls, tensors: Mapping[str, Tensor], about: Mapping[str, Any], settings: Model, field_sizes: tuple[int, ...]
    ) -> "PrunedModel":
        """From the content of a search's ``weights.safetensors``; nothing is pruned yet."""
        block, selection, weight = (tensors[TABLE + name] for name in ("block", "selection", "weight"))
        table = SelectedTable(block, selection, weight)
        embeddings = table.effective_weight().detach().numpy()
        return cls(
            embeddings, non_embedding_state(tensors), settings, tuple(about["widths"]), field_sizes, about["projection"]
        )

    def with_embeddings(self, embeddings: np.ndarray, others: Mapping[str, Tensor] | None = None) -> "PrunedModel":
        return replace(self, embeddings=embeddings, others=self.others if others is None else others)

    def to_recommender(self) -> Recommender:
        """The recommender that is measured and served."""
        n, width = self.embeddings.shape
        return self.served_from(SelectedTable(torch.zeros(n), torch.ones(1, width), torch.from_numpy(self.embeddings)))

    def served_from(self, table: Table) -> Recommender:
        """The recommender that is measured and served, with a table in the place of the embeddings."""
        recommender = self._recommender(table)
        if self.offset:
            recommender.model = Shifted(recommender.model, self.offset)
        return recommender

    def with_mask(self) -> Recommender:
        """A recommender to train on, in which weights that are 0 stay 0: each feature is a block of its own."""
        weight = torch.from_numpy(self.embeddings).clone()
        return self._recommender(SelectedTable(torch.arange(len(weight)), weight.ne(0).float(), weight))

    def _recommender(self, table: Table) -> Recommender:
        shape = Shape(self.field_sizes, self.widths, 0.0)
        projection = Projection(self.others["projection.block"], *self.projection) if self.projection else None
        recommender = Recommender(table, build_model(self.settings, shape), self.widths, projection)
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
            "widths": self.widths, "field_sizes": self.field_sizes, "projection": self.projection, "offset": self.offset,
        }  # fmt: skip

    @classmethod
    def load(cls, scheme_file: Path, model_file: Path, settings: Model) -> "PrunedModel":
        """What `save` wrote. Raises `NisbenchError` if a file is damaged, or holds the result of a failed run."""
        others, about = load_tensors(model_file)
        if "widths" not in about:
            raise NisbenchError(f"{model_file}: holds no model, because the run failed; see run.json beside it.")
        scheme = DimensionScheme.load(scheme_file)
        return cls.of_parts(scheme.to_dense(), others, about, settings)

    @classmethod
    def of_parts(
        cls, embeddings: np.ndarray, others: Mapping[str, Tensor], about: Mapping[str, Any], settings: Model
    ) -> "PrunedModel":
        """From embeddings, all other weights, and what `about` said of them."""
        sizes, widths = tuple(about["field_sizes"]), tuple(about["widths"])
        return cls(embeddings, others, settings, widths, sizes, about["projection"], about["offset"])


class Shifted(nn.Module):
    """A model whose predictions are moved by one number."""

    def __init__(self, model: nn.Module, offset: float) -> None:
        super().__init__()
        self.model, self.offset = model, offset

    def forward(self, embeddings: Embeddings, first_order: Tensor | None) -> Tensor:
        moved: Tensor = self.model(embeddings, first_order) + self.offset
        return moved


def non_embedding_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A recommender's tensors, on the CPU, without those of its table."""
    return {name: tensor.cpu() for name, tensor in tensors.items() if not name.startswith(TABLE)}
