"""Kinds from outside the package, in a small project: the examples of docs/, a task, and one that an installed package brings."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from nisbench.commands import check_plugin
from nisbench.embedding.table import SelectedTable
from nisbench.errors import NisbenchError
from nisbench.execution import run_with_inputs
from nisbench.models.recommender import Recommender
from nisbench.params.kinds import VARIABLE, load_plugin
from nisbench.params.loading import load
from nisbench.report import build, style
from nisbench.studies import plan
from tests.conftest import ROOT

EXAMPLES = ROOT / "docs" / "examples"

TINY = {
    "datasets": {
        "planted_ratings": {"users": 60, "items": 40, "instances": 3000, "rank": 4, "levels": 3},
        "planted_ctr": {
            "instances": 3000, "scalar_fields": 2, "categorical_fields": [40, 20, 5], "rank": 4, "levels": 3,
        },
    },
    "training": {
        "base_dimension": 8, "batch_size": 512, "max_epochs": 2, "learning_rate": 0.01, "device": "cpu",
    },
    "methods": {"grid_search": {"dimensions": [4, 8]}},
    "models": {"deepfm": {"hidden": [8]}},
}  # fmt: skip
"""What the studies here set otherwise."""

MAE = '''
"""The rating that a user gives an item, measured by the absolute error."""

from typing import ClassVar, Literal

from torch import Tensor

from nisbench.params.tasks import Metric, Task
from nisbench.tasks.rating import RatingPrediction


class MAE(Task):
    """Rating prediction by mean absolute error."""

    kind: Literal["mae"]

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("mae", "MAE", "lower"),)
    headlines: ClassVar[tuple[str, ...]] = ("mae",)
    table: ClassVar[str] = "mae_table"
    table_title: ClassVar[str] = "Rating prediction by absolute error"
    measured: ClassVar[str] = "MAE on the test instances"
    variant_of: ClassVar[str | None] = "rating"


class AbsoluteError(RatingPrediction):
    def losses(self, predictions: Tensor, labels: Tensor) -> Tensor:
        return (predictions - labels).abs()

    def validation_loss(self, recommender, data) -> float:
        return (recommender.predict(data) - data.labels).double().abs().mean().item()

    def evaluate(self, recommender, data) -> dict[str, float]:
        return {"mae": self.validation_loss(recommender, data)}


def build(_settings, _splits, _device):
    return AbsoluteError()


EXAMPLE = {"kind": "mae"}
'''


@dataclass(frozen=True)
class Plugin:
    """A plug-in in a study that uses it beside what the package has."""

    name: str
    """Of its kind, its file and its entry."""
    section: str
    dataset: str
    models: tuple[str, ...]
    methods: dict[str, list[float]]
    table: str
    arithmetic: tuple[str, str]
    """A text of the file that computes, and another."""
    words: tuple[str, str]
    """One that does not."""
    uses: str = ""
    """What steps that use it have in their folder's name."""


GRID_AND_DNIS = {"grid_search": [1.0], "dnis": [1.0, 2.0]}
PLUGINS = [
    Plugin(
        "gradual_pruning", "methods", "planted_ratings", ("mf",), GRID_AND_DNIS | {"gradual_pruning": [1.0, 8.0]}, "table2",
        ("(1 - ramp) ** 3", "(1 - ramp) ** 2"), ('"sparsity": 0.75', '"sparsity": 0.5'), "gradual_pruning",
    ),
    Plugin(
        "dcn_v2", "models", "planted_ctr", ("deepfm", "dcn_v2"), GRID_AND_DNIS, "table3",
        ("x0 * layer(x) + x ", "x0 * layer(x) - x "), ("# Eq. 1", "# the first equation"), "dcn_v2",
    ),
    Plugin(
        "json_ratings", "datasets", "json_ratings", ("mf",), GRID_AND_DNIS, "table2",
        ('float(row["rating"])', '-float(row["rating"])'), ("expected a rating, found", "not a rating:"), "json_ratings",
    ),
    Plugin(
        "mae", "tasks", "planted_ratings", ("mf",), GRID_AND_DNIS, "mae_table",
        (".double().abs()", ".double().square()"), ("Rating prediction by absolute error", "Absolute errors"), "/runs/",
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Project:
    root: Path
    plugin: Plugin
    file: Path

    @property
    def example(self):
        return vars(self.kind.module())["EXAMPLE"]

    @property
    def kind(self):
        return load_plugin(self.file)[0]

    def write_study(self):
        """A study that uses the plug-in, its entry beside it."""
        plugin, entry, overrides = self.plugin, dict(self.example), json.loads(json.dumps(TINY))
        if plugin.section == "datasets":
            self.kind.module().example_archive(self.root / entry["url"])
            entry["url"] = f"../../{entry['url']}"
        if plugin.section == "tasks":
            overrides["datasets"][plugin.dataset]["task"] = plugin.name
        grid = {"datasets": [plugin.dataset], "models": list(plugin.models), "methods": plugin.methods}
        tables = ["table1", plugin.table]
        study = {"title": "Tiny", "grids": {"small": grid}, "seeds": [1], "tables": tables, "figures": ["pareto"]}
        params = {plugin.section: {plugin.name: entry}, "studies": {"tiny": {**study, "overrides": overrides}}}
        (self.root / "params" / "studies" / "tiny.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def run(self, *command, **variables):
        environment = os.environ | {VARIABLE: str(self.file), "PYTHONPATH": str(ROOT / "src")} | variables
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(command, cwd=self.root, env=environment, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ids(self, **variables):
        """The ids of all steps by their folders without them, of a process of its own: code is read once in a process."""
        planned = (
            "import pathlib, nisbench.studies as s; [print(t.folder) for t in s.plan(pathlib.Path()).steps.values()]"
        )
        return dict(line.rsplit("-", 1) for line in self.run(sys.executable, "-c", planned, **variables).split())


def write_project(root, plugin):
    shutil.copytree(ROOT / "params", root / "params", ignore=shutil.ignore_patterns("studies"))
    (root / "params" / "studies").mkdir()
    file = root / f"{plugin.name}.py"
    file.write_text(MAE if plugin.name == "mae" else (EXAMPLES / file.name).read_text())
    return Project(root, plugin, file)


@pytest.fixture(scope="module", params=PLUGINS, ids=lambda plugin: plugin.name)
def written_project(request, tmp_path_factory):
    """The working directory, with the plug-in registered."""
    found = write_project(tmp_path_factory.mktemp("project"), request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(found.file))
        patch.chdir(found.root)
        found.write_study()
        yield found


@pytest.fixture
def project(written_project, monkeypatch):
    """The same, in each test: no test sees plug-ins or overlays that it did not ask for."""
    monkeypatch.setenv(VARIABLE, str(written_project.file))
    return written_project


def test_a_wrong_key_is_named_with_its_line_and_the_nearest_valid_one(project):
    own = [name for name in project.kind.__annotations__ if name in project.kind.model_fields]
    right = own[-1]
    overlay = project.root / "wrong.yaml"
    overlay.write_text(f"{project.plugin.section}:\n  {project.plugin.name}:\n    {right}s: 1\n")
    with pytest.raises(NisbenchError, match=rf"wrong.yaml:3: .*{right}s: unknown key; did you mean '{right}'"):
        load(project.root, [overlay])


@pytest.mark.slow
def test_its_arithmetic_changes_its_ids_and_nothing_else_does(project):
    before, source = project.ids(), project.file.read_text()
    try:
        for (old, new), matters in ((project.plugin.words, False), (project.plugin.arithmetic, True)):
            assert source.count(old) == 1
            project.file.write_text(source.replace(old, new))
            after = project.ids()
            assert before.keys() == after.keys()
            changed = {name for name in before if before[name] != after[name]}
            used_by = {name for name in before if project.plugin.uses in name and "download" not in name}
            assert changed == (used_by if matters else set())
    finally:
        project.file.write_text(source)


def test_it_is_trained_tabled_and_drawn(project):
    plugin = project.plugin
    study = plan(Path()).study("tiny")
    for cell in study.cells:
        run_with_inputs(cell.prune)
    build.run(study)
    folder = study.folder
    title = project.example.get("title", "MAE")
    shown = "table1" if plugin.section == "datasets" else plugin.table
    assert title in (folder / f"{shown}.md").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "failed" not in (folder / f"{plugin.table}.md").read_text()
    drawn = pd.read_csv(folder / "pareto.csv")
    assert (folder / "pareto.svg").stat().st_size > 1000
    assert set(drawn["model"]) == set(plugin.models)
    assert len(drawn) == len(study.cells)
    methods = study.params.methods
    looks = style.looks({name: methods[name] for name in plugin.methods})
    assert len({(str(look["color"]), look["marker"]) for look in looks.values()}) == len(looks)
    assert len({look["marker"] for look in looks.values()}) == len(looks)


@pytest.mark.slow
def test_check_plugin(project):
    said = project.run(sys.executable, "-c", "from nisbench.cli import main; main()", "check-plugin", str(project.file))
    assert "claims hold" in said
    assert "failed" not in said
    assert "killed and started again" in said


def write_study_apart(project):
    """Without this process's taking the file for the plug-in of that name: it has one from another path."""
    module = f"nisbench_plugin_{project.plugin.name}"
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, module, raising=False)
        project.write_study()
        del sys.modules[module]


@pytest.mark.slow
def test_an_installed_package_brings_one(tmp_path):
    """By an entry point. Its runs have the ids that they have when the file is named."""
    project = write_project(tmp_path / "project", PLUGINS[0])
    write_study_apart(project)
    site = tmp_path / "site"
    about = site / "gradual-0.1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: gradual\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text("[nisbench.plugins]\ngradual = gradual.method\n")
    (site / "gradual").mkdir()
    (site / "gradual" / "__init__.py").touch()
    (site / "gradual" / "method.py").write_text(project.file.read_text())
    installed = {VARIABLE: "", "PYTHONPATH": f"{ROOT / 'src'}:{site}"}
    assert project.ids(**installed) == project.ids()


@pytest.mark.pipeline
@pytest.mark.slow
def test_snakemake_runs_it(tmp_path):
    project = write_project(tmp_path, replace(PLUGINS[0], methods={"gradual_pruning": [1.0]}))
    write_study_apart(project)
    for name in ("Snakefile", "workflow", "profiles"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    project.run("snakemake", "--cores", "2", "tiny")
    assert "Gradual pruning" in (tmp_path / "results" / "tiny" / "table2.md").read_text()


@pytest.mark.slow
def test_check_plugin_takes_kinds_that_need_each_other(tmp_path, monkeypatch, capsys):
    """A task that nothing of the package serves, with a format and a model for it, in one file."""
    task = MAE.replace('ClassVar[str | None] = "rating"', "ClassVar[str | None] = None").replace("EXAMPLE =", "TASK =")
    data = (EXAMPLES / "json_ratings.py").read_text().replace('("rating", "topk")', '("mae",)')
    data = data.replace('"task": "rating"', '"task": "mae"').replace("EXAMPLE =", "DATA =").replace('"json_', '"own_')
    model = """
from torch import nn
from nisbench.models.mf import MatrixFactorisation
from nisbench.params.models import Model

class OwnMF(Model):
    \'\'\'Matrix factorisation.\'\'\'

    kind: Literal["own_mf"]
    tasks: ClassVar[tuple[str, ...]] = ("mae",)

def build(settings, *others):
    return MatrixFactorisation(*others) if isinstance(settings, OwnMF) else AbsoluteError()

EXAMPLE = [TASK, DATA, {"kind": "own_mf", "title": "Own MF"}]
"""
    file = tmp_path / "own.py"
    file.write_text(
        task.replace("\n\ndef build(_settings, _splits, _device):\n    return AbsoluteError()\n", "") + data + model
    )
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.chdir(ROOT)
    status, said = check_plugin.run(file), capsys.readouterr().out
    assert status == 0, said
    for where in ("grid with own_mf on mae", "dnis with own_mf on mae"):
        assert where in said


# --- what the examples do -------------------------------------------------------------------------------------


def test_json_ratings_are_what_the_archive_holds(tmp_path):
    example = runpy.run_path(str(EXAMPLES / "json_ratings.py"))
    archive = tmp_path / "ratings.zip"
    settings = SimpleNamespace(ratings="r.jsonl")
    rows = [("zoe", "b", 1.5, 9), ("ada", "c", 4.0, 3), ("zoe", "a", 2.0, 5)]
    lines = [json.dumps(dict(zip(("user", "item", "rating", "time"), row, strict=True))) for row in rows]

    def prepare(*lines):
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("r.jsonl", "\n".join(lines))
        example["prepare"](settings, archive, tmp_path / "instances", tmp_path / "vocabulary")

    prepare(*lines)
    tokens = pq.read_table(tmp_path / "vocabulary")["token"].to_pylist()
    assert tokens == ["ada", "zoe", "a", "b", "c"]
    found = pq.read_table(tmp_path / "instances").to_pylist()
    assert [(tokens[one["user"]], tokens[one["item"]], one["label"], one["time"]) for one in found] == rows
    with pytest.raises(NisbenchError, match=r"r.jsonl:2: expected a rating, found '\[\]'"):
        prepare(lines[0], "[]", lines[1])


def test_gradual_pruning_ends_at_its_sparsity():
    """In the epoch that validation chose too, however early."""
    module = runpy.run_path(str(EXAMPLES / "gradual_pruning.py"))
    table = SelectedTable(torch.arange(10), torch.ones(10, 4), torch.arange(1.0, 41).view(10, 4), soft=True)
    recommender = Recommender(table, torch.nn.Identity(), (4,))
    settings = SimpleNamespace(sparsity=0.75, ramp_epochs=2)
    optimizer = module["MaskOptimizer"](settings)
    kept = []
    for _ in range(3):
        optimizer.begin_epoch(recommender, 0.1)
        kept.append(int(table.selection.sum()))
        optimizer.finalize(recommender)
        assert table.selection.flatten().nonzero()[:, 0].tolist() == list(range(30, 40))
    assert kept == [40 - round(40 * 0.75 * (1 - 0.5**3)), 10, 10]


# --- plug-ins that do not keep what others do -----------------------------------------------------------------


def broken(old, new, kind):
    """The example of a method, changed, under another name: a process imports a file's name once."""
    source = (EXAMPLES / "gradual_pruning.py").read_text()
    assert source.count(old) == 1
    return source.replace(old, new).replace('"gradual_pruning"', f'"{kind}"')


@pytest.mark.parametrize(
    ("name", "old", "new", "line", "said"),
    [
        (
            "forgetful", 'self.epoch = state["epoch"]', "pass", None,
            "A search that is killed and started again has the same result, to the byte, as one that was not: killed in",
        ),
        (
            "mistaken", "    n = len(features.block)", "    n = len(features.blocks)", "n = len",
            "AttributeError: 'FeatureStats' object has no attribute 'blocks'",
        ),
        ("silent", '    """Share of the weights that are 0 in the end."""\n', "", None, "no docstring stands below sparsity"),
        ("misspelt", '"sparsity": 0.75', '"sparsty": 0.75', None, "EXAMPLE: sparsty: extra inputs are not permitted; did you mean 'sparsity'"),
        ("without", "EXAMPLE = {", "OTHER = {", None, "it has settings without a value"),
    ],
    ids=lambda value: value if str(value).isalpha() else "",
)  # fmt: skip
def test_check_plugin_says_what_is_wrong(name, old, new, line, said, tmp_path, monkeypatch, capsys):
    file = tmp_path / f"{name}.py"
    file.write_text(broken(old, new, name))
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.chdir(ROOT)
    assert check_plugin.run(file) == 1
    failed = [text for text in capsys.readouterr().out.splitlines() if "failed" in text]
    assert said in "\n".join(failed)
    if line:
        number = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if line in text)
        assert f"{file}:{number}: {said}" in "\n".join(failed)


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("unfinished", "import os\n\ndef propose(\n", "unfinished.py:3: SyntaxError"),
        ("unlucky", "import os\n\n1 / 0\n", "unlucky.py:3: ZeroDivisionError: division by zero"),
        ("empty", "", "defines no settings class"),
        (
            "elsewhere",
            (EXAMPLES / "gradual_pruning.py")
            .read_text()
            .replace("def propose(", "def suggest(")
            .replace('"gradual_pruning"', '"elsewhere"'),
            r"needs a function propose\(\) in the same file",
        ),
    ],
)
def test_a_file_that_is_no_plugin(name, source, said, tmp_path):
    (tmp_path / f"{name}.py").write_text(source)
    with pytest.raises(NisbenchError, match=said):
        check_plugin.run(tmp_path / f"{name}.py")
