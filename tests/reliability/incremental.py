"""Which jobs does a change rerun? Each kind of change is made to a small copy of the project, and the jobs are counted.

    python -m tests.reliability.incremental [--write docs/incremental.md] [--only NAME ...]

What is expected stands in `ROWS`, worked out from the small study's grid; nothing of it was taken from a run.
"""

import argparse
import datetime as dt
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.pipeline.conftest import Project, copy_project, jobs

Jobs = dict[str, int]
"""How many of each rule, or of each kind of DVC's stages."""

# The small study (TINY in tests/pipeline/conftest.py): MF on planted_ratings with four methods, of which DNIS is pruned twice;
# DeepFM on planted_ctr and NeuMF on planted_topk with Grid Search; one seed.
SEARCHES, PRUNINGS = 6, 7
RATING_SEARCHES, RATING_PRUNINGS = 4, 5

TABLES = {"tables_demo": 1}
RUNS = {"search": 1, "prune": 1, **TABLES}
EVERY_RUN = {"search": SEARCHES, "prune": PRUNINGS, **TABLES}
RATING_RUNS = {"search": RATING_SEARCHES, "prune": RATING_PRUNINGS, **TABLES}

# DVC's stages. params/models.yaml, methods.yaml and training.yaml are parameters of the search stages of all three data sets.
REPORT = {"report": 1}
ONE = {"search": 1, "prune": 1, **REPORT}
ALL_SEARCHED = {"search": 3, "prune": 1, **REPORT}
ALL = {"search": 3, "prune": 3, **REPORT}


@dataclass(frozen=True)
class Change:
    """Something done to a project, as a reader would say it, and the overlay file to run it with, if any."""

    example: str
    make: Callable[[Project], None]
    overlay: str = ""


@dataclass(frozen=True)
class Row:
    """A kind of change, and what it should rerun. Setting it back should rerun the tables, if the change did."""

    name: str
    change: Change
    expected: Jobs
    stages: Jobs
    by_dvc: Jobs | None = None
    """Jobs under DVC, where they are not those of Snakemake."""
    is_loss: bool = False
    """Files are lost and made again: nothing to set back, and a second run finds all in place."""

    @property
    def expected_by_dvc(self) -> Jobs:
        return self.expected if self.by_dvc is None else self.by_dvc

    @property
    def back(self) -> Jobs:
        return {} if self.is_loss else {rule: n for rule, n in self.expected.items() if rule == "tables_demo"}


@dataclass
class Counted:
    """What ran: the jobs, and of DVC the stages."""

    jobs: Jobs
    stages: Jobs = field(default_factory=dict)


# --- changes --------------------------------------------------------------------------------------------------


def setting(file: str, key: str, value: Any) -> Change:
    """A value in a YAML file of params/, at a dotted key."""

    def make(project: Project) -> None:
        path = project.root / "params" / file
        tree = yaml.safe_load(path.read_text())
        *parents, last = key.split(".")
        place = tree
        for parent in parents:
            place = place[parent]
        assert place.get(last) != value
        place[last] = value
        path.write_text(yaml.safe_dump(tree, sort_keys=False))

    return Change(f"`{key}: {value if isinstance(value, str | int | float) else compact(value)}`", make)


def compact(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).strip()


def statement(module: str) -> Change:
    """Code that is there and does nothing: an id knows the syntax, not what it means."""
    return appended(module, "\nCHANGED = True\n", "a statement more in")


def remark(module: str) -> Change:
    """A comment, and a word more in the module's docstring."""

    def make(project: Project) -> None:
        path = project.root / "src" / "nisbench" / module
        path.write_text(path.read_text().replace('"""', '"""Indeed: ', 1) + "\n# A comment.\n")

    return Change(f"a comment, and a docstring, in `{module}`", make)


def appended(module: str, text: str, how: str) -> Change:
    def make(project: Project) -> None:
        path = project.root / "src" / "nisbench" / module
        path.write_text(path.read_text() + text)

    return Change(f"{how} `{module}`", make)


def overlay(text: str) -> Change:
    return Change(f"`{text}` in a file that `NISBENCH_PARAMS` names", lambda _: None, overlay=text)


def lost(*patterns: str, what: str) -> Change:
    """Files or folders deleted, of which each pattern finds one."""

    def make(project: Project) -> None:
        for pattern in patterns:
            (path,) = project.root.glob(pattern)
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return Change(what, make)


RATING = "studies.demo.grids.rating.methods"
MDE_SEARCH = "results/runs/planted_ratings/search/mf-mde-*"
MDE_PRUNING = "results/runs/planted_ratings/prune/mf-mde-*"
A_TABLE = "results/demo/table2.csv"

ROWS = [
    # MDE searches once, and is pruned once.
    Row("a method's parameter", setting("methods.yaml", "methods.mde.min_dimension", 2), RUNS, ALL_SEARCHED),
    # How it is pruned is nothing to the search.
    Row(
        "how a method is pruned",
        setting("methods.yaml", "methods.mde.prune_by", "weights"),
        {"prune": 1, **TABLES},
        ALL_SEARCHED,
    ),
    # All of planted_ratings is with MF.
    Row("a model's parameter", setting("models.yaml", "models.mf.reduction", "mean"), RATING_RUNS, ALL_SEARCHED),
    Row("a training parameter", setting("training.yaml", "training.learning_rate", 0.002), EVERY_RUN, ALL),
    # The preparation stays. Blocks hold frequencies in train, so they go with the split.
    Row(
        "the split's seed",
        setting("datasets.yaml", "datasets.planted_ctr.split.seed", 2),
        {"split": 1, "block": 1, **RUNS},
        {"data": 1, **ONE},
    ),
    Row(
        "the number of blocks",
        setting("datasets.yaml", "datasets.planted_ratings.blocks.count", 5),
        {"block": 1, **RATING_RUNS},
        {"data": 1, **ONE},
    ),
    Row(
        "a compression rate added",
        setting("studies/demo.yaml", f"{RATING}.dnis", [1, 2, 4]),
        {"prune": 1, **TABLES},
        {"prune": 1, **REPORT},
    ),
    # As many runs again as there are, and the data stay.
    Row("a seed added", setting("studies/demo.yaml", "studies.demo.seeds", [1, 2]), EVERY_RUN, ALL),
    Row("a method added to a grid", setting("studies/demo.yaml", f"{RATING}.full_table", [1]), RUNS, ONE),
    Row(
        "a study's list of tables",
        setting("studies/demo.yaml", "studies.demo.tables", ["table1", "table2", "table3", "table4", "recovery"]),
        TABLES,
        REPORT,
    ),
    # DVC sees a parameter file change and starts Snakemake, which finds nothing to do but the tables.
    Row(
        "a title",
        setting("methods.yaml", "methods.mde.title", "Mixed dimensions"),
        TABLES,
        {"search": 3, **REPORT},
    ),
    Row("a source file of one method", statement("search/mde.py"), RUNS, ONE),
    Row("a source file of one model", statement("models/mf.py"), RATING_RUNS, ONE),
    Row(
        "a source file of a data set's preparation",
        statement("data/planted_ctr.py"),
        {"prepare": 1, "split": 1, "block": 1, **RUNS},
        {"data": 1, **ONE},
    ),
    Row("a source file of all training", statement("training/trainer.py"), EVERY_RUN, ALL),
    Row("a source file of the tables", statement("report/tables.py"), TABLES, REPORT),
    Row("a source file that cannot change results", statement("console.py"), {}, {}),
    Row("a comment and a docstring only", remark("training/trainer.py"), {}, {}),
    Row("the device", setting("training.yaml", "training.device", "cpu"), {}, {"search": 3}),
    Row("how many trials train at once", setting("training.yaml", "training.trials_at_once", 2), {}, {"search": 3}),
    Row("an overlay instead of an edit", overlay("methods: {mde: {min_dimension: 2}}"), RUNS, ONE),
    # Losses. Snakemake misses only what something that is to be made needs; DVC misses all that it has recorded.
    Row(
        "a search's folder lost",
        lost(MDE_SEARCH, what="deleted: the search of MDE; the tables are there"),
        {},
        {"search": 1, "prune": 1},  # the new run.json holds other times, so the stage after it is asked too
        by_dvc={"search": 1},
        is_loss=True,
    ),
    Row(
        "a search's folder and a table lost",
        lost(MDE_SEARCH, A_TABLE, what="deleted: the search of MDE and `table2.csv`"),
        {"search": 1, **TABLES},
        ONE,
        is_loss=True,
    ),
    Row(
        "a pruning's folder and a table lost",
        lost(MDE_PRUNING, A_TABLE, what="deleted: the pruning of MDE and `table2.csv`"),
        {"prune": 1, **TABLES},
        {"prune": 1, **REPORT},
        is_loss=True,
    ),
    Row(
        "a data set's folder lost",
        lost("data/planted_ctr", what="deleted: `data/planted_ctr`; the tables are there"),
        {},
        {"data": 1},  # made again bit for bit, so no stage after it is asked
        by_dvc={"prepare": 1, "split": 1, "block": 1},
        is_loss=True,
    ),
    Row(
        "a data set's folder and a table lost",
        lost("data/planted_ctr", A_TABLE, what="deleted: `data/planted_ctr` and `table2.csv`"),
        {"prepare": 1, "split": 1, "block": 1, **TABLES},
        {"data": 1, **REPORT},
        is_loss=True,
    ),
]


# --- counting -------------------------------------------------------------------------------------------------


def prepared(target: Path) -> Project:
    """A copy in git and DVC that knows the demo study only, which was run."""
    target.mkdir()
    project = copy_project(target)
    for other in (target / "params" / "studies").glob("*.yaml"):
        if other.stem != "demo":
            other.unlink()
    pipeline = yaml.safe_load((target / "dvc.yaml").read_text())
    for name, stage in pipeline["stages"].items():
        if name in ("data", "search", "prune"):
            stage["foreach"] = [dataset for dataset in stage["foreach"] if dataset.startswith("planted")]
    pipeline["stages"]["report"]["foreach"] = {"demo": pipeline["stages"]["report"]["foreach"]["demo"]}
    pipeline["metrics"] = ["results/demo/metrics.json"]
    pipeline.pop("plots", None)
    (target / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    (target / ".gitignore").write_text(
        "/data/\n/results/runs/\n/results/plan/\n/logs/\n/.snakemake/\n__pycache__/\n/.done/\n"
    )
    used = project.succeeded("python", "-c", "import nisbench; print(nisbench.__file__)").strip()
    assert Path(used).is_relative_to(target), f"the copy runs {used}"
    for command in (
        "git init -q",
        "git config user.email someone@example.org",
        "git config user.name Someone",
        "dvc init -q",
    ):
        project.succeeded(*command.split())
    first = project.snakemake("demo")
    assert first == {"prepare": 3, "split": 3, "block": 3, **EVERY_RUN}, first
    assert project.dvc_repro() == {}
    project.succeeded("git", "add", "-A")
    project.succeeded("git", "commit", "-qm", "demo")
    return project


def by_snakemake(project: Project, overlays: str) -> Counted:
    return Counted(project.snakemake("demo", overlays=overlays))


def by_dvc(project: Project, overlays: str) -> Counted:
    output = project.succeeded("dvc", "repro", "report@demo", overlays=overlays)
    stages: Jobs = {}
    for line in output.splitlines():
        if line.startswith("Running stage '") and "@" in line:
            stage = line.split("'")[1].split("@")[0]
            stages[stage] = stages.get(stage, 0) + 1
    return Counted(jobs(output), stages)


Runner = Callable[[Project, str], Counted]


def changed_and_back(start: Project, row: Row, runner: Runner) -> tuple[Counted, Counted]:
    """Make the change in a copy of `start` and run; set it back and run again."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "project")
        shutil.copytree(start.root, project.root, symlinks=True)
        overlays = ""
        if row.change.overlay:
            path = Path(folder, "over.yaml")
            path.write_text(row.change.overlay)
            overlays = str(path)
        row.change.make(project)
        change = runner(project, overlays)
        for versioned in ("params", "src"):
            shutil.rmtree(project.root / versioned)
            shutil.copytree(start.root / versioned, project.root / versioned)
        return change, runner(project, "")


@dataclass(frozen=True)
class Line:
    """A row with what was counted."""

    row: Row
    snakemake: Counted
    snakemake_back: Counted
    dvc: Counted
    dvc_back: Counted

    def differences(self) -> list[str]:
        row = self.row
        # Setting back asks the same stages again: DVC knows the last state only.
        stages_back = {} if row.is_loss else row.stages
        pairs = {
            "Snakemake": (row.expected, self.snakemake.jobs),
            "Snakemake, set back": (row.back, self.snakemake_back.jobs),
            "DVC": (row.expected_by_dvc, self.dvc.jobs),
            "DVC's stages": (row.stages, self.dvc.stages),
            "DVC, set back": (row.back, self.dvc_back.jobs),
            "DVC's stages, set back": (stages_back, self.dvc_back.stages),
        }
        return [
            f"{what}: expected {listed(expected)}, counted {listed(counted)}"
            for what, (expected, counted) in pairs.items()
            if expected != counted
        ]


def measure(start: Project, row: Row) -> Line:
    return Line(row, *changed_and_back(start, row, by_snakemake), *changed_and_back(start, row, by_dvc))


# --- telling --------------------------------------------------------------------------------------------------

ORDER = ("data", "prepare", "split", "block", "search", "prune", "tables_demo", "report")


def listed(counts: Jobs) -> str:
    named = sorted(counts.items(), key=lambda item: ORDER.index(item[0]))
    return ", ".join(f"{rule.removesuffix('_demo')} {n}" for rule, n in named) or "nothing"


def against(expected: Jobs, counted: Jobs) -> str:
    return listed(expected) if expected == counted else f"**{listed(counted)}**, not {listed(expected)}"


HEAD = """# What a change reruns

Made on {date} with Snakemake {snakemake} and DVC {dvc} by `python -m tests.reliability.incremental --write docs/incremental.md`, which makes every
change below in a copy of the project, runs it, counts the jobs, sets the change back, and counts again. {verdict}

The copy's study has three grids, tiny data, and one seed:

| grid | data set | model | methods, each pruned at | searches | prunings |
|---|---|---|---|---:|---:|
| rating | planted_ratings | MF | Grid Search, Random Search, MDE: 1; DNIS: 1 and 2 | 4 | 5 |
| ctr | planted_ctr | DeepFM | Grid Search: 1 | 1 | 1 |
| topk | planted_topk | NeuMF | Grid Search: 1 | 1 | 1 |

With prepare, split and block of three data sets and one job for the tables these are 23 jobs. What is expected was worked out
from this grid before anything was run (`ROWS` in `tests/reliability/incremental.py`). A cell holds one list where the count
is what was expected; otherwise the count is in bold and the expectation beside it. Rows are jobs unless they say stages.

| change | example | Snakemake: jobs | DVC: jobs | DVC: stages | set back, Snakemake | set back, DVC |
|---|---|---|---|---|---|---|
"""

TAIL = """
## Why

Every folder of data and runs is named by a hash of what it is made from: settings, the steps before it, and the code it
uses without comments and docstrings ([architecture](architecture.md), "Run ids"). A change gives new names to what depends on
it, and to nothing else; those folders are missing, so they are made. What had its name before still has it.

*Set back*: the old names are asked for again, and those folders are still there. So no data, no search and no pruning is run again.
The tables are: their files have fixed names, and hold one state at a time. They are assembled from the old runs, in seconds,
and are the old tables again. Where a change did not touch the tables, setting it back runs nothing at all.

*Lost folders*: for Snakemake a file is missing only if something that is to be made needs it. With the tables in place, a lost
search is not missed; with a table lost as well, the search is made again for the tables, but its pruning, which is whole,
is not. In these rows "set back" is a second run, which finds everything in place.

## What DVC adds

DVC runs the same jobs, because its stages call Snakemake. It decides by stage, and a stage is a whole data set: it is run when its ids
(`results/plan/`), its parameter files or the outputs before it differ from `dvc.lock`. So it may start Snakemake where nothing is
to be done: for a title in `params/methods.yaml`, say, the search stages of all three data sets, with no job in any of them.
The stage `plan` always runs and is not counted.

Jobs differ in one case: DVC misses every file that it has recorded, needed or not. A lost search or data set is made again by `dvc repro`
even where the tables are in place; `dvc checkout` brings it back from DVC's cache without running anything.

## Keeping runs when the code has changed

After a refactoring that changes no result, `nisbench adopt STUDY` has today's code do a little of the work again, once for each way that the
study's runs take through the code: a search's first epochs (`--epochs`), a whole pruning, a whole preparation, each time of the cheapest run. Where it
finds the very numbers that the old run recorded, the runs of that kind get today's ids, without being computed again; where it does not, it says
which number differs, and leaves them. Each adopted run keeps, in its `step.json`, the version and the commit of the code that
computed it, and a study's `summary.csv` and page say so of every cell.

Measured on MovieLens-1M: after the training loop had been changed to tell a diverged trial's step, 405 steps (12 of data, 144 searches, 249
prunings) were adopted in 7 minutes of CPU time, on the strength of 31 comparisons that all agreed to the last digit. Training them had taken 4 h 29 min.
"""


def markdown(lines: list[Line]) -> str:
    wrong = sum(bool(line.differences()) for line in lines)
    verdict = (
        f"All {len(lines)} lines came out as expected."
        if not wrong
        else f"{wrong} of {len(lines)} lines did not come out as expected."
    )
    text = HEAD.format(
        date=dt.datetime.now(dt.UTC).date(),
        snakemake=version("snakemake"),
        dvc=version("dvc"),
        verdict=verdict,
    )
    for line in lines:
        row = line.row
        cells = [
            row.name,
            row.change.example,
            against(row.expected, line.snakemake.jobs),
            against(row.expected_by_dvc, line.dvc.jobs),
            against(row.stages, line.dvc.stages),
            against(row.back, line.snakemake_back.jobs),
            against(row.back, line.dvc_back.jobs),
        ]
        text += f"| {' | '.join(cells)} |\n"
    return text + TAIL


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table as Markdown")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[row.name for row in ROWS], help="only these rows")
    options = parser.parse_args()
    rows = [row for row in ROWS if options.only is None or row.name in options.only]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    lines = []
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=Console(highlight=False)) as progress:
        task = progress.add_task("the study, for the first time", total=len(rows))
        start = prepared(Path(folder) / "project")
        for row in rows:
            progress.update(task, description=row.name)
            lines.append(measure(start, row))
            differences = lines[-1].differences()
            progress.print(f"{'[red]differs[/]' if differences else '[green]as expected[/]'}  {row.name}", *differences)
            progress.advance(task)
    if options.write:
        options.write.write_text(markdown(lines), encoding="utf-8")
    return int(any(line.differences() for line in lines))


if __name__ == "__main__":
    sys.exit(main())
