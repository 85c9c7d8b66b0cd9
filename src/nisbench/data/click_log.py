"""Click logs of Criteo's layout: a label, 13 numbers and 26 tokens a line, as instances.

A line is a label, I1 to I13 and C1 to C26; missing values are empty. A file is read twice in batches, so memory grows with the
number of different tokens and not with the number of lines: first tokens are counted and the numbers' ranges found, then instances
are written.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from nisbench.data import parquet
from nisbench.data.archives import (
    LONGEST_LINE,
    Digested,
    Reading,
    lines_of,
    numbered_blocks,
    open_member,
    shown_bytes,
)
from nisbench.data.parquet import FieldKind, Scaling
from nisbench.errors import NisbenchError
from nisbench.files import atomic_write
from nisbench.logs import log

SCALARS = [f"I{i}" for i in range(1, 14)]
TOKENS = [f"C{i}" for i in range(1, 27)]
COLUMNS = ["label", *SCALARS, *TOKENS]
UNKNOWN = "<unknown>"
WILDEST = 10_000
"""The largest number, either way, that is trained on. Those of Criteo, as scaled, go up to some 900."""
LARGEST = float(np.finfo(np.float32).max)
ENCODED_AT_ONCE = 1 << 20  # lines: the table of a field's tokens is built anew for each such batch
BLOCK_BYTES = 1 << 23  # larger ones wait for each other: decompression, parsing and counting run side by side


@dataclass(frozen=True)
class LogFile:
    """A file of clicks in an archive, as this publisher or those who encoded its data again write it."""

    archive: Path
    member: str
    delimiter: str = "\t"
    header: bool = False
    """Whether the first line names the columns."""
    md5: str | None = None
    """What the file must be, if known."""

    def __str__(self) -> str:
        return f"{self.archive}: {self.member}"


def check_scale(files: list[LogFile], found: "Contents", low: np.ndarray, span: np.ndarray, remedy: str) -> None:
    """Raise `NisbenchError` if a number would be so large, once it is (x - low) / span, that nothing can be learned beside it.

    `remedy` says what to do; in it, ``{i}`` is the number's place, from 0.
    """
    for i, name in enumerate(SCALARS):
        least, most = (float(value[i] - low[i]) / float(span[i]) for value in (found.low, found.high))
        if max(abs(least), abs(most)) > WILDEST:
            raise NisbenchError(
                f"{files[0] if len(files) == 1 else files[0].archive}: {name} runs from {found.low[i]:g} to {found.high[i]:g}, "
                f"which is {least:g} to {most:g} as it would be trained on: more than {WILDEST}. {remedy.format(i=i)}"
            )
    constant = [name for name, least, most in zip(SCALARS, found.low, found.high, strict=True) if least == most]
    if constant:
        log.warning("%s: the same in every line that has it, so nothing can be learned from it", ", ".join(constant))


def encode(
    files: list[LogFile],
    kept: list[pa.Array],
    low: np.ndarray,
    span: np.ndarray,
    instances_file: Path,
    vocabulary_file: Path,
) -> None:
    """The second pass: instances, with numbers (x - low) / span, and the vocabulary of the tokens `kept` in each field.

    A missing number is stored as 0, which is what `low` becomes.

    Of several files, an instance's ``split`` says which it comes from.
    """
    kinds: dict[str, FieldKind] = {**dict.fromkeys(SCALARS, "scalar"), **dict.fromkeys(TOKENS, "categorical")}
    fields = parquet.fields_in_a_row(kinds, [*[1] * len(SCALARS), *(1 + len(tokens) for tokens in kept)])
    for i, (offset, unit) in enumerate(zip(low.tolist(), span.tolist(), strict=True)):
        fields[i] = replace(fields[i], scaling=Scaling(offset, unit, missing=offset))
    tokens = pa.concat_arrays([pa.array(SCALARS), *(pa.concat_arrays([pa.array([UNKNOWN]), each]) for each in kept)])
    names = np.repeat([field.name for field in fields], [field.count for field in fields])
    schema = parquet.schema(fields, "split" if len(files) > 1 else None)
    with atomic_write(instances_file) as temporary:
        with pq.ParquetWriter(temporary, schema, compression=parquet.COMPRESSION) as writer:
            for number, log_file in enumerate(files):
                for batch in _joined(batches(log_file), ENCODED_AT_ONCE):
                    columns = [batch["label"].cast(pa.float32())]
                    for i, name in enumerate(SCALARS):
                        scaled = pc.divide(pc.subtract(batch[name], low[i]), span[i])
                        columns.append(pc.fill_null(scaled, 0.0).cast(pa.float32()))
                    for i, field in enumerate(fields[len(SCALARS) :]):
                        columns.append(encoded(batch[field.name], kept[i], field.first))
                    if len(files) > 1:
                        columns.append(pa.array(np.full(len(batch), number, dtype=np.int8)))
                    writer.write_table(pa.table(columns, schema=schema))
        parquet.write_table(vocabulary_file, pa.table({"field": names, "token": tokens}))
    log.info("%d features", len(tokens))


# --- what the file holds --------------------------------------------------------------------------------------


@dataclass
class TokenCounter:
    """How often each token of a field occurs. Counts of batches are summed when they outgrow what is summed already."""

    pending: list[pa.Table] = field(default_factory=list)
    pending_rows: int = 0
    summed: int = 0

    def add(self, tokens: pa.ChunkedArray) -> None:
        """Count dictionary-encoded tokens; missing ones do not count."""
        for chunk in tokens.chunks:
            occurrences = np.bincount(chunk.indices.drop_null().to_numpy(), minlength=len(chunk.dictionary))
            self.pending.append(pa.table({"token": chunk.dictionary, "count": occurrences}))
            self.pending_rows += len(chunk.dictionary)
        if self.pending_rows > 2 * self.summed + 100_000:
            self._sum()

    def kept(self, min_count: int) -> pa.Array:
        """The tokens that occur at least `min_count` times, in their own order."""
        table = self._sum()
        tokens = table["token"].filter(pc.greater_equal(table["count"], min_count)).combine_chunks()
        self.pending.clear()
        return tokens.take(pc.sort_indices(tokens))

    def _sum(self) -> pa.Table:
        if not self.pending:
            return pa.table({"token": pa.array([], pa.string()), "count": pa.array([], pa.int64())})
        table = pa.concat_tables(self.pending).group_by("token").aggregate([("count", "sum")])
        table = table.rename_columns({"count_sum": "count"})
        self.pending, self.pending_rows, self.summed = [table], 0, len(table)
        return table


@dataclass
class Contents:
    """What the first pass finds."""

    lines: int
    low: np.ndarray
    """(13,) float64: least value of each number."""
    high: np.ndarray
    """(13,) float64: greatest value of each number."""
    tokens: list[TokenCounter]
    """Of each of the 26 fields."""


def count(files: list[LogFile]) -> Contents:
    """The first pass: tokens and ranges of numbers. Raises `NisbenchError` naming the first malformed line."""
    found = Contents(0, np.full(len(SCALARS), np.inf), np.full(len(SCALARS), -np.inf), [TokenCounter() for _ in TOKENS])
    for log_file in files:
        before = found.lines
        for batch in batches(log_file, check=True):
            _count(log_file, batch, found)
            log.debug("%d lines counted", found.lines)
        if found.lines == before:
            raise NisbenchError(f"{log_file}: is empty")
    never = ~np.isfinite(found.low)
    found.low[never], found.high[never] = 0.0, 1.0
    log.info("%d instances", found.lines)
    return found


def _count(log_file: LogFile, batch: pa.Table, found: Contents) -> None:
    if (problem := _problem(batch)) is not None:
        raise _malformed(log_file, problem)
    for i, name in enumerate(SCALARS):
        extremes = pc.min_max(batch[name]).as_py()
        if extremes["min"] is not None:
            found.low[i] = min(found.low[i], extremes["min"])
            found.high[i] = max(found.high[i], extremes["max"])
    for counter, name in zip(found.tokens, TOKENS, strict=True):
        counter.add(batch[name])
    found.lines += len(batch)


def _joined(tables: Iterator[pa.Table], lines: int) -> Iterator[pa.Table]:
    """The same rows in fewer tables, of at least so many lines each but the last."""
    waiting: list[pa.Table] = []
    for table in chain(tables, [None]):
        if table is not None:
            waiting.append(table)
        if waiting and (table is None or sum(map(len, waiting)) >= lines):
            yield pa.concat_tables(waiting)
            waiting.clear()


def encoded(tokens: pa.ChunkedArray, kept: pa.Array, unknown: int) -> pa.Array:
    """Feature ids of dictionary-encoded tokens: `unknown` for those missing or not kept, and from there on, in order."""
    joined = tokens.unify_dictionaries().combine_chunks()
    ids = pc.fill_null(pc.add(pc.index_in(joined.dictionary, value_set=kept), unknown + 1), unknown)
    return pc.fill_null(ids.take(joined.indices), unknown).cast(pa.int32())


# --- reading --------------------------------------------------------------------------------------------------


def batches(log_file: LogFile, check: bool = False) -> Iterator[pa.Table]:
    """The file in batches of lines: ``label`` int8, numbers float64, tokens dictionary-encoded; its MD5 sum is checked on demand."""
    digest = hashlib.md5(usedforsecurity=False)
    with open_member(log_file.archive, log_file.member) as opened, _arrow_errors(log_file):
        if log_file.header:
            first = opened.readline(LONGEST_LINE)
            digest.update(first)
            names = first.strip().decode(errors="replace").removeprefix("\ufeff")
            if names.split(log_file.delimiter) != COLUMNS:
                wanted = log_file.delimiter.join((*COLUMNS[:2], "...", COLUMNS[-1]))
                raise NisbenchError(f"{log_file}:1: expected the header {wanted}, found {shown_bytes(names.encode())}")
        source = Digested(opened, digest) if check and log_file.md5 else opened
        reading = Reading(f"{log_file.member}, {'first' if check else 'second'} pass", opened)
        reader = pa.csv.open_csv(source, *_options(log_file))
        for batch in reader:
            reading.add(len(batch))
            yield pa.Table.from_batches([batch])
    if check and log_file.md5 and digest.hexdigest() != log_file.md5:
        raise NisbenchError(
            f"{log_file}: is not the published file: its MD5 sum is {digest.hexdigest()}, not {log_file.md5}"
        )


def _options(log_file: LogFile) -> tuple[pa.csv.ReadOptions, pa.csv.ParseOptions, pa.csv.ConvertOptions]:
    kinds: dict[str, pa.DataType] = {"label": pa.int8()}
    kinds |= dict.fromkeys(SCALARS, pa.float64()) | dict.fromkeys(TOKENS, pa.dictionary(pa.int32(), pa.string()))
    return (
        pa.csv.ReadOptions(column_names=COLUMNS, block_size=BLOCK_BYTES),
        pa.csv.ParseOptions(delimiter=log_file.delimiter, quote_char=False),
        pa.csv.ConvertOptions(column_types=kinds, null_values=[""], strings_can_be_null=True),
    )


@contextmanager
def _arrow_errors(log_file: LogFile) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise _malformed(log_file, str(error)) from error


def _malformed(log_file: LogFile, otherwise: str) -> NisbenchError:
    """The error that names the first malformed line; called once something is known to be wrong."""
    with open_member(log_file.archive, log_file.member) as stream:
        for first, block in numbered_blocks(stream, str(log_file)):
            header = log_file.header and first == 1
            if not header and _is_well_formed(log_file, block):
                continue  # line by line would take minutes
            for number, line in lines_of(first, block):
                if header and number == 1:
                    continue
                try:
                    _check_line(line, log_file.delimiter.encode())
                except ValueError as error:
                    return NisbenchError(f"{log_file}:{number}: {error}")
    return NisbenchError(f"{log_file}: {otherwise}")


def _is_well_formed(log_file: LogFile, block: bytes) -> bool:
    if not block.strip(b"\r\n"):
        return True
    try:
        batch = pa.csv.read_csv(pa.BufferReader(block), *_options(log_file))
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return False
    return _problem(batch) is None


def _problem(batch: pa.Table) -> str | None:
    """What is wrong with lines of which each value is of its column's type."""
    labels = batch["label"]
    if labels.null_count or not pc.all(pc.is_in(labels, pa.array([0, 1], pa.int8()))).as_py():
        return "a label is neither 0 nor 1"
    for name in SCALARS:
        if pc.all(pc.less_equal(pc.abs(batch[name]), LARGEST)).as_py() is False:  # nor is NaN
            return f"{name} holds a number that is not finite"
    return None


def _check_line(line: bytes, delimiter: bytes) -> None:
    """Raise `ValueError` if a line is malformed."""
    values = line.split(delimiter)
    if len(values) != len(COLUMNS):
        raise ValueError(
            f"expected {len(COLUMNS)} columns (a label, 13 numbers, 26 tokens) separated by {delimiter.decode()!r}, found {len(values)}"
        )
    if values[0] not in (b"0", b"1"):
        raise ValueError(f"the label must be 0 or 1, not {shown_bytes(values[0])}")
    for name, value in zip(COLUMNS[1:], values[1:], strict=True):
        if value and not _is_sound(name, value):
            raise ValueError(
                f"{name} must be {'a number' if name in SCALARS else 'text in UTF-8'} or empty, not {shown_bytes(value)}"
            )


def _is_sound(name: str, value: bytes) -> bool:
    try:
        text = value.decode("utf-8")
        return name not in SCALARS or abs(float(text)) <= LARGEST
    except ValueError:
        return False
