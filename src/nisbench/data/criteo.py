"""Criteo's display advertising challenge (Criteo Labs 2014): clicks with 13 numbers and 26 tokens each.

A line of ``train.txt`` is a label, I1 to I13 and C1 to C26, separated by tabs.
"""

from pathlib import Path

import numpy as np

from nisbench.data.click_log import LogFile, count, encode
from nisbench.params.datasets import Criteo


def prepare(settings: Criteo, archive: Path | None, instances_file: Path, vocabulary_file: Path) -> None:
    """Write instances and vocabulary: 13 scalar features, then per field its unknown feature and its kept tokens."""
    assert archive is not None
    log_file = LogFile(archive, settings.member)
    found = count([log_file])
    kept = [counter.kept(settings.min_count) for counter in found.tokens]
    low, high = found.low, np.minimum(found.high, settings.scalar_maxima)
    encode([log_file], kept, low, np.where(high > low, high - low, 1.0), instances_file, vocabulary_file)
