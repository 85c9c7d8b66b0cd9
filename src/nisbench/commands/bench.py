"""`nisbench bench`: the project's benchmarks, which are not part of the package."""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from nisbench.errors import NisbenchError


def run(arguments: Sequence[str]) -> None:
    """Run the folder ``benchmarks/`` of the checkout that this is called in."""
    if not Path("benchmarks", "__main__.py").exists():
        raise NisbenchError("there is no folder benchmarks/ here: run this in the project's top folder")
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = ["nisbench bench", *arguments]
    runpy.run_module("benchmarks", run_name="__main__")
