"""MovieLens ratings (Harper & Konstan 2015) in the two layouts that GroupLens publishes, as instances.

``.dat`` files have lines ``user::movie::rating::timestamp``; ``.csv`` files have the same columns behind a header.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from nisbench.data import parquet
from nisbench.data.archives import numbered_lines, open_member, shown_bytes
from nisbench.data.parquet import fields_in_a_row
from nisbench.errors import NisbenchError
from nisbench.params.datasets import MovieLens

HEADER = ["userId", "movieId", "rating", "timestamp"]
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
    pairs = columns["user"].astype(np.int64) << 32 | columns["movie"]
    once = np.unique(pairs, return_index=True)[1]
    if len(once) < len(pairs):  # one could be in train and the other in test
        row = np.setdiff1d(np.arange(len(pairs)), once)[0]
        raise NisbenchError(
            f"{archive}: {settings.ratings}: user {users[row]} rates movie {movies[row]} more than once, "
            f"last in rating number {row + 1}"
        )
    sizes = [len(user_tokens), len(movie_tokens)]
    tokens = np.concatenate([user_tokens, movie_tokens]).astype(str)
    vocabulary = pa.table({"field": np.repeat(["user", "movie"], sizes), "token": tokens})
    fields = fields_in_a_row({"user": "categorical", "movie": "categorical"}, sizes)
    parquet.write_table(vocabulary_file, vocabulary)
    parquet.write(instances_file, ratings, columns, fields, time=times)


def read_ratings(archive: Path, member: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users int32, movies int32, ratings float32 and times int64 (Unix seconds), in the order of the file."""
    dat = member.endswith(".dat")
    # "::" is two delimiters with an empty column between them
    names = ["userId", "", "movieId", "", "rating", "", "timestamp"] if dat else None
    if names:
        names = [name or f"empty{i}" for i, name in enumerate(names)]
    kinds = {"userId": pa.int32(), "movieId": pa.int32(), "rating": pa.float32(), "timestamp": pa.int64()}
    empty = {name: pa.null() for name in names or [] if name.startswith("empty")}
    with open_member(archive, member) as stream:
        try:
            table = pc.read_csv(
                pa.BufferReader(stream.read()),  # Arrow's threads must not outlive the stream if a line is malformed
                pc.ReadOptions(column_names=names),
                pc.ParseOptions(delimiter=":" if dat else ",", quote_char=False),
                pc.ConvertOptions(column_types=kinds | empty, include_columns=HEADER + list(empty), null_values=[""]),
            )
        except (pa.ArrowException, UnicodeDecodeError) as error:
            _find_malformed(archive, member, dat)
            raise NisbenchError(f"{archive}: {member}: {error}") from error
    users, movies, ratings, times = (table[name] for name in HEADER)
    rating_values = ratings.to_numpy()
    sound = (
        len(table) > 0
        and not (any(table[name].null_count for name in HEADER))
        and bool(((rating_values >= MIN_RATING) & (rating_values <= MAX_RATING)).all())
        and users.to_numpy().min() > 0
        and movies.to_numpy().min() > 0
    )
    if not sound:
        _find_malformed(archive, member, dat)
        raise NisbenchError(f"{archive}: {member}: holds no ratings")
    return users.to_numpy(), movies.to_numpy(), rating_values, times.to_numpy()


def read_movies(archive: Path, member: str) -> np.ndarray:
    """The numbers of all movies in ``movies.csv``, ascending."""
    with open_member(archive, member) as stream:
        numbers = []
        for number, line in numbered_lines(stream, f"{archive}: {member}"):
            first = line.split(b",", 1)[0]
            if not line or (number == 1 and first == b"movieId"):
                continue
            if not _is_id(first):
                raise NisbenchError(
                    f"{archive}: {member}:{number}: expected a movie's number, found {shown_bytes(first)}"
                )
            numbers.append(int(first))
    movies = np.unique(np.array(numbers, dtype=np.int32))
    if len(movies) == 0:
        raise NisbenchError(f"{archive}: {member}: lists no movies")
    return movies


def _find_malformed(archive: Path, member: str, dat: bool) -> None:
    """Raise on the first line that is not a rating, naming it. Slow; called once something is known to be wrong."""
    separator = b"::" if dat else b","
    with open_member(archive, member) as stream:
        for number, line in numbered_lines(stream, f"{archive}: {member}"):
            where = f"{archive}: {member}:{number}"
            if not line:
                continue
            values = line.split(separator)
            if not dat and number == 1:
                if [value.decode(errors="replace") for value in values] != HEADER:
                    raise NisbenchError(f"{where}: expected the header {','.join(HEADER)}, found {shown_bytes(line)}")
                continue
            try:
                _check_rating(values)
            except ValueError as error:
                raise NisbenchError(f"{where}: {error}") from None


def _check_rating(values: list[bytes]) -> None:
    """Raise `ValueError` if a line's values are not a rating."""
    if len(values) != len(HEADER):
        raise ValueError(f"expected {len(HEADER)} columns, found {len(values)}: {shown_bytes(b' '.join(values))}")
    for name, value in zip(HEADER[:2], values[:2], strict=True):
        if not _is_id(value):
            raise ValueError(f"{name} must be a positive whole number, not {shown_bytes(value)}")
    try:
        rating = float(values[2])
    except ValueError:
        rating = float("nan")
    if not MIN_RATING <= rating <= MAX_RATING:
        raise ValueError(f"rating must be a number from {MIN_RATING} to {MAX_RATING}, not {shown_bytes(values[2])}")
    if not _is_time(values[3]):
        raise ValueError(f"timestamp must be a whole number, not {shown_bytes(values[3])}")


def _is_time(text: bytes) -> bool:
    digits = text.removeprefix(b"-")
    return digits.isdigit() and len(digits) <= 18


def _is_id(text: bytes) -> bool:
    return text.isdigit() and len(text) <= 10 and 0 < int(text) < 2**31
