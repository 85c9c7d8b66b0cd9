"""Ratings generated from a known truth, so that a search can be held against the right answer.

A rating is 3 + a user's and an item's bias + the inner product of their true embeddings + noise (see `planted`).
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from nisbench.data import parquet, planted
from nisbench.data.parquet import fields_in_a_row
from nisbench.params.datasets import PlantedRatings

MEAN_RATING = 3.0
BIAS_STD = 0.3


def prepare(settings: PlantedRatings, archive: Path | None, instances_file: Path, vocabulary_file: Path) -> None:
    """Generate the instances and their vocabulary, whose column ``planted_dimension`` is the truth."""
    assert archive is None
    generator = np.random.default_rng(settings.seed)
    sizes = (settings.users, settings.items)
    users, items = (planted.field(size, settings, generator) for size in sizes)
    user, item = (side.draw(settings.instances, generator) for side in (users, items))
    user_bias, item_bias = (generator.standard_normal(size) * BIAS_STD for size in sizes)
    products = np.einsum("nk,nk->n", users.embeddings[user], items.embeddings[item])
    products *= settings.signal / products.std()
    noise = generator.standard_normal(settings.instances) * settings.noise
    labels = MEAN_RATING + user_bias[user] + item_bias[item] + products + noise
    columns = {"user": user.astype(np.int32), "item": (settings.users + item).astype(np.int32)}
    vocabulary = pa.table(
        {
            "field": np.repeat(["user", "item"], sizes),
            "token": np.concatenate([np.arange(size) for size in sizes]).astype(str),
            "planted_dimension": np.concatenate([users.dimensions, items.dimensions]).astype(np.int32),
        }
    )
    parquet.write_table(vocabulary_file, vocabulary)
    fields = fields_in_a_row({"user": "categorical", "item": "categorical"}, sizes)
    parquet.write(instances_file, labels.astype(np.float32), columns, fields)
