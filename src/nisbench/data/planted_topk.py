"""Implicit feedback generated from a known truth: which items each user takes.

They are drawn one after another, each with odds proportional to its popularity times exp(the inner product of its and the user's
true embeddings, see `planted`), and none twice. Their times are a random order.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from nisbench.data import parquet, planted
from nisbench.data.parquet import fields_in_a_row
from nisbench.errors import NisbenchError
from nisbench.params.datasets import PlantedTopK

SCORES_AT_ONCE = 1 << 24
LEAST = 3
"""Instances of every user: one each for train, validation and test."""


def prepare(settings: PlantedTopK, archive: Path | None, instances_file: Path, vocabulary_file: Path) -> None:
    """Generate the instances, all positive, and their vocabulary, whose column ``planted_dimension`` is the truth."""
    assert archive is None
    generator = np.random.default_rng(settings.seed)
    sizes = (settings.users, settings.items)
    users, items = (planted.field(size, settings, generator) for size in sizes)
    counts = instances_per_user(users, settings)
    popularity = np.empty(settings.items)
    popularity[items.by_rank] = np.diff(items.cumulated, prepend=0)
    # Mean square of all inner products, without making them.
    spread = np.sqrt((users.embeddings.T @ users.embeddings * (items.embeddings.T @ items.embeddings)).sum())
    scale = settings.signal * np.sqrt(settings.users * settings.items) / spread
    taken = []
    step = max(1, SCORES_AT_ONCE // settings.items)
    for start in range(0, settings.users, step):
        embeddings = users.embeddings[start : start + step]
        odds = np.log(popularity) + scale * embeddings @ items.embeddings.T
        # The order of scores with Gumbel noise is that of drawing without replacement by these odds.
        order = np.argsort(-(odds + generator.gumbel(size=odds.shape)), axis=1)
        taken += [row[:count] for row, count in zip(order, counts[start : start + step], strict=True)]
    item = np.concatenate(taken)
    # The order of drawing is one of falling preference: what a user takes last would be what it likes least.
    times = np.concatenate([generator.permutation(count) for count in counts])
    columns = {
        "user": np.repeat(np.arange(settings.users), counts).astype(np.int32),
        "item": (settings.users + item).astype(np.int32),
    }
    vocabulary = pa.table(
        {
            "field": np.repeat(["user", "item"], sizes),
            "token": np.concatenate([np.arange(size) for size in sizes]).astype(str),
            "planted_dimension": np.concatenate([users.dimensions, items.dimensions]).astype(np.int32),
        }
    )
    fields = fields_in_a_row({"user": "categorical", "item": "categorical"}, sizes)
    parquet.write_table(vocabulary_file, vocabulary)
    parquet.write(instances_file, np.ones(len(item), dtype=np.float32), columns, fields, time=times)


def instances_per_user(users: planted.PlantedField, settings: PlantedTopK) -> np.ndarray:
    """(users,) counts that fall with the users' rank and sum to `settings.instances`, each from 3 to half the items."""
    most = settings.items // 2
    if not LEAST * settings.users <= settings.instances <= most * settings.users:
        raise NisbenchError(
            f"{settings.users} users can have from {LEAST * settings.users} to {most * settings.users} instances in all "
            f"({LEAST} to half the items each), not {settings.instances}"
        )
    weight = np.empty(settings.users)
    weight[users.by_rank] = np.diff(users.cumulated, prepend=0)
    low, high = 0.0, float(settings.instances * most / weight.min())
    for _ in range(200):  # the factor at which the clipped counts come to the sum wanted
        middle = (low + high) / 2
        total = np.clip(np.floor(middle * weight), LEAST, most).sum()
        low, high = (middle, high) if total <= settings.instances else (low, middle)
    counts: np.ndarray = np.clip(np.floor(low * weight), LEAST, most).astype(np.int64)
    room = np.flatnonzero(counts < most)[: settings.instances - counts.sum()]
    counts[room] += 1
    return counts
