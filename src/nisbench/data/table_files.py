"""Read tables of any layout as streams: CSV and its relatives, JSON lines, Parquet; alone, compressed or out of an archive.

Values of text files come as text, missing ones as nulls. What is wrong is named by file, line and column.
"""

import csv
import io
import json
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from nisbench.data.archives import LONGEST_LINE, Reading, open_member, plain, shown_bytes
from nisbench.errors import NisbenchError, shortened
from nisbench.params.columns import TableFile

SEPARATOR = "\x1f"
"""Stands in for delimiters of several characters, which Arrow does not know."""
BLOCK_BYTES = 1 << 23
ROWS_AT_ONCE = 1 << 16
FIRST_OBJECTS = 1000
"""Objects of JSON lines whose keys are the columns; later ones may have further keys."""
LONGEST_VALUE = 1 << 24
"""Of a value, when a malformed line is looked for."""


@dataclass(frozen=True)
class Source:
    """A file of a table."""

    archive: Path
    member: str | None
    read: TableFile

    def __str__(self) -> str:
        return str(self.archive) if self.member is None else f"{self.archive}: {self.member}"

    def columns(self) -> list[str]:
        """The names of the file's columns; of JSON lines, the keys of the first objects."""
        if self.read.layout == "parquet":
            with _opened_parquet(self) as file:
                return list(file.schema_arrow.names)
        with _opened(self) as stream:
            if self.read.layout == "csv":
                return _names(self, stream)
            keys = dict.fromkeys(key for _, row in islice(_objects(self, stream), FIRST_OBJECTS) for key in row)
        if not keys:
            raise NisbenchError(f"{self}: holds no rows")
        return list(keys)

    def batches(self, columns: Sequence[str], tokens: Collection[str] = ()) -> Iterator[pa.Table]:
        """The rows in batches, with these columns; of text files, `tokens` come dictionary-encoded."""
        reader = {"csv": _csv_batches, "jsonl": _json_batches, "parquet": _parquet_batches}[self.read.layout]
        return reader(self, list(dict.fromkeys(columns)), frozenset(tokens))

    def error(self, row: int, column: str, text: str) -> NisbenchError:
        """An error about a value of the row of this number, counted from 0."""
        return NisbenchError(f"{self.place(row)}: {column}: {text}")

    def place(self, row: int) -> str:
        """Where a row is. Slow; called once something is known to be wrong."""
        line = None if self.read.layout == "parquet" else _line_of(self, row)
        return f"{self}: row {row + 1}" if line is None else f"{self}:{line}"


def missing_column(source: Source, name: str, known: Sequence[str], setting: str = "read.names") -> NisbenchError:
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    shown = ", ".join(shortened(one) for one in known[:30]) + (", ..." if len(known) > 30 else "")
    return NisbenchError(
        f"{source}: there is no column {name!r}{hint} It has: {shown}. Mend the parameter, or set {setting}."
    )


# --- text -----------------------------------------------------------------------------------------------------


@contextmanager
def _opened(source: Source) -> Iterator[io.BufferedReader]:
    """The file's bytes; a member of an archive may be compressed once more."""
    with open_member(source.archive, source.member) as stream:
        yield stream if source.member is None else plain(stream, source.archive, stream.peek(8)[:8])


def head_of(archive: Path, member: str | None, size: int) -> bytes:
    """What a file begins with, unpacked: at most so many bytes."""
    with _opened(Source(archive, member, TableFile(layout="csv"))) as stream:
        return stream.read(size)


class _WithSeparator(io.RawIOBase):
    """A stream in which a delimiter of several bytes has become one of a single byte."""

    def __init__(self, stream: io.BufferedReader, delimiter: bytes) -> None:
        self.stream, self.delimiter, self.held, self.ready = stream, delimiter, b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            data = self.held + self.stream.read(1 << 20)
            if len(data) == len(self.held):
                self.ready, self.held = data.replace(self.delimiter, SEPARATOR.encode()), b""
                break
            *whole, rest = data.rsplit(b"\n", 1)  # no delimiter spans two lines
            self.held = rest
            self.ready = b"".join(part + b"\n" for part in whole).replace(self.delimiter, SEPARATOR.encode())
        count = min(len(buffer), len(self.ready))
        buffer[:count], self.ready = self.ready[:count], self.ready[count:]
        return count


def _delimiter(read: TableFile) -> str:
    return read.delimiter if len(read.delimiter) == 1 else SEPARATOR


def _names(source: Source, stream: io.BufferedReader) -> list[str]:
    """The columns of a file of text, after reading its header, if it has one."""
    read = source.read
    found: list[str] = []
    if read.header:
        line = stream.readline(LONGEST_LINE)
        try:
            found = next(_records(source, iter([line])), [])
        except csv.Error as error:
            convert = (
                "if lines end in a carriage return alone, as on old Macs, convert the file: tr '\\r' '\\n' < OLD > NEW"
            )
            raise NisbenchError(f"{source}:1: {error}. See read.quote ({read.quote!r}); {convert}") from None
        if not found:
            raise NisbenchError(f"{source}: is empty: it has not even a header")
    names = read.names or found
    if found and len(names) != len(found):
        raise NisbenchError(f"{source}:1: the header has {len(found)} columns, but read.names has {len(names)}")
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise NisbenchError(f"{source}:1: two columns are called {repeated!r}; name them in read.names")
    return names


def _csv_batches(source: Source, columns: list[str], tokens: frozenset[str]) -> Iterator[pa.Table]:
    read = source.read
    with _opened(source) as stream:
        names = _names(source, stream)
        for name in columns:
            if name not in names:
                raise missing_column(source, name, names)
        delimiter, reading = read.delimiter.encode(read.encoding), Reading(source.member or source.archive.name, stream)
        split = stream if len(read.delimiter) == 1 else io.BufferedReader(_WithSeparator(stream, delimiter), 1 << 20)
        text = pa.dictionary(pa.int32(), pa.string())
        try:
            if not split.peek(1):
                raise NisbenchError(f"{source}: holds no rows")
            reader = pa.csv.open_csv(
                split,
                pa.csv.ReadOptions(column_names=names, block_size=BLOCK_BYTES, encoding=read.encoding),
                pa.csv.ParseOptions(
                    delimiter=_delimiter(read),
                    quote_char=read.quote or False,
                    newlines_in_values=read.quote is not None,
                ),
                pa.csv.ConvertOptions(
                    column_types={name: text if name in tokens else pa.string() for name in columns},
                    include_columns=columns,
                    null_values=read.missing,
                    strings_can_be_null=bool(read.missing),
                ),
            )
            for batch in reader:
                reading.add(len(batch))
                yield pa.Table.from_batches([batch])
        except (pa.ArrowInvalid, UnicodeError) as error:
            raise _malformed(source, len(names), str(error)) from error


def _records(source: Source, lines: Iterator[bytes], numbers: list[int] | None = None) -> Iterator[list[str]]:
    """The rows of a file of text, as Python's csv module reads them; `numbers` is told the line that each begins in."""
    read = source.read
    count = 0

    def decoded() -> Iterator[str]:
        nonlocal count
        for line in lines:
            count += 1
            text = line.decode(read.encoding, errors="replace")
            yield (text.removeprefix("\ufeff") if count == 1 else text).replace(read.delimiter, _delimiter(read))

    csv.field_size_limit(LONGEST_VALUE)
    first = 1
    for record in csv_rows(decoded(), _delimiter(read), read.quote):
        if record:
            if numbers is not None:
                numbers[:] = [first]
            yield record
        first = count + 1


def csv_rows(lines: Iterable[str], delimiter: str, quote: str | None) -> Iterator[list[str]]:
    """Rows as Python's csv module reads them; without a quote, no character is special."""
    if quote is None:
        return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return csv.reader(lines, delimiter=delimiter, quotechar=quote)


def _lines(source: Source, stream: io.BufferedReader) -> Iterator[bytes]:
    return iter(lambda: stream.readline(LONGEST_VALUE), b"")


def _line_of(source: Source, row: int) -> int | None:
    """The number of the line that a row begins in."""
    with _opened(source) as stream:
        if source.read.layout == "jsonl":
            return next((number for i, (number, _) in enumerate(_objects(source, stream)) if i == row), None)
        numbers: list[int] = []
        try:
            for i, _ in enumerate(_records(source, _lines(source, stream), numbers), start=-int(source.read.header)):
                if i == row:
                    return numbers[0]
        except csv.Error:
            pass
    return None


def _malformed(source: Source, width: int, otherwise: str) -> NisbenchError:
    """The error that names the first line that cannot be read. Slow; called once something is known to be wrong."""
    read = source.read
    with _opened(source) as stream:
        for number, line in enumerate(_lines(source, stream), start=1):
            try:
                line.decode(read.encoding)
            except UnicodeError:
                text = f"is not text in {read.encoding}: {shown_bytes(line)}; set read.encoding, such as latin-1"
                return NisbenchError(f"{source}:{number}: {text}")
    numbers: list[int] = []
    with _opened(source) as stream:
        try:
            for record in _records(source, _lines(source, stream), numbers):
                if len(record) != width:
                    shown = shortened(read.delimiter.join(record))
                    text = f"expected {width} values, found {len(record)}: {shown!r}"
                    return NisbenchError(
                        f"{source}:{numbers[0]}: {text}. See read.delimiter ({read.delimiter!r}), read.names and read.quote "
                        f"({read.quote!r})."
                    )
        except csv.Error as error:
            return NisbenchError(f"{source}:{numbers[0] if numbers else 1}: {error}. See read.quote ({read.quote!r}).")
    return NisbenchError(f"{source}: {shortened(otherwise, 200)}")


# --- JSON lines -----------------------------------------------------------------------------------------------


def _objects(source: Source, stream: io.BufferedReader) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSON lines, and their lines' numbers from 1. Numbers stay as they are written."""
    for number, line in enumerate(_lines(source, stream), start=1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not text.strip():
            continue
        try:
            decoded = text.decode(source.read.encoding)
            row = json.loads(decoded, parse_float=str, parse_int=str, parse_constant=_constant)
        except (ValueError, RecursionError) as error:
            raise NisbenchError(f"{source}:{number}: not JSON: {error}: {shown_bytes(line.strip())}") from None
        if not isinstance(row, dict):
            raise NisbenchError(f"{source}:{number}: expected a JSON object, found {shown_bytes(line.strip())}")
        yield number, row


def _constant(name: str) -> str | None:
    """NaN, which is no JSON, is how Python's json module writes that there is none; Infinity stays as it is written."""
    return None if name == "NaN" else name


def _json_batches(source: Source, columns: list[str], _tokens: frozenset[str]) -> Iterator[pa.Table]:
    missing, seen, first = frozenset(source.read.missing), set[str](), dict[str, Any]()
    rows: list[list[Any]] = []
    with _opened(source) as stream:
        reading = Reading(source.member or source.archive.name, stream)
        for number, row in _objects(source, stream):
            first = first or row
            reading.add(1)
            rows.append([_json_value(source, number, name, row.get(name), missing) for name in columns])
            seen |= row.keys() & set(columns)
            if len(rows) == ROWS_AT_ONCE:
                yield _json_table(rows, columns)
                rows = []
    if rows:
        yield _json_table(rows, columns)
    for name in columns:
        if name not in seen:
            raise missing_column(source, name, list(first), "the column's name")


def _json_value(source: Source, number: int, name: str, value: Any, missing: frozenset[str]) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(item is None or isinstance(item, str) for item in value):
        return [item for item in value if item is not None]
    if value is not None and not isinstance(value, str):
        raise NisbenchError(
            f"{source}:{number}: {name}: expected a text, a number or a list of them, not {value!r:.60}"
        )
    return None if value in missing else value


def _json_table(rows: list[list[Any]], columns: list[str]) -> pa.Table:
    arrays = []
    for values in zip(*rows, strict=True):
        lists = any(isinstance(value, list) for value in values)
        if lists:
            column = [[value] if isinstance(value, str) else value for value in values]
            arrays.append(pa.array(column, pa.list_(pa.string())))
        else:
            arrays.append(pa.array(values, pa.string()))
    return pa.table(dict(zip(columns, arrays, strict=True)))


# --- Parquet --------------------------------------------------------------------------------------------------


@contextmanager
def _opened_parquet(source: Source) -> Iterator[pq.ParquetFile]:
    """The file must be read from its end, so one that is not alone and uncompressed is unpacked to a temporary one."""
    with ExitStack() as stack:
        path: Any = source.archive
        with source.archive.open("rb") as file:
            alone = file.read(4) == b"PAR1"
        if not alone:
            path = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(stack.enter_context(_opened(source)), path, 1 << 20)
        try:
            opened = stack.enter_context(pq.ParquetFile(path, pre_buffer=False))
        except (pa.ArrowException, OSError) as error:
            raise NisbenchError(f"{source}: not a Parquet file: {shortened(str(error), 200)}") from error
        yield opened


def _parquet_batches(source: Source, columns: list[str], _tokens: frozenset[str]) -> Iterator[pa.Table]:
    with _opened_parquet(source) as file:
        names = list(file.schema_arrow.names)
        for name in columns:
            if name not in names:
                raise missing_column(source, name, names, "the column's name")
            if names.count(name) > 1:
                raise NisbenchError(f"{source}: two columns are called {name!r}; write the file with one of each name")
        missing = pa.array(source.read.missing, pa.string())
        try:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                table = pa.Table.from_batches([batch]).select(columns)
                for i, name in enumerate(columns):
                    column = table[name]
                    if len(missing) and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                        gone = pc.is_in(column, value_set=missing.cast(column.type))
                        table = table.set_column(i, name, pc.if_else(gone, None, column))
                yield table
        except (pa.ArrowException, OSError) as error:
            raise NisbenchError(f"{source}: cannot be read: {shortened(str(error), 200)}") from error
