"""`nisbench new-dataset`: look at the head of a table, and write the overlay that makes a data set and a study of it.

All of it are guesses, from names and values, and the file says so beside each of them.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from nisbench.data.table import is_number
from nisbench.data.table_files import SEPARATOR, Source, csv_rows, head_of
from nisbench.errors import NisbenchError, shortened
from nisbench.files import write_text
from nisbench.params.base import NAME
from nisbench.params.checks import RESERVED, RESERVED_PREFIXES
from nisbench.params.columns import TableFile
from nisbench.params.loading import load

HEAD_BYTES = 1 << 18
MOST_ROWS = 20_000
DELIMITERS = ("\t", "::", ",", ";", "|")
MISSING = ("NA", "N/A", "NULL", "null", "None", "nan", "NaN", "\\N", "?")
USERS = ("user", "userid", "uid", "reviewerid", "customer", "customerid", "member", "memberid", "visitorid", "username")
ITEMS = (
    "item", "itemid", "iid", "movie", "movieid", "product", "productid", "asin", "parentasin", "book", "bookid", "isbn",
    "song", "songid", "track", "trackid", "artistid", "businessid", "sku", "article", "articleid", "newsid", "appid",
)  # fmt: skip
LABELS = (
    "label", "click", "clicked", "clicks", "isclick", "rating", "ratings", "overall", "stars", "score", "target",
    "bookrating", "liked", "like", "purchase", "purchased", "conversion", "y",
)  # fmt: skip
TIMES = ("timestamp", "time", "ts", "unixtime", "unixreviewtime", "date", "datetime", "createdat", "eventtime")
PARTS = ("split", "part", "fold", "partition", "subset")
PART_VALUES = {
    "train": ("train", "training", "tr"),
    "validation": ("validation", "valid", "val", "va", "dev"),
    "test": ("test", "testing", "te"),
}
PLAIN = re.compile(r"[A-Za-z_][\w .-]*[\w]|[A-Za-z]\w*")
NOT_PLAIN = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
UNNAMED = "column"


def run(
    file: Path,
    *,
    member: str | None = None,
    names: str | None = None,
    name: str | None = None,
    label: str | None = None,
    output: Path | None = None,
) -> None:
    """Write the overlay and say what to do next. Raises `NisbenchError` if the file, or what to predict, cannot be told."""
    if not file.is_file():
        raise NisbenchError(f"{file}: there is no such file")
    name = _name(name or Path(member or file).name.split(".")[0])
    output = output or Path(f"{name}.yaml")
    if output.exists():
        raise NisbenchError(f"{output}: there is such a file. Name another with --output, or delete it.")
    source = Source(file, member, _layout(file, member, names.split(",") if names else None))
    table = next(iter(source.batches(source.columns())), pa.table({})).slice(0, MOST_ROWS)
    if len(table) == 0:
        raise NisbenchError(f"{source}: holds no rows")
    source, table = _with_missing(source, table)
    roles = Roles.of([Looked.at(column, table[column]) for column in table.column_names], label)
    url = os.path.relpath(file.resolve(), output.resolve().parent)
    write_text(output, "\n".join(_lines(name, url, source, table, roles)) + "\n")
    try:
        load(Path(), [output])
    except NisbenchError as error:
        raise NisbenchError(
            f"{output} is written, but must be mended by hand before it can be used:\n{error}"
        ) from None
    print(
        f"{output} is written, from the first {len(table):,} rows. Read it: all that it says of the columns is guessed."
    )
    print(f"Then, in the project's top folder:\n\n    NISBENCH_PARAMS={output} snakemake --cores all {name}\n")
    print(f"The page will be results/{name}/page.html.")


def _name(text: str) -> str:
    found = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:40]
    if not re.match(NAME, found) or found in RESERVED or found.split("_")[0] in RESERVED_PREFIXES or _is_known(found):
        found = f"my_{found}" if found else "my_table"
    return found


def _is_known(name: str) -> bool:
    params = load(Path(), []).params
    return name in params.datasets or name in params.studies


# --- how the file is read -------------------------------------------------------------------------------------


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


# --- which column is what -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Looked:
    """A column, as far as the head shows it."""

    name: str
    rows: int
    distinct: int
    missing: int
    lists: bool
    """Whether its values are lists."""
    separator: str | None
    """What seems to stand between several tokens in a value."""
    most: int
    """The largest number of tokens in a value."""
    numbers: list[float]
    """Its values, if all are numbers; else nothing."""
    whole: bool
    """Whether these are whole numbers."""
    words: float
    """The mean number of words in a value."""
    examples: list[str]

    @classmethod
    def at(cls, name: str, column: pa.ChunkedArray) -> "Looked":
        values = [value for value in column.to_pylist() if value is not None]
        lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        texts = [_text(value) for value in values]
        numeric = bool(values) and not lists and all(map(is_number, texts))
        separator, most = (None, max(map(len, values), default=0)) if lists else _separator(texts, numeric)
        numbers = [float(text) for text in texts] if numeric else []
        return cls(
            name=name,
            rows=len(column),
            distinct=len(set(texts)),
            missing=len(column) - len(values),
            lists=lists,
            separator=separator,
            most=most,
            numbers=numbers,
            whole=all(number.is_integer() for number in numbers),
            words=sum(len(text.split()) for text in texts) / max(1, len(texts)),
            examples=list(dict.fromkeys(texts))[:3],
        )

    @property
    def key(self) -> str:
        return re.sub(r"[^a-z0-9]", "", self.name.lower())

    @property
    def names_things(self) -> bool:
        """Whether its whole numbers seem to be names of something: they have no size."""
        return bool(re.search(r"id$|^id|code|zip|hash|session|key$|^c\d+$", self.key)) or self.name.startswith(UNNAMED)

    @property
    def is_multi(self) -> bool:
        return (self.lists or self.separator is not None) and self.most > 1

    def said(self) -> str:
        """What was seen, for a comment."""
        gone = f", {self.missing:,} missing" if self.missing else ""
        examples = ", ".join(shortened(repr(one) if one == "" else one, 24) for one in self.examples)
        return f"{self.distinct:,} different{gone}, such as {examples}".replace("\n", " ")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _separator(texts: list[str], numeric: bool) -> tuple[str | None, int]:
    """What stands between tokens that recur in many values, and the largest number of them in a value."""
    for separator in () if numeric else ("|", ";", ", ", ","):
        parts = [text.split(separator) for text in texts]
        several = [len(part) for part in parts if len(part) > 1]
        tokens = {token for part in parts for token in part}
        if len(several) >= 0.1 * len(texts) and len(tokens) < 0.5 * len(set(texts)):
            return separator, max(several)
    return None, 1


@dataclass
class Roles:
    """A guess at what each column is."""

    label: Looked | None = None
    user: Looked | None = None
    item: Looked | None = None
    time: Looked | None = None
    part: Looked | None = None
    tokens: list[Looked] = field(default_factory=list)
    multi: list[Looked] = field(default_factory=list)
    scalars: list[tuple[Looked, str]] = field(default_factory=list)
    """With how to scale them."""
    unused: list[tuple[Looked, str]] = field(default_factory=list)
    """With the reason."""
    task: str = "rating"

    @classmethod
    def of(cls, columns: list[Looked], label: str | None) -> "Roles":
        """Raises `NisbenchError` if nothing can be predicted."""
        by_key = {column.key: column for column in reversed(columns)}
        found = cls()
        taken: set[str] = set()

        def first(names: Sequence[str]) -> Looked | None:
            chosen = next((by_key[name] for name in names if name in by_key and by_key[name].name not in taken), None)
            if chosen:
                taken.add(chosen.name)
            return chosen

        known = {column.name: column for column in columns}
        if label is not None and label not in known:
            raise NisbenchError(f"--label: there is no column {label!r}; there is: {', '.join(known)}")
        found.label = known[label] if label else first([key for key in LABELS if key in by_key and by_key[key].numbers])
        taken |= {label} if label else set()
        found.user, found.item, found.time = first(USERS), first(ITEMS), first(TIMES)
        found.part = first([key for key in PARTS if key in by_key and _part_values(by_key[key])])
        if found.label is None and not (found.user and found.item and found.time):
            raise NisbenchError(
                f"no column looks like what is to be predicted. Name one with --label: {', '.join(known)}. (Without a label, "
                "top-k needs columns of users, of items and of times.)"
            )
        if found.label is not None and not found.label.numbers:
            raise NisbenchError(f"--label: {found.label.name!r} holds no numbers but {found.label.said()}")
        for column in columns:
            if column.name not in taken:
                found._add(column)
        found._settle_task()
        return found

    def _add(self, column: Looked) -> None:
        if column.distinct <= 1:
            self.unused.append((column, "it is always the same"))
        elif column.is_multi:
            self.multi.append(column)
        elif column.numbers and not column.whole:
            self.scalars.append((column, "standard"))
        elif column.numbers and column.distinct > 100 and not column.names_things:
            wide = max(map(abs, column.numbers)) > 1000
            self.scalars.append((column, "log2_buckets" if wide else "standard"))
        elif column.distinct > 0.95 * (column.rows - column.missing) and column.rows > 100:
            self.unused.append((column, "almost every row has another value"))
        elif column.words > 3 and column.distinct > 100:
            self.unused.append((column, "free text"))
        else:
            self.tokens.append(column)

    def _settle_task(self) -> None:
        """The task, and the fields that it lets be."""
        if self.label is None:
            self.task = "topk"
            others = [*self.tokens, *self.multi, *(column for column, _ in self.scalars)]
            self.unused += [(column, "top-k has a user and an item only") for column in others]
            self.tokens, self.multi, self.scalars = [], [], []
        elif set(self.label.numbers) <= {0, 1}:
            self.task = "ctr"
        if self.task == "ctr" or not (self.user and self.item):  # then all have an unknown feature
            pair = [column for column in (self.user, self.item) if column]
            self.tokens, self.user, self.item = [*pair, *self.tokens], None, None

    @property
    def is_pair(self) -> bool:
        return bool(self.user and self.item) and not (self.tokens or self.multi or self.scalars)

    def model(self) -> str:
        if self.task == "topk":
            return "mf"
        return "mf" if self.is_pair else "fm"


def _part_values(column: Looked) -> dict[str, list[str]] | None:
    found: dict[str, list[str]] = {part: [] for part in PART_VALUES}
    for value in column.examples if column.distinct <= 3 else []:
        part = next((part for part, names in PART_VALUES.items() if value.lower() in names), None)
        if part:
            found[part].append(value)
    return found if all(found.values()) else None


# --- the overlay ----------------------------------------------------------------------------------------------


def _lines(name: str, url: str, source: Source, table: pa.Table, roles: Roles) -> Iterator[str]:
    yield f"# Guessed from the first {len(table):,} rows of {Path(url).name}. Change what is wrong: docs/how-to/add-a-dataset.md has every key."
    yield "datasets:"
    yield f"  {name}:"
    yield "    format: table"
    yield f"    title: {_plain(name.replace('_', ' '))}"
    yield f"    task: {roles.task} # or: {', '.join(sorted({'rating', 'ctr', 'topk'} - {roles.task}))}"
    yield f"    url: {_plain(url)} # relative to this file"
    yield "    md5: null # the content of the file is part of the ids anyway"
    if source.member is not None:
        yield f"    files: [{_plain(source.member)}]"
    yield f"    read: {_read(source.read)}"
    yield ""
    yield from _label(roles)
    yield from _fields(roles)
    yield from _how(roles, table)
    yield ""
    yield from _study(name, roles)


def _fields(roles: Roles) -> Iterator[str]:
    for role, column in (("user", roles.user), ("item", roles.item)):
        if column:
            yield f"    {role}: {_plain(column.name)} # {column.said()}"
    if roles.tokens:
        yield "    tokens: # every different value is a feature"
        yield from (f"      - {_plain(column.name)} # {column.said()}" for column in roles.tokens)
    if roles.multi:
        yield "    multi: # several tokens in one value: their mean embedding counts"
        for column in roles.multi:
            settings = f"{{separator: {_plain(column.separator)}, at_most: {column.most}}}"
            yield f"      {_plain(column.name)}: {settings} # {column.said()}"
    if roles.scalars:
        yield "    scalars: # none, minmax, standard or log2_buckets; missing: a number, mean or refuse"
        for column, scale in roles.scalars:
            yield f"      {_plain(column.name)}: {{scale: {scale}, missing: mean}} # {column.said()}"
    for column, why in roles.unused:
        yield f"    # not used: {_plain(column.name)}: {why}; {column.said()}"
    if roles.time:
        yield f"    time: {_plain(roles.time.name)} # {roles.time.said()}"


def _label(roles: Roles) -> Iterator[str]:
    label = roles.label
    if label is None:
        yield "    label: null # every row counts as taken"
    elif roles.task == "ctr":
        yield f"    label: {{column: {_plain(label.name)}, binary: true}} # {sum(label.numbers) / len(label.numbers):.1%} are 1"
    else:
        middle = sorted(set(label.numbers))[len(set(label.numbers)) // 2]
        yield f"    label: {{column: {_plain(label.name)}}} # from {min(label.numbers):g} to {max(label.numbers):g}"
        yield f"    # as clicks: task: ctr, and label: {{column: {_plain(label.name)}, positive_above: {middle:g}, drop_equal: false}}"


def _how(roles: Roles, table: pa.Table) -> Iterator[str]:
    values = _part_values(roles.part) if roles.part else None
    if roles.part and values:
        parts = ", ".join(f"{part}: {json.dumps(of)}" for part, of in values.items())
        yield f"    part: {{column: {_plain(roles.part.name)}, {parts}}}"
    yield "    min_count: 2 # rarer tokens become their field's unknown feature; users and items never do"
    yield "    fit_on: train # where tokens are counted and scales are taken from; or: all"
    pair = [column.name for column in (roles.user, roles.item) if column]
    repeated = len(pair) == 2 and len(table.group_by(pair).aggregate([])) < len(table)
    if len(pair) < 2:
        yield "    duplicates: keep # or: last, mean, refuse"
    elif repeated:
        yield "    duplicates: last # some rows have the same user and item; or: mean, keep, refuse"
    else:
        yield "    duplicates: refuse # rows with the same user and item; or: last, mean, keep"
    by_time = " # or, the latest for test: {by: time, proportions: [8, 1, 1]}" if roles.time else ""
    if roles.task == "topk":
        yield "    split: leave_one_out # each user's last item is for test, the one before for validation"
    elif values:
        yield "    split: published # as the column says"
    else:
        yield f"    split: {{proportions: [8, 1, 1], seed: 1}}{by_time}"
    yield "    blocks: {by: count, count: 10} # features of similar frequency share their dimensions"


def _study(name: str, roles: Roles) -> Iterator[str]:
    table = {"rating": "table2", "ctr": "table3", "topk": "table4"}[roles.task]
    models = {"mf": "mlp, neumf", "fm": "wide_deep, deepfm"}[roles.model()]
    yield "studies:"
    yield f"  {name}:"
    yield f"    title: {_plain('Dimensions for ' + name.replace('_', ' '))}"
    yield "    grids:"
    yield "      main:"
    yield f"        datasets: [{name}]"
    yield f"        models: [{roles.model()}] # also: {models}"
    yield "        methods: # and the compression rates to prune each at; uniform_tuned is the baseline to beat, and takes longest"
    yield "          full_table: [1]"
    yield "          uniform_tuned: [1]"
    yield "          network_pruning: [2, 5]"
    yield "          dnis: [1, 2, 5]"
    yield "    seeds: [1] # more of them tell luck from merit"
    yield f"    tables: [table1, {table}]"
    yield "    figures: [pareto]"
    yield "    overrides:"
    yield "      training: {base_dimension: 16, batch_size: 1024} # the largest dimension; a batch for a table of up to a million rows"
    yield "      methods:"
    yield "        uniform_tuned: {dimensions: [4, 8, 16], l2: [0.0, 1.0e-5, 1.0e-4]}"


def _read(read: TableFile) -> str:
    keys = ["layout", *(["delimiter"] if read.layout == "csv" else [])]
    plain = TableFile(layout=read.layout, delimiter=read.delimiter)
    keys += [key for key in TableFile.model_fields if getattr(read, key) != getattr(plain, key)]
    return "{" + ", ".join(f"{key}: {_listed(getattr(read, key))}" for key in keys) + "}"


def _listed(value: object) -> str:
    return f"[{', '.join(map(_plain, value))}]" if isinstance(value, list) else _plain(value)


def _plain(value: object) -> str:
    """As YAML has it, in quotes only where they are needed."""
    plain = isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in NOT_PLAIN
    return str(value) if plain else json.dumps(value, ensure_ascii=False)
