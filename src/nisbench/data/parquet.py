"""The one form that all data sets take on disk: a Parquet file of instances and one of its vocabulary.

Instances have the columns ``label`` (float32) and one per field. A categorical field's column holds int32 feature ids,
counted through all fields from 0; a scalar field's holds float32 values. Which ids are whose stands in the file's schema
metadata, beside the field kinds. Where the source has it, there is also ``time`` (int64, in any unit, for an order only) or
``split`` (int8: 0 train, 1 validation, 2 test, as published), which splitting may use. The vocabulary has one row per feature, in the order of the ids: its ``field``,
its ``token`` in the source, and for generated data its ``planted_dimension``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nisbench.errors import NisbenchError
from nisbench.files import atomic_write

METADATA_KEY = b"nisbench"
COMPRESSION = "zstd"

FieldKind = Literal["categorical", "scalar"]


@dataclass(frozen=True)
class Field:
    name: str
    kind: FieldKind
    first: int
    """The first of the field's features, whose ids are consecutive."""
    count: int = 1
    """The number of the field's features."""


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
        columns.append(pa.field(item.name, kind, nullable=False))
    if split_column:
        columns.append(pa.field(split_column, SPLIT_COLUMNS[split_column], nullable=False))
    described = json.dumps([asdict(field) for field in fields])
    return pa.schema(columns, metadata={METADATA_KEY: described.encode()})


def fields_of(arrow_schema: pa.Schema, path: Path) -> list[Field]:
    described = (arrow_schema.metadata or {}).get(METADATA_KEY)
    if described is None:
        raise NisbenchError(f"{path}: not a file of instances made by nisbench (its schema has no field kinds)")
    return [Field(**item) for item in json.loads(described)]


def field_sizes(path: Path) -> tuple[int, ...]:
    """The number of features of each field of a file of instances."""
    return tuple(field.count for field in fields_of(open_parquet(path).schema_arrow, path))


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
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise NisbenchError(f"{path}: not a readable Parquet file: {error}. Delete it and run again.") from error


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise NisbenchError(f"{path}: not a readable Parquet file: {error}. Delete it and run again.") from error


def column(file: pq.ParquetFile, name: str) -> np.ndarray:
    """One column as an array of its own."""
    return np.array(file.read(columns=[name]).column(0).to_numpy())


def feature_counts(path: Path, features: int) -> np.ndarray:
    """How often each feature occurs in a file of instances: (features,) int64. A scalar feature occurs in every one."""
    file = open_parquet(path)
    counts = np.zeros(features, dtype=np.int64)
    for field in fields_of(file.schema_arrow, path):
        if field.kind == "scalar":
            counts[field.first] += file.metadata.num_rows
        else:
            for batch in file.iter_batches(columns=[field.name], batch_size=1 << 20):
                counts += np.bincount(batch.column(0).to_numpy(), minlength=features)
    return counts
