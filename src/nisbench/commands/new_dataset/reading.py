"""How a table's file is read, as far as its beginning shows it."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from nisbench.data.table_files import SEPARATOR, Source, csv_rows, head_of
from nisbench.data.table_values import is_number
from nisbench.errors import NisbenchError, shortened
from nisbench.params.columns import TableFile

HEAD_BYTES = 1 << 18
MOST_ROWS = 20_000
DELIMITERS = ("\t", "::", ",", ";", "|")
MISSING = ("NA", "N/A", "NULL", "null", "None", "nan", "NaN", "\\N", "?")
UNNAMED = "column"


def head_read(file: Path, member: str | None, names: list[str] | None) -> tuple[Source, pa.Table]:
    """A file, with how to read it, and its first rows. Raises `NisbenchError` if that cannot be told, or there are none."""
    source = Source(file, member, _layout(file, member, names))
    table = next(iter(source.batches(source.columns())), pa.table({})).slice(0, MOST_ROWS)
    if len(table) == 0:
        raise NisbenchError(f"{source}: holds no rows")
    return _with_missing(source, table)


def _layout(file: Path, member: str | None, names: list[str] | None) -> TableFile:
    try:
        start = head_of(file, member, HEAD_BYTES)
    except NisbenchError as error:
        hint = " by --member" if member is None and "is an archive" in str(error) else ""
        raise NisbenchError(f"{error}{hint}") from None
    if start.startswith(b"PAR1"):
        return TableFile(layout="parquet")
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
    header = _has_header(rows)
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
    if any(is_number(cell) or not cell for cell in first) or len(set(first)) < len(first):
        return False
    columns = list(zip(*others, strict=True))
    if any(all(is_number(cell) or not cell for cell in column) for column in columns):
        return True
    return not any(cell in column for cell, column in zip(first, columns, strict=False))


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
