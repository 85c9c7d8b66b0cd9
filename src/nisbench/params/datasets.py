"""Data sets: where instances come from, how they are split, and how their features are blocked."""

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    Tag,
    model_validator,
)

from nisbench.errors import NisbenchError
from nisbench.params.base import UNHASHED, Count, Kind, Name, Problem, Seed, Settings, Title, Width, matching
from nisbench.params.columns import (
    ArchiveMember,
    Column,
    Derived,
    Join,
    Label,
    Multi,
    PartColumn,
    Parts,
    Scalar,
    TableFile,
)
from nisbench.params.kinds import chosen_by_tag
from nisbench.params.tasks import Task

Md5 = Annotated[
    str,
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
    matching(r"^[0-9a-f]{32}$", "32 hexadecimal digits"),
]

MOST_FEATURES = 10**8
"""Of a field that is generated."""


class RandomSplit(Settings):
    proportions: Annotated[list[Annotated[int, Field(gt=0, le=10**6)]], Field(min_length=3, max_length=3)]
    """Shares of train : validation : test, such as [8, 1, 1]."""
    seed: Seed
    """Seed of the random assignment of instances to splits."""


class TimeSplit(Settings):
    by: Literal["time"]
    """The earliest instances are for train, the latest for test. Of the same time, the one that stands later counts as later."""
    proportions: Annotated[list[Annotated[int, Field(gt=0, le=10**6)]], Field(min_length=3, max_length=3)]
    """Shares of train : validation : test, such as [8, 1, 1]."""


NamedSplit = Literal["leave_one_out", "published"]
"""Each user's last instance for test and the one before for validation; or as the publisher divided the instances."""


def _form_of_split(value: Any) -> str:
    if isinstance(value, str):
        return "(by name)"
    by_time = isinstance(value, TimeSplit) or (isinstance(value, dict) and "by" in value)
    return "(by time)" if by_time else "(at random)"


AnySplit = Annotated[
    Annotated[RandomSplit, Tag("(at random)")]
    | Annotated[TimeSplit, Tag("(by time)")]
    | Annotated[NamedSplit, Tag("(by name)")],
    Discriminator(_form_of_split),
]


FIXED_SPLIT = "its split is published, so no seed can draw another"


class BlockSettings(Settings):
    by: Literal["count", "magnitude"]
    """Blocks of equal feature count, or one for each power of ten of the frequency, the last for all below 100."""
    count: Count
    """L, the number of blocks. By magnitude, empty blocks are left out."""


class Dataset(Kind):
    """What all data sets have."""

    section: ClassVar[str] = "datasets"
    tag: ClassVar[str] = "format"
    package: ClassVar[str] = "nisbench.data"

    title: Annotated[Title, UNHASHED]
    """The name that tables show."""
    task: Name
    """What is predicted: an entry of `tasks`."""
    split: AnySplit
    blocks: BlockSettings

    tasks: ClassVar[tuple[str, ...]]
    """The kinds of task that data of this format can serve."""
    published_split: ClassVar[Literal["never", "may be", "always"]] = "never"
    """Whether instances come divided by their publisher (a column ``split``)."""
    planted: ClassVar[bool] = False
    """Whether the data are generated, and each feature's true dimension is known."""
    from_nothing: ClassVar[bool] = False
    """Whether settings that are made in Python start without those of an entry of params/, which say nothing of other data."""
    field_count: ClassVar[int | None] = None
    """Number of fields, where the format fixes it."""
    number_fields: ClassVar[int] = 0
    """Number of them that hold numbers, where the format fixes it."""

    def problems(self, task: Task) -> Iterator[Problem]:
        """What does not fit together, given the task that `task` names."""
        kind = str(task.kind_name())
        if not task.is_served_by(self.tasks):
            yield (
                ("task",),
                (
                    f"{self.task} is of the kind {kind}, but data of the format {self.kind_name()} serve only: {', '.join(self.tasks)}"
                ),
            )
        elif task.splits_by_user != (self.split == "leave_one_out"):
            needed = f"must be leave_one_out for the task {kind}"
            yield ("split",), needed if task.splits_by_user else f"leave_one_out is not for the task {kind}"
        elif self.published_split == "always" and self.split != "published":
            yield ("split",), f"must be published for data of the format {self.kind_name()}"
        elif self.published_split == "never" and self.split == "published":
            yield ("split",), f"cannot be published for data of the format {self.kind_name()}"
        if task.user_and_item and self.is_user_and_item() is False:
            fields = ", ".join(self.field_names()) or "others"
            yield ("task",), f"{self.task} needs a user and an item and no other field, but the fields are: {fields}"

    @property
    def fits_train(self) -> bool:
        """Whether preparing depends on the split, because the vocabulary or the scaling comes from train."""
        return False

    def is_user_and_item(self) -> bool | None:
        """Whether instances have a user, an item and no other field; None if only the prepared data can say."""
        size = self.expected_size()
        count = self.field_count or (len(size[0]) if size else None)
        return None if count is None else count == 2

    def field_names(self) -> list[str]:
        """The names of the fields, as far as the settings say."""
        return []

    def memory_to_prepare(self) -> float:
        """The least bytes that preparing these data takes at once, as far as the settings say."""
        return 0.0

    def expected_size(self) -> tuple[tuple[int, ...], int] | None:
        """The number of features of each field, and of instances, as far as the settings say."""
        return None

    def redrawn(self, seed: int) -> Self:
        """The same with a split that is drawn by the split's own seed and this one.

        By time, or where the last one is left out, there is nothing to draw. Raises `NisbenchError` if the split is published.
        """
        from nisbench.seeds import derived  # noqa: PLC0415 - imports NumPy

        if self.split == "published":
            raise NisbenchError(f"{self.title}: {FIXED_SPLIT}")
        if not isinstance(self.split, RandomSplit):
            return self
        drawn = derived(self.split.seed, "split", seed) % 2**31
        return self.model_copy(update={"split": self.split.model_copy(update={"seed": drawn})})


def _slug(name: str) -> str:
    """A name as folders may have it."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")[:48]


class Archive(Dataset):
    """A data set that its publisher packs into one archive."""

    url: str
    """Address or path of the archive."""
    md5: Md5 | None
    """MD5 sum of the archive, or null where the publisher fixes none."""
    repacked_md5: Md5 | None = None
    """MD5 sum of the archive at `url` where it is not the publisher's own, but has the same files. Ids follow `md5`."""

    def problems(self, task: Task) -> Iterator[Problem]:
        yield from super().problems(task)
        if self.repacked_md5 and not self.md5:
            yield ("repacked_md5",), "needs `md5`, the sum of the publisher's own archive"

    @property
    def urls(self) -> list[str]:
        """Addresses or paths of all files: of one, as a rule."""
        return [self.url]


def file_name(url: str) -> str:
    """What the file at an address or path is called."""
    return PurePosixPath(unquote(urlsplit(url).path) if "://" in url else url).name


class MovieLens(Archive):
    """MovieLens ratings, as GroupLens publishes them."""

    format: Literal["movielens"]
    ratings: ArchiveMember
    """Path of the ratings inside the archive: .dat (user::movie::rating::timestamp) or .csv (with a header)."""
    movies: ArchiveMember | None
    """Path of the list of all movies, each of which is a feature; null = only rated movies are."""

    tasks: ClassVar[tuple[str, ...]] = ("rating", "topk")
    field_count: ClassVar[int | None] = 2

    @property
    def slug(self) -> str:
        """The folder that the publisher keeps the ratings in, such as ml-1m."""
        return _slug(PurePosixPath(self.ratings).parent.name) or "movielens"


class Criteo(Archive):
    """Criteo's click log, as Criteo publishes it."""

    format: Literal["criteo"]
    member: ArchiveMember
    """Path of the instances inside the archive: label, 13 numbers, 26 tokens a line, separated by tabs."""
    min_count: PositiveInt
    """A token that occurs less often, in the whole file, becomes its field's unknown feature."""
    scalar_maxima: Annotated[list[PositiveInt], Field(min_length=13, max_length=13)]
    """At most these are the maxima by which the numbers are scaled. The numbers themselves are not cut."""

    tasks: ClassVar[tuple[str, ...]] = ("ctr",)
    field_count: ClassVar[int | None] = 39
    number_fields: ClassVar[int] = 13


class Member(Settings):
    path: ArchiveMember
    """Inside the archive."""
    md5: Md5 | None
    """MD5 sum of this file, or null where the publisher fixes none."""


class CriteoX1(Archive):
    """Criteo's click log, encoded and divided as BARS publishes it."""

    format: Literal["criteo_x1"]
    train: Member
    """Like the others: label, I1 to I13, C1 to C26, separated by commas, behind a header."""
    validation: Member
    """Likewise."""
    test: Member
    """Likewise."""

    tasks: ClassVar[tuple[str, ...]] = ("ctr",)
    published_split: ClassVar[Literal["never", "may be", "always"]] = "always"
    field_count: ClassVar[int | None] = 39
    number_fields: ClassVar[int] = 13

    def problems(self, task: Task) -> Iterator[Problem]:
        yield from super().problems(task)
        paths = [member.path for member in (self.train, self.validation, self.test)]
        for path in sorted({path for path in paths if paths.count(path) > 1}):
            yield ("test", "path"), f"{path!r} is listed twice"


class DataTable(Archive):
    """A table of one's own: which columns are what, and how rows become instances."""

    format: Literal["table"]
    url: str | Annotated[list[str], Field(min_length=1, max_length=1000)]  # type: ignore[assignment]  # see `urls`
    """Address or path of the table or of an archive; or a list of plain files, each of which may be compressed."""
    files: list[ArchiveMember] | Parts | None = None
    """The table's files in the archive, or of those listed in `url`, one after another; or those of each split; null = what
    `url` names is the table itself, or all files that it lists but joined ones."""
    read: TableFile
    """How they are read."""
    join: list[Join] = Field(default_factory=list)
    """Files with more columns, in the archive or listed in `url`."""
    derive: dict[Column, Derived] = Field(default_factory=dict)
    """Columns that are made from others."""
    label: Label | None = None
    """What is predicted; null = every row counts as taken (top-k)."""
    user: Column | None = None
    """The column of users. Every user is a feature, however rare."""
    item: Column | None = None
    """The column of items, likewise."""
    tokens: list[Column] = Field(default_factory=list)
    """Columns of which every distinct value is a feature."""
    multi: dict[Column, Multi] = Field(default_factory=dict)
    """Columns that hold several tokens."""
    scalars: dict[Column, Scalar] = Field(default_factory=dict)
    """Columns that hold numbers."""
    time: Column | None = None
    """The column that orders instances: numbers, or dates as ISO 8601 writes them, with a time zone in all rows or in none."""
    part: PartColumn | None = None
    """The column that says which split an instance is in, where the publisher divided them in one file."""
    min_count: PositiveInt
    """A token that occurs less often becomes its field's unknown feature. Users and items always have features of their own."""
    fit_on: Literal["train", "all"] = "train"
    """Where tokens are counted, and where scaling takes its figures from: the training instances, or all."""
    duplicates: Literal["keep", "last", "mean", "refuse"]
    """Rows with the same user and item, or, without these, the same features: keep all; only the last, by time and then by place;
    one with their mean label, in the last one's place; or an error."""

    tasks: ClassVar[tuple[str, ...]] = ("rating", "ctr", "topk")
    published_split: ClassVar[Literal["never", "may be", "always"]] = "may be"
    from_nothing: ClassVar[bool] = True

    @model_validator(mode="before")
    @classmethod
    def _name_listed_files(cls, values: Any) -> Any:
        """Of files that `url` lists, all are the table's unless `files` says otherwise or they are joined."""
        if not isinstance(values, dict) or not isinstance(values.get("url"), list) or values.get("files") is not None:
            return values
        joins = values.get("join") or []
        joined = [join.get("file") if isinstance(join, dict) else getattr(join, "file", None) for join in joins]
        names = [file_name(url) for url in values["url"] if isinstance(url, str)]
        return values | {"files": [name for name in names if name not in joined]}

    @property
    def urls(self) -> list[str]:
        return self.url if isinstance(self.url, list) else [self.url]

    @property
    def slug(self) -> str:
        """The folder of the table in its archive, or its file's name."""
        listed = self.files.train if isinstance(self.files, Parts) else self.files
        path = PurePosixPath(listed[0] if listed else self.urls[0].rsplit("/", 1)[-1])
        return _slug(path.parent.name) or _slug(path.name.split(".")[0]) or "table"

    def problems(self, task: Task) -> Iterator[Problem]:
        yield from super().problems(task)
        yield from self._field_problems()
        yield from self._label_problems(task)
        yield from self._split_problems()
        if self.join and self.files is None:
            yield ("join",), "needs an archive that holds all files, or a list of files in `url`; see `files`"
        yield from self._file_problems()
        for at, read in (("read",), self.read), *((("join", i, "read"), join.read) for i, join in enumerate(self.join)):
            if read.layout == "csv" and not read.header and read.names is None:
                yield (*at, "names"), "without a header, the columns must be named here"

    def _field_problems(self) -> Iterator[Problem]:
        columns = self.field_names()
        for name in sorted({name for name in columns if columns.count(name) > 1}):
            yield (), f"the column {name!r} has two roles; each column is one of user, item, tokens, multi, scalars"
        for name in sorted({"label", "time", "split"} & set(columns)):
            yield (), f"a field cannot be called {name!r}; give it another name with `derive` or `read.names`"
        for role, named, told in (("label", self.label, "what it is to predict"), ("part", self.part, "the split")):
            if named and named.column in columns:
                yield (role, "column"), f"{named.column!r} is a field, too: a model would be told {told}"
        if not columns:
            yield ("tokens",), "there are no fields; name some columns under user, item, tokens, multi or scalars"

    def _split_problems(self) -> Iterator[Problem]:
        if self.time is None and (self.split == "leave_one_out" or isinstance(self.split, TimeSplit)):
            yield ("split",), "needs the column that orders instances; name it under `time`"
        divided = isinstance(self.files, Parts) or self.part is not None
        if divided != (self.split == "published"):
            needed = "must be published, since the files, or `part`, divide the instances"
            yield ("split",), needed if divided else "published needs `part`, or files for each split"
        if self.part and isinstance(self.files, Parts):
            yield ("part",), "the files divide the instances already"
        parts = {name: getattr(self.part, name) for name in ("train", "validation", "test")} if self.part else {}
        for one, other in combinations(parts, 2):
            for value in sorted({*parts[one]} & {*parts[other]}):
                yield ("part", other), f"{value!r} is listed under {one}, too"

    def _file_problems(self) -> Iterator[Problem]:
        """What is wrong with several files in place of an archive."""
        if not isinstance(self.url, list):
            return
        names = [file_name(url) for url in self.url]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield ("url",), f"two files are called {name!r}; rename one, or pack them in a zip"
        if self.md5 is not None:
            yield ("md5",), "must be null where url lists files: it is the sum of one file"
        named = [*(self.files or [])] if not isinstance(self.files, Parts) else self.files.every()
        for at, name in (*((("files",), name) for name in named), *((("join",), join.file) for join in self.join)):
            if name not in names:
                yield at, f"{name!r} is none of the files that url lists: {', '.join(names)}"

    def _label_problems(self, task: Task) -> Iterator[Problem]:
        label, kind = self.label, str(task.kind_name())
        if task.user_and_item:
            if label is not None and not label.positives_only:
                yield ("label",), f"{kind} has positives only; set label.positives_only: true, or label: null"
            return
        if label is None:
            yield ("label",), "this key is missing; only a task without labels, such as topk, needs none"
        elif label.positives_only:
            yield ("label", "positives_only"), f"must be false for the task {kind}"
        elif task.predicts_logits and not label.binary and label.positive_above is None:
            yield ("label",), f"{kind} needs labels of 0 and 1; set label.binary: true, or label.positive_above"
        if label and label.positive_above is None and (label.drop_equal or label.positives_only):
            yield ("label", "positive_above"), "this key is missing; drop_equal and positives_only refer to it"

    @property
    def fits_train(self) -> bool:
        return self.fit_on == "train" and bool(self.tokens or self.multi or self.scalars)

    def is_user_and_item(self) -> bool:
        return len(self.field_names()) == 2 and None not in (self.user, self.item)

    def field_names(self) -> list[str]:
        pair = [name for name in (self.user, self.item) if name is not None]
        return [*pair, *self.tokens, *self.multi, *self.scalars]


class Planted(Dataset):
    """A generated data set, whose features have known dimensions."""

    instances: Annotated[int, Field(ge=10, le=10**9)]
    rank: Width
    """The largest planted dimension."""
    levels: Count
    """Frequency levels over which the planted dimension falls from `rank` to 1."""
    scatter: Annotated[int, Field(ge=0, le=1 << 16)]
    """A feature's planted dimension lies up to this far from its level's."""
    zipf_exponent: Annotated[float, Field(ge=0, le=100)]
    """Frequency of a field's r-th most frequent feature is proportional to r ** -zipf_exponent."""
    seed: Seed

    planted: ClassVar[bool] = True

    def memory_to_prepare(self) -> float:
        sizes, _ = self.expected_size() or ((), 0)
        return 8.0 * sum(sizes) * (self.rank + 4)


class PlantedRatings(Planted):
    """Generated ratings."""

    format: Literal["planted_ratings"]
    users: Annotated[int, Field(ge=2, le=MOST_FEATURES)]
    """Number of users."""
    items: Annotated[int, Field(ge=2, le=MOST_FEATURES)]
    """Number of items."""
    signal: PositiveFloat
    """Standard deviation of what the embeddings contribute to a rating."""
    noise: Annotated[float, Field(ge=0)]
    """Standard deviation of the part of a rating that nothing explains. Its square is the least MSE any model can have."""

    tasks: ClassVar[tuple[str, ...]] = ("rating",)
    field_count: ClassVar[int | None] = 2

    def expected_size(self) -> tuple[tuple[int, ...], int]:
        return (self.users, self.items), self.instances

    def memory_to_prepare(self) -> float:
        return super().memory_to_prepare() + 16.0 * self.instances * (self.rank + 2)

    def small(self) -> Self:
        return self.model_copy(update={"users": 60, "items": 40, "instances": 3000, "rank": 4, "levels": 3})


class PlantedTopK(Planted):
    """Generated implicit feedback."""

    format: Literal["planted_topk"]
    users: Annotated[int, Field(ge=2, le=MOST_FEATURES)]
    """Number of users."""
    items: Annotated[int, Field(ge=6, le=MOST_FEATURES)]
    """Number of items."""
    signal: PositiveFloat
    """Standard deviation of what the embeddings contribute to an item's log-odds of being taken by a user."""

    tasks: ClassVar[tuple[str, ...]] = ("topk",)
    field_count: ClassVar[int | None] = 2

    def expected_size(self) -> tuple[tuple[int, ...], int]:
        return (self.users, self.items), self.instances

    def memory_to_prepare(self) -> float:
        return super().memory_to_prepare() + 24.0 * self.instances

    def small(self) -> Self:
        return self.model_copy(update={"users": 80, "items": 50, "instances": 1600, "rank": 4, "levels": 3})


class PlantedCTR(Planted):
    """A generated click log."""

    format: Literal["planted_ctr"]
    scalar_fields: Annotated[int, Field(ge=0, le=1000)]
    """The number of fields that hold numbers."""
    categorical_fields: Annotated[
        list[Annotated[int, Field(gt=0, le=MOST_FEATURES)]], Field(min_length=2, max_length=1000)
    ]
    """The number of tokens in each categorical field."""
    missing: Annotated[float, Field(ge=0, lt=1)]
    """Share of the numbers and tokens that are missing."""
    click_rate: Annotated[float, Field(gt=0, lt=1)]
    """Share of instances that are clicks."""
    first_order: Annotated[float, Field(ge=0)]
    """Standard deviation of the logit's first-order term."""
    second_order: Annotated[float, Field(ge=0)]
    """Of its second-order term, which only models with pairs of embeddings, or hidden layers, can express."""
    wave: Annotated[float, Field(ge=0)]
    """Of the term that only models with hidden layers can express."""

    tasks: ClassVar[tuple[str, ...]] = ("ctr",)

    def expected_size(self) -> tuple[tuple[int, ...], int]:
        unknown = 1  # a feature of each categorical field that stands for missing tokens
        return (*[1] * self.scalar_fields, *(unknown + count for count in self.categorical_fields)), self.instances

    def small(self) -> Self:
        fields = {"scalar_fields": 2, "categorical_fields": [40, 20, 5]}
        return self.model_copy(update={"instances": 3000, "rank": 4, "levels": 3, **fields})


AnyDataset = Annotated[SerializeAsAny[Dataset], chosen_by_tag(Dataset)]
