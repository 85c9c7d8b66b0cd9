"""Read ``params/*.yaml``, the studies and the overlays into checked `Params`.

Files are merged key by key, later ones over earlier ones: ``params/*.yaml``, ``params/studies/*.yaml``, then each file
named by the environment variable ``NISBENCH_PARAMS`` (separated by colons). A study's ``overrides`` are merged over the
files of params/ for that study; an overlay, being the user's last word, is merged over them too. Whatever is wrong is reported with the
file and line that said it, before any work starts.
"""

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nisbench.errors import NisbenchError, shortened, without_password
from nisbench.params.base import KeyPath
from nisbench.params.checks import check_report, validate
from nisbench.params.studies import Params
from nisbench.params.tree import Tree, dotted, nearest, read_yaml, short

OVERLAYS_VARIABLE = "NISBENCH_PARAMS"


@dataclass(frozen=True)
class Config:
    """All parameters, and each study's and grid's with their ``overrides`` merged in."""

    params: Params
    by_study: dict[str, Params]
    by_grid: dict[tuple[str, str, Any], Params]
    """By names of study and grid, whose own ``overrides`` are merged in as well, and by the swept key and value, or None."""
    overlays: tuple[Path, ...]


def load(root: Path, overlays: list[Path] | None = None, only: str | None = None) -> Config:
    """Read and check the parameters of the project at `root`, of all studies or of `only` one.

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
    own, over = Tree(), Tree()
    for tree, paths in ((own, files), (over, overlays)):
        for path in paths:
            tree.merge(read_yaml(path))
    whole = own.merged(over)
    _resolve(whole)
    params = validate(whole)
    by_study, by_grid = {}, {}
    if only is not None and only not in params.studies:
        raise unknown_study(only, params.studies)
    for name, study in params.studies.items():
        if only not in (None, name):
            continue
        trees = own.with_one("studies", name), over.with_one("studies", name)
        by_study[name] = validate(_overridden(*trees, ("studies", name)), study=name)
        for key, grid in study.grids.items():
            at = ("studies", name), ("studies", name, "grids", key)
            merged = _overridden(*trees, *at)
            for variant in grid.variants:
                tree = merged.with_value(*variant, said=(*at[1], "sweep", variant[0])) if variant else merged
                by_grid[name, key, variant] = validate(tree, study=name, grid=key)
        check_report(whole, name, study, {(key, variant): p for (of, key, variant), p in by_grid.items() if of == name})
    return Config(params, by_study, by_grid, tuple(path.absolute() for path in overlays))


def unknown_study(name: str, known: Collection[str]) -> NisbenchError:
    return NisbenchError(f"There is no study {name!r} in params/studies{nearest(name, known)}")


def _overridden(own: Tree, over: Tree, *at: KeyPath) -> Tree:
    """The parameters with the overrides of a study, or of a study and a grid of it.

    The later word counts: our files, the overrides in them, the overlays, the overrides in those.
    """
    tree = own
    for path in at:
        tree = tree.overridden((*path, "overrides"), by=own)
    tree = tree.merged(over)
    for path in at:
        tree = tree.overridden((*path, "overrides"), by=over)
    _resolve(tree)
    return tree


def _resolve(tree: Tree) -> None:
    """Fill in what entries inherit from those they extend, and make local paths absolute.

    Paths are relative to the file that names them.
    """
    for section in ("datasets", "models", "methods"):
        tree.inherit(section)
    datasets = tree.values.get("datasets")
    for name, dataset in datasets.items() if isinstance(datasets, dict) else ():
        url, path = dataset.get("url") if isinstance(dataset, dict) else None, ("datasets", name, "url")
        if isinstance(url, str | list):
            try:
                dataset["url"] = checked_urls(url, tree.origins[path][0].parent)
            except NisbenchError as error:
                raise NisbenchError(f"{tree.where(path)}: {dotted(path)}: {error}") from error


def checked_urls(url: Any, folder: Path) -> Any:
    """One address or path, or each of a list, by `checked_url`; what is neither is left as it is."""
    if isinstance(url, list):
        return [checked_urls(one, folder) for one in url]
    return checked_url(url, folder) if isinstance(url, str) else url


def checked_url(url: str, folder: Path) -> str:
    """An address as it is, a path as an absolute one; relative ones begin in `folder`. Raises `NisbenchError` if it is neither."""
    shown = short(without_password(url))
    wanted = f"must be an https address or the path of a file, not {shown}"
    if not url.strip() or not url.isprintable():
        raise NisbenchError(wanted)
    try:
        if url.lower().startswith(("https://", "http://")):
            parts = urlsplit(url)
            if " " in url or not parts.hostname or parts.port == 0:
                raise NisbenchError(f"{wanted}: it has no host, or a space")
            return url
        if url.lower().startswith("file:"):
            raise NisbenchError(f"{wanted}; leave out file://")
        if re.match(r"[a-z]:|\\\\", url.lower()):
            raise NisbenchError(f"{wanted}, which is a path of Windows; under WSL, C:/data is /mnt/c/data")
        if re.match(r"[a-z][a-z0-9+.-]*:/", url.lower()):
            raise NisbenchError(f"{wanted}; fetch it by other means, and name the file")
        found = (folder / Path(url).expanduser()).resolve()
        if found.is_dir():
            raise NisbenchError(
                f"must be a file, and {shown} is a folder; list its files ([a.csv, b.csv], for the format table), or pack "
                "it in a zip or tar.gz"
            )
    except (ValueError, RuntimeError, OSError) as error:
        raise NisbenchError(f"{wanted}: {shortened(str(error), 200)}") from error
    return str(found)
