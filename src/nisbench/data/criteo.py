"""Criteo's display advertising challenge (Criteo Labs 2014): clicks with 13 numbers and 26 tokens each.

A line of ``train.txt`` is a label, I1 to I13 and C1 to C26, separated by tabs.
"""

from pathlib import Path

import numpy as np

from nisbench.data.click_log import SCALARS, LogFile, check_scale, count, encode
from nisbench.errors import NisbenchError
from nisbench.params.datasets import Criteo


def prepare(settings: Criteo, archive: Path | None, instances_file: Path, vocabulary_file: Path) -> None:
    """Write instances and vocabulary: 13 scalar features, then per field its unknown feature and its kept tokens."""
    assert archive is not None
    log_file = LogFile(archive, settings.member)
    found = count([log_file])
    low, high = found.low, np.minimum(found.high, settings.scalar_maxima)
    for i, name in enumerate(SCALARS):
        if high[i] <= low[i] < found.high[i]:
            raise NisbenchError(
                f"{log_file}: {name} runs from {low[i]:g} to {found.high[i]:g}, but scalar_maxima[{i}] is "
                f"{settings.scalar_maxima[i]}, by which it cannot be scaled: raise scalar_maxima[{i}] above {low[i]:g}"
            )
    span = np.where(found.high > low, high - low, 1.0)  # a constant number becomes 0
    check_scale([log_file], found, low, span, "Raise scalar_maxima[{i}], or correct the file.")
    kept = [counter.kept(settings.min_count) for counter in found.tokens]
    encode([log_file], kept, low, span, instances_file, vocabulary_file)
