"""How a table of one's own is read, and which of its columns are what: the parts of the format `table`."""

import codecs
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from nisbench.params.base import Settings, matching

ArchiveMember = Annotated[
    str, matching(r"^[^/\\:][^\\:]*$", "a path inside the archive, such as folder/file.csv, without : or \\")
]
Column = Annotated[str, Field(min_length=1, max_length=200)]


def _known_encoding(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise PydanticCustomError("encoding", "must be an encoding, such as utf-8 or latin-1") from None
    return name


def _sound_pattern(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise PydanticCustomError(
            "pattern", "must be a regular expression ({reason})", {"reason": str(error)}
        ) from None
    if groups > 1:
        raise PydanticCustomError("pattern", "must have one group in parentheses, or none")
    return pattern


class TableFile(Settings):
    """How a file becomes rows and columns."""

    layout: Literal["csv", "jsonl", "parquet"]
    """csv: one row a line, between delimiters; jsonl: one JSON object a line; parquet. Only csv needs the rest but `missing`."""
    delimiter: Annotated[str, Field(min_length=1, max_length=8)] = ","
    """What stands between two values. It may be longer than one character, such as "::"."""
    header: bool = True
    """Whether the first line names the columns."""
    names: list[Column] | None = None
    """The columns' names, in order, where no header names them, or in place of the header's."""
    quote: Annotated[str, Field(min_length=1, max_length=1)] | None = '"'
    """What stands around a value that contains the delimiter or a line break; null = such values do not occur."""
    encoding: Annotated[str, AfterValidator(_known_encoding)] = "utf-8"
    """Of the text."""
    missing: list[str] = Field(default_factory=lambda: [""])
    """Values that mean: there is none."""


class Label(Settings):
    """What is predicted."""

    column: Column
    """The column that holds it: a number, or true or false."""
    binary: bool = False
    """Whether it must be 0 or 1. CTR needs this, or `positive_above`."""
    positive_above: float | None = None
    """Larger values become 1, all others 0; null = values are used as they are."""
    drop_equal: bool = False
    """Whether rows whose value is `positive_above` itself are left out."""
    positives_only: bool = False
    """Whether rows that become 0 are left out. Top-k needs this, or no label at all."""


class Scalar(Settings):
    """A field that holds a number."""

    scale: Literal["none", "minmax", "standard", "log2_buckets"]
    """minmax: (x - min) / (max - min); standard: (x - mean) / standard deviation; log2_buckets: numbers of similar magnitude
    become one token, which is sign(x) * floor(log2(1 + |x|))."""
    missing: float | Literal["mean", "refuse"] = "mean"
    """A number, before scaling, that takes the place of missing ones; or mean: that of the others; or refuse: they are an error.
    In buckets, missing ones are the field's unknown feature."""


class Multi(Settings):
    """A field that holds several tokens, such as genres. Its embedding is the mean of theirs."""

    separator: Annotated[str, Field(min_length=1)] | None
    """What stands between two tokens; null = the file has lists."""
    at_most: Annotated[int, Field(ge=2, le=1000)]
    """So many tokens are used, the first ones."""


class Derived(Settings):
    """A column that is made from another one's text."""

    column: Column
    """The column it is made from."""
    pattern: Annotated[str, AfterValidator(_sound_pattern)]
    """A regular expression. The value is what its group matches, or all of it; where it matches nothing, it is missing."""


class Join(Settings):
    """A file with more columns, such as one of users. Each row of the table is given those of the one row with its key."""

    file: ArchiveMember
    """In the archive."""
    read: TableFile
    """How it is read."""
    key: Column
    """The column of the table that says which row it is given."""
    key_there: Column | None = None
    """What that column is called in this file; null = the same."""


class Parts(Settings):
    """Which files are which split."""

    train: Annotated[list[ArchiveMember], Field(min_length=1)]
    """Files with the training instances."""
    validation: Annotated[list[ArchiveMember], Field(min_length=1)]
    """Likewise."""
    test: Annotated[list[ArchiveMember], Field(min_length=1)]
    """Likewise."""

    def every(self) -> list[str]:
        return [*self.train, *self.validation, *self.test]


class PartColumn(Settings):
    """Which rows are which split."""

    column: Column
    """The column that says it."""
    train: Annotated[list[str], Field(min_length=1)]
    """Its values in training instances."""
    validation: Annotated[list[str], Field(min_length=1)]
    """Likewise."""
    test: Annotated[list[str], Field(min_length=1)]
    """Likewise."""
