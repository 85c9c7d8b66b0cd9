"""Which column of a table is what, guessed from names and values."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from nisbench.commands.new_dataset.reading import UNNAMED
from nisbench.data.table_values import is_number
from nisbench.errors import NisbenchError, shortened

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
TRUTHS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Looked:
    """A column, as far as the head shows it."""

    name: str
    rows: int
    distinct: int
    missing: int
    lists: bool
    """Whether its values are lists."""
    dates: bool
    """Whether they are dates or times by their type."""
    separator: str | None
    """What seems to stand between several tokens in a value."""
    most: int
    """The largest number of tokens in a value."""
    recurring: int
    """How many tokens occur more than once."""
    numbers: list[float]
    """Its values, if all are numbers, or all true or false; else nothing."""
    whole: bool
    """Whether these are whole numbers."""
    words: float
    """The mean number of words in a value."""
    decimal_commas: bool
    """Whether all are numbers with a comma in the place of the point."""
    examples: list[str]

    @classmethod
    def at(cls, name: str, column: pa.ChunkedArray) -> "Looked":
        values = [value for value in column.to_pylist() if value is not None]
        lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        texts = [_text(value) for value in values]
        numbers = [] if lists else _numbers(texts)
        separator, most = (None, max(map(len, values), default=0)) if lists else _separator(texts, bool(numbers))
        parts = values if lists else ([text] if separator is None else text.split(separator) for text in texts)
        counts = Counter(token for part in parts for token in part)
        return cls(
            name=name,
            rows=len(column),
            distinct=len(set(texts)),
            missing=len(column) - len(values),
            lists=lists,
            dates=pa.types.is_timestamp(column.type) or pa.types.is_date(column.type),
            separator=separator,
            most=most,
            recurring=sum(count > 1 for count in counts.values()),
            numbers=numbers,
            whole=all(number.is_integer() for number in numbers),
            words=sum(len(text.split()) for text in texts) / max(1, len(texts)),
            decimal_commas=bool(texts) and all(re.fullmatch(r"[+-]?\d+,\d+", text) for text in texts),
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


def _numbers(texts: list[str]) -> list[float]:
    """The values of texts, if all are numbers, or all true or false; else nothing."""
    if all(map(is_number, texts)):
        return [float(text) for text in texts]
    truths = [TRUTHS[text.lower()] for text in texts if text.lower() in TRUTHS]
    return truths if len(truths) == len(texts) else []


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
    unfit: Mapping[str, str] = field(default_factory=dict)
    """Names of further columns that are not used: those that no model takes. With the reason."""
    task: str = "rating"

    @classmethod
    def of(cls, columns: list[Looked], label: str | None, unfit: Mapping[str, str]) -> "Roles":
        """Raises `NisbenchError` if nothing can be predicted."""
        by_key = {column.key: column for column in reversed(columns)}
        found = cls(unfit=unfit)
        taken: set[str] = set()

        def first(names: Sequence[str]) -> Looked | None:
            chosen = next((by_key[name] for name in names if name in by_key and by_key[name].name not in taken), None)
            if chosen:
                taken.add(chosen.name)
            return chosen

        known = {column.name: column for column in columns}
        if label is not None and label not in known:
            wrong = f"{label!r} {unfit[label]}" if label in unfit else f"there is no column {label!r}"
            raise NisbenchError(f"--label: {wrong}; there is: {', '.join(known)}")
        found.label = known[label] if label else first([key for key in LABELS if key in by_key and by_key[key].numbers])
        taken |= {label} if label else set()
        found.user, found.item = first(USERS), first(ITEMS)
        found.time = first(TIMES) or first([column.key for column in columns if column.dates])
        found.part = first([key for key in PARTS if key in by_key and part_values(by_key[key])])
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
        elif column.decimal_commas:
            self.unused.append((column, "numbers must have a decimal point, not a comma"))
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
    def constant_label(self) -> str | None:
        """What is wrong with a label that is always the same, as far as was seen."""
        if self.label is None or self.label.distinct > 1:
            return None
        return f"the label {self.label.name} is {self.label.examples[0]} in all rows that were looked at"

    @property
    def is_pair(self) -> bool:
        return bool(self.user and self.item) and not (self.tokens or self.multi or self.scalars)

    @property
    def features(self) -> int:
        """How many features the rows that were looked at make, at least: of tokens that recur, half may be too rare in train."""
        pair = [column.distinct for column in (self.user, self.item) if column]
        return sum(pair) + sum(1 + column.recurring // 2 for column in [*self.tokens, *self.multi]) + len(self.scalars)

    def model(self) -> str:
        if self.task == "topk":
            return "mf"
        return "mf" if self.is_pair else "fm"


def part_values(column: Looked) -> dict[str, list[str]] | None:
    found: dict[str, list[str]] = {part: [] for part in PART_VALUES}
    for value in column.examples if column.distinct <= 3 else []:
        part = next((part for part, names in PART_VALUES.items() if value.lower() in names), None)
        if part:
            found[part].append(value)
    return found if all(found.values()) else None
