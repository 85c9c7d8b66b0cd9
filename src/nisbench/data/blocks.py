"""Feature blocking (paper, section 2.3): features of similar frequency share one row of the selection."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from nisbench.data import parquet
from nisbench.errors import NisbenchError
from nisbench.params.settings import BlockSettings


def run(settings: BlockSettings, vocabulary_file: Path, train_file: Path, features_file: Path) -> None:
    """Add to the vocabulary each feature's ``frequency`` in the training instances and its ``block``."""
    vocabulary = parquet.read_table(vocabulary_file)
    if settings.count > len(vocabulary):
        raise NisbenchError(f"blocks.count is {settings.count}, but there are only {len(vocabulary)} features")
    frequency = parquet.feature_counts(train_file, len(vocabulary))
    block = equal_count(frequency, settings.count)
    table = vocabulary.append_column("frequency", pa.array(frequency)).append_column("block", pa.array(block))
    parquet.write_table(features_file, table)


def equal_count(frequency: np.ndarray, count: int) -> np.ndarray:
    """Block (N,) int32 of each feature: `count` blocks of equal size by falling frequency, ties by feature id."""
    n = len(frequency)
    block = np.empty(n, dtype=np.int32)
    block[np.argsort(-frequency, kind="stable")] = np.arange(n) * count // n
    return block
