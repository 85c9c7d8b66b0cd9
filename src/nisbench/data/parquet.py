"""The one form that all data sets take on disk: a Parquet file of instances and one of its vocabulary.

Instances have the columns ``label`` (float32) and one per field. A categorical field's column holds int32 feature ids,
counted through all fields from 0; a scalar field's holds float32 values. Which ids are whose stands in the file's schema
metadata, beside the field kinds. Where the source has it, there is also ``time`` (int64, in any unit, for an order only) or
``split`` (int8: 0 train, 1 validation, 2 test, as published), which splitting may use. The vocabulary has one row per feature, in the order of the ids: its ``field``,
its ``token`` in the source, and for generated data its ``planted_dimension``.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from nisbench.errors import NisbenchError, shortened
from nisbench.files import atomic_write, bad_file, check_regular

METADATA_KEY = b"nisbench"
COMPRESSION = "zstd"

FieldKind = Literal["categorical", "scalar"]


@dataclass(frozen=True)
class Scaling:
    """How a scalar field's number x becomes the value that is stored: (x - offset) / span."""

    offset: float = 0.0
    span: float = 1.0
    missing: float | None = None
    """Takes the place of a missing x; None = that is an error."""
    buckets: bool = False
    """Whether x becomes a token instead: sign(x) * floor(log2(1 + |x|)); a missing one is unknown."""


@dataclass(frozen=True)
class Field:
    name: str
    kind: FieldKind
    first: int
    """The first of the field's features, whose ids are consecutive."""
    count: int = 1
    """The number of the field's features."""
    scaling: Scaling | None = None
    """How its values follow from the source's; None = they are the source's, or the format's own business."""
    most: int = 1
    """The number of features that an instance may have in this field. If above 1, the column holds lists of ids."""
    separator: str | None = None
    """What stands between two of its tokens in the source."""

    def described(self) -> dict[str, Any]:
        """As it stands in the schema's metadata: what most fields have not is left out."""
        always = ("name", "kind", "first", "count")
        plain = Field("", "scalar", 0)
        return {key: value for key, value in asdict(self).items() if key in always or value != getattr(plain, key)}


SPLIT_COLUMNS = {"time": pa.int64(), "split": pa.int8()}


def fields_in_a_row(kinds: dict[str, FieldKind], counts: Sequence[int]) -> list[Field]:
    """Fields of these names and kinds, whose features are numbered through in their order."""
    first = np.cumsum([0, *counts])
    return [
        Field(name, kind, int(start), int(count))
        for (name, kind), start, count in zip(kinds.items(), first[:-1], counts, strict=True)
    ]


def schema(fields: list[Field], split_column: str | None = None) -> pa.Schema:
    """The Parquet schema of instances with these fields."""
    columns = [pa.field("label", pa.float32(), nullable=False)]
    for item in fields:
        kind = pa.int32() if item.kind == "categorical" else pa.float32()
        kind = pa.list_(pa.field("item", kind, nullable=False)) if item.most > 1 else kind
        columns.append(pa.field(item.name, kind, nullable=False))
    if split_column:
        columns.append(pa.field(split_column, SPLIT_COLUMNS[split_column], nullable=False))
    described = json.dumps([field.described() for field in fields])
    return pa.schema(columns, metadata={METADATA_KEY: described.encode()})


def fields_of(arrow_schema: pa.Schema, path: Path) -> list[Field]:
    """The fields that the schema of a file of instances describes. Raises `NisbenchError` if it describes none."""
    described = (arrow_schema.metadata or {}).get(METADATA_KEY)
    if described is None:
        raise NisbenchError(f"{path}: not a file of instances made by nisbench (its schema has no field kinds)")
    try:
        fields = _FIELDS.validate_json(described, strict=True)
    except ValidationError as error:
        raise bad_file(path, f"its schema describes no fields: {error.errors()[0]['msg'].lower()}") from None
    first = np.cumsum([0, *(field.count for field in fields)], dtype=object)
    if not fields or any(
        field.first != start or field.count < 1 or field.most < 1 or (field.kind == "scalar" and field.count != 1)
        for field, start in zip(fields, first, strict=False)
    ):
        raise bad_file(path, "the ids of its fields do not follow each other")
    if first[-1] > MOST_FEATURES:
        raise bad_file(path, f"it has {first[-1]:,} features; there can be {MOST_FEATURES:,}")
    return fields


_FIELDS = TypeAdapter(list[Field])
MOST_FEATURES = 2**31 - 1
"""Ids are int32."""


def field_sizes(path: Path) -> tuple[int, ...]:
    """The number of features of each field of a file of instances."""
    return open_instances(path).field_sizes


@dataclass(frozen=True)
class InstancesFile:
    """An open file of instances. Its schema has been checked; values are checked as they are read."""

    path: Path
    file: pq.ParquetFile
    fields: list[Field]

    def __len__(self) -> int:
        return int(self.file.metadata.num_rows)

    @property
    def field_sizes(self) -> tuple[int, ...]:
        return tuple(field.count for field in self.fields)

    def column(self, name: str) -> np.ndarray:
        """One column as an array of its own: (n,)."""
        with reading(self.path):
            found = self.file.read(columns=[name]).column(0)
        self._check(name, found)
        return np.array(found.to_numpy())

    def lists(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A column of lists: all their values, one after another, and the length of each (n,)."""
        with reading(self.path):
            found = self.file.read(columns=[name]).column(0).combine_chunks()
        self._check(name, found)
        return np.array(found.flatten()), np.diff(np.asarray(found.offsets))

    def batches(self, size: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The instances, at most `size` at once; of all columns, or of some."""
        with reading(self.path):
            for batch in self.file.iter_batches(batch_size=size, columns=columns):
                for name, values in zip(batch.schema.names, batch.columns, strict=True):
                    self._check(name, values)
                yield batch

    @cached_property
    def _by_name(self) -> dict[str, Field]:
        return {field.name: field for field in self.fields}

    def _check(self, name: str, values: pa.Array | pa.ChunkedArray) -> None:
        """Raise `NisbenchError` if some of a column's values are not what they may be."""
        if values.null_count:
            raise bad_file(self.path, f"column {name}: some values are missing")
        field = self._by_name.get(name)
        if field and field.most > 1:
            lengths = pc.min_max(pc.list_value_length(values))
            least, most = (lengths[end].as_py() for end in ("min", "max"))
            if least is not None and not 1 <= least <= most <= field.most:
                raise bad_file(
                    self.path, f"column {name}: lists of {least} to {most}; they must have 1 to {field.most}"
                )
            values = pc.list_flatten(values)
            if values.null_count:
                raise bad_file(self.path, f"column {name}: some values are missing")
        if name == "split" or (field and field.kind == "categorical"):
            first, count = (field.first, field.count) if field else (0, 3)
            found = pc.min_max(values)
            low, high = (found[end].as_py() for end in ("min", "max"))
            if low is not None and (low < first or high >= first + count):
                raise bad_file(
                    self.path,
                    f"column {name}: values from {low} to {high}; they must lie from {first} to {first + count - 1}",
                )
        elif name != "time" and not pc.all(pc.is_finite(values), min_count=0).as_py():
            raise bad_file(self.path, f"column {name}: some values are not finite numbers")


def open_instances(path: Path) -> InstancesFile:
    """Open a file of instances. Raises `NisbenchError` if it is none, or holds none."""
    file = open_parquet(path)
    found = file.schema_arrow
    fields = fields_of(found, path)
    extra = found.names[1 + len(fields) :]
    expected = schema(fields, extra[0] if extra and extra[0] in SPLIT_COLUMNS else None)
    if found.names != expected.names:
        names = ", ".join(expected.names)
        raise bad_file(path, f"its columns are {shortened(', '.join(found.names))}, not {shortened(names)}")
    for column in expected:
        if found.field(column.name).type != column.type:
            raise bad_file(path, f"column {column.name}: {found.field(column.name).type}, not {column.type}")
    if file.metadata.num_rows == 0:
        raise bad_file(path, "it holds no instances")
    return InstancesFile(path, file, fields)


def same_fields(splits: Mapping[str, Path]) -> tuple[int, ...]:
    """The sizes of the fields of splits of one data set. Raises `NisbenchError` if some have others."""
    first, *others = [open_instances(path) for path in splits.values()]
    for other in others:
        if other.fields != first.fields:
            raise bad_file(other.path, f"its fields are not those of {first.path}")
    return first.field_sizes


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what Arrow raises where a file is damaged into `NisbenchError`."""
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise bad_file(path, f"not a readable Parquet file: {error}") from error


def write(
    path: Path,
    labels: np.ndarray,
    columns: dict[str, np.ndarray],
    fields: list[Field],
    time: np.ndarray | None = None,
) -> None:
    arrays = [pa.array(labels, pa.float32()), *(pa.array(columns[field.name]) for field in fields)]
    if time is not None:
        arrays.append(pa.array(time, pa.int64()))
    write_table(path, pa.Table.from_arrays(arrays, schema=schema(fields, None if time is None else "time")))


def write_categorical(
    instances_file: Path,
    vocabulary_file: Path,
    labels: Sequence[float],
    tokens: Mapping[str, Sequence[str]],
    time: Sequence[int] | None = None,
) -> None:
    """Write instances whose fields are all categorical, and their vocabulary. `tokens` are each field's, one per instance.

    Features are numbered through in the order of fields, and of sorted tokens within a field.
    """
    found = {name: np.unique(np.asarray(column), return_inverse=True) for name, column in tokens.items()}
    fields = fields_in_a_row(dict.fromkeys(found, "categorical"), [len(known) for known, _ in found.values()])
    vocabulary = {
        "field": np.repeat([field.name for field in fields], [field.count for field in fields]),
        "token": np.concatenate([known.astype(str) for known, _ in found.values()]),
    }
    columns = {field.name: (field.first + found[field.name][1]).astype(np.int32) for field in fields}
    write_table(vocabulary_file, pa.table(vocabulary))
    write(instances_file, np.asarray(labels, np.float32), columns, fields, None if time is None else np.asarray(time))


def write_table(path: Path, table: pa.Table) -> None:
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression=COMPRESSION)


def open_parquet(path: Path) -> pq.ParquetFile:
    with reading(check_regular(path)):
        file = pq.ParquetFile(path, pre_buffer=False)
        _ = file.schema_arrow.names  # that they are no text shows only here
        return file


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    with reading(check_regular(path)):
        return pq.read_table(path, columns=columns, pre_buffer=False)


def feature_counts(path: Path, features: int) -> np.ndarray:
    """How often each feature occurs in a file of instances: (features,) int64. A scalar feature occurs in every one."""
    file = open_instances(path)
    counts = np.zeros(features, dtype=np.int64)
    for field in file.fields:
        if field.kind == "scalar":
            counts[field.first] += len(file)
        else:
            for batch in file.batches(1 << 20, [field.name]):
                ids = batch.column(0).flatten() if field.most > 1 else batch.column(0)
                counts += np.bincount(ids.to_numpy(), minlength=features)
    return counts


# --- one row per feature --------------------------------------------------------------------------------------


def read_vocabulary(path: Path, fields: Sequence[Field]) -> pa.Table:
    """The vocabulary of instances with these fields. Raises `NisbenchError` if it is that of others."""
    table = read_table(path)
    _check_columns(table, {"field": _is_text, "token": _is_text}, path)
    if len(table) != sum(field.count for field in fields):
        raise bad_file(path, f"it has {len(table):,} rows, but the instances {sum(f.count for f in fields):,} features")
    runs = pc.run_end_encode(table["field"].combine_chunks())
    ends = [field.first + field.count for field in fields]
    if runs.values.to_pylist() != [field.name for field in fields] or runs.run_ends.to_pylist() != ends:
        raise bad_file(path, "column field: the fields are not those of the instances, in their order")
    return table


def read_features(path: Path, instances: InstancesFile | None = None) -> pa.Table:
    """A vocabulary with each feature's ``frequency`` and ``block``: of the training instances, where these are given."""
    table = read_vocabulary(path, instances.fields) if instances else read_table(path)
    names = ["frequency", "block", *{"planted_dimension"} & {*table.column_names}]
    _check_columns(table, dict.fromkeys(names, pa.types.is_integer), path)
    if len(table) == 0:
        raise bad_file(path, "it holds no features")
    for name in names:
        if pc.min(table[name]).as_py() < 0:
            raise bad_file(path, f"column {name}: some values are below 0")
    block = table["block"].to_numpy()
    if block.max() >= len(block) or np.bincount(block).min() == 0:
        raise bad_file(path, f"column block: not all numbers up to {block.max()} are used")
    if instances:
        sums = np.add.reduceat(table["frequency"].to_numpy(), [field.first for field in instances.fields])
        several = np.array([field.most > 1 for field in instances.fields])
        if ((sums < len(instances)) | ((sums > len(instances)) & ~several)).any():
            raise bad_file(path, f"column frequency: a field's do not sum to the {len(instances):,} training instances")
    return table


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _check_columns(table: pa.Table, kinds: Mapping[str, Callable[[pa.DataType], bool]], path: Path) -> None:
    for name, is_kind in kinds.items():
        if table.column_names.count(name) != 1:
            raise bad_file(path, f"it has no column {name}")
        if not is_kind(table[name].type):
            raise bad_file(path, f"column {name}: {table[name].type} is not what it holds")
        if table[name].null_count:
            raise bad_file(path, f"column {name}: some values are missing")
