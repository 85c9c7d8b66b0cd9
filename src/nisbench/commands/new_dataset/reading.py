"""How a table's file is read, as far as its beginning shows it."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from nisbench.data.table_files import BLOCK_BYTES, LONGEST_VALUE, SEPARATOR, Source, csv_rows, head_of
from nisbench.data.table_values import is_number
from nisbench.errors import NisbenchError, shortened
from nisbench.params.columns import TableFile

HEAD_BYTES = 1 << 18
MOST_ROWS = 20_000
DELIMITERS = ("\t", "::", ",", ";", "|")
MISSING = ("NA", "N/A", "NULL", "null", "None", "nan", "NaN", "\\N", "?")
UNNAMED = "column"
NAMELESS = "has no name in the header, like an index that pandas writes; --names can give it one"


def head_read(
    file: Path, member: str | None, names: list[str] | None, header: bool | None
) -> tuple[Source, pa.Table, dict[str, str]]:
    """A file, with how to read it; its first rows; and the columns that are left out of them, with the reason.

    Raises `NisbenchError` if it cannot be told how to read it, or there are no rows.
    """
    source = Source(file, member, _layout(file, member, names, header))
    columns = columns_of(source)
    unfit = {"": NAMELESS} if "" in columns else {}
    if source.read.layout == "jsonl":
        unfit |= _nested(head_of(file, member, BLOCK_BYTES))
    table = next(iter(source.batches([name for name in columns if name not in unfit])), pa.table({}))
    unfit |= {column.name: why for column in table.schema if (why := _unfit(column.type))}
    if unfit.keys() >= set(columns):
        raise NisbenchError(f"{source}: no column can be used: {'; '.join(map(' '.join, unfit.items()))}")
    if len(table) == 0:
        raise NisbenchError(f"{source}: holds no rows")
    fit = table.select([name for name in table.column_names if name not in unfit]).slice(0, MOST_ROWS)
    return *_with_missing(source, fit), unfit


def columns_of(source: Source) -> list[str]:
    """The names of a file's columns. Raises `NisbenchError` if they cannot be told, or are not different."""
    try:
        names = source.columns()
    except NisbenchError as error:
        repeated = "two columns are called" in str(error)
        hint = ", here by --names; or, if the first line is data, add --no-header" if repeated else ""
        raise NisbenchError(f"{error}{hint}") from None
    again = next((name for name in names if names.count(name) > 1), None)
    if again is not None:
        raise NisbenchError(
            f"{source}: two columns are called {again!r}; write the file anew, with one of them renamed"
        )
    return names


def _nested(start: bytes) -> dict[str, str]:
    """The columns of JSON lines, of which these are the first, that hold no values; with the reason."""
    found = {}
    for line in start.splitlines():
        try:
            row = json.loads(line, parse_float=str, parse_int=str, parse_constant=str)
        except (ValueError, RecursionError):  # the last line may be cut; another is named when it is read
            continue
        for name, value in row.items() if isinstance(row, dict) else ():
            if isinstance(value, dict):
                found[name] = "holds objects"
            elif isinstance(value, list) and not all(item is None or isinstance(item, str) for item in value):
                found[name] = "holds lists of other things than texts and numbers"
    return found


def _unfit(kind: pa.DataType) -> str | None:
    """Why values of this type are neither tokens nor numbers, nor lists of them."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    held = _held(kind.value_type if is_list else kind)
    return held and f"holds {'lists of ' if is_list else ''}{held}"


def _held(kind: pa.DataType) -> str | None:
    if pa.types.is_dictionary(kind):
        return _held(kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return "lists of a fixed length"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return "lists"
    if pa.types.is_nested(kind):
        return "objects"
    is_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return "bytes" if any(is_kind(kind) for is_kind in is_bytes) else None


def _layout(file: Path, member: str | None, names: list[str] | None, header: bool | None) -> TableFile:
    try:
        start = head_of(file, member, HEAD_BYTES)
    except NisbenchError as error:
        hint = " by --member" if member is None and "is an archive" in str(error) else ""
        raise NisbenchError(f"{error}{hint}") from None
    if start.startswith(b"PAR1"):
        return TableFile(layout="parquet")
    if re.match(rb"(\xef\xbb\xbf)?\s*\[\s*\{", start):
        raise NisbenchError(_not_lines(file, member))
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return TableFile(layout="jsonl")
    encoding = "utf-8"
    whole = start[: start.rfind(b"\n") + 1] or start  # the last line may be cut
    try:
        text = whole.decode("utf-8-sig")
    except UnicodeDecodeError:
        encoding, text = "latin-1", whole.decode("latin-1")
    lines = [line for line in text.splitlines() if line][:500]
    if not lines:
        raise NisbenchError(f"{file}: holds no rows")
    delimiter, quote, rows = _delimiter(lines)
    header = _has_header(rows) if header is None else header
    if names is not None and len(names) != len(rows[0]):
        raise NisbenchError(f"--names: the file has {len(rows[0])} columns: {shortened(lines[0])!r}")
    return TableFile(
        layout="csv",
        delimiter=delimiter,
        header=header,
        names=names or (None if header else [f"{UNNAMED}{i + 1}" for i in range(len(rows[0]))]),
        quote=quote,
        encoding=encoding,
    )


def _delimiter(lines: Sequence[str]) -> tuple[str, str | None, list[list[str]]]:
    """The delimiter and the quote by which the most rows have as many values as the first: the more values, the better."""
    csv.field_size_limit(LONGEST_VALUE)  # a quote that is never closed makes one value of all the rest
    best: tuple[float, int, str, str | None, list[list[str]]] | None = None
    for delimiter in DELIMITERS:
        for quote in ('"', None):
            rows = list(csv_rows([line.replace(delimiter, SEPARATOR) for line in lines], SEPARATOR, quote))
            width = len(rows[0])
            same = sum(len(row) == width for row in rows) / len(rows)
            if width > 1 and (best is None or (same, width) > best[:2]):
                best = (same, width, delimiter, quote, rows)
    if best is None:
        return ",", '"', [[line] for line in lines]
    return best[2:]


def _has_header(rows: list[list[str]]) -> bool:
    first, others = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    columns = list(zip(*others, strict=True))
    nameless = not first[0] and len(columns) > 1  # as pandas writes an index
    if nameless:
        index, first, columns = columns[0], first[1:], columns[1:]
    if any(is_number(cell) or not cell for cell in first):
        return False
    if any(all(is_number(cell) or not cell for cell in column) for column in columns):
        return True
    if nameless and not (all(map(str.isdecimal, index)) and len(set(index)) == len(index)):
        return False
    return not any(cell in column for cell, column in zip(first, columns, strict=False))


def _not_lines(file: Path, member: str | None) -> str:
    """What is wrong with a JSON array, and how to convert it."""
    name = member or str(file)
    lines = f"{Path(name).name.split('.')[0]}.jsonl"
    return (
        f"{file}: {f'{member}: ' if member else ''}is one JSON array; it must be JSON lines, one object a line. In Python, "
        f"after import pandas as pd:\npd.read_json({name!r}, dtype=False).to_json({lines!r}, orient='records', lines=True)"
    )


def _with_missing(source: Source, table: pa.Table) -> tuple[Source, pa.Table]:
    """The same, read so that the usual words for a missing value are missing ones, where there are any in numbers."""
    if source.read.layout == "parquet":
        return source, table
    found: list[str] = []
    for name in table.column_names:
        texts = [value for value in table[name].to_pylist() if isinstance(value, str)]
        words = {value for value in texts if not is_number(value)}
        if words and words <= set(MISSING) and len(words) < len(set(texts)):
            found += sorted(words - set(found))
    if not found:
        return source, table
    read = source.read.model_copy(update={"missing": ["", *found]})
    again = Source(source.archive, source.member, read)
    return again, next(iter(again.batches(table.column_names))).slice(0, MOST_ROWS)
