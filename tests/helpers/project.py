"""A copy of the project, its demo study made tiny, in which real Snakemake and real DVC run."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nisbench.params.kinds import VARIABLE as PLUGINS_VARIABLE
from nisbench.params.loading import OVERLAYS_VARIABLE
from tests.helpers.paths import ROOT

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

JOBS = ("download", "prepare", "split", "block", "search", "prune", "tables_demo")
"""The rules that make files."""


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
        """Start a command in a process group of its own. Its output goes to the file `said`."""
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
                preexec_fn=_heed_ctrl_c,  # noqa: PLW1509 - it only sets a signal's handler
            )

    @property
    def said(self) -> Path:
        return self.root / "logs" / "said.txt"

    def snakemake(self, *arguments: str, overlays: str = "") -> dict[str, int]:
        """Run Snakemake. Returns how many jobs it ran, by the name of the rule."""
        return jobs(self.succeeded("snakemake", "--cores", "2", *arguments, overlays=overlays))

    def to_do(self, *arguments: str, overlays: str = "") -> dict[str, int]:
        """How many jobs Snakemake would run, by the name of the rule."""
        said = self.succeeded("snakemake", "--cores", "1", "-n", *arguments, overlays=overlays)
        return jobs(said.rpartition("Job stats:")[2])  # a dry run prints them before and after the jobs

    def dvc_repro(self, overlays: str = "") -> dict[str, int]:
        """Run DVC's stage of the demo's report. Returns the jobs that Snakemake ran below it."""
        return jobs(self.succeeded("dvc", "repro", "report_demo", overlays=overlays))

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

    def copy(self, target: Path) -> "Project":
        """A copy whose files have other times: they must not matter."""
        shutil.copytree(self.root, target, symlinks=True)
        return Project(target)


def _heed_ctrl_c() -> None:
    """A process that was started in the background, or by nohup, may ignore SIGINT, and its children would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def environment(root: Path, overlays: str = "") -> dict[str, str]:
    """The environment in which commands, in a copy of the project, run the copy's own code."""
    variables = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    variables["PYTHONPATH"] = str(root / "src")
    for variable in (OVERLAYS_VARIABLE, PLUGINS_VARIABLE):
        variables.pop(variable, None)
    return variables | ({OVERLAYS_VARIABLE: overlays} if overlays else {})


def jobs(output: str) -> dict[str, int]:
    """Count the jobs in Snakemake's tables of them. Rules that make no files do not count."""
    counts: dict[str, int] = {}
    for rule, count in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE):
        if rule in JOBS:
            counts[rule] = counts.get(rule, 0) + int(count)
    return counts


def copy_project(target: Path, study: str = TINY, data: str = DATA) -> Project:
    """A copy that has one study, named demo: it is quick to plan, and DVC's stages run no other."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("Snakefile", "profiles", "workflow", "params", ".gitignore", ".dvcignore"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target / name)
    shutil.copytree(ROOT / "src", target / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in (target / "params" / "studies").glob("*.yaml"):
        file.unlink()
    (target / "params" / "studies" / "demo.yaml").write_text(study)
    (target / "params" / "tiny.yaml").write_text(data)
    return Project(target)


def change_dnis(text: str) -> str:
    """Another learning rate of DNIS's selection, in the text of params/methods.yaml."""
    return text.replace("learning_rate: 0.01 # of that", "learning_rate: 0.02 # of that")


def put_into_git_and_dvc(project: Project) -> None:
    """As a user does who clones: a repository with a `dvc.yaml` of the project's studies."""
    project.succeeded("nisbench", "dvc")
    project.succeeded("git", "init", "-q", "-b", "main")
    identify(project)
    project.succeeded("dvc", "init", "-q")


def identify(project: Project) -> None:
    """Name the author of commits, as git asks."""
    project.succeeded("git", "config", "user.email", "someone@example.org")
    project.succeeded("git", "config", "user.name", "Someone")
