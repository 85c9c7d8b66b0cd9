"""A compressed table as what a recommender takes its embeddings from."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from nisbench.embedding.batch import Embeddings
from nisbench.embedding.table import SelectedTable, Table
from nisbench.serving.composed import ComposedEmbedding
from nisbench.serving.compressed import CompressedEmbedding


class CompressedTable(Table):
    """The table of a recommender that is served: rows are decoded as a batch reads them."""

    def __init__(self, compressed: CompressedEmbedding | ComposedEmbedding) -> None:
        super().__init__()
        self.compressed = compressed

    @property
    def features(self) -> int:
        return self.compressed.rows

    @property
    def width(self) -> int:
        return self.compressed.width

    def forward(self, ids: Tensor, values: Tensor | None = None) -> Embeddings:
        rows = self.compressed(ids.flatten())
        return DecodedEmbeddings(torch.arange(ids.numel(), device=ids.device).view(ids.shape), values, rows)

    def rows(self, features: Tensor) -> Tensor:
        rows: Tensor = self.compressed(features)
        return rows

    def stored(self) -> SelectedTable:
        every = torch.arange(self.features, device=next(self.compressed.buffers()).device)
        return SelectedTable(torch.zeros(self.features), torch.ones(1, self.width), self.rows(every))


class DecodedEmbeddings(Embeddings):
    """The embeddings of a batch whose table has a row for each of its ids: nothing is gained by a sum over that table first."""

    def linear(self, weight: Tensor, bias: Tensor, field_sizes: Sequence[int]) -> Tensor:  # noqa: ARG002
        return functional.linear(self.dense().flatten(1), weight, bias)

    def _repetitive(self, times: int) -> bool:  # noqa: ARG002
        return False
