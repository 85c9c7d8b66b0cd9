"""Read ``params/*.yaml``, the studies and the overlays into checked `Params`.

Files are merged key by key, later ones over earlier ones: ``params/*.yaml``, ``params/studies/*.yaml``, then each file
named by the environment variable ``NISBENCH_PARAMS`` (separated by colons). Whatever is wrong is reported with the
file and line that said it, before any work starts.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from nisbench.errors import NisbenchError
from nisbench.params.checks import validate
from nisbench.params.settings import Params
from nisbench.params.tree import Tree, read_yaml

OVERLAYS_VARIABLE = "NISBENCH_PARAMS"


@dataclass(frozen=True)
class Config:
    """All parameters, and each study's with its ``overrides`` merged in."""

    params: Params
    by_study: dict[str, Params]
    overlays: tuple[Path, ...]


def load(root: Path, overlays: list[Path] | None = None) -> Config:
    """Read and check the parameters of the project at `root`.

    `overlays` defaults to the files named by NISBENCH_PARAMS. Raises `NisbenchError` naming file, line, key and the
    nearest valid name.
    """
    if overlays is None:
        overlays = [Path(name) for name in os.environ.get(OVERLAYS_VARIABLE, "").split(":") if name]
    directory = root / "params"
    files = [*sorted(directory.glob("*.yaml")), *sorted((directory / "studies").glob("*.yaml"))]
    if not files:
        raise NisbenchError(
            f"{directory.absolute()}: no parameter files here. Run this in the project's top folder (where Snakefile is)."
        )
    tree = Tree()
    for path in [*files, *overlays]:
        tree.merge(read_yaml(path))

    _resolve_paths(tree)
    params = validate(tree)
    by_study = {}
    for name, study in params.studies.items():
        merged = tree.overridden(study.overrides or {}, ("studies", name, "overrides"))
        _resolve_paths(merged)
        by_study[name] = validate(merged, study=name)
    return Config(params, by_study, tuple(path.absolute() for path in overlays))


def _resolve_paths(tree: Tree) -> None:
    """Make local paths absolute: they are relative to the file that names them."""
    datasets = tree.values.get("datasets")
    for name, dataset in datasets.items() if isinstance(datasets, dict) else ():
        url = dataset.get("url") if isinstance(dataset, dict) else None
        if isinstance(url, str) and "://" not in url:
            file, _ = tree.origins["datasets", name, "url"]
            dataset["url"] = str((file.parent / url).resolve())
