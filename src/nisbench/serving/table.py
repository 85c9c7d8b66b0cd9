"""A compressed table as what a recommender takes its embeddings from."""

import torch
from torch import Tensor

from nisbench.embedding.batch import Embeddings, RowPerId
from nisbench.embedding.table import SelectedTable, Table
from nisbench.serving.composed import ComposedEmbedding
from nisbench.serving.compressed import CompressedEmbedding
from nisbench.serving.quantised import QuantisedEmbedding

StoredEmbedding = CompressedEmbedding | ComposedEmbedding | QuantisedEmbedding


class CompressedTable(Table):
    """The table of a recommender that is served: rows are decoded as a batch reads them."""

    def __init__(self, compressed: StoredEmbedding) -> None:
        super().__init__()
        self.compressed = compressed

    @property
    def features(self) -> int:
        return self.compressed.rows

    @property
    def width(self) -> int:
        return self.compressed.width

    def forward(self, ids: Tensor, values: Tensor | None = None) -> Embeddings:
        return RowPerId(ids, values, self.compressed(ids.flatten()))

    def rows(self, features: Tensor) -> Tensor:
        rows: Tensor = self.compressed(features)
        return rows

    def stored(self) -> SelectedTable:
        every = torch.arange(self.features, device=next(self.compressed.buffers()).device)
        return SelectedTable(torch.zeros(self.features), torch.ones(1, self.width), self.rows(every))
