"""What steps leave beside their results: damage is found, and runs of older code count as today's only where golden losses agree."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nisbench
from nisbench import cli, code_version, console, records
from nisbench.report import adoption
from nisbench.studies import plan
from tests.conftest import ROOT
from tests.pipeline.conftest import DATA

STUDY = """
studies:
  demo:
    title: Tiny
    grids: {rating: {datasets: [planted_ratings], models: [mf], methods: {dnis: [2], grid_search: [1]}}}
    seeds: [1]
    tables: [table2]
    overrides:
      training: {base_dimension: 8, batch_size: 512, max_epochs: 3}
      methods: {grid_search: {dimensions: [4, 8]}}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of a tiny study, of which every step was run; what a command prints."""
    shutil.copytree(ROOT / "params", tmp_path / "params", ignore=lambda *_: ["studies"])
    (tmp_path / "params" / "studies").mkdir()
    (tmp_path / "params" / "studies" / "demo.yaml").write_text(STUDY)
    (tmp_path / "params" / "tiny.yaml").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments, code=0):
        done = CliRunner().invoke(cli.app, arguments)
        assert done.exit_code == code, f"{done.output}\n{done.exception}"
        return done.output

    for step in demo().steps.values():
        call(step.name, step.id, *(["--threads", "1"] if step.name in ("search", "prune") else []))
    yield call
    console.set_up()


def demo():
    return plan(Path()).study("demo")


def step_of(name):
    return next(step for step in demo().steps.values() if step.title().startswith(name))


def test_a_record_says_from_what_and_by_which_code(project):
    search = step_of("search planted_ratings mf-dnis")
    record = records.check(search)
    assert record.needs == {name: needed.id for name, needed in search.needs.items()}
    assert record.code == search.code
    assert record.settings["method"]["kind"] == "dnis"
    assert set(record.files) == {"run.json", "weights.safetensors"}
    assert json.loads(project("show", search.id))["record"]["code"] == search.code


@pytest.mark.parametrize(
    ("damaged", "file", "asks"),
    [
        ("search planted_ratings mf-dnis", "weights", "prune planted_ratings mf-dnis"),
        ("search planted_ratings mf-dnis", "run", "prune planted_ratings mf-dnis"),
        ("split", "train", "search planted_ratings mf-dnis"),
        ("prepare", "vocabulary", "block"),
    ],
)
def test_a_file_that_was_damaged_is_found_on_use_named_and_made_again(project, damaged, file, asks):
    step, user = step_of(damaged), step_of(asks)
    path = Path(step.path(file))
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])  # one bit
    records.remove(user)
    refused = CliRunner().invoke(cli.app, [user.name, user.id])
    assert refused.exit_code == 1
    assert f"{path} is damaged or was changed" in str(refused.exception)
    assert f"nisbench verify --remove {step.id}" in str(refused.exception)
    assert not records.done(user)

    assert str(path) in project("verify", "demo", code=1)
    project("verify", "--remove", step.id)
    assert not records.done(step)
    for each in (step, user):
        project(each.name, each.id, *(["--threads", "1"] if each.name in ("search", "prune") else []))
    assert "7 of 7 steps that are done are as they were written" in project("verify")
    if file != "run":  # which holds times
        assert path.read_bytes() == whole


@pytest.fixture
def changed_code(tmp_path, monkeypatch):
    """Have the ids follow a copy of the sources in which some text is another."""

    def change(file, old, new):
        copy = tmp_path / "changed"
        shutil.copytree(Path(nisbench.__file__).parent, copy)
        source = (copy / file).read_text()
        assert old in source
        (copy / file).write_text(source.replace(old, new, 1))
        monkeypatch.setattr(nisbench, "__file__", str(copy / "__init__.py"))
        forget()

    def forget():
        code_version.code_version.cache_clear()
        code_version._module_tree.cache_clear()

    yield change
    monkeypatch.undo()
    forget()


def test_after_a_refactoring_runs_are_adopted_and_say_what_computed_them(project, changed_code):
    before = {step.title(): step for step in demo().steps.values()}
    codes = {title: step.code for title, step in before.items()}
    changed_code("training/trainer.py", "already = progress.seconds", "already = 1 * progress.seconds")
    after = {step.title(): step for step in demo().steps.values()}
    asked = {title for title, step in after.items() if not records.done(step)}
    assert {title.split()[0] for title in asked} == {"search", "prune"}
    shown = project("adopt", "demo")
    assert shown.count("golden losses") == 2
    assert all(records.done(step) for step in after.values())
    for title in asked:
        record = records.check(after[title])
        assert record.code == codes[title] != after[title].code
        assert record.adopted.id == before[title].id
        assert Path(after[title].path("run")).read_bytes() == Path(before[title].path("run")).read_bytes()
    assert "nothing to adopt" in project("adopt", "demo")
    project("tables", "demo")
    assert "adopted" in Path("results/demo/summary.csv").read_text()
    assert " adopted`" in Path("results/demo/README.md").read_text()


def test_runs_that_the_code_would_make_otherwise_are_not_adopted(project, changed_code, monkeypatch):
    changed_code("training/adam.py", "= 0.9, 0.999, 1e-8", "= 0.91, 0.999, 1e-8")
    run = adoption.trials.run

    def other(settings, *args):
        training = settings.training.model_copy(update={"learning_rate": settings.training.learning_rate * 1.0001})
        run(settings.model_copy(update={"training": training}), *args)

    monkeypatch.setattr(adoption.trials, "run", other)
    shown = project("adopt", "demo", code=1)
    assert "differs" in shown
    assert "adopted" not in shown.replace("was not adopted", "")
    assert not any(records.done(step) for step in demo().steps.values() if step.name in ("search", "prune"))


def test_a_damaged_run_is_not_adopted(project, changed_code):
    weights = Path(step_of("search planted_ratings mf-dnis").path("weights"))
    weights.write_bytes(weights.read_bytes()[:-1])
    changed_code("training/trainer.py", "already = progress.seconds", "already = 1 * progress.seconds")
    assert "is missing or damaged" in project("adopt", "demo", code=1)
    assert not records.done(step_of("search planted_ratings mf-dnis"))
    assert records.done(step_of("search planted_ratings mf-grid_search"))
