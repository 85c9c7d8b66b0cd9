"""Tables whose embeddings are composed of fewer weights: shared rows, products of rows, and products of matrices."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from nisbench.embedding.autograd import rows_of
from nisbench.embedding.batch import Embeddings
from nisbench.embedding.table import SelectedTable, Table


class ComposedTable(Table):
    """Base of such tables. All of their parameters are stored, and nothing else."""

    capturable = True

    def __init__(self, drawn: SelectedTable) -> None:
        super().__init__()
        self.shape = drawn.features, drawn.width

    @property
    def features(self) -> int:
        return self.shape[0]

    @property
    def width(self) -> int:
        return self.shape[1]

    @property
    def stored_weights(self) -> int:  # type: ignore[override]  # it follows from the parameters
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, ids: Tensor, values: Tensor | None = None) -> Embeddings:
        if self.features <= ids.numel():  # cheaper to compose each row once than each occurrence of it
            return Embeddings(ids, values, self.whole())
        return Embeddings(torch.arange(ids.numel(), device=ids.device).view(ids.shape), values, self.of_batch(ids))

    def of_batch(self, ids: Tensor) -> Tensor:
        """The embeddings of ids (B, M), one after another: (B * M, width)."""
        return self.rows(ids.flatten())

    def whole(self) -> Tensor:
        """The embeddings of all features: (N, width)."""
        return self.rows(torch.arange(self.features, device=next(self.parameters()).device))

    @torch.no_grad()
    def stored(self) -> SelectedTable:
        """The dense table with the same embeddings, by which they are measured."""
        dense = self.whole()
        block = torch.zeros(self.features, dtype=torch.int32, device=dense.device)
        return SelectedTable(block, torch.ones(1, self.width, device=dense.device), dense.clone())


class HashedTable(ComposedTable):
    """Features of the same `row` have the same embedding."""

    capturable = True
    weight: nn.Parameter
    row: Tensor

    def __init__(self, drawn: SelectedTable, row: Tensor) -> None:
        """`row` is (N,), numbered from 0 without gaps. A row begins as that of its first feature."""
        super().__init__(drawn)
        first = np.unique(row.numpy(), return_index=True)[1]
        self.weight = nn.Parameter(drawn.weight.detach()[torch.from_numpy(first)].clone())
        self.register_buffer("row", row.to(torch.int32), persistent=False)

    def forward(self, ids: Tensor, values: Tensor | None = None) -> Embeddings:
        return Embeddings(self.row.index_select(0, ids.flatten()).view(ids.shape), values, self.weight)

    def rows(self, features: Tensor) -> Tensor:
        return rows_of(self.weight, self.row[features.long()])


class QuotientRemainderTable(ComposedTable):
    """The product, or the sum, of two rows: no two features share both."""

    capturable = True

    quotient: nn.Parameter
    remainder: nn.Parameter
    quotient_row: Tensor
    remainder_row: Tensor
    neutral: Tensor

    def __init__(
        self,
        drawn: SelectedTable,
        quotient: Tensor,
        remainder: Tensor,
        combine: Literal["product", "sum"],
        generator: torch.Generator,
    ) -> None:
        """Rows (N,) are numbered from 0 without gaps; a remainder of -1 is none. Embeddings begin with the drawn ones' variance."""
        super().__init__(drawn)
        self.combine, alone = combine, remainder < 0
        std = drawn.weight.detach().std(0)
        each = std.sqrt() if combine == "product" else std / 2**0.5
        sizes = int(quotient.max()) + 1, int(remainder.max()) + 1
        tables = [each * torch.empty(size, self.width).normal_(generator=generator) for size in sizes]
        tables[0][quotient[alone]] = drawn.weight.detach()[alone]
        self.quotient, self.remainder = map(nn.Parameter, tables)
        neutral = torch.full((1, self.width), 1.0 if combine == "product" else 0.0)
        self.register_buffer("neutral", neutral, persistent=False)
        self.register_buffer("quotient_row", quotient.to(torch.int32), persistent=False)
        self.register_buffer("remainder_row", remainder.where(~alone, sizes[1]).to(torch.int32), persistent=False)

    def rows(self, features: Tensor) -> Tensor:
        features = features.long()
        quotients = rows_of(self.quotient, self.quotient_row[features])
        remainders = rows_of(torch.cat([self.remainder, self.neutral]), self.remainder_row[features])
        return quotients * remainders if self.combine == "product" else quotients + remainders


class LowRankTable(ComposedTable):
    """Each field's table is left (n, r) times right (r, width); a field whose rank is the width has a table of its own."""

    capturable = True

    def __init__(
        self, drawn: SelectedTable, sizes: Sequence[int], ranks: Sequence[int], generator: torch.Generator
    ) -> None:
        """`sizes` and `ranks` (M,) are the fields'. Embeddings begin with the drawn ones' variance."""
        super().__init__(drawn)
        self.first = [0, *np.cumsum(sizes).tolist()]
        std = drawn.weight.detach().std(0)
        self.left, self.right = nn.ParameterList(), nn.ParameterList()
        self.right_of: dict[int, int] = {}
        for field, (own, rank) in enumerate(zip(torch.split(drawn.weight.detach(), list(sizes)), ranks, strict=True)):
            if rank == self.width:
                self.left.append(nn.Parameter(own.clone()))
                continue
            self.right_of[field] = len(self.right)
            each = float(std.mean() / rank**0.5) ** 0.5  # on both sides alike, where all columns have one variance
            self.left.append(nn.Parameter(torch.empty(len(own), rank).normal_(0, each, generator=generator)))
            right = torch.empty(rank, self.width).normal_(generator=generator)
            self.right.append(nn.Parameter(right * std / (each * rank**0.5)))

    def rows(self, features: Tensor) -> Tensor:
        return rows_of(self.whole(), features)

    def whole(self) -> Tensor:
        return torch.cat([self._product(field, left) for field, left in enumerate(self.left)])

    def of_batch(self, ids: Tensor) -> Tensor:
        if ids.shape[1] != len(self.left):  # a field of several values has several columns, and they are not told apart
            return self.rows(ids.flatten())
        fields = enumerate(zip(self.left, ids.unbind(1), strict=True))
        products = [self._product(f, rows_of(left, own - self.first[f])) for f, (left, own) in fields]
        return torch.stack(products, 1).flatten(0, 1)

    def _product(self, field: int, left: Tensor) -> Tensor:
        return left @ self.right[self.right_of[field]] if field in self.right_of else left
