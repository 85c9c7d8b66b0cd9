"""Ratings generated from a known truth, so that a search can be held against the right answer.

A rating is 3 + a user's and an item's bias + the inner product of their true embeddings + noise. Features of a field
occur with Zipf frequencies. Every feature has a *planted dimension*: only its first that many true embedding weights
differ from 0. It falls with the feature's frequency level and scatters around it, so frequency alone does not tell it.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from nisbench.data import parquet
from nisbench.data.parquet import Field
from nisbench.params.settings import PlantedRatings

FIELDS = [Field("user", "categorical"), Field("item", "categorical")]
MEAN_RATING = 3.0
BIAS_STD = 0.3


def run(settings: PlantedRatings, archive: Path | None, instances_file: Path, vocabulary_file: Path) -> None:
    """Generate the instances and their vocabulary, whose column ``planted_dimension`` is the truth."""
    assert archive is None
    generator = np.random.default_rng(settings.seed)
    ids, dimensions, embeddings, biases = [], [], [], []
    for size in (settings.users, settings.items):
        rank_of = generator.permutation(size)  # a feature's number must not tell its frequency
        popularity = (1.0 + rank_of) ** -settings.zipf_exponent
        ids.append(generator.choice(size, size=settings.instances, p=popularity / popularity.sum()))
        dimensions.append(planted_dimensions(rank_of, settings, generator))
        exists = np.arange(settings.rank) < dimensions[-1][:, None]
        embeddings.append(generator.standard_normal((size, settings.rank)) * exists)
        biases.append(generator.standard_normal(size) * BIAS_STD)
    user, item = ids
    products = np.einsum("nk,nk->n", embeddings[0][user], embeddings[1][item])
    products *= settings.signal / products.std()
    noise = generator.standard_normal(settings.instances) * settings.noise
    labels = MEAN_RATING + biases[0][user] + biases[1][item] + products + noise
    columns = {"user": user.astype(np.int32), "item": (settings.users + item).astype(np.int32)}
    vocabulary = pa.table(
        {
            "field": np.repeat(["user", "item"], [settings.users, settings.items]),
            "token": np.concatenate([np.arange(settings.users), np.arange(settings.items)]).astype(str),
            "planted_dimension": np.concatenate(dimensions).astype(np.int32),
        }
    )
    parquet.write_table(vocabulary_file, vocabulary)
    parquet.write(instances_file, labels.astype(np.float32), columns, FIELDS)


def planted_dimensions(rank_of: np.ndarray, settings: PlantedRatings, generator: np.random.Generator) -> np.ndarray:
    """Dimensions (n,) in 1..rank of features with these frequency ranks (0 = most frequent)."""
    level = rank_of * settings.levels // len(rank_of)
    centre = settings.rank - level * (settings.rank - 1) / max(settings.levels - 1, 1)
    spread = generator.integers(-settings.scatter, settings.scatter, size=len(rank_of), endpoint=True)
    return np.clip(np.rint(centre + spread), 1, settings.rank).astype(np.int64)
