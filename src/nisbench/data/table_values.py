"""Values of a table's columns as labels, numbers, tokens and times: what preparing and serving have in common."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nisbench.data.parquet import Scaling
from nisbench.data.table_files import Source
from nisbench.errors import NisbenchError, shortened

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Rows:
    """A batch of a file's rows."""

    source: Source
    first: int
    """The number of the first of them, in the file."""
    table: pa.Table

    def error(self, wrong: np.ndarray, column: str, text: str) -> NisbenchError:
        """An error about the first row that is `wrong` (n,); `{}` in its text is the value there."""
        row = int(np.flatnonzero(wrong)[0])
        value = self.table[column][row].as_py()
        shown = "nothing" if value is None else repr(shortened(str(value)))
        return self.source.error(self.first + row, column, text.replace("{}", shown))

    def numbers(self, column: str) -> pa.Array:
        """Float64; true and false are 1 and 0. Raises `NisbenchError` for what is neither a number nor missing."""
        values = self.table[column].combine_chunks()
        hint = (
            "If it means that there is none, add it to read.missing; if the column holds tokens, list it under `tokens`"
        )
        try:
            numbers = as_numbers(values)
        except pa.ArrowException:
            raise self.error(
                unreadable(as_numbers, values), column, f"expected a number, found {{}}. {hint}."
            ) from None
        found = np.asarray(pc.fill_null(numbers, 0.0))
        sound = np.abs(found) <= LARGEST  # NaN is not
        if not sound.all():
            raise self.error(~sound, column, f"expected a finite number, found {{}}. {hint}.")
        return numbers


def as_numbers(column: pa.Array) -> pa.Array:
    """Float64; true and false are 1 and 0, and NaN of a column of numbers is missing. Raises `pa.ArrowException` for what is no number."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        return _without_nan(column.cast(pa.float64()))
    text = pc.utf8_lower(pc.utf8_trim_whitespace(as_text(column)))
    text = pc.if_else(pc.equal(text, "true"), "1", pc.if_else(pc.equal(text, "false"), "0", text))
    return text.cast(pa.float64())


def unreadable(read: Callable[[pa.Array], pa.Array], column: pa.Array) -> np.ndarray:
    """(n,) bool: the values that cannot be read by themselves. Slow; called once something is known to be wrong."""
    return np.array([not _is_read(read, column.slice(i, 1)) for i in range(len(column))])


def is_number(text: str | None) -> bool:
    if text is None:
        return True
    try:
        return float(text) is not None and "_" not in text
    except ValueError:
        return False


def _without_nan(column: pa.Array) -> pa.Array:
    """NaN is how columns of floats say that there is none."""
    return pc.if_else(pc.is_nan(column), None, column)


def as_text(column: pa.Array) -> pa.Array:
    """Values as tokens. Whole numbers may be floats: some writers have them so where others are missing.

    Raises `pa.ArrowException` for what has no text, such as a list.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        column = _without_nan(column)
        with suppress(pa.ArrowInvalid):  # fractions are left as they are
            column = column.cast(pa.int64())
    return column.cast(pa.string())


def spellings(column: pa.Array) -> Iterator[pa.Array]:
    """Values as tokens in each way that a file may have them, the likeliest first. Raises `pa.ArrowException` as `as_text` does."""
    text, kind = as_text(column), column.type
    yield text
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        yield pc.binary_join_element_wise(text, "", ".0")  # as text files have whole numbers beside missing ones
        if kind == pa.float64():
            yield as_text(column.cast(pa.float32()))  # a file of that type, read by Python
    elif pa.types.is_boolean(kind):
        for pair in (["True", "False"], ["TRUE", "FALSE"], ["1", "0"]):
            yield pc.if_else(column, *pair)
    elif pa.types.is_timestamp(kind):
        for unit in ("s", "ms", "us", "ns"):
            with suppress(pa.ArrowInvalid):  # it has more digits
                exact = column.cast(pa.timestamp(unit, kind.tz)).cast(pa.string())
                yield exact
                yield pc.replace_substring(exact, " ", "T")
        with suppress(pa.ArrowInvalid):
            yield column.cast(pa.date32()).cast(pa.string())


def token_lists(column: pa.Array, separator: str | None) -> tuple[pa.Array, np.ndarray] | None:
    """All tokens of a column, row after row, and the number of each row's (n,). None if the column is of another type.

    Tokens lose surrounding spaces; empty ones do not count.
    """
    if separator is not None:
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            return None
        text = pc.fill_null(as_text(column), "")
        lists = pc.split_pattern(text, separator)
    elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lists = column
    elif column.null_count == len(column):
        return pa.array([], pa.string()), np.zeros(len(column), np.int64)
    else:
        return None
    row = np.asarray(pc.list_parent_indices(lists))
    values = pc.utf8_trim_whitespace(as_text(pc.list_flatten(lists)))
    sound = np.asarray(pc.fill_null(pc.not_equal(values, ""), False))
    return values.filter(pa.array(sound)), np.bincount(row[sound], minlength=len(column))


def first_of_each(numbers: np.ndarray, lengths: np.ndarray, most: int, missing: int) -> tuple[np.ndarray, np.ndarray]:
    """Lists, one after another, and their lengths (n,), cut to `most` values each; an empty one becomes [missing]."""
    within = np.arange(len(numbers)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    cut = np.minimum(lengths, most)
    starts_of_empty = (np.cumsum(cut) - cut)[cut == 0]
    return np.insert(numbers[within < most], starts_of_empty, missing), np.maximum(cut, 1)


def buckets(numbers: pa.Array) -> pa.Array:
    """Numbers of similar magnitude as one token: sign(x) * floor(log2(1 + |x|)), as text; missing ones stay missing."""
    values = np.asarray(pc.fill_null(numbers, 0.0))
    levels = np.sign(values) * np.floor(np.log2(1 + np.abs(values)))
    return pc.if_else(numbers.is_valid(), pa.array(levels.astype(np.int64)).cast(pa.string()), None)


def scaled(numbers: pa.Array, scaling: Scaling) -> np.ndarray:
    """Raw numbers as stored: float64 (n,), missing ones replaced -> float32 (n,)."""
    values = np.asarray(pc.fill_null(numbers, 0.0 if scaling.missing is None else scaling.missing))
    found: np.ndarray = ((values - scaling.offset) / scaling.span).astype(np.float32)
    return found


class Clock:
    """Reads times, all of a table in one unit."""

    kind: str | None = None
    """Set by the first batch: whole numbers, numbers, or dates."""

    def read(self, rows: Rows, column: str) -> pa.Array:
        """Int64, missing ones refused."""
        values = rows.table[column].combine_chunks()
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if values.null_count:
            raise rows.error(np.asarray(values.is_null()), column, "every instance needs a time, but there is none")
        for kind, parse in CLOCKS.items() if self.kind is None else [(self.kind, CLOCKS[self.kind])]:
            try:
                times = parse(values)
            except pa.ArrowException:
                continue
            self.kind = kind
            return times
        kinds = [self.kind] if self.kind else ["numbers", "dates"]
        expected = next((kind for kind in kinds if _is_read(CLOCKS[kind], values.slice(0, 1))), self.kind)
        wrong = unreadable(CLOCKS[expected or "dates"], values)
        text = (
            f"the others are {expected}, but there is"
            if expected
            else "expected a number, or a date such as 2026-01-31 or 2026-01-31T23:59:00Z, found"
        )
        raise rows.error(wrong, column, f"{text} {{}}")


CLOCKS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "whole numbers": lambda values: values.cast(pa.int64()),
    "numbers": lambda values: pc.round(pc.multiply(values.cast(pa.float64()), 1e6)).cast(pa.int64()),
    "dates": lambda values: _dates(values, None),
    "dates with a time zone": lambda values: _dates(values, "UTC"),
}


def _dates(values: pa.Array, zone: str | None) -> pa.Array:
    try:
        return values.cast(pa.timestamp("us", zone)).cast(pa.int64())
    except pa.ArrowInvalid:  # there may be more digits
        return values.cast(pa.timestamp("ns", zone)).cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())


def _is_read(read: Callable[[pa.Array], pa.Array], one: pa.Array) -> bool:
    try:
        read(one)
    except pa.ArrowException:
        return False
    return True
