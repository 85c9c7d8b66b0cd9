"""Criteo_x1: Criteo's click log as encoded and divided for AFN (Cheng, Shen & Huang 2020, arXiv 1909.03276), as published by BARS.

The numbers are scaled already and every token is one that occurs often enough. Published results on Criteo are mostly on this
division, so it is taken as it is.
"""

from pathlib import Path

import numpy as np

from nisbench.data.click_log import SCALARS, LogFile, check_scale, count, encode
from nisbench.params.datasets import CriteoX1


def prepare(settings: CriteoX1, archive: Path | None, instances_file: Path, vocabulary_file: Path) -> None:
    """Write instances, each with its ``split``, and vocabulary, in the layout of Criteo's."""
    assert archive is not None
    files = [
        LogFile(archive, member.path, delimiter=",", header=True, md5=member.md5)
        for member in (settings.train, settings.validation, settings.test)
    ]
    found, low, span = count(files), np.zeros(len(SCALARS)), np.ones(len(SCALARS))
    check_scale(files, found, low, span, "The numbers of this format are scaled already; those of these files are not.")
    kept = [counter.kept(1) for counter in found.tokens]
    encode(files, kept, low, span, instances_file, vocabulary_file)
