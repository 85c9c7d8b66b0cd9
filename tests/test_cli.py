"""The command line: its help, its looks at the plan, and its errors."""

import json
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nisbench import cli, console, records
from nisbench.console import duration
from nisbench.data import blocks
from nisbench.errors import NisbenchError
from nisbench.search import pruning, trials
from nisbench.studies import plan
from tests.conftest import ROOT

COMMANDS = ("download", "prepare", "split", "block", "search", "prune", "tables", "plan", "show", "doctor")


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Run nisbench in a folder that holds params/ and nothing else."""
    (tmp_path / "params").symlink_to(ROOT / "params")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    yield lambda *arguments: CliRunner().invoke(cli.app, arguments)
    console.set_up()  # closes log files


def test_every_command_s_help_teaches(call):
    assert all(command in call("--help").output for command in COMMANDS)
    for command in COMMANDS:
        helped = call(command, "--help")
        assert helped.exit_code == 0
        assert "Usage" in helped.output


def test_the_plan_lists_a_study_s_steps_with_their_ids(call, config):
    listed = call("plan", "demo").output
    steps = plan(ROOT, config).study("demo").steps
    assert all(step in listed for step in steps)
    assert f"0 of {len(steps)} steps are done" in listed


def test_show_tells_a_step_s_settings(call, config):
    cell = plan(ROOT, config).study("demo").cells[-1]
    shown = json.loads(call("show", cell.prune.needs["search"].id).output)
    assert shown["settings"]["method"]["learning_rate"] == 0.01
    assert not any(shown["files"].values())


def test_steps_run_by_hand_in_order(call, config):
    cell = plan(ROOT, config).study("demo").cells[0]
    split = cell.prune.needs["split"]
    early = call("split", split.id)
    assert isinstance(early.exception, NisbenchError)
    assert f"nisbench prepare {split.needs['prepare'].id}" in str(early.exception)
    for step in (split.needs["prepare"], split, cell.prune.needs["search"].needs["block"]):
        assert call(step.name, step.id, "--log", "logs/x.log").exit_code == 0
    steps = plan(ROOT, config).study("demo").steps
    assert f"3 of {len(steps)} steps are done" in call("plan", "demo").output


def test_each_step_is_handed_its_own_files(call, config, monkeypatch):
    """The test instances to pruning only, frequencies from train only: no id would notice a mix-up here."""
    cell = plan(ROOT, config).study("demo").cells[0]
    prune, search, block = cell.prune, cell.prune.needs["search"], cell.prune.needs["search"].needs["block"]
    for step in (search, block, search.needs["split"], block.needs["prepare"]):
        Path(step.folder).mkdir(parents=True, exist_ok=True)
        for file in step.files:
            Path(step.path(file)).touch()
        records.write(step)
    Path(prune.folder).mkdir(parents=True, exist_ok=True)
    split = {part: str(search.needs["split"].path(part)) for part in ("train", "validation", "test")}
    handed = {}
    for module, step in ((trials, search), (pruning, prune), (blocks, block)):

        def run(*_, step=step, **files):
            handed.update(files)
            for file in step.files:
                Path(step.path(file)).touch()

        monkeypatch.setattr(module, "run", run)
        handed.clear()
        assert call(step.name, step.id).exit_code == 0
        assert {part: str(path) for part, path in handed.get("parts", split).items()} == split
        names = {name: Path(path).name for name, path in handed.items() if name.endswith("_file")}
        assert names == {
            "search": {"train_file": "train.parquet", "validation_file": "validation.parquet",
                       "features_file": "features.parquet"},
            "prune": {"weights_file": "weights.safetensors", "search_file": "run.json"},
            "block": {"train_file": "train.parquet", "vocabulary_file": "vocabulary.parquet",
                      "features_file": "features.parquet"},
        }[step.name]  # fmt: skip


def test_the_doctor_finds_this_installation_well(call, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    found = call("doctor")
    assert found.exit_code == 0, found.output
    assert "Ready" in found.output


def test_the_doctor_names_what_is_wrong(call, monkeypatch, tmp_path):
    (tmp_path / "over.yaml").write_text("training: {patiense: 1}")
    monkeypatch.setenv("NISBENCH_PARAMS", "over.yaml")
    found = call("doctor")
    assert found.exit_code == 1
    assert "did you mean 'patience'?" in found.output


def test_the_doctor_asks_for_the_device(call, monkeypatch, tmp_path):
    (tmp_path / "over.yaml").write_text("training: {device: 'cuda:99'}")
    monkeypatch.setenv("NISBENCH_PARAMS", "over.yaml")
    found = call("doctor")
    assert found.exit_code == 1
    assert "there is no cuda:99" in found.output


def test_a_step_that_another_process_has_done_meanwhile_is_not_done_again(call, config, monkeypatch):
    prepare = plan(ROOT, config).study("demo").cells[0].prune.needs["split"].needs["prepare"]
    monkeypatch.setattr(cli, "_hold", lambda _step: True)  # it had to wait
    for path in map(Path, prepare.paths()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("by the other")
    assert call("prepare", prepare.id).exit_code == 0
    assert {Path(path).read_text() for path in prepare.paths()} == {"by the other"}


def test_a_step_clears_away_what_a_killed_one_left(call, config):
    prepare = plan(ROOT, config).study("demo").cells[0].prune.needs["split"].needs["prepare"]
    folder = Path(prepare.folder)
    (folder / ".download-x").mkdir(parents=True)
    (folder / ".download-x" / "archive").touch()
    (folder / ".instances.parquet.y.part").touch()
    assert call("prepare", prepare.id).exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["instances.parquet", "step.json", "vocabulary.parquet"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("[enforce] can't allocate memory: you tried"), "Lower training.batch_size"),
        (OSError("full"), "full"),
    ],
)
@pytest.mark.usefixtures("call")
def test_a_machine_that_is_too_small_is_told_in_one_message(monkeypatch, capsys, error, says):
    def fail():
        raise error

    monkeypatch.setattr(cli, "current_plan", fail)
    monkeypatch.setattr(sys, "argv", ["nisbench", "plan"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    shown = capsys.readouterr().err
    assert says in shown
    assert "Traceback" not in shown


@pytest.mark.usefixtures("call")
def test_an_error_is_one_message_without_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["nisbench", "plan", "nowhere"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("nisbench: There is no study 'nowhere'")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (3599.7, "1 h 00 min"), (7500, "2 h 05 min")],
)  # fmt: skip
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_a_step_killed_when_all_was_done_but_to_say_so_is_not_done_again(call, config, monkeypatch):
    prepare = plan(ROOT, config).study("demo").cells[0].prune.needs["split"].needs["prepare"]
    assert call("prepare", prepare.id).exit_code == 0
    Path(prepare.record).unlink()
    (Path(prepare.folder) / "trials").mkdir()
    monkeypatch.setattr("nisbench.data.steps.make", None)
    assert call("prepare", prepare.id).exit_code == 0
    assert sorted(path.name for path in Path(prepare.folder).iterdir()) == [
        "instances.parquet", "step.json", "vocabulary.parquet",
    ]  # fmt: skip
    records.check(prepare)


def test_a_damaged_step_begun_again_and_killed_does_not_come_to_count_as_whole(call, config, monkeypatch):
    prepare = plan(ROOT, config).study("demo").cells[0].prune.needs["split"].needs["prepare"]
    assert call("prepare", prepare.id).exit_code == 0
    Path(prepare.path("instances")).write_bytes(b"damaged")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nisbench.data.steps.make", killed)
        call("prepare", prepare.id)
    assert not any(Path(path).exists() for path in prepare.paths())
    assert call("prepare", prepare.id).exit_code == 0
    records.check(prepare)


def test_removing_is_not_cut_short_to_files_without_a_record(call, config, monkeypatch):
    prepare = plan(ROOT, config).study("demo").cells[0].prune.needs["split"].needs["prepare"]
    assert call("prepare", prepare.id).exit_code == 0
    there = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **_: (there.append(Path(prepare.record).exists()), unlink(path)))
    records.withdraw(prepare)
    assert there == [True] * 3  # the record goes last
    assert not Path(prepare.record).exists()
