"""The columns that a table's roles name: of its own files, joined to them from side files, or derived from others."""

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nisbench.data.table_files import Source, missing_column
from nisbench.data.table_values import as_text
from nisbench.errors import NisbenchError
from nisbench.logs import log
from nisbench.params.columns import Join
from nisbench.params.datasets import DataTable


class Columns:
    """The columns that a table's roles name: of its own files, joined to them, or derived."""

    def __init__(self, settings: DataTable, source: Source) -> None:
        self.settings, self.source = settings, source
        self.joined = [Side(source, join, join.file) for join in settings.join]
        derived = {name for name in _role_columns(settings) if name in settings.derive}
        wanted = [settings.derive[name].column if name in derived else name for name in _role_columns(settings)]
        own = source.columns()
        self.own = [join.key for join in settings.join if join.key in own]
        self.of_side: dict[str, Side] = {}
        self.derived: dict[str, bool] = {}
        """Of the columns that are derived, whether any row has a value so far."""
        for name in dict.fromkeys(wanted):
            sides = [side for side in self.joined if name in side.names]
            if len(sides) + (name in own) > 1 and not (name in own and name in [join.key for join in settings.join]):
                places = ", ".join([*([str(source)] if name in own else []), *(str(side.source) for side in sides)])
                raise NisbenchError(f"{name!r} is a column of several files ({places}); name them apart by read.names")
            if name in own:
                self.own.append(name)
            elif sides:
                self.of_side[name] = sides[0]
            elif source.read.layout == "jsonl":  # the first object need not have all keys
                self.own.append(name)
            else:
                raise missing_column(source, name, [*own, *(n for side in self.joined for n in side.names)])
        for side in self.joined:
            if side.join.key not in own and source.read.layout != "jsonl":
                raise missing_column(source, side.join.key, own)
            side.load([name for name, of in self.of_side.items() if of is side])

    def batches(self) -> Iterator[pa.Table]:
        settings = self.settings
        numbers = {settings.time, *settings.scalars, *settings.multi, settings.label.column if settings.label else None}
        tokens = {name for name in self.own if name not in numbers}
        first = 0
        for batch in self.source.batches(self.own, tokens=tokens):
            columns = {name: batch[name] for name in batch.column_names}
            places = {}
            for name, side in self.of_side.items():
                key = side.join.key
                if key not in places:
                    places[key] = side.rows_of(columns[key])
                columns[name] = pa.chunked_array([side.columns[name].take(places[key])])
            for name, made in settings.derive.items():
                if made.column in columns:
                    columns[name] = _derived(columns[made.column], re.compile(made.pattern))
                    self.derived[name] = self.derived.get(name, False) or columns[name].null_count < len(columns[name])
            for name in [name for name in settings.field_names() if name not in settings.scalars]:
                if not _has_text(columns[name]):
                    row = int(np.flatnonzero(np.asarray(columns[name].is_valid()))[0])
                    text = f"is {columns[name].type}, which is no text; leave it out, or write it as text or a list of texts"
                    raise self.source.error(first + row, name, text)
            first += len(batch)
            yield pa.table(columns)
        for side in self.joined:
            side.check()
        for name in [name for name, of in self.derived.items() if not of]:
            made = settings.derive[name]
            raise NisbenchError(
                f"{self.source}: derive.{name}.pattern matches nothing in any row of {made.column}: {made.pattern}"
            )


def _role_columns(settings: DataTable) -> list[str]:
    """The columns that the roles name."""
    named = [settings.label.column if settings.label else None, settings.time]
    named += [settings.part.column if settings.part else None, *settings.field_names()]
    return [name for name in named if name is not None]


class Side:
    """A side file, in memory."""

    columns: dict[str, pa.Array]
    keys: pa.Array

    def __init__(self, main: Source, join: Join, member: str) -> None:
        self.join, self.source = join, Source(main.archive, member, join.read)
        self.key = join.key_there or join.key
        known = self.source.columns()
        if self.key not in known:
            raise missing_column(self.source, self.key, known)
        self.names = [name for name in known if name != self.key]
        self.main, self.asked, self.found = main, 0, 0
        self.example: str | None = None
        """A key that no row here has."""

    def load(self, columns: list[str]) -> None:
        batches = list(self.source.batches([self.key, *columns]))
        if not batches:
            raise NisbenchError(f"{self.source}: holds no rows")
        table = pa.concat_tables(batches, promote_options="permissive")
        self.keys = as_text(table[self.key].combine_chunks())
        self.columns = {name: _short(table[name].combine_chunks()) for name in columns}
        counts = pc.value_counts(self.keys)
        repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        if len(repeated):
            again = np.flatnonzero(np.asarray(pc.equal(self.keys, repeated[0]).fill_null(False)))
            text = f"{repeated[0].as_py()!r} has a row already; a joined file may have only one for each key"
            raise self.source.error(int(again[1] if len(again) > 1 else 0), self.key, text)

    def rows_of(self, keys: pa.ChunkedArray) -> pa.Array:
        """The row of each key, or null: (n,)."""
        joined = keys.combine_chunks()
        if isinstance(joined, pa.ChunkedArray):
            joined = pa.concat_arrays(joined.chunks)
        if pa.types.is_dictionary(joined.type):
            rows = pc.index_in(as_text(joined.dictionary), value_set=self.keys).take(joined.indices)
        else:
            rows = pc.index_in(as_text(joined), value_set=self.keys)
        self.asked, self.found = self.asked + len(rows), self.found + len(rows) - rows.null_count
        if self.example is None and rows.null_count:
            self.example = str(joined[pc.index(rows.is_null(), value=True).as_py()].as_py())
        return rows

    def check(self) -> None:
        """Say how many rows have no row here, once all have asked; an error if none has, as keys are then spelled in two ways."""
        if self.asked and not self.found:
            text = f"no row of {self.main} has a key in it: {self.example!r} there, {self.keys[0].as_py()!r} here"
            raise NisbenchError(f"{self.source}: {self.key}: {text}. See join.*.key and join.*.key_there.")
        if self.found < self.asked:
            missing, columns = self.asked - self.found, ", ".join(self.columns)
            log.info("%s: %s of %s rows have no row here: %s missing", self.source, missing, self.asked, columns)


def _has_text(column: pa.ChunkedArray) -> bool:
    """Whether all values are texts, have one, or are lists of such."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = pc.list_flatten(column)
    kind = column.type
    if pa.types.is_primitive(kind) or pa.types.is_string(kind) or pa.types.is_dictionary(kind):  # nearly all: no copy
        return True
    try:
        as_text(column)
    except pa.ArrowException:
        return bool(column.null_count == len(column))
    return True


def _short(column: pa.Array) -> pa.Array:
    """Text as numbers of texts: a table's row takes four bytes of it."""
    return column.dictionary_encode() if pa.types.is_string(column.type) else column


def _derived(column: pa.ChunkedArray, pattern: re.Pattern[str]) -> pa.ChunkedArray:
    """What the pattern matches in each value."""
    encoded = column.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = as_text(encoded).dictionary_encode()
    found = [pattern.search(text) if text is not None else None for text in as_text(encoded.dictionary).to_pylist()]
    made = pa.array([match and match[pattern.groups] for match in found], pa.string())
    return pa.chunked_array([made.take(encoded.indices)])
