"""Reports as their folders in ``results/`` have them: what is made of several studies reads only the files that are in git."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nisbench.errors import NisbenchError
from nisbench.files import read_json
from nisbench.report import runs as run_list


@dataclass(frozen=True)
class Report:
    """A study's report, as its folder has it."""

    folder: Path
    about: dict[str, Any]

    @property
    def title(self) -> str:
        return str(self.about["study"]["title"])

    def entry(self, section: str, name: str) -> str:
        """The title of an entry of ``params/``."""
        return str(self.about[section].get(name, {}).get("title", name))


def reports(results: Path) -> list[Report]:
    """The studies below `results` whose reports have a ``runs.json``, by name. Older ones have none, and are left out."""
    found = []
    for path in sorted(results.glob(f"*/{run_list.NAME}")):
        about = read_json(path)
        if not isinstance(about, dict) or "study" not in about:
            raise NisbenchError(
                f"{path} is not the runs of a study. Make it again with: nisbench tables {path.parent.name}"
            )
        found.append(Report(path.parent, about))
    return found
