"""An embedding table that is composed of fewer weights, kept as its parts: rows are composed as they are read.

Within a field, features are numbered so that the parts of number j follow from j. Nothing but the parts is stored:

* ``shared``: t rows; feature j has row j mod t (hashing);
* ``product`` and ``sum``: of row j // t of one table and row j mod t of another (quotient-remainder);
* ``matrices``: row j of an (n, t) matrix times a (t, K) matrix (low rank).

`nisbench.serving.parts` makes it of a run.
"""

from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from nisbench.errors import NisbenchError
from nisbench.serving.compressed import CompressedEmbedding, check_ids

Composition = Literal["shared", "product", "sum", "matrices"]


class ComposedEmbedding(nn.Module):
    """ids -> rows, as `CompressedEmbedding`. Parts are float32, and their weights are all that is stored."""

    layout: Literal["composed"] = "composed"
    values: Literal["float32"] = "float32"
    first: Tensor
    terms: Tensor
    starts: Tensor

    def __init__(self, width: int, composition: Composition, sizes: Sequence[int], terms: Sequence[int]) -> None:
        """Empty. `sizes` are the fields' features, and `terms` the t of each."""
        super().__init__()
        most = [width] * len(sizes) if composition == "matrices" else sizes
        if composition not in get_args(Composition) or not all(
            1 <= t <= m and n >= 1 for t, m, n in zip(terms, most, sizes, strict=True)
        ):
            raise NisbenchError(
                f"no table is composed by {composition} of {list(terms)} terms in fields of {list(sizes)}"
            )
        self.rows, self.width, self.composition = sum(sizes), width, composition
        self.sizes, self.of_field = list(sizes), list(terms)
        pairs = list(zip(sizes, terms, strict=True))
        if composition == "matrices":
            shapes = [*pairs, *((t, width) for t in terms if t < width)]
        else:
            shapes = [(sum(rows), width) for rows in _rows_of_parts(composition, pairs)]
        self.parts = nn.ModuleList(_empty(*shape) for shape in shapes)
        firsts = {"first": np.cumsum([0, *sizes])[:-1], "terms": np.array(terms)}
        starts = [np.cumsum([0, *rows])[:-1] for rows in _rows_of_parts(composition, pairs)]
        firsts["starts"] = np.array(starts).reshape(-1, len(pairs))
        for name, numbers in firsts.items():  # on a CPU, even while the rest is made of nothing
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.int64, device="cpu"), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of whole-number ids: (...) -> (..., K) float32. Raises `IndexError` for an id that is no row's."""
        flat = ids.reshape(-1).long()
        exporting = torch.compiler.is_compiling()
        check_ids(flat, self.rows)
        field = (flat[:, None] >= self.first[1:]).sum(1)
        number = flat - self.first[field]
        if self.composition == "matrices":
            rows = self._products_of_all(field, number) if exporting else self._products(field, number)
        else:
            rows = self._combined(field, number)
        return rows.view(*ids.shape, self.width)

    def _combined(self, field: Tensor, number: Tensor) -> Tensor:
        """Rows of the parts: field (n,), number (n,) within it -> (n, K)."""
        terms, starts = self.terms[field], self.starts[:, field]
        if self.composition == "shared":
            shared: Tensor = self.parts[0](starts[0] + number % terms)
            return shared
        quotients, remainders = self.parts
        rows: Tensor = quotients(starts[0] + number // terms)
        count = sum(t for t in self.of_field if t > 1)
        if not count:
            return rows
        divided, place = (terms > 1)[:, None], starts[1] + number % terms
        others = remainders(place.clamp(max=count - 1))
        if self.composition == "product":
            return rows * torch.where(divided, others, 1.0)
        return rows + torch.where(divided, others, 0.0)

    def _products(self, field: Tensor, number: Tensor) -> Tensor:
        rows = torch.empty(len(field), self.width, device=field.device)
        for i, (left, right) in enumerate(self._matrices()):
            of_field = (field == i).nonzero()[:, 0]
            if len(of_field):
                found = left(number[of_field])
                rows[of_field] = found if right is None else found @ right
        return rows

    def _products_of_all(self, field: Tensor, number: Tensor) -> Tensor:
        """The same without sizes that depend on ids, for programs: each field's matrices on all ids."""
        rows = torch.zeros(field.shape[0], self.width, device=field.device)
        for i, (left, right) in enumerate(self._matrices()):
            found = left(number.clamp(max=self.sizes[i] - 1))
            rows = torch.where((field == i)[:, None], found if right is None else found @ right, rows)
        return rows

    def _matrices(self) -> list[tuple[nn.Module, Tensor | None]]:
        """The two of each field; a field of full rank has only one."""
        right = iter(self.parts[len(self.sizes) :])
        return [
            (left, cast(Tensor, next(right).weights) if rank < self.width else None)
            for left, rank in zip(self.parts, self.of_field, strict=False)
        ]

    def on_large_pages(self) -> "ComposedEmbedding":
        for part in self.parts:
            cast(CompressedEmbedding, part).on_large_pages()
        return self

    @property
    def nbytes(self) -> int:
        """The bytes of all that is stored."""
        return sum(cast(CompressedEmbedding, part).nbytes for part in self.parts)

    def extent(self) -> dict[str, Any]:
        """The arguments of an empty module that this one's state can be loaded into."""
        return {"width": self.width, "composition": self.composition, "sizes": self.sizes, "terms": self.of_field}

    def extra_repr(self) -> str:
        return f"{self.rows}, {self.width}, composition={self.composition}, nbytes={self.nbytes}"


def _rows_of_parts(composition: Composition, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """How many rows each field has in each part, where parts are tables of all fields."""
    if composition == "matrices":
        return []
    if composition == "shared":
        return [[t for _, t in pairs]]
    return [[-(-n // t) for n, t in pairs], [t if t > 1 else 0 for _, t in pairs]]


def _empty(rows: int, width: int) -> CompressedEmbedding:
    return CompressedEmbedding(rows, width, "dense", "float32", rows * width)
