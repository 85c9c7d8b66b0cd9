"""Ids after an edit of the code: they are made with a copy of the package, which is never run."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from nisbench import identity
from nisbench.identity import CORE


def forget() -> None:
    """Have the code's files read again."""
    for cached in (identity._source_hash, identity.core_source, identity.report_source, identity.recorded_core):
        cached.cache_clear()


class PackageCopy:
    """A copy of the package, in the place of the original wherever ids are made."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "nisbench"
        shutil.copytree(identity.PACKAGE, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        monkeypatch.setattr(identity, "PACKAGE", self.folder)
        monkeypatch.setattr(identity, "CORE_FILE", self.folder / "core.json")
        forget()

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace the one place in a file where `old` stands."""
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new))
        forget()

    def write(self, file: str, text: str) -> None:
        (self.folder / file).write_text(text)
        forget()

    def record(self, versions: Iterable[tuple[str, int]] = ()) -> None:
        """Record the core's source, as if it had been seen to make the golden values; raise these versions to those given."""
        recorded = json.loads((self.folder / "core.json").read_text())
        raised = dict(versions)
        content = {
            step: {"version": raised.get(step, recorded[step]["version"]), "source": identity.core_source(step)}
            for step in CORE
        }
        self.write("core.json", json.dumps(content))
