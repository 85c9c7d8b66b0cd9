"""A copy of the project, its demo study made tiny, in which real Snakemake and real DVC run."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

from nisbench.params.loading import OVERLAYS_VARIABLE
from tests.conftest import ROOT

DATA = """
datasets:
  planted_ratings: {users: 60, items: 40, instances: 3000, rank: 4, levels: 3}
  planted_ctr: {instances: 3000, scalar_fields: 2, categorical_fields: [40, 20, 5], rank: 4, levels: 3}
  planted_topk: {users: 60, items: 40, instances: 1000, rank: 4, levels: 3}
tasks:
  topk: {candidates: 9}
"""

TINY = """
studies:
  demo:
    title: Tiny
    grids:
      rating:
        datasets: [planted_ratings]
        models: [mf]
        methods: {grid_search: [1], random_search: [1], mde: [1], dnis: [1, 2]}
      ctr:
        datasets: [planted_ctr]
        models: [deepfm]
        methods: {grid_search: [1]}
      topk:
        title: K = 4
        datasets: [planted_topk]
        models: [neumf_topk]
        methods: {grid_search: [1]}
        overrides: {training: {base_dimension: 4}, methods: {grid_search: {dimensions: [4]}}}
    seeds: [1]
    tables: [table1, table2, table3, table4]
    overrides:
      training: {base_dimension: 8, batch_size: 512, max_epochs: 2}
      methods:
        grid_search: {dimensions: [4, 8]}
        random_search: {trials: 8}
        mde: {settings: [{base_dimension: 4, temperature: 0.1}]}
"""


@dataclass(frozen=True)
class Project:
    root: Path

    def run(self, *command: str, overlays: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.root,
            env=environment(self.root, overlays),
            text=True,
            capture_output=True,
            check=False,
            timeout=600,
        )

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        """Start a command in a process group of its own; what it says goes to `said`."""
        self.said.parent.mkdir(exist_ok=True)
        with self.said.open("wb") as said:
            return subprocess.Popen(
                command,
                cwd=self.root,
                env=environment(self.root),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    @property
    def said(self) -> Path:
        return self.root / "logs" / "said.txt"

    def snakemake(self, *arguments: str, overlays: str = "") -> dict[str, int]:
        """Run Snakemake; how many jobs it ran of each rule that makes files."""
        return jobs(self.succeeded("snakemake", "--cores", "2", *arguments, overlays=overlays))

    def dvc_repro(self, overlays: str = "") -> dict[str, int]:
        """Run `dvc repro report@demo`; the jobs that Snakemake ran below it."""
        return jobs(self.succeeded("dvc", "repro", "report@demo", overlays=overlays))

    def succeeded(self, *command: str, overlays: str = "") -> str:
        done = self.run(*command, overlays=overlays)
        output = done.stdout + done.stderr
        assert done.returncode == 0, output
        return output

    def edit(self, file: str, change: Callable[[str], str]) -> None:
        path = self.root / file
        changed = change(path.read_text())
        assert changed != path.read_text()
        path.write_text(changed)


def environment(root: Path, overlays: str = "") -> dict[str, str]:
    """Of a command in a copy of the project: its own code, in Snakemake, DVC and their jobs."""
    variables = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    variables["PYTHONPATH"] = str(root / "src")
    variables.pop(OVERLAYS_VARIABLE, None)
    return variables | ({OVERLAYS_VARIABLE: overlays} if overlays else {})


def jobs(output: str) -> dict[str, int]:
    """Count the jobs in Snakemake's tables of them, targets left out."""
    rules = ("download", "prepare", "split", "block", "search", "prune", "tables_demo")
    counts: dict[str, int] = {}
    for rule, count in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE):
        if rule in rules:
            counts[rule] = counts.get(rule, 0) + int(count)
    return counts


def copy_project(target: Path) -> Project:
    for name in ("Snakefile", "profiles", "workflow", "params", "dvc.yaml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target / name)
    shutil.copytree(ROOT / "src", target / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (target / "params" / "studies" / "demo.yaml").write_text(TINY)
    (target / "params" / "tiny.yaml").write_text(DATA)
    # A stage of DVC's runs what all studies ask of a data set, and this one asks for 180 trainings of the demo's.
    (target / "params" / "studies" / "recovery.yaml").unlink()
    stages = (target / "dvc.yaml").read_text().splitlines(keepends=True)
    (target / "dvc.yaml").write_text("".join(line for line in stages if "recovery" not in line))
    return Project(target)


@pytest.fixture
def fresh(tmp_path) -> Project:
    """A project in which nothing was run."""
    return copy_project(tmp_path)


@pytest.fixture(scope="session")
def _done_once(tmp_path_factory):
    return run_once(tmp_path_factory.getbasetemp() / "demo")


@cache
def run_once(folder: Path) -> tuple[Project, dict[str, int]]:
    """A project whose demo was run, and the jobs of that run: one for all folders of tests that have the fixture."""
    folder.mkdir()
    project = copy_project(folder)
    return project, project.snakemake("demo")


@pytest.fixture
def first_jobs(_done_once) -> dict[str, int]:
    """The jobs of the first run of `done`."""
    return _done_once[1]


@pytest.fixture
def done(_done_once, tmp_path) -> Project:
    """A copy of a project whose demo study was run by Snakemake."""
    root = tmp_path / "project"
    shutil.copytree(_done_once[0].root, root)  # with other times: they must not matter
    return Project(root)


@pytest.fixture(scope="session")
def _versioned_once(_done_once, tmp_path_factory) -> Project:
    root = tmp_path_factory.mktemp("versioned") / "project"
    shutil.copytree(_done_once[0].root, root)
    project = Project(root)
    keep_only_demo(root)
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    project.succeeded("git", "init", "-q", "-b", "main")
    identify(project)
    project.succeeded("dvc", "init", "-q")
    assert project.dvc_repro() == {}
    project.succeeded("git", "add", "-A")
    project.succeeded("git", "commit", "-qm", "demo")
    return project


@pytest.fixture
def versioned(_versioned_once, tmp_path) -> Project:
    """A project with its demo run, in git and DVC."""
    root = tmp_path / "project"
    shutil.copytree(_versioned_once.root, root)
    return Project(root)


def keep_only_demo(root: Path) -> None:
    """Leave out the other studies and their data sets: what is left is quick to plan, and all of it was run."""
    for study in (root / "params" / "studies").glob("*.yaml"):
        if study.stem != "demo":
            study.unlink()
    pipeline = yaml.safe_load((root / "dvc.yaml").read_text())
    for stage in pipeline["stages"].values():
        if "foreach" in stage:
            items = stage["foreach"]
            kept = [name for name in items if name.startswith(("planted_", "demo"))]
            stage["foreach"] = {name: items[name] for name in kept} if isinstance(items, dict) else kept
    pipeline["metrics"] = ["results/demo/metrics.json"]
    del pipeline["plots"]  # the tiny demo draws no figures
    (root / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))


def identify(project: Project) -> None:
    """Say whose commits these are, as git asks."""
    project.succeeded("git", "config", "user.email", "someone@example.org")
    project.succeeded("git", "config", "user.name", "Someone")
