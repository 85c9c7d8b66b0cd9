"""Feature blocking (paper, section 2.3): features of similar frequency share one row of the selection."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from nisbench.data import parquet
from nisbench.errors import NisbenchError
from nisbench.params.datasets import BlockSettings


def run(settings: BlockSettings, vocabulary_file: Path, train_file: Path, features_file: Path) -> None:
    """Add to the vocabulary each feature's ``frequency`` in the training instances and its ``block``."""
    vocabulary = parquet.read_vocabulary(vocabulary_file, parquet.open_instances(train_file).fields)
    if settings.count > len(vocabulary):
        raise NisbenchError(f"blocks.count is {settings.count}, but there are only {len(vocabulary)} features")
    frequency = parquet.feature_counts(train_file, len(vocabulary))
    block = (equal_count if settings.by == "count" else magnitude)(frequency, settings.count)
    table = vocabulary.append_column("frequency", pa.array(frequency)).append_column("block", pa.array(block))
    parquet.write_table(features_file, table)


def equal_count(frequency: np.ndarray, count: int) -> np.ndarray:
    """Block (N,) int32 of each feature: `count` blocks of equal size by falling frequency, ties by feature id."""
    n = len(frequency)
    block = np.empty(n, dtype=np.int32)
    block[np.argsort(-frequency, kind="stable")] = np.arange(n) * count // n
    return block


def magnitude(frequency: np.ndarray, count: int) -> np.ndarray:
    """Block (N,) int32 of each feature by the power of ten of its frequency, falling: the released code's for Criteo.

    The last of the `count` blocks holds all frequencies below 100, the first all from 10 ** `count` on. Empty ones are
    left out, so the numbers stay contiguous.
    """
    count = min(count, 18)  # no int64 is larger; the blocks beyond would be empty
    bounds = 10 ** np.arange(2, count + 1, dtype=np.int64)
    block = count - 1 - np.searchsorted(bounds, frequency, side="right")
    return np.unique(block, return_inverse=True)[1].astype(np.int32)
