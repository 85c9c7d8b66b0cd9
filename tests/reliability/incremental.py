"""Which ids does a change give, and which jobs does it rerun? Each kind of change is made to a small copy of the project, and counted.

    python -m tests.reliability.incremental [--write [FILE]] [--only NAME ...]

What is expected stands in `ID_ROWS` and `ROWS`, worked out from the small study's grid. Nothing of it was taken from a run.
"""

import argparse
import datetime as dt
import json
import re
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

from tests.helpers.paths import ROOT
from tests.helpers.project import Project, copy_project, jobs, put_into_git_and_dvc

PAGE = Path("docs/evidence/incremental.md")

Jobs = dict[str, int]
"""How many of each rule, or of each kind of DVC's stages, or of steps with new ids."""

# The small study (TINY in tests/helpers/project.py): MF on planted_ratings with four methods, of which DNIS is pruned twice;
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
    return Change(f"a statement more in `{module}`", in_sources(lambda text: f"{text}\nCHANGED = True\n", module))


def remark(module: str) -> Change:
    """A comment, and a word more in the module's docstring."""

    def change(text: str) -> str:
        return text.replace('"""', '"""Indeed: ', 1) + "\n# A comment.\n"

    return Change(f"a comment, and a docstring, in `{module}`", in_sources(change, module))


COMPUTING = ("data/*.py", "embedding/*.py", "models/*.py", "search/*.py", "tasks/*.py", "training/*.py", "wiring.py")
"""The files whose code enters ids: the core's and those of all kinds."""


def everywhere(pattern: str, replacement: str, example: str) -> Change:
    """A regular expression's matches replaced in all files whose code enters ids."""
    return Change(example, in_sources(lambda text: re.sub(pattern, replacement, text), *COMPUTING))


def in_sources(change: Callable[[str], str], *patterns: str) -> Callable[[Project], None]:
    """Change the texts of the package's files of these patterns, of which at least one must differ then."""

    def make(project: Project) -> None:
        package = project.root / "src" / "nisbench"
        texts = {path: path.read_text() for pattern in patterns for path in package.glob(pattern)}
        changed = {path: change(text) for path, text in texts.items()}
        assert changed != texts
        for path, text in changed.items():
            path.write_text(text)

    return make


def renamed(**names: str) -> Callable[[Project], None]:
    """Entries of params/ called otherwise, wherever they are named."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            tags = ("kind", "format")  # these name code
            return {names.get(key, key): item if key in tags else walk(item) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item) for item in value]
        return names.get(value, value) if isinstance(value, str) else value

    def make(project: Project) -> None:
        for path in (project.root / "params").rglob("*.yaml"):
            path.write_text(yaml.safe_dump(walk(yaml.safe_load(path.read_text())), sort_keys=False))

    return make


def moved(project: Project) -> None:
    """MDE's entry goes to another file, and the others into the opposite order."""
    path = project.root / "params" / "methods.yaml"
    methods = yaml.safe_load(path.read_text())["methods"]
    (path.parent / "moved.yaml").write_text(yaml.safe_dump({"methods": {"mde": methods.pop("mde")}}))
    path.write_text(yaml.safe_dump({"methods": dict(reversed(methods.items()))}, sort_keys=False))


def both(*changes: Callable[[Project], None]) -> Callable[[Project], None]:
    def make(project: Project) -> None:
        for change in changes:
            change(project)

    return make


def core_recorded(project: Project) -> None:
    """Record the core's source, as `make golden` does where all golden values are as before."""
    project.succeeded("python", "-c", RECORD)


def golden_asked(refuses: bool = False) -> Callable[[Project], None]:
    """Run `make golden`, which records the core's source or refuses to."""

    def make(project: Project) -> None:
        shutil.copytree(ROOT / "tests" / "golden", project.root / "tests" / "golden")
        ended = project.run("python", "-m", "tests.golden")
        assert ended.returncode == refuses, ended.stdout + ended.stderr

    return make


def version_raised(step: str) -> Callable[[Project], None]:
    def make(project: Project) -> None:
        path = project.root / "src" / "nisbench" / "core.json"
        recorded = json.loads(path.read_text())
        recorded[step]["version"] += 1
        path.write_text(json.dumps(recorded))

    return make


RECORD = """
import json
from nisbench import identity
recorded = identity.recorded_core()
for step in recorded:
    recorded[step]["source"] = identity.core_source(step)
identity.CORE_FILE.write_text(json.dumps(recorded, indent=2))
"""

IDS = """
import json
from pathlib import Path
from nisbench.identity import is_development
from nisbench.studies import plan
steps = plan(Path()).study("demo").steps.values()
print(json.dumps({step.id: [step.name, is_development(step.name)] for step in steps}))
"""


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
        setting("methods.yaml", "methods.mde.importance", "raw"),
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
    Row(
        "entries of params/ renamed",
        Change("`mde` is called `mixed`, `mf` `factors`", renamed(mde="mixed", mf="factors")),
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
    Row("a source file that cannot change results", statement("files.py"), {}, {}),
    Row("a comment and a docstring only", remark("training/trainer.py"), {}, {}),
    Row("the device", setting("training.yaml", "training.device", "cpu"), {}, {"search": 3}),
    Row("how many trials are fused", setting("training.yaml", "training.fused_trials", 2), {}, {"search": 3}),
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


# --- ids ------------------------------------------------------------------------------------------------------

ALL_IDS = {"prepare": 3, "split": 3, "block": 3, "search": SEARCHES, "prune": PRUNINGS}
SEARCHED = {"search": SEARCHES, "prune": PRUNINGS}
RATING_SEARCHED = {"search": RATING_SEARCHES, "prune": RATING_PRUNINGS}
OF_ONE = {"search": 1, "prune": 1}
IN_TRAINER = statement("training/trainer.py")
OTHER_ADAM = Change(
    "another momentum in `training/adam.py`",
    in_sources(lambda text: text.replace("= 0.9,", "= 0.8,"), "training/adam.py"),
)


@dataclass(frozen=True)
class IdRow:
    """A change to the code or to names, how many steps get new ids, and how many have development ids."""

    name: str
    change: Change
    new: Jobs
    development: Jobs = field(default_factory=dict)
    golden: bool = False
    """Whether it computes all golden values, which takes a minute."""


ID_ROWS = [
    IdRow(
        "every error reworded",
        everywhere(r"(raise \w+\(\s*f?\")", r"\1Indeed: ", '`raise NisbenchError("Indeed: ...")`'),
        {},
    ),
    IdRow(
        "every log line reworded", everywhere(r"(log\.\w+\(\s*f?\")", r"\1Indeed: ", '`log.info("Indeed: ...")`'), {}
    ),
    IdRow("every comment", everywhere(r"(?m)$(?<=[:)\]])", "  # Indeed.", "`# Indeed.` behind lines"), {}),
    IdRow("every docstring", everywhere(r'(?m)^( *)"""(?=\w)', r'\1"""Indeed: ', '`"""Indeed: ...`'), {}),
    IdRow("every return annotation", everywhere(r"\) -> [^:\n]+:\n", ') -> "object":\n', "`-> object`"), {}),
    IdRow(
        "entries of params/ renamed",
        Change(
            "`planted_ratings` is called `ratings`, `mf` `factors`, `mde` `mixed`",
            renamed(planted_ratings="ratings", mf="factors", mde="mixed"),
        ),
        {},
    ),
    IdRow("entries of params/ moved", Change("`mde` into another file, the others into the opposite order", moved), {}),
    IdRow("the arithmetic of a method", statement("search/mde.py"), OF_ONE),
    IdRow("the arithmetic of a model", statement("models/mf.py"), RATING_SEARCHED),
    IdRow("the arithmetic of a task", statement("tasks/topk.py"), OF_ONE),
    IdRow(
        "the arithmetic of a format", statement("data/planted_ctr.py"), {"prepare": 1, "split": 1, "block": 1, **OF_ONE}
    ),
    IdRow("the arithmetic of a format that no run uses", statement("data/criteo.py"), {}),
    IdRow(
        "which file a search is handed",
        Change(
            "in `wiring.py`: test for validation",
            in_sources(lambda text: text.replace('("train", "validation")}', '("train", "test")}'), "wiring.py"),
        ),
        SEARCHED,
        {"search": SEARCHES},
    ),
    IdRow("the core of training", IN_TRAINER, SEARCHED, SEARCHED),
    IdRow("the core of pruning", statement("search/pruning.py"), {"prune": PRUNINGS}, {"prune": PRUNINGS}),
    IdRow("the core of blocking", statement("data/blocks.py"), {"block": 3, **SEARCHED}, {"block": 3}),
    # Preparing a table counts its tokens on train, so it assigns splits too.
    IdRow("the core of splitting", statement("data/split.py"), ALL_IDS, {"prepare": 3, "split": 3}),
    IdRow("the core of generated data", statement("data/planted.py"), ALL_IDS, {"prepare": 3}),
    IdRow(
        "the core of training, and `make golden` finds the values as before",
        Change(f"{IN_TRAINER.example}, then `make golden`", both(IN_TRAINER.make, golden_asked())),
        {},
        golden=True,
    ),
    IdRow(
        "the core of training, and `make golden` refuses",
        Change(f"{OTHER_ADAM.example}, then `make golden`", both(OTHER_ADAM.make, golden_asked(refuses=True))),
        SEARCHED,
        SEARCHED,
        golden=True,
    ),
    IdRow(
        "the core of training, and the versions are raised",
        Change(
            f"{OTHER_ADAM.example}; `search` and `prune` have version 2 in `core.json`; then `make golden`",
            both(OTHER_ADAM.make, version_raised("search"), version_raised("prune"), golden_asked()),
        ),
        SEARCHED,
        golden=True,
    ),
]


def prepared_for_ids(target: Path) -> Project:
    """A copy in which the core is the one recorded, as in a release."""
    project = copy_project(target)
    core_recorded(project)
    return project


Ids = dict[str, tuple[str, bool]]
"""Of each step's id: the kind of step, and whether it is a development id."""


def ids_of(project: Project) -> Ids:
    return {
        step: (name, development)
        for step, (name, development) in json.loads(project.run("python", "-c", IDS).stdout).items()
    }


def counted_ids(start: Project, before: Ids, row: IdRow) -> tuple[Jobs, Jobs]:
    """Make the change in a copy of `start`; return how many steps have new ids, and how many development ids."""
    with tempfile.TemporaryDirectory() as folder:
        project = start.copy(Path(folder) / "project")
        row.change.make(project)
        after = ids_of(project)
    assert len(after) == len(before)
    new = [name for step, (name, _) in after.items() if step not in before]
    development = [name for name, development in after.values() if development]
    return {name: new.count(name) for name in new}, {name: development.count(name) for name in development}


# --- jobs ---------------------------------------------------------------------------------------------------


def prepared(target: Path) -> Project:
    """A copy in git and DVC whose demo study was run."""
    project = copy_project(target)
    used = project.succeeded("python", "-c", "import nisbench; print(nisbench.__file__)").strip()
    assert Path(used).is_relative_to(target), f"the copy runs {used}"
    core_recorded(project)
    first = project.snakemake("demo")
    assert first == {"prepare": 3, "split": 3, "block": 3, **EVERY_RUN}, first
    put_into_git_and_dvc(project)
    assert project.dvc_repro() == {}
    project.succeeded("git", "add", "-A")
    project.succeeded("git", "commit", "-qm", "demo")
    return project


def by_snakemake(project: Project, overlays: str) -> Counted:
    return Counted(project.snakemake("demo", overlays=overlays))


def by_dvc(project: Project, overlays: str) -> Counted:
    output = project.succeeded("dvc", "repro", "report_demo", overlays=overlays)
    stages: Jobs = {}
    for line in output.splitlines():
        if line.startswith("Running stage '") and "_" in line:
            stage = line.split("'")[1].split("_")[0]
            stages[stage] = stages.get(stage, 0) + 1
    return Counted(jobs(output), stages)


Runner = Callable[[Project, str], Counted]


def changed_and_back(start: Project, row: Row, runner: Runner) -> tuple[Counted, Counted]:
    """Make the change in a copy of `start` and run; set it back and run again."""
    with tempfile.TemporaryDirectory() as folder:
        project = start.copy(Path(folder) / "project")
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
    return ", ".join(f"{rule.removesuffix('_demo')} {n}" for rule, n in named) or "none"


def against(expected: Jobs, counted: Jobs) -> str:
    return listed(expected) if expected == counted else f"**{listed(counted)}**, not {listed(expected)}"


@dataclass(frozen=True)
class IdLine:
    """A row with the ids that were counted."""

    row: IdRow
    new: Jobs
    development: Jobs

    def differences(self) -> list[str]:
        pairs = {"new": (self.row.new, self.new), "development": (self.row.development, self.development)}
        return [
            f"{what}: expected {listed(expected)}, counted {listed(counted)}"
            for what, (expected, counted) in pairs.items()
            if expected != counted
        ]

    def text(self) -> str:
        row = self.row
        cells = [row.name, row.change.example, against(row.new, self.new), against(row.development, self.development)]
        return f"| {' | '.join(cells)} |\n"


HEAD = """# What a change reruns

Made on {date} with Snakemake {snakemake} and DVC {dvc} by `python -m tests.reliability.incremental --write`, which makes every change below in a
copy of the project and counts. {verdict}

The copy's study has three grids, tiny data, and one seed:

| grid | data set | model | methods, each pruned at | searches | prunings |
|---|---|---|---|---:|---:|
| rating | planted_ratings | MF | Grid Search, Random Search, MDE: 1; DNIS: 1 and 2 | 4 | 5 |
| ctr | planted_ctr | DeepFM | Grid Search: 1 | 1 | 1 |
| topk | planted_topk | NeuMF | Grid Search: 1 | 1 | 1 |

With prepare, split and block of three data sets and one job for the tables these are 23 jobs. The expected counts were worked out from
this grid before anything was run (`ID_ROWS` and `ROWS` in `tests/reliability/incremental.py`). A cell shows one list if the count is the
expected one. Otherwise the count is in bold, with the expectation beside it.

## New ids

Every folder of data and runs is named by an id: a hash of its settings, of the ids of the steps before it, and of the code that
computes it ([run ids](../explanation/run-ids.md)). A new id means a new folder, which must be made. *Development ids* are those of steps
whose core (the code that all methods and models share) is not the one that its golden values were made with.

| change | example | steps with new ids | development ids |
|---|---|---|---|
{ids}
A word changes no id, nor does a name in `params/`. A change to the file of a method, a model, a task or a format changes the ids of what
depends on it. A change to the core gives development ids until `make golden` has found the golden values unchanged, which
brings the old ids back, or until the version of the step is raised, which gives new ones.

## What runs again

Each change is made, run and counted, set back, run and counted again. Cells are jobs unless they say stages.

| change | example | Snakemake: jobs | DVC: jobs | DVC: stages | set back, Snakemake | set back, DVC |
|---|---|---|---|---|---|---|
"""

TAIL = """
## Why

A change gives new [ids](../explanation/run-ids.md) to what depends on it, and to nothing else. The folders of these ids are missing, so they are
made. Everything else keeps its id.

*Set back*: the old ids are asked for again, and their folders are still there. So no data, no search and no pruning is run again. The tables are:
their files have fixed names and hold one state at a time. They are made again from the old runs, in seconds, and are the old tables. If a change
did not touch the tables, setting it back runs nothing.

*Lost folders*: for Snakemake, a file is missing only if something that is to be made needs it. While the tables are in place, nobody misses a lost
search. If a table is lost too, the search is run again for the tables, but its pruning, which is whole, is not. In these rows, "set back" is a second
run, which finds everything in place.

## What DVC adds

DVC runs the same jobs, because its stages call Snakemake. A stage is a whole data set. It runs when its ids (`results/plan/`), its parameter files or
the outputs before it differ from `dvc.lock`. So DVC may start Snakemake where there is nothing to do: after a change of a title in
`params/methods.yaml`, for example, the search stages of all three data sets run, without a single job. The stage `plan` always runs and is not
counted.

Jobs differ in one case: DVC misses every file that it has recorded, needed or not. `dvc repro` makes a lost search or data set again even if the
tables are in place. `dvc checkout` brings it back from DVC's cache without running anything.
"""


def markdown(ids: list[IdLine], lines: list[Line]) -> str:
    everything = [*ids, *lines]
    wrong = sum(bool(line.differences()) for line in everything)
    verdict = (
        f"All {len(everything)} rows came out as expected."
        if not wrong
        else f"{wrong} of {len(everything)} rows did not come out as expected."
    )
    text = HEAD.format(
        date=dt.datetime.now(dt.UTC).date(),
        snakemake=version("snakemake"),
        dvc=version("dvc"),
        verdict=verdict,
        ids="".join(line.text() for line in ids),
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
    names = [row.name for row in (*ID_ROWS, *ROWS)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--write", type=Path, metavar="FILE", nargs="?", const=PAGE, help=f"write this page (default: {PAGE})"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, default=names, help="only these rows")
    options = parser.parse_args()
    id_rows = [row for row in ID_ROWS if row.name in options.only]
    rows = [row for row in ROWS if row.name in options.only]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    ids: list[IdLine] = []
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=Console(highlight=False)) as progress:
        task = progress.add_task("ids", total=len(id_rows) + len(rows))

        def told(name: str, differences: list[str]) -> None:
            progress.print(f"{'[red]differs[/]' if differences else '[green]as expected[/]'}  {name}", *differences)
            progress.advance(task)

        start = prepared_for_ids(Path(folder) / "ids")
        before = ids_of(start)
        for id_row in id_rows:
            progress.update(task, description=id_row.name)
            ids.append(IdLine(id_row, *counted_ids(start, before, id_row)))
            told(id_row.name, ids[-1].differences())
        if rows:
            progress.update(task, description="the study, for the first time")
            start = prepared(Path(folder) / "project")
        for row in rows:
            progress.update(task, description=row.name)
            lines.append(measure(start, row))
            told(row.name, lines[-1].differences())
    if options.write:
        options.write.write_text(markdown(ids, lines), encoding="utf-8")
    return int(any(line.differences() for line in (*ids, *lines)))


if __name__ == "__main__":
    sys.exit(main())
