"""MovieLens ratings (Harper & Konstan 2015) in the two layouts that GroupLens publishes, as instances.

``.dat`` files have lines ``user::movie::rating::timestamp``; ``.csv`` files have the same columns behind a header.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from nisbench.data import parquet
from nisbench.data.archives import LONGEST_LINE, lines_of, numbered_blocks, open_member, shown_bytes
from nisbench.data.parquet import fields_in_a_row
from nisbench.errors import NisbenchError
from nisbench.params.datasets import MovieLens

KINDS = {"userId": pa.int32(), "movieId": pa.int32(), "rating": pa.float32(), "timestamp": pa.int64()}
HEADER = list(KINDS)
MIN_RATING, MAX_RATING = 0.5, 5.0


def prepare(settings: MovieLens, archive: Path | None, instances_file: Path, vocabulary_file: Path) -> None:
    """Turn the archive's ratings into instances; a feature is a user or a movie, users first, each by number."""
    assert archive is not None
    users, movies, ratings, times = read_ratings(archive, settings.ratings)
    user_tokens = np.unique(users)
    movie_tokens = np.unique(movies) if settings.movies is None else read_movies(archive, settings.movies)
    unlisted_movies = np.setdiff1d(movies, movie_tokens)
    if len(unlisted_movies):
        raise NisbenchError(
            f"{archive}: {settings.ratings} rates {len(unlisted_movies)} movies that {settings.movies} does not list, "
            f"such as {unlisted_movies[0]}"
        )
    columns = {
        "user": np.searchsorted(user_tokens, users).astype(np.int32),
        "movie": (len(user_tokens) + np.searchsorted(movie_tokens, movies)).astype(np.int32),
    }
    sizes = [len(user_tokens), len(movie_tokens)]
    tokens = np.concatenate([user_tokens, movie_tokens]).astype(str)
    vocabulary = pa.table({"field": np.repeat(["user", "movie"], sizes), "token": tokens})
    fields = fields_in_a_row({"user": "categorical", "movie": "categorical"}, sizes)
    parquet.write_table(vocabulary_file, vocabulary)
    parquet.write(instances_file, ratings, columns, fields, time=times)


def read_ratings(archive: Path, member: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users int32, movies int32, ratings float32 and times int64 (Unix seconds), in the order of the file.

    Memory is bounded by the ratings that are kept: what is malformed or repeated is refused soon after it is read.
    """
    table, checked = pa.table([pa.array([], kind) for kind in KINDS.values()], names=HEADER), 0
    for batch in _batches(archive, member):
        table = pa.concat_tables([table, batch])
        if len(table) > 2 * checked:
            _check_repeated(archive, member, table)
            checked = len(table)
    if len(table) == 0:
        raise NisbenchError(f"{archive}: {member}: holds no ratings")
    _check_repeated(archive, member, table)
    users, movies, ratings, times = (table[name].to_numpy() for name in HEADER)
    return users, movies, ratings, times


def _check_repeated(archive: Path, member: str, ratings: pa.Table) -> None:
    """Refuse a second rating of a movie by a user: one could be in train and the other in test."""
    users, movies = (ratings[name].to_numpy() for name in HEADER[:2])
    pairs = users.astype(np.int64) << 32 | movies
    ordered = np.sort(pairs)
    if (ordered[1:] == ordered[:-1]).any():
        once = np.unique(pairs, return_index=True)[1]
        row = np.setdiff1d(np.arange(len(pairs)), once)[0]
        raise NisbenchError(
            f"{archive}: {member}: user {users[row]} rates movie {movies[row]} more than once, "
            f"last in rating number {row + 1}"
        )


def _batches(archive: Path, member: str) -> Iterator[pa.Table]:
    """The ratings a few at a time, checked one by one."""
    file, dat = f"{archive}: {member}", member.endswith(".dat")
    names = HEADER if dat else None
    with open_member(archive, member) as stream:
        for first, block in numbered_blocks(stream, file):
            if not (text := block.lstrip(b"\r\n")):
                continue
            start = first + block[: len(block) - len(text)].count(b"\n")
            if names is None:
                names, text = _columns(f"{file}:{start}", text)
                start += 1
            yield _parsed(file, start, text, names, "::" if dat else ",")


def _columns(where: str, text: bytes) -> tuple[list[str], bytes]:
    """The names of columns that the first line holds, and the lines after it."""
    line, _, rest = text.partition(b"\n")
    names = line.rstrip(b"\r").decode(errors="replace").split(",")
    if not set(HEADER) <= set(names) or len(set(names)) < len(names):
        raise NisbenchError(f"{where}: expected the header {','.join(HEADER)}, found {shown_bytes(line.rstrip())}")
    return names, rest


def _parsed(file: str, first: int, text: bytes, names: list[str], delimiter: str) -> pa.Table:
    """The ratings in whole lines, of which the first has that number."""
    columns = (
        names if delimiter == "," else [names[0], *(each for name in names[1:] for each in (f"before {name}", name))]
    )
    kinds = KINDS | {name: pa.null() for name in columns if name.startswith("before ")}  # "::" is two delimiters
    problem: Exception | None = None
    try:
        table = pc.read_csv(
            pa.BufferReader(text),
            pc.ReadOptions(column_names=columns, block_size=2 * LONGEST_LINE),
            pc.ParseOptions(delimiter=delimiter[0], quote_char=False),
            pc.ConvertOptions(column_types=kinds, include_columns=list(kinds), null_values=[""]),
        ).select(HEADER)
        if _is_sound(table):
            return table
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        problem = error
    for number, line in lines_of(first, text):
        try:
            _check_rating(line.split(delimiter.encode()), names)
        except ValueError as error:
            raise NisbenchError(f"{file}:{number}: {error}") from None
    if not text.strip(b"\r\n"):
        return pa.table([pa.array([], kind) for kind in KINDS.values()], names=HEADER)
    raise NisbenchError(f"{file}: {problem or 'holds what is no rating'}") from problem


def _is_sound(table: pa.Table) -> bool:
    users, movies, ratings, _ = (table[name].to_numpy() for name in HEADER)
    return bool(
        len(table) > 0
        and not any(table[name].null_count for name in HEADER)
        and ((ratings >= MIN_RATING) & (ratings <= MAX_RATING)).all()
        and users.min() > 0
        and movies.min() > 0
    )


def read_movies(archive: Path, member: str) -> np.ndarray:
    """The numbers of all movies in ``movies.csv``, ascending."""
    file, numbers = f"{archive}: {member}", set[int]()
    with open_member(archive, member) as stream:
        for first, block in numbered_blocks(stream, file):
            start, text = first, block
            if first == 1 and re.match(rb"movieId[,\r\n]", block):
                start, text = 2, block.partition(b"\n")[2]
            found = set(re.findall(rb"(?m)^(?!\r*$)[^,\r\n]*", text))
            if not all(map(_is_id, found)):
                raise _not_a_movie(file, start, text)
            numbers.update(map(int, found))
    if not numbers:
        raise NisbenchError(f"{file}: lists no movies")
    return np.array(sorted(numbers), dtype=np.int32)


def _not_a_movie(file: str, first: int, block: bytes) -> NisbenchError:
    """The error that names a block's first line that does not begin with a movie's number."""
    starts = ((number, line.split(b",", 1)[0]) for number, line in lines_of(first, block))
    number, start = next((number, start) for number, start in starts if not _is_id(start))
    return NisbenchError(f"{file}:{number}: expected a movie's number, found {shown_bytes(start)}")


def _check_rating(values: list[bytes], names: list[str]) -> None:
    """Raise `ValueError` if a line's values are not a rating."""
    if len(values) != len(names):
        raise ValueError(f"expected {len(names)} columns, found {len(values)}: {shown_bytes(b' '.join(values))}")
    of = dict(zip(names, values, strict=True))
    for name in HEADER[:2]:
        if not _is_id(of[name]):
            raise ValueError(f"{name} must be a positive whole number, not {shown_bytes(of[name])}")
    try:
        rating = float(of["rating"])
    except ValueError:
        rating = float("nan")
    if not MIN_RATING <= rating <= MAX_RATING:
        raise ValueError(f"rating must be a number from {MIN_RATING} to {MAX_RATING}, not {shown_bytes(of['rating'])}")
    if not _is_time(of["timestamp"]):
        raise ValueError(f"timestamp must be a whole number, not {shown_bytes(of['timestamp'])}")


def _is_time(text: bytes) -> bool:
    digits = text.removeprefix(b"-")
    return digits.isdigit() and len(digits) <= 18


def _is_id(text: bytes) -> bool:
    return text.isdigit() and len(text) <= 10 and 0 < int(text) < 2**31
