"""A data format: ratings as JSON lines in an archive, such as {"user": "ada", "item": "book 7", "rating": 4.5, "time": 1700000000}."""

import json
import zipfile
from pathlib import Path
from typing import ClassVar, Literal

from nisbench.data import parquet
from nisbench.data.archives import numbered_lines, open_member, shown_bytes
from nisbench.errors import NisbenchError
from nisbench.params.datasets import Archive, ArchiveMember


class JsonRatings(Archive):
    """Ratings as JSON lines: objects with user, item, rating and time."""

    format: Literal["json_ratings"]
    ratings: ArchiveMember
    """Path of the ratings inside the archive."""

    tasks: ClassVar[tuple[str, ...]] = ("rating", "topk")
    field_count: ClassVar[int | None] = 2


def prepare(settings: JsonRatings, archive: Path, instances_file: Path, vocabulary_file: Path) -> None:
    """A feature is a user or an item. Raises `NisbenchError` that names the first line which is not a rating."""
    rows = []
    with open_member(archive, settings.ratings) as stream:
        for number, line in numbered_lines(stream, f"{archive}: {settings.ratings}"):
            try:
                row = json.loads(line)
                rows.append((str(row["user"]), str(row["item"]), float(row["rating"]), int(row["time"])))
            except (ValueError, KeyError, TypeError) as error:
                where = f"{archive}: {settings.ratings}:{number}"
                raise NisbenchError(f"{where}: expected a rating, found {shown_bytes(line)}") from error
    if not rows:
        raise NisbenchError(f"{archive}: {settings.ratings} holds no ratings")
    users, items, ratings, times = zip(*rows, strict=True)
    parquet.write_categorical(instances_file, vocabulary_file, ratings, {"user": users, "item": items}, times)


EXAMPLE = {
    "format": "json_ratings",
    "title": "JSON ratings",
    "task": "rating",
    "url": "ratings.zip",
    "md5": None,
    "ratings": "ratings.jsonl",
    "split": {"proportions": [8, 1, 1], "seed": 1},
    "blocks": {"by": "count", "count": 4},
}


def example_archive(path: Path) -> None:
    """The archive that EXAMPLE is tested with, where there is no file of that name beside this one."""
    pairs = [(user, item) for user in range(40) for item in range(30) if (user * item) % 3]
    rows = [{"user": u, "item": i, "rating": 5 - abs(u - i) / 10, "time": n} for n, (u, i) in enumerate(pairs)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ratings.jsonl", "\n".join(map(json.dumps, rows)))
