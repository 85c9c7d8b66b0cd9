"""Tables of one's own: columns by role, as instances.

The text is read once, in batches, into a temporary file of numbers: tokens are numbered as they come. Then it is known which rows
stay (duplicates, labels), which split each is in, how often each token occurs there, and how numbers are distributed; and the
temporary file is written again as instances. Memory grows with the number of different tokens; beside that, a row takes some
bytes (its label, its split, and, where duplicates are looked for, its key).

Where tokens are counted and numbers are scaled in train alone (`fit_on: train`), the split is computed here too, by the same
function as in the step that splits, and enters this step's id.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nisbench.data import parquet, split
from nisbench.data.click_log import UNKNOWN
from nisbench.data.parquet import Field, Scaling
from nisbench.data.table_columns import Columns
from nisbench.data.table_files import Source
from nisbench.data.table_values import Clock, Rows, as_text, buckets, first_of_each, scaled, token_lists
from nisbench.errors import NisbenchError
from nisbench.files import atomic_write
from nisbench.logs import log
from nisbench.params.columns import Parts
from nisbench.params.datasets import DataTable

WILDEST = 10_000
"""The largest number, either way, that is trained on."""
MISSING = -1
"""The number of a missing token."""


def prepare(settings: DataTable, archive: Path | None, instances_file: Path, vocabulary_file: Path) -> None:
    """Write instances, each with its ``time`` or its ``split`` if the table has them, and the vocabulary.

    Fields are the user, the item, tokens, multi and scalars, in this order. A field of tokens begins with its unknown feature.
    """
    assert archive is not None
    instances_file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".table-", dir=instances_file.parent) as folder:
        numbered = _number(settings, archive, Path(folder, "numbered.parquet"))
        rows = _choose_rows(settings, numbered)
        fields, vocabulary, remaps = _fit(settings, numbered, rows)
        with atomic_write(instances_file) as temporary:
            _write(numbered, rows, fields, remaps, temporary)
            parquet.write_table(vocabulary_file, vocabulary)
    log.info("%d instances of %d fields, %d features", rows.keep.sum(), len(fields), len(vocabulary))


# --- first pass: text to numbers ------------------------------------------------------------------------------


@dataclass
class Numbering:
    """The numbers of a field's tokens, in the order in which they were met."""

    known: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))

    def number(self, tokens: pa.DictionaryArray) -> np.ndarray:
        """(n,) int32: each token's number, or `MISSING`."""
        found = pc.index_in(tokens.dictionary, value_set=self.known)
        if found.null_count:
            new = tokens.dictionary.filter(pc.and_(found.is_null(), tokens.dictionary.is_valid()))
            self.known = pa.concat_arrays([self.known, new.unique()])
            found = pc.index_in(tokens.dictionary, value_set=self.known)
        numbers = pc.fill_null(found, MISSING).take(tokens.indices)
        return np.asarray(pc.fill_null(numbers, MISSING)).astype(np.int32)


@dataclass(frozen=True)
class Numbered:
    """What the first pass leaves: a file of numbers, and where its rows come from."""

    path: Path
    tokens: Mapping[str, Numbering]
    sources: Sequence[tuple[Source, int]]
    """The files, and how many rows each has."""

    def column(self, name: str) -> np.ndarray:
        return np.array(parquet.read_table(self.path, [name]).column(0).to_numpy())

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[slice, pa.RecordBatch]]:
        start = 0
        for batch in parquet.open_parquet(self.path).iter_batches(1 << 18, columns=list(columns)):
            yield slice(start, start + len(batch)), batch
            start += len(batch)

    def place(self, row: int) -> str:
        for source, count in self.sources:
            if row < count:
                return source.place(row)
            row -= count
        raise IndexError(row)


def _number(settings: DataTable, archive: Path, path: Path) -> Numbered:
    """The whole table in `path`: labels, times, splits, and per field its tokens' numbers, or its values."""
    numbering = {name: Numbering() for name in _token_columns(settings)}
    schema = _schema(settings)
    clock = Clock()
    sources: list[tuple[Source, int]] = []
    with pq.ParquetWriter(path, schema, compression="lz4") as writer:
        for part, member in _files(settings):
            source = Source(archive, member, settings.read)
            columns = Columns(settings, source)
            count = 0
            for batch in columns.batches():
                rows = Rows(source, count, batch)
                arrays = [_column(settings, name, rows, numbering, clock, part) for name in schema.names]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                count += len(batch)
            if count == 0:
                raise NisbenchError(f"{source}: holds no rows")
            log.info("%s: %d rows", source, count)
            sources.append((source, count))
    return Numbered(path, numbering, sources)


def _files(settings: DataTable) -> list[tuple[int | None, str | None]]:
    """The table's files in order, each with the split that it is, if it is one."""
    if isinstance(settings.files, Parts):
        named = (settings.files.train, settings.files.validation, settings.files.test)
        return [(part, member) for part, members in enumerate(named) for member in members]
    if settings.files is None:
        return [(None, None)]
    return [(None, member) for member in settings.files]


def _token_columns(settings: DataTable) -> list[str]:
    pair = [name for name in (settings.user, settings.item) if name is not None]
    bucketed = [name for name, scalar in settings.scalars.items() if scalar.scale == "log2_buckets"]
    return [*pair, *settings.tokens, *settings.multi, *bucketed]


def _schema(settings: DataTable) -> pa.Schema:
    tokens = _token_columns(settings)
    kinds: dict[str, pa.DataType] = {"label": pa.float64()} if settings.label else {}
    kinds |= {"time": pa.int64()} if settings.time else {}
    kinds |= {"split": pa.int8()} if settings.part or isinstance(settings.files, Parts) else {}
    for name in settings.field_names():
        number = pa.int32() if name in tokens else pa.float64()
        kinds[name] = pa.list_(number) if name in settings.multi else number
    return pa.schema(kinds)


def _column(
    settings: DataTable, name: str, rows: Rows, numbering: Mapping[str, Numbering], clock: Clock, part: int | None
) -> pa.Array:
    """A column of the file of numbers."""
    if name == "label":
        return _labels(settings, rows)
    if name == "time":
        return clock.read(rows, str(settings.time))
    if name == "split":
        return pa.array(np.full(len(rows.table), part, np.int8)) if part is not None else _parts(settings, rows)
    if name in settings.multi:
        return _lists(settings, name, rows, numbering[name])
    if name in settings.scalars:
        numbers = rows.numbers(name)
        scalar = settings.scalars[name]
        if scalar.missing == "refuse" and numbers.null_count and scalar.scale != "log2_buckets":
            text = "there is no number; set scalars.*.missing to a number or to mean, or leave the row out"
            raise rows.error(np.asarray(numbers.is_null()), name, text)
        return pa.array(numbering[name].number(buckets(numbers).dictionary_encode())) if name in numbering else numbers
    tokens = numbering[name].number(_tokens(rows, name))
    if name in (settings.user, settings.item) and (tokens == MISSING).any():
        raise rows.error(tokens == MISSING, name, "every instance needs a user and an item, but there is {}")
    return pa.array(tokens)


def _labels(settings: DataTable, rows: Rows) -> pa.Array:
    assert settings.label is not None
    name = settings.label.column
    labels = rows.numbers(name)
    if labels.null_count:
        raise rows.error(np.asarray(labels.is_null()), name, "every instance needs a label, but there is none")
    values = np.asarray(labels)
    if settings.label.binary and settings.label.positive_above is None:
        wrong = (values != 0) & (values != 1)
        if wrong.any():
            raise rows.error(wrong, name, "expected 0 or 1, found {}. To make it so, set label.positive_above.")
    return labels


def _parts(settings: DataTable, rows: Rows) -> pa.Array:
    assert settings.part is not None
    text = as_text(rows.table[settings.part.column].combine_chunks())
    found = np.full(len(text), MISSING, np.int8)
    for number, values in enumerate((settings.part.train, settings.part.validation, settings.part.test)):
        found[np.asarray(pc.is_in(text, value_set=pa.array(values, pa.string())))] = number
    if (found == MISSING).any():
        text = "{} is neither of part.train nor of part.validation or part.test"
        raise rows.error(found == MISSING, settings.part.column, text)
    return pa.array(found)


def _tokens(rows: Rows, name: str) -> pa.DictionaryArray:
    column = rows.table[name].combine_chunks()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        raise rows.error(np.asarray(column.is_valid()), name, "holds lists; name it under `multi` instead of `tokens`")
    if pa.types.is_dictionary(column.type) and pa.types.is_string(column.type.value_type):
        return column
    return as_text(column).dictionary_encode()


def _lists(settings: DataTable, name: str, rows: Rows, numbering: Numbering) -> pa.Array:
    """Lists of tokens' numbers. A row without a token has a list of one that is missing."""
    column, multi = rows.table[name].combine_chunks(), settings.multi[name]
    lists = token_lists(column, multi.separator)
    if lists is None:
        text = (
            "expected a list, found {}; set multi.*.separator" if multi.separator is None else "expected text, found {}"
        )
        raise rows.error(np.asarray(column.is_valid()), name, text)
    values, lengths = lists
    numbers, lengths = first_of_each(numbering.number(values.dictionary_encode()), lengths, multi.at_most, MISSING)
    return pa.ListArray.from_arrays(pa.array(_offsets(lengths)), pa.array(numbers))


def _offsets(lengths: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return found


# --- second pass: which rows, which tokens, which scale --------------------------------------------------------


@dataclass(frozen=True)
class ChosenRows:
    keep: np.ndarray
    """(n,) bool, of the rows of the table."""
    fitted: np.ndarray
    """(n,) bool: those that tokens are counted in and scales are taken from."""
    labels: np.ndarray
    """(n,) float32."""


def _choose_rows(settings: DataTable, numbered: Numbered) -> ChosenRows:
    """Leave out duplicates and what the label's settings say, and find the rows of train."""
    file = parquet.open_parquet(numbered.path)
    n, names = file.metadata.num_rows, file.schema_arrow.names
    labels = numbered.column("label") if settings.label else np.ones(n)
    times = numbered.column("time") if settings.time else None
    keep = np.ones(n, bool)
    if settings.duplicates != "keep":
        keep, labels = _without_duplicates(settings, numbered, labels, times)
    label = settings.label
    if label and label.positive_above is not None:
        if label.drop_equal:
            keep &= labels != label.positive_above
        labels = labels > label.positive_above
        if label.positives_only:
            keep &= labels
    if not keep.any():
        raise NisbenchError(f"{numbered.sources[0][0]}: no row is left; see label.drop_equal and label.positives_only")
    fitted = keep
    if settings.fits_train:
        users = numbered.column(settings.user)[keep] if settings.user else None
        published = numbered.column("split")[keep] if "split" in names else None
        split_of = split.assign(
            settings.split, int(keep.sum()), users, times[keep] if times is not None else None, published
        )
        fitted = keep.copy()
        fitted[keep] = split_of == split.TRAIN
    return ChosenRows(keep, fitted, labels.astype(np.float32))


def _without_duplicates(
    settings: DataTable, numbered: Numbered, labels: np.ndarray, times: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows stay, and labels, of each group of rows with the same key."""
    pair = [name for name in (settings.user, settings.item) if name is not None]
    keys = pair if len(pair) == 2 else settings.field_names()
    group = _groups(settings, numbered, keys)
    order = np.lexsort((np.arange(len(group)), times, group) if times is not None else (np.arange(len(group)), group))
    ordered = group[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    if settings.duplicates == "refuse" and not last.all():
        at = int(np.flatnonzero(~last)[0])
        first, again = sorted(order[at : at + 2])
        values = ", ".join(keys)
        raise NisbenchError(
            f"{numbered.place(int(again))}: the same {values} as in {numbered.place(int(first))}; "
            f"{int((~last).sum())} rows repeat others. Set `duplicates` to keep, last or mean."
        )
    keep = np.zeros(len(group), bool)
    keep[order[last]] = True
    if settings.duplicates == "mean":
        means = np.bincount(group, weights=labels) / np.bincount(group)
        labels = means[group]
    return keep, labels


def _groups(settings: DataTable, numbered: Numbered, keys: Sequence[str]) -> np.ndarray:
    """(n,) int64: rows of the same number have the same values in all of `keys`."""
    group = np.zeros(1, np.int64)
    for name in keys:
        if name in settings.multi:
            codes = pa.concat_arrays([_joined_ids(batch.column(0)) for _, batch in numbered.batches([name])])
            values = np.asarray(codes.dictionary_encode().indices)
        else:
            values = np.unique(numbered.column(name), return_inverse=True)[1]
        group = np.unique(group * (int(values.max()) + 1) + values, return_inverse=True)[1].astype(np.int64)
    return group


def _joined_ids(lists: pa.ListArray) -> pa.Array:
    texts = lists.flatten().cast(pa.string())
    return pc.binary_join(pa.ListArray.from_arrays(lists.offsets, texts), ",")


def _fit(
    settings: DataTable, numbered: Numbered, rows: ChosenRows
) -> tuple[list[Field], pa.Table, dict[str, np.ndarray]]:
    """The fields; the vocabulary; and, per field of tokens, the feature of each token's number, the last one's for missing ones."""
    fields: list[Field] = []
    names: list[str] = []
    tokens: list[pa.Array] = []
    remaps: dict[str, np.ndarray] = {}
    first = 0
    for name in settings.field_names():
        always = name in (settings.user, settings.item)
        if name in numbered.tokens:
            known = numbered.tokens[name].known
            counts = _counts(numbered, name, rows.keep if always else rows.fitted, len(known))
            chosen = np.flatnonzero(counts >= (1 if always else settings.min_count))
            chosen = chosen[np.asarray(pc.sort_indices(known.take(pa.array(chosen))))]
            unknown = 0 if always else 1
            remap = np.full(len(known) + 1, first, np.int32)
            remap[chosen] = first + unknown + np.arange(len(chosen))
            remaps[name] = remap
            tokens.append(pa.concat_arrays([pa.array([UNKNOWN] * unknown, pa.string()), known.take(pa.array(chosen))]))
            scaling = Scaling(buckets=True) if name in settings.scalars else None
            multi = settings.multi.get(name)
            most, separator = (multi.at_most, multi.separator) if multi else (1, None)
            found = Field(name, "categorical", first, len(tokens[-1]), scaling, most, separator)
        else:
            tokens.append(pa.array([name]))
            found = Field(name, "scalar", first, 1, _scaling(settings, numbered, rows, name))
        fields.append(found)
        names += [name] * found.count
        first += found.count
    return fields, pa.table({"field": pa.array(names), "token": pa.concat_arrays(tokens)}), remaps


def _counts(numbered: Numbered, name: str, among: np.ndarray, known: int) -> np.ndarray:
    """How often each token occurs in some rows: (known,)."""
    counts = np.zeros(known + 1, np.int64)
    for rows, batch in numbered.batches([name]):
        column, chosen = batch.column(0), among[rows]
        if pa.types.is_list(column.type):
            chosen = np.repeat(chosen, np.diff(np.asarray(column.offsets)))
            column = column.flatten()
        counts += np.bincount(np.asarray(column)[chosen] + 1, minlength=known + 1)  # the first are missing ones
    return counts[1:]


def _scaling(settings: DataTable, numbered: Numbered, rows: ChosenRows, name: str) -> Scaling:
    scalar = settings.scalars[name]
    count, mean, squares, low, high = 0, 0.0, 0.0, np.inf, -np.inf
    for at, batch in numbered.batches([name]):
        values = np.asarray(batch.column(0).filter(pa.array(rows.fitted[at])).drop_null())
        if len(values):  # means and squares of batches are joined as Chan, Golub & LeVeque (1979) do
            step, total = values.mean() - mean, count + len(values)
            squares += ((values - values.mean()) ** 2).sum() + step**2 * count * len(values) / total
            mean += step * len(values) / total
            count, low, high = total, min(low, values.min()), max(high, values.max())
    if count == 0:
        raise NisbenchError(f"{numbered.sources[0][0]}: {name}: there is no number in any row it is scaled by")
    offset, span = {
        "none": (0.0, 1.0),
        "minmax": (low, high - low),
        "standard": (mean, (squares / count) ** 0.5),
    }[scalar.scale]
    missing = None if scalar.missing == "refuse" else mean if scalar.missing == "mean" else float(scalar.missing)
    return Scaling(float(offset), float(span) if span > 0 else 1.0, None if missing is None else float(missing))


# --- third pass: instances ------------------------------------------------------------------------------------


def _write(
    numbered: Numbered, rows: ChosenRows, fields: list[Field], remaps: Mapping[str, np.ndarray], path: Path
) -> None:
    file = parquet.open_parquet(numbered.path)
    # Of published splits, the step that splits needs nothing else; else it may need the time.
    extra = next((name for name in ("split", "time") if name in file.schema_arrow.names), None)
    schema = parquet.schema(fields, extra)
    columns = [field.name for field in fields] + ([extra] if extra else [])
    with pq.ParquetWriter(path, schema, compression=parquet.COMPRESSION) as writer:
        for at, batch in numbered.batches(columns):
            kept = pa.array(rows.keep[at])
            chosen = batch.filter(kept)
            arrays: list[Any] = [pa.array(rows.labels[at][rows.keep[at]])]
            for item in fields:
                column = chosen.column(item.name)
                if item.kind == "scalar":
                    assert item.scaling is not None
                    values = scaled(column, item.scaling)
                    wild = np.flatnonzero(np.abs(values) > WILDEST)
                    if len(wild):
                        row = at.start + int(np.flatnonzero(rows.keep[at])[wild[0]])
                        raise _wild(numbered, row, item.name, float(values[wild[0]]))
                    arrays.append(pa.array(values))
                elif item.most > 1:
                    ids = remaps[item.name][np.asarray(column.flatten())]
                    offsets = _offsets(np.asarray(pc.list_value_length(column)))
                    arrays.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids)))
                else:
                    arrays.append(pa.array(remaps[item.name][np.asarray(column)]))
            if extra:
                arrays.append(chosen.column(extra))
            arrays = [array.cast(kind) for array, kind in zip(arrays, schema.types, strict=True)]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


def _wild(numbered: Numbered, row: int, name: str, value: float) -> NisbenchError:
    return NisbenchError(
        f"{numbered.place(row)}: {name}: is {value:g} as it would be trained on, more than {WILDEST} either way. Set "
        f"scalars.{name}.scale to log2_buckets, minmax or standard, or correct the file."
    )
