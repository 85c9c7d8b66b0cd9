"""A served model: predictions for raw columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import TypeAdapter, ValidationError

import nisbench
from nisbench.data.click_log import WILDEST
from nisbench.data.instances import Instances, several
from nisbench.data.parquet import read_table
from nisbench.data.table_values import (
    as_numbers,
    buckets,
    first_of_each,
    scaled,
    spellings,
    token_lists,
    unreadable,
)
from nisbench.errors import NisbenchError, shortened
from nisbench.logs import log
from nisbench.models.pruned import PrunedModel
from nisbench.models.recommender import Recommender
from nisbench.params.kinds import VARIABLE, kinds
from nisbench.params.models import AnyModel
from nisbench.params.tree import nearest
from nisbench.run_files import read_as
from nisbench.serving.composed import ComposedEmbedding
from nisbench.serving.compressed import CompressedEmbedding
from nisbench.serving.folder import DESCRIPTION, FIELD_KINDS, NETWORK, TABLE, VOCABULARY, Description, ServedField
from nisbench.serving.quantised import QuantisedEmbedding
from nisbench.serving.table import CompressedTable, StoredEmbedding
from nisbench.tensor_files import load_tensors

MANY = 100
"""Values of which none is known are taken for a mistake from this many on."""


@dataclass(frozen=True, repr=False)
class ServedModel:
    """A pruned model that takes raw columns."""

    description: Description
    tokens: Mapping[str, pa.Array]
    """The tokens of each categorical field, in the order of their rows."""
    recommender: Recommender
    """A torch module: a table that decodes its rows as they are read, and a network."""

    @property
    def table(self) -> StoredEmbedding:
        """The embeddings as they are stored: row numbers -> rows."""
        assert isinstance(self.recommender.embedding, CompressedTable)
        return self.recommender.embedding.compressed

    @property
    def device(self) -> torch.device:
        return next(self.table.buffers()).device

    @property
    def metrics(self) -> dict[str, float]:
        """Quality on the test instances, as it was measured, in this precision, when the model was pruned."""
        return dict(self.description.metrics)

    @property
    def bytes(self) -> int:
        """What the embeddings take as they are stored, and their projections, if any."""
        return self.description.bytes

    @property
    def fields(self) -> list[str]:
        """The columns that `predict` needs."""
        return [field.name for field in self.description.fields]

    @property
    def has_values(self) -> bool:
        """Whether a row of the table is multiplied by a value: where a field holds numbers, or several tokens."""
        return any(field.kind == "scalar" or field.most > 1 for field in self.description.fields)

    def predict(self, frame: Any, *, logits: bool = False) -> np.ndarray:
        """Predictions (n,) float32 for n rows of raw columns.

        `frame` is a pandas DataFrame, an Arrow table, or a mapping of names to arrays. There must be a column for
        each field; others are ignored. Tokens are compared as text; 7 and 7.0 are also the token "7.0". Where the task is one of probabilities (CTR),
        these are returned, or their logits. Numbers are taken as the source has them; where a data format does not record
        how it scales them, they must be scaled already, and the folder's README says so. Raises `NisbenchError` that names column,
        row and value.
        """
        if logits and not self.description.predicts_logits:
            raise NisbenchError(
                f"predictions of the task {self.description.task} are not probabilities: there are no logits"
            )
        batch = self.instances(frame)
        if not len(batch):
            return np.zeros(0, dtype=np.float32)
        with torch.no_grad():
            predictions = self.recommender.predict(batch)
        if self.description.predicts_logits and not logits:
            predictions = predictions.sigmoid()
        found: np.ndarray = predictions.cpu().numpy()
        return found

    def lookup(self, field: str, tokens: Any) -> np.ndarray:
        """The embeddings (n, width) float32 of n tokens of a field, projected if the model's are.

        Where a model has several embeddings per token (NeuMF), they stand side by side. Raises `NisbenchError` for a
        token that is not in the vocabulary of a field without a feature for unknown tokens.
        """
        known = {one.name: one for one in self.description.fields}
        if field not in known:
            raise NisbenchError(f"there is no field {field!r}{nearest(field, known)}")
        if known[field].kind == "scalar":
            raise NisbenchError(f"the field {field!r} holds numbers: it has no tokens")
        rows = torch.from_numpy(self._rows(known[field], _arrow(field, tokens))).to(self.device)
        project = self.recommender.projection
        with torch.no_grad():
            found = (
                project(self.recommender.embedding, rows[:, None], None).dense()[:, 0] if project else self.table(rows)
            )
        embeddings: np.ndarray = found.cpu().numpy()
        return embeddings

    def instances(self, frame: Any) -> Instances:
        """What `predict` makes of raw columns: rows of the table and, where a field has numbers or several tokens, their values."""
        columns = self._columns(frame)
        count = len(next(iter(columns.values())))
        fields = self.description.fields
        widths = tuple(field.most for field in fields)
        ids = torch.empty((count, sum(widths)), dtype=torch.int32)
        values = torch.ones(ids.shape) if self.has_values else None
        for i, field in zip(accumulate(widths, initial=0), fields, strict=False):
            column = columns[field.name]
            if field.most > 1:
                assert values is not None
                end = i + field.most
                ids[:, i:end], values[:, i:end] = several(self._several(field, column), field.of_instances())
            elif field.kind == "categorical":
                tokens = buckets(_finite(field, column)) if field.scaling else None
                ids[:, i] = torch.from_numpy(self._rows(field, column, tokens))
            else:
                assert values is not None
                ids[:, i] = field.first
                values[:, i] = torch.from_numpy(_numbers(field, column))
        values = None if values is None else values.to(self.device)
        return Instances(ids.to(self.device), torch.zeros(count), values, widths if max(widths) > 1 else None)

    def _columns(self, frame: Any) -> dict[str, pa.Array]:
        """The fields' columns as Arrow arrays of one length."""
        if not (isinstance(frame, pa.Table | Mapping) or hasattr(frame, "columns")):
            raise NisbenchError(
                f"expected a data frame, an Arrow table or a mapping of columns, not a {type(frame).__name__}"
            )
        present = frame.column_names if isinstance(frame, pa.Table) else list(frame)
        for name in self.fields:
            if name not in present:
                raise NisbenchError(f"the column {name!r} is missing{nearest(name, present)}")
        for name in self.fields:
            if list(present).count(name) > 1:
                raise NisbenchError(f"there are several columns {name!r}")
        columns = {name: _arrow(name, frame[name]) for name in self.fields}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise NisbenchError(f"the columns have different lengths: {lengths}")
        return columns

    def _several(self, field: ServedField, column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the table for a column of several tokens each: those of all, and the number of each."""
        try:
            found = token_lists(column, field.separator)
        except (pa.ArrowException, TypeError):
            found = None
        if found is None:
            wanted = "lists of tokens" if field.separator is None else f"tokens separated by {field.separator!r}"
            raise NisbenchError(f"column {field.name!r}: expected {wanted}, not a column of {column.type}")
        return first_of_each(self._rows(field, found[0]), found[1], field.most, field.unknown or field.first)

    def _rows(self, field: ServedField, column: pa.Array, tokens: pa.Array | None = None) -> np.ndarray:
        """The rows of the table for a column, or for the tokens that were made of it: (n,) int32."""
        known = self.tokens[field.name]
        found = pa.nulls(len(column), pa.int32())
        try:
            for texts in spellings(column) if tokens is None else [tokens]:
                found = pc.coalesce(found, pc.index_in(texts, value_set=known))
                if not found.null_count:
                    break
        except pa.ArrowException:
            raise NisbenchError(f"column {field.name!r}: expected tokens, not a column of {column.type}") from None
        if found.null_count == len(found) >= MANY and not field.scaling:
            shown = shortened(repr(column[0].as_py()))
            log.warning(
                "column %r: none of %s values is in the vocabulary, such as %s; are they written as in training (%s)?",
                field.name, f"{len(found):,}", shown, ", ".join(map(repr, known[-2:].to_pylist())),
            )  # fmt: skip
        if found.null_count:
            if field.unknown is None:
                row = pc.index(found.is_null(), value=True).as_py()
                token = shortened(repr(column[row].as_py()))
                raise NisbenchError(
                    f"column {field.name!r}, row {row}: there is no {token} in the vocabulary, and this field has no "
                    "feature for unknown tokens"
                )
            found = pc.fill_null(found, field.unknown - field.first)
        rows: np.ndarray = found.to_numpy() + field.first
        return rows.astype(np.int32)

    def __repr__(self) -> str:
        about = self.description
        metrics = ", ".join(f"{name} {value:.5f}" for name, value in about.metrics.items())
        head = f"<model {about.model['kind']}({', '.join(self.fields)}) for {about.task}"
        return f"{head}: {metrics}; {about.bytes:,} bytes>"


def load_model(folder: str | Path) -> ServedModel:
    """A model that was exported into `folder`. Raises `NisbenchError` if a file is missing or damaged.

    >>> nb.load_model("small/").predict({"user": [3, 5], "item": [7, 7]})
    """
    folder = Path(folder)
    missing = [name for name in (DESCRIPTION, VOCABULARY, TABLE, NETWORK) if not (folder / name).is_file()]
    if missing:
        raise NisbenchError(f"{folder}: not an exported model: {', '.join(missing)} missing")
    description = read_as(Description, folder / DESCRIPTION)
    kind = description.model.get("kind")
    if kind not in kinds("models"):
        raise NisbenchError(
            f"{folder}: there is no model {kind!r} here. If it is a plug-in, name its file in {VARIABLE}."
        )
    try:
        settings = TypeAdapter(AnyModel).validate_python(description.model)
    except ValidationError as error:
        raise NisbenchError(f"{folder / DESCRIPTION}: model: {error}") from None
    for field in description.fields:
        if field.kind not in FIELD_KINDS:
            raise NisbenchError(
                f"{folder}: the field {field.name!r} is of the kind {field.kind!r}, which nisbench {nisbench.__version__} does "
                f"not read; it reads {', '.join(FIELD_KINDS)}. The model was exported by nisbench {description.nisbench}."
            )
    table = _table(folder / TABLE)
    others, about = load_tensors(folder / NETWORK)
    vocabulary = read_table(folder / VOCABULARY)
    rows = sum(field.count for field in description.fields)
    if not len(vocabulary) == rows == table.rows:
        raise NisbenchError(f"{folder}: its files do not fit together; export the model again")
    texts = vocabulary["token"].combine_chunks()
    tokens = {
        field.name: texts.slice(field.first, field.count) for field in description.fields if field.kind == "categorical"
    }
    nothing = np.zeros((0, table.width), dtype=np.float32)  # the embeddings stay compressed
    served = CompressedTable(table)
    pruned = PrunedModel.of_parts(nothing, others, about, settings, folder / NETWORK, served)
    return ServedModel(description, tokens, pruned.served_from(served).eval())


def _table(path: Path) -> StoredEmbedding:
    tensors, extent = load_tensors(path)
    kinds_of_table = {"composition": ComposedEmbedding, "counts": QuantisedEmbedding}
    kind = next((kind for argument, kind in kinds_of_table.items() if argument in extent), CompressedEmbedding)
    try:
        with torch.device("meta"):  # nothing is allocated for what a damaged file claims
            table: StoredEmbedding = kind(**extent)
        table.load_state_dict(tensors, assign=True)
    except (TypeError, ValueError, OverflowError, RuntimeError, NisbenchError) as error:
        raise NisbenchError(f"{path}: not a compressed table: {shortened(str(error), 200)}") from None
    return table.on_large_pages()


def _arrow(name: str, column: Any) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks()
    if isinstance(column, str | bytes) or not hasattr(column, "__len__"):
        raise NisbenchError(f"column {name!r}: expected an array or a list, not {shortened(repr(column))}")
    try:
        return pa.array(column, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise NisbenchError(f"column {name!r}: not a column of one type: {shortened(str(error), 200)}") from None


def _numbers(field: ServedField, column: pa.Array) -> np.ndarray:
    """(n,) float32, scaled as in preparation. Missing ones are what they are there; without scaling 0."""
    numbers, scaling = _finite(field, column), field.of_instances().scaling
    if scaling is None:
        unscaled: np.ndarray = np.asarray(pc.fill_null(numbers, 0.0)).astype(np.float32)
        return unscaled
    if scaling.missing is None and numbers.null_count:
        row = pc.index(numbers.is_null(), value=True).as_py()
        raise NisbenchError(
            f"column {field.name!r}, row {row}: there is no number, and nothing stands in for missing ones"
        )
    found = scaled(numbers, scaling)
    wild = np.flatnonzero(np.abs(found) > WILDEST)
    if len(wild):
        row, value = int(wild[0]), float(found[wild[0]])
        raise NisbenchError(
            f"column {field.name!r}, row {row}: {column[row].as_py()!r} is {value:g} as scaled, more than {WILDEST} either way; no "
            "such number was trained on"
        )
    return found


def _finite(field: ServedField, column: pa.Array) -> pa.Array:
    """Float64 that float32 can hold, or missing, as an empty text is."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), None, column)
    try:
        numbers = as_numbers(column)
    except (pa.ArrowException, TypeError):
        row = int(np.flatnonzero(unreadable(as_numbers, column))[0])
        value = shortened(repr(column[row].as_py()))
        raise NisbenchError(f"column {field.name!r}, row {row}: expected a number, found {value}") from None
    found = np.asarray(pc.fill_null(numbers, 0.0))
    with np.errstate(over="ignore"):
        sound = np.isfinite(found.astype(np.float32))
    if not sound.all():
        row = int(np.flatnonzero(~sound)[0])
        raise NisbenchError(f"column {field.name!r}, row {row}: {found[row]} is not a finite number")
    return numbers
