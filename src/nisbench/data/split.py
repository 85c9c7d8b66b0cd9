"""Divide instances into train, validation and test files.

Three files rather than one with a mark: a search is handed train and validation only, so it cannot read the test set.
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nisbench.data import parquet
from nisbench.errors import NisbenchError
from nisbench.files import atomic_write
from nisbench.params.datasets import AnySplit, RandomSplit, TimeSplit
from nisbench.progress import Ticker, share

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
ROW_GROUP = 1 << 20


def run(settings: AnySplit, instances_file: Path, targets: dict[str, Path]) -> None:
    """Write each split's instances to its file, in their original order. Reads the instances in batches."""
    source = parquet.open_instances(instances_file)
    by_user, by_time_only = settings == "leave_one_out", isinstance(settings, TimeSplit)
    split_of = assign(
        settings,
        len(source),
        users=source.column(source.fields[0].name) if by_user else None,
        times=_column(source, "time", settings) if by_user or by_time_only else None,
        division=_column(source, "split", settings) if settings == "published" else None,
    )
    start, heartbeat = 0, Ticker()
    with ExitStack() as stack:
        paths = [stack.enter_context(atomic_write(targets[name])) for name in SPLITS]
        writers = [
            stack.enter_context(pq.ParquetWriter(path, source.file.schema_arrow, compression=parquet.COMPRESSION))
            for path in paths
        ]
        for batch in source.batches(ROW_GROUP):
            numbers = split_of[start : start + len(batch)]
            start += len(batch)
            if heartbeat.is_due():
                heartbeat.log("splitting: instance %s", share(start, len(source), heartbeat.seconds))
            for number, writer in enumerate(writers):
                writer.write_batch(batch.filter(pa.array(numbers == number)))


def _column(source: parquet.InstancesFile, name: str, settings: AnySplit) -> np.ndarray:
    if name not in source.file.schema_arrow.names:
        raise NisbenchError(
            f"{source.path}: the split {'by time' if isinstance(settings, TimeSplit) else settings} needs a column {name}, which this data format does not write"
        )
    return source.column(name)


def assign(
    settings: AnySplit,
    n: int,
    users: np.ndarray | None = None,
    times: np.ndarray | None = None,
    division: np.ndarray | None = None,
) -> np.ndarray:
    """The split (0 train, 1 validation, 2 test) of each of `n` instances: (n,). Raises `NisbenchError` if one is empty.

    Users, times and the publisher's division, (n,) each, are needed only where the settings are about them.
    """
    if isinstance(settings, RandomSplit):
        return at_random(n, settings)
    if isinstance(settings, TimeSplit):
        assert times is not None
        return by_time(times, settings.proportions)
    if settings == "leave_one_out":
        assert users is not None
        assert times is not None
        return leave_one_out(users, times)
    assert division is not None
    return published(division)


def published(split_of: np.ndarray) -> np.ndarray:
    """The split of each instance, as its publisher says. Raises `NisbenchError` if one is empty."""
    for number, name in enumerate(SPLITS):
        if not (split_of == number).any():
            raise NisbenchError(f"the publisher puts no instances into {name}")
    return split_of


def by_time(times: np.ndarray, proportions: list[int]) -> np.ndarray:
    """The split of each instance: the earliest for train, the latest for test, as many as the proportions (3) say.

    Of instances of the same time, the one that stands later in the file counts as later. (n,) int64 -> (n,) uint8. Raises
    `NisbenchError` if a split would be empty.
    """
    split_of = np.empty(len(times), dtype=np.uint8)
    split_of[np.argsort(times, kind="stable")] = np.repeat(
        np.arange(3, dtype=np.uint8), _sizes(len(times), proportions)
    )
    return split_of


def _sizes(n: int, proportions: list[int]) -> np.ndarray:
    shares = np.cumsum(proportions)
    sizes: np.ndarray = np.diff(n * shares // shares[-1], prepend=0)
    if (sizes == 0).any():
        raise NisbenchError(f"{n} instances are too few to split {':'.join(map(str, proportions))}")
    return sizes


def at_random(n: int, settings: RandomSplit) -> np.ndarray:
    """The split (0 train, 1 validation, 2 test) of each of `n` instances: (n,) uint8.

    Splits are as large as the proportions say, to within one instance. Raises `NisbenchError` if one would be empty.
    """
    sizes = _sizes(n, settings.proportions)
    split_of = np.empty(n, dtype=np.uint8)
    split_of[np.random.default_rng(settings.seed).permutation(n)] = np.repeat(np.arange(3, dtype=np.uint8), sizes)
    return split_of


def leave_one_out(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The split of each instance (He et al. 2017, section 4.1): each user's last goes to test, the one before to validation.

    Of instances of the same time, the one that stands later in the file counts as later. Users of fewer than three
    instances go to train altogether. Both (n,) -> (n,) uint8. Raises `NisbenchError` if no user has three.
    """
    order = np.lexsort((times, users))
    _, first, count = np.unique(users[order], return_index=True, return_counts=True)
    last = (first + count - 1)[count >= 3]
    if len(last) == 0:
        raise NisbenchError(
            "no user has the three instances that it takes to leave one out for validation and one for test"
        )
    split_of = np.zeros(len(users), dtype=np.uint8)
    split_of[order[last]], split_of[order[last - 1]] = TEST, VALIDATION
    return split_of
