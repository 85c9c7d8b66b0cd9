"""Where things are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The project."""

REAL_DATA = ROOT.parent / "shared" / "datasets"
"""The real archives, where they are at hand."""

SMALL = Path(__file__).parent / "small"
"""A project of a few parameters: quickly read, and nobody's results depend on them."""
