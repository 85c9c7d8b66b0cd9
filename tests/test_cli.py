"""The command line: its help, what it says of the plan and of results, and its errors."""

import csv
import errno
import io
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
from filelock import FileLock, Timeout
from scipy import stats
from typer.testing import CliRunner

from nisbench import __version__, cli, execution, identity, locks, logs, records
from nisbench.commands.output import size, table
from nisbench.cost import remaining
from nisbench.cost.estimate import Timing
from nisbench.cost.steps import Cost
from nisbench.data import blocks
from nisbench.errors import NisbenchError
from nisbench.logs import duration
from nisbench.search import pruning, trials
from nisbench.studies import plan
from nisbench.tasks import task as tasks
from nisbench.wiring import WORK
from tests.helpers.fake_runs import pretend, pretend_cells
from tests.helpers.paths import ROOT, SMALL

COMMANDS = (
    "studies", "plan", "dvc", "doctor", "verify", "gc", "results", "compare", "show", "export", "check-plugin",
    "download", "prepare", "split", "block", "search", "prune", "tables",
)  # fmt: skip


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A folder that holds params/ and nothing else: the working directory."""
    (tmp_path / "params").symlink_to(SMALL / "params")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(folder, monkeypatch):  # noqa: ARG001 - is where it runs
    """Run nisbench there, its output as on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    yield lambda *arguments: CliRunner().invoke(cli.app, arguments)
    logs.set_up()  # closes log files


@pytest.fixture
def printed(call):
    """What a command prints that ends well."""

    def run(*arguments: str) -> str:
        found = call(*arguments)
        assert found.exit_code == 0, found.output or found.exception
        assert "\x1b" not in found.output
        return found.stdout

    return run


@pytest.fixture
def refused(call):
    """What a command that ends badly says."""

    def run(*arguments: str) -> str:
        found = call(*arguments)
        assert isinstance(found.exception, NisbenchError), found.output
        assert found.stdout == ""
        return str(found.exception)

    return run


@pytest.fixture
def demo(small, folder):  # noqa: ARG001
    return plan(Path(), small).study("demo")


@pytest.fixture
def movielens(small, folder):  # noqa: ARG001
    return plan(Path(), small).study("movielens_1m")


def cells(study, *, method, cr=1, model="mf", grid=""):
    """The cells of one place in a table: one for each seed."""
    of = (grid, model, method, cr)
    return [cell for cell in study.cells if (cell.grid, cell.model, cell.method, cell.compression_rate) == of]


# --- help -----------------------------------------------------------------------------------------------------


def test_every_command_s_help_teaches(printed):
    assert all(f" {command} " in printed("--help") for command in COMMANDS)
    for command in COMMANDS:
        helped = printed(command, "-h")
        assert "Usage" in helped
        assert f"Example: nisbench {command}" in helped
        assert max(map(len, helped.splitlines())) <= 80


def test_the_version(printed):
    assert printed("--version") == f"nisbench {__version__}\n"


# --- plans and studies ----------------------------------------------------------------------------------------


def test_studies_say_how_much_there_is_and_how_much_is_done(printed, demo):
    pretend(demo.cells[0].prune, mse=0.5)
    found = {each["study"]: each for each in json.loads(printed("studies", "--json"))}
    assert list(found) == ["criteo", "demo", "movielens_1m", "recovery"]
    steps = demo.steps.values()
    assert found["demo"] == {
        "study": "demo", "title": "Demo", "datasets": ["planted_ratings", "planted_ctr", "planted_topk"],
        "searches": len({cell.search.id for cell in demo.cells}), "trials": 22,
        "prunings": len({cell.prune.id for cell in demo.cells}), "steps": len(steps), "done": 5,
        "report_is_current": False,
    }  # fmt: skip
    assert sum(map(records.done, steps)) == 5
    shown = printed("studies")
    assert f"5 of {len(steps)}" in shown
    assert "planted_ratings, planted_ctr, planted_topk" in shown
    assert printed("plan") == shown


def test_the_plan_lists_a_study_s_steps_with_their_ids(printed, demo):
    listed = printed("plan", "demo", "--no-cost")
    assert all(step in listed for step in demo.steps)
    assert f"0 of {len(demo.steps)} steps are done" in listed
    assert "snakemake --cores all demo" in listed


def test_the_rows_of_a_plan_can_be_told_apart_at_80_columns(printed, movielens, monkeypatch):
    listed = printed("plan", "movielens_1m", "--no-cost")
    assert "…" not in listed
    assert max(map(len, listed.splitlines())) <= 80
    monkeypatch.delenv("COLUMNS")  # in a pipe a row is a line
    rows = [re.split(" {2,}", line) for line in printed("plan", "movielens_1m", "--no-cost").splitlines()]
    runs = [row[2] for row in rows if row[0] in {"search", "prune"}]
    assert len(runs) == len(set(runs)) == sum(step.name in {"search", "prune"} for step in movielens.steps.values())
    assert "movielens_1m mf full_table CR 1 seed 1, K=8, L=10 [base_dimension: K=8]" in runs


def test_a_search_that_several_entries_share_has_all_their_names(printed, monkeypatch):
    monkeypatch.delenv("COLUMNS")
    assert "planted_ratings mf network_pruning/full_table seed 1, K=16, L=10 [base_dimension: K=16]" in printed(
        "plan", "demo", "--no-cost"
    )


def test_the_plan_as_json(printed, demo):
    found = json.loads(printed("plan", "demo", "--no-cost", "--json"))
    assert {step["id"] for step in found["steps"]} == set(demo.steps)
    cell = demo.cells[0]
    row = next(step for step in found["steps"] if step["id"] == cell.prune.id)
    assert row["cells"] == [
        {"grid": "", "dataset": "planted_ratings", "model": "mf", "method": "grid_search", "cr": 1.0, "seed": 1}
    ]
    assert row["folder"] == str(cell.prune.folder)
    assert not row["done"]


def test_a_plan_s_cost_names_every_search_and_says_what_it_is_at(call, monkeypatch):
    monkeypatch.setattr(Timing, "cost", lambda *_: Cost(0.5, 0.1, 0.001))
    found = call("plan", "demo")
    assert found.exit_code == 0, found.exception
    assert "--no-cost leaves this out" in found.stderr
    assert "timing step 1 of " in found.stderr
    assert "…" not in found.stdout
    of_cost = found.stdout.partition("What is to do will take about")[2]
    assert "\nplanted_ctr deepfm\n" in of_cost
    for method in ("grid_search", "mde", "uniform_tuned", "dnis", "network_pruning", "full_table", "nis_se"):
        assert f"\n  {method} " in of_cost
    assert "MiB" in of_cost
    assert "0 MiB" not in of_cost.replace("00 MiB", "").replace("10 MiB", "")
    assert max(map(len, of_cost.splitlines())) <= 80 or "one by one on" in of_cost
    known = json.loads(call("plan", "demo", "--json").stdout)["cost"]
    assert known["unknown_datasets"] == []
    assert all(each["seconds"] > 0 for each in known["searches"])


def test_ids_are_written_for_dvc(printed, demo):
    assert printed("plan", "--write", "ids") == ""
    assert json.loads(Path("ids/report/demo.json").read_text()) == demo.id
    label = demo.cells[0].search.dataset
    assert any(demo.cells[0].search.id in line for line in json.loads(Path(f"ids/search/{label}.json").read_text()))


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (1536, "1.5 KiB"), (23 << 20, "23 MiB"), (4 << 30, "4.0 GiB"),
     (5000 << 30, "5000 GiB")],
)  # fmt: skip
def test_sizes(count, said):
    assert size(count) == said


def test_a_table_folds_one_column_and_loses_nothing(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    words = "one two three four five six seven"
    lines = table(["id", "what"], [["1234567", words]], fold="what").splitlines()
    assert max(map(len, lines)) <= 30
    assert " ".join(" ".join(lines[1:]).split()) == f"1234567 {words}"


# --- show -----------------------------------------------------------------------------------------------------


def test_show_as_json_tells_all_of_a_step(printed, demo):
    search = cells(demo, method="dnis")[0].search
    shown = json.loads(printed("show", search.id, "--json"))
    assert shown["settings"]["method"]["learning_rate"] == 0.01
    assert not any(shown["files"].values())
    pretend(search)
    assert json.loads(printed("show", search.id, "--json"))["result"]["best_trial"] == 1


def test_show_tells_people_of_a_cell(printed, demo):
    (cell,) = cells(demo, method="dnis", cr=2)
    pretend(cell.prune, mse=0.125)
    shown = printed("show", "demo", "--model", "mf", "--method", "dnis", "--cr", "2")
    assert "mse = 0.125" in shown
    assert "300 of 600 are left" in shown
    assert "training.batch_size: 256 (params/: 512)" in shown
    assert "best at epoch 3 of 3, cut off by training.max_epochs: it may not have ended its descent" in shown
    assert "cost       150 core-seconds, measured alone" in shown
    assert "patience" in shown
    assert "CPU: Abacus, 2 threads; torch 2.99" in shown
    assert f"nisbench search {cell.search.id}" in shown
    assert f"nisbench prune {cell.prune.id}" in shown
    assert "demo: planted_ratings mf dnis CR 2 seed 1" in shown


def test_show_of_a_failed_pruning_says_why(printed, demo):
    pretend(demo.cells[0].prune)
    assert "failed     no result" in printed("show", demo.cells[0].prune.id)


def test_show_lists_cells_that_match(printed, demo, monkeypatch):
    monkeypatch.delenv("COLUMNS")
    pretend(demo.cells[0].prune, mse=1.0)
    listed = printed("show", "demo", "--method", "full_table")
    assert all(cell.prune.id in listed for cell in demo.cells if cell.method == "full_table")
    assert "full_table seed 1 (base_dimension: K=8)" in listed
    assert demo.cells[0].prune.id not in listed
    whole = printed("show", "demo")
    assert all(cell.prune.id in whole for cell in demo.cells)
    assert whole.count(" done") == 1
    found = json.loads(printed("show", "demo", "--method", "full_table", "--json"))["cells"]
    assert [each["grid"] for each in found] == ["base_dimension_8", "base_dimension_16"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["demi"], "'demi' is neither a study nor the beginning of a step's id"),
        (["demo", "--model", "mff"], "demo has no cell with --model mff; did you mean 'mf'?"),
        (["demo", "--method", "dnis", "--cr", "3"], "there is: 1, 2, 5"),
        (["demo", "--grid", "base"], "demo has no cell with --grid base"),
        (["demo", "--seed", "7"], "--seed 7; there is: 1"),
    ],
)
def test_show_says_what_does_not_match(refused, arguments, says):
    assert says in refused("show", *arguments)


def test_options_that_choose_cells_are_not_for_ids(refused, demo):
    assert "choose a cell of a study" in refused("show", demo.cells[0].prune.id, "--model", "mf")


# --- results --------------------------------------------------------------------------------------------------


def test_results_are_means_over_seeds(printed, movielens):
    pretend_cells(cells(movielens, method="dnis"), "mse", [0.5, 0.7])
    pretend_cells(cells(movielens, method="mde")[:1], "mse", [0.3])
    rows = list(csv.DictReader(io.StringIO(printed("results", "movielens_1m", "--format", "csv"))))
    found = {row["method"]: row for row in rows}
    assert float(found["dnis"]["mean"]) == pytest.approx(0.6)
    assert float(found["dnis"]["sd"]) == pytest.approx(0.2 / 2**0.5)
    assert found["dnis"]["n"] == "2"
    assert (found["mde"]["sd"], found["mde"]["n"]) == ("", "1")
    assert set(found) == {"dnis", "mde"}
    assert "base_dimension_16  movielens_1m  mf       dnis" in printed("results", "movielens_1m")  # the same runs
    shown = printed("results", "movielens_1m", "--grid", "")
    assert " 0.14 " in shown
    assert (found["dnis"]["best_epoch"], found["dnis"]["epochs"], found["dnis"]["cut_off"]) == ("3.0", "3.0", "2")
    by_seed = list(csv.DictReader(io.StringIO(printed("results", "movielens_1m", "--by-seed", "--format", "csv"))))
    assert {(row["best_epoch"], row["epochs"], row["stopped"], row["cut_off"]) for row in by_seed} == {
        ("3", "3", "max_epochs", "1")
    }
    in_json = json.loads(printed("results", "movielens_1m", "--by-seed", "--format", "json"))
    assert {row["best_epoch"] for row in in_json} == {3}
    assert "grid " not in shown  # nothing stands in that column
    assert "more cells are not done" in shown


def test_results_can_be_filtered_sorted_and_printed_in_other_forms(printed, movielens):
    pretend_cells(cells(movielens, method="dnis"), "mse", [0.5, 0.7])
    pretend_cells(cells(movielens, method="network_pruning", cr=2), "mse", [0.9, 0.9])
    pretend_cells(cells(movielens, method="mde"), "mse", [0.1, 0.1])

    command = ("results", "movielens_1m", "--grid", "", "--format", "json")

    def methods(*arguments: str) -> list[str]:
        return [row["method"] for row in json.loads(printed(*command, *arguments))]

    assert methods() == ["mde", "dnis", "network_pruning"]
    assert methods("--sort=-mean") == ["network_pruning", "dnis", "mde"]
    assert methods("--sort", "sd", "--method", "dnis", "--by-seed", "--sort", "value") == ["dnis", "dnis"]
    assert methods("--cr", "2") == ["network_pruning"]
    assert methods("--metric", "mse", "--metric", "nonzeros", "--cr", "2") == ["network_pruning"] * 2
    by_seed = json.loads(printed("results", "movielens_1m", "--by-seed", "--format", "json", "--method", "mde"))
    assert [row["run_id"] for row in by_seed] == [cell.prune.id for cell in cells(movielens, method="mde")]
    markdown = printed("results", "movielens_1m", "--grid", "", "--format", "md").splitlines()
    assert markdown[1].startswith("|:--")
    assert len(markdown) == 5


def test_a_failed_run_is_counted_apart(printed, movielens):
    first, second = cells(movielens, method="mde")
    pretend(first.prune, mse=0.25)
    pretend(second.prune)
    (row,) = json.loads(printed("results", "movielens_1m", "--format", "json"))
    assert (row["mean"], row["n"], row["failed"]) == (0.25, 1, 1)


def test_results_say_what_is_wrong(refused, movielens):
    assert "is done. Run: snakemake --cores all movielens_1m" in refused("results", "movielens_1m")
    pretend_cells(cells(movielens, method="mde"), "mse", [0.5, 0.5])
    assert "did you mean 'mse'?" in refused("results", "movielens_1m", "--metric", "mze")
    assert "did you mean 'mean'?" in refused("results", "movielens_1m", "--sort", "meen")
    assert "did you mean 'movielens_1m'?" in refused("results", "movielens")


# --- compare --------------------------------------------------------------------------------------------------


def test_two_cells_are_compared_seed_by_seed(printed, movielens):
    pretend_cells(cells(movielens, method="dnis", cr=2.5), "mse", [0.50, 0.62])
    pretend_cells(cells(movielens, method="mde"), "mse", [0.60, 0.70])
    found = json.loads(printed("compare", "movielens_1m", "mf/dnis@2.5", "mf/mde", "--json"))
    (mse,) = found["metrics"]
    assert [row["difference"] for row in mse["seeds"]] == pytest.approx([-0.10, -0.08])
    assert mse["mean_difference"] == pytest.approx(-0.09)
    test = stats.ttest_rel([0.50, 0.62], [0.60, 0.70])
    assert mse["p"] == pytest.approx(test.pvalue)
    interval = test.confidence_interval(0.95)
    assert mse["interval_95"] == pytest.approx([interval.low, interval.high])
    shown = printed("compare", "movielens_1m", "mf/dnis@2.5", "mf/mde")
    assert f"p = {test.pvalue:#.2g} (paired t, n = 2); A is better on average" in shown
    assert "tests were made" not in shown
    every = printed("compare", "movielens_1m", "mf/dnis@2.5", "mf/mde", "--metric", "mse", "--metric", "nonzeros")
    assert "2 tests were made; p is not adjusted for their number." in every
    assert "A  movielens_1m mf dnis CR 2.5\nB  movielens_1m mf mde\n" in shown


def test_what_is_not_paired_is_named(printed, movielens):
    pretend_cells(cells(movielens, method="dnis")[:1], "mse", [0.5])
    pretend_cells(cells(movielens, method="mde"), "mse", [0.6, 0.8])
    shown = printed("compare", "movielens_1m", "mf/dnis", "mf/mde")
    assert "one pair gives no interval" in shown
    left_out = cells(movielens, method="dnis")[1].prune
    assert f"Not done, and left out: {left_out.title()} ({left_out.id})." in shown
    pretend_cells(cells(movielens, method="dnis", model="mlp"), "mse", [0.5, 0.5])
    assert "different models" in printed("compare", "movielens_1m", "mlp/dnis", "mf/mde")
    assert "the very same runs" in printed("compare", "movielens_1m", "mf/mde", "mf/mde")


def test_seeds_with_splits_of_their_own_are_paired(printed, folder, monkeypatch):
    overlay = folder / "over.yaml"
    overlay.write_text("studies: {movielens_1m: {split_per_seed: true}}")
    monkeypatch.setenv("NISBENCH_PARAMS", str(overlay))
    study = plan(Path()).study("movielens_1m")
    pretend_cells(cells(study, method="dnis", cr=2.5), "mse", [0.50, 0.62])
    pretend_cells(cells(study, method="mde")[:1], "mse", [0.60])
    shown = printed("compare", "movielens_1m", "mf/dnis@2.5", "mf/mde")
    assert "Not paired" not in shown
    pretend_cells(cells(study, method="mde")[1:], "mse", [0.70])
    assert "(paired t, n = 2)" in printed("compare", "movielens_1m", "mf/dnis@2.5", "mf/mde")
    steps = json.loads(printed("plan", "movielens_1m", "--no-cost", "--json"))["steps"]
    assert {"movielens_1m seed 1", "movielens_1m seed 2"} <= {step["what"] for step in steps if step["step"] == "split"}


def test_two_prunings_are_compared_by_their_ids(printed, small):
    studies = plan(Path(), small).studies
    here, other = cells(studies["movielens_1m"], method="dnis")[0], cells(studies["demo"], method="dnis")[0]
    second = cells(studies["movielens_1m"], method="dnis")[1]
    for cell in (here, other, second):
        pretend(cell.prune, mse=0.5)
    shown = printed("compare", here.prune.id, other.prune.id)
    assert "Not paired: A and B are on different data" in shown
    assert "No pair of values" in shown
    shown = printed("compare", here.prune.id, second.prune.id)
    assert "Not paired: seed 1, which A alone has." in shown
    assert "Not paired: seed 2, which B alone has." in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["movielens_1m", "mf/dnis"], "Give a study and two of its cells"),
        (["movielens", "mf/dnis", "mf/mde"], "did you mean 'movielens_1m'?"),
        (["movielens_1m", "mf/dnis@x", "mf/mde"], "'x' is no compression rate"),
        (["movielens_1m", "mf/dnis/2", "mf/mde"], "Write MODEL/METHOD@CR"),
        (["movielens_1m", "mf/dnes", "mf/mde"], "did you mean 'dnis'?"),
        (["movielens_1m", "dnis", "mf/mde"], "'dnis' has several cells, by dataset: add --dataset with one of"),
        (
            ["movielens_1m", "mf/full_table", "mf/mde"],
            "by grid: add --grid with one of base_dimension_8, base_dimension_16",
        ),
        (["movielens_1m", "mf/dnis", "mf/mde"], "is not done"),
    ],
)
def test_compare_says_what_is_wrong(refused, arguments, says):
    assert says in refused("compare", *arguments)


def test_different_tasks_are_not_compared(refused, demo):
    (rating,), (topk,) = cells(demo, method="dnis"), cells(demo, method="dnis", model="neumf_topk")
    assert "of different tasks (rating, topk)" in refused("compare", rating.prune.id, topk.prune.id)


# --- gc -------------------------------------------------------------------------------------------------------

OLD_RUN = Path("results/runs/old/search/mf-dnis-seed1-0123456789ab")
OLD_DATA = Path("data/old/split-ba9876543210")


def make(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 1000)


@pytest.fixture
def unasked(demo):
    """A finished run and half-finished data that no study asks for, leftovers in what one asks for, and others' files."""
    pretend(demo.cells[0].prune, mse=0.5)
    search = demo.cells[0].search.folder
    parts = [
        search / ".run.json.x.part", search / "trials" / "0" / ".w.y.part",
        Path("results/demo/curves/.a.svg.z.part"), Path("results/gone/.page.html.z.part"),
    ]  # fmt: skip
    make(OLD_RUN / "run.json", OLD_RUN / "trials" / "0.json", OLD_RUN / "step.json", OLD_DATA / ".x.part", *parts)
    make(
        Path("data/notes.txt"),
        Path("data/old/my-own/file"),
        Path("results/demo/table1.md"),
        Path("other/split-0123456789ab/x"),
    )
    return {str(OLD_RUN): "finished", str(OLD_DATA): "half-finished"} | dict.fromkeys(map(str, parts), "leftover")


def everything() -> set[str]:
    files = (path for path in Path().rglob("*") if path.is_file() and path.parts[0] not in {"logs", "params"})
    return {str(path) for path in files if path.suffix != ".lock"}


def test_what_no_study_asks_for_is_listed_and_nothing_removed(printed, unasked):
    before = everything()
    found = json.loads(printed("gc", "--json"))
    assert {each["path"]: each["what"] for each in found} == unasked
    assert {each["path"]: each["bytes"] for each in found}[str(OLD_RUN)] == 3000
    shown = printed("gc")
    assert "6 of 6, 7.8 KiB" in shown
    assert "nisbench gc --remove" in shown
    assert everything() == before


def test_what_no_study_asks_for_is_removed_and_nothing_else(printed, unasked, demo):
    before = everything()
    assert "Removed 6 of 6" in printed("gc", "--remove")
    gone = {path for path in before if any(path.startswith(name) for name in unasked)}
    assert everything() == before - gone
    assert not Path("results/runs/old").exists()
    assert Path("data/old/my-own").exists()
    records.check(demo.cells[0].prune)
    assert (
        printed("gc")
        == "Nothing: all of data/ and results/runs/ is asked for by a study, and no killed process left anything.\n"
    )


@pytest.mark.usefixtures("unasked")
def test_links_are_not_followed(printed, tmp_path):
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    make(outside / "split-aaaaaaaaaaaa" / "x", outside / "y")
    Path("data/linked").symlink_to(outside)
    Path("data/old/split-bbbbbbbbbbbb").symlink_to(outside / "split-aaaaaaaaaaaa")
    (OLD_DATA / "link").symlink_to(outside)
    listed = {each["path"] for each in json.loads(printed("gc", "--json", "--remove"))}
    assert not {path for path in listed if "aaaa" in path or "bbbb" in path or "linked" in path}
    assert not OLD_DATA.exists()
    assert (outside / "split-aaaaaaaaaaaa" / "x").exists()
    assert (outside / "y").exists()


@pytest.mark.usefixtures("unasked")
def test_a_step_that_another_process_is_at_is_left_alone(printed):
    with FileLock(locks.beside(OLD_RUN)):
        found = {each["path"]: each for each in json.loads(printed("gc", "--json", "--remove"))}
    assert found[str(OLD_RUN)]["in_use"]
    assert not found[str(OLD_RUN)]["removed"]
    assert (OLD_RUN / "run.json").exists()
    assert found[str(OLD_DATA)]["removed"]


@pytest.mark.usefixtures("unasked")
def test_nothing_is_removed_while_a_snakemake_is_at_work(refused):
    with FileLock(locks.SNAKEMAKE):
        assert "A snakemake is at work here" in refused("gc", "--remove")
    assert OLD_RUN.exists()


# --- verify and doctor ----------------------------------------------------------------------------------------


def test_verify_names_what_is_damaged(call, demo):
    prune = demo.cells[0].prune
    pretend(prune, mse=0.5)
    assert call("verify", "demo").exit_code == 0
    prune.path("scheme").write_bytes(b"1" * 1000)
    found = call("verify", prune.id)
    assert found.exit_code == 1
    assert f"{prune.path('scheme')} is damaged" in found.stdout
    found = call("verify", "demo", "--json")
    assert found.exit_code == 1
    assert [each["id"] for each in json.loads(found.stdout)["wrong"]] == [prune.id]
    prune.path("scheme").unlink()  # as if it were not done
    found = call("verify", "demo")
    assert found.exit_code == 1
    assert f"{prune.path('scheme')} is missing, but it was written" in found.stdout
    assert call("verify", "demo", "--remove").exit_code == 0
    assert not prune.folder.exists()


@pytest.fixture
def installed(monkeypatch):
    """Snakemake and DVC are on the PATH."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)


@pytest.mark.usefixtures("installed")
def test_the_doctor_finds_this_installation_well(call):
    found = call("doctor")
    assert found.exit_code == 0, found.output
    assert "Ready" in found.output
    assert "\x1b" not in found.output
    stated = {each["what"]: each for each in json.loads(call("doctor", "--json").stdout)}
    assert {"memory", "disk", "git", "plug-ins", "ids", "threads"} <= set(stated)
    assert "none" in stated["plug-ins"]["text"]


def test_the_doctor_names_what_is_wrong(call, monkeypatch, folder):
    (folder / "over.yaml").write_text("training: {patiense: 1}")
    monkeypatch.setenv("NISBENCH_PARAMS", "over.yaml")
    found = call("doctor")
    assert found.exit_code == 1
    assert "did you mean 'patience'?" in found.output


def test_the_doctor_asks_for_the_device(call, monkeypatch, folder):
    (folder / "over.yaml").write_text("training: {device: 'cuda:99'}")
    monkeypatch.setenv("NISBENCH_PARAMS", "over.yaml")
    found = call("doctor")
    assert found.exit_code == 1
    assert "there is no cuda:99" in found.output


def test_the_doctor_names_development_ids_and_their_remedy(call, monkeypatch):
    monkeypatch.setattr(identity, "is_development", lambda step: step == "search")
    found = {each["what"]: each for each in json.loads(call("doctor", "--json").stdout)}
    assert found["ids"]["state"] == "note"
    assert "the code of search is not the one" in found["ids"]["text"]
    assert found["ids"]["text"].endswith("make golden")
    monkeypatch.setattr(identity, "is_development", lambda _step: False)
    found = {each["what"]: each for each in json.loads(call("doctor", "--json").stdout)}
    assert found["ids"]["state"] == "ok"


def test_the_doctor_names_folders_that_may_not_be_written(call, folder, monkeypatch):
    for name in ("results", "data"):
        (folder / name).touch()  # no folder can be made there
    (folder / "logs").symlink_to("/proc")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/numba")
    found = call("doctor")
    assert found.exit_code == 1
    assert "wrong folders    results: not a directory" in found.output
    assert "note  folders    data: not a directory" in found.output
    assert "wrong folders    logs: " in found.output
    assert "Set NUMBA_CACHE_DIR to a folder" in found.output


PLUGIN = '''
from typing import Literal
from nisbench.params.methods import Method

class Mine(Method):
    """A method."""
    kind: Literal["mine"]

def propose(settings, features, k, seed):
    return []
'''


def test_the_doctor_names_plug_ins(call, monkeypatch, folder):
    (folder / "doctors_plugin.py").write_text(PLUGIN)
    monkeypatch.setenv("NISBENCH_PLUGINS", "doctors_plugin.py")
    found = {each["what"]: each for each in json.loads(call("doctor", "--json").stdout)}
    assert "methods mine" in found["plug-ins"]["text"]
    assert "doctors_plugin.py" in found["plug-ins"]["text"]
    monkeypatch.setenv("NISBENCH_PLUGINS", "nowhere.py")
    found = call("doctor")
    assert found.exit_code == 1
    assert "nowhere.py" in found.stdout


# --- steps ----------------------------------------------------------------------------------------------------


def test_steps_run_by_hand_in_order(call, demo):
    cell = demo.cells[0]
    split = cell.prune.needs["split"]
    early = call("split", split.id)
    assert isinstance(early.exception, NisbenchError)
    assert f"nisbench prepare {split.needs['prepare'].id}" in str(early.exception)
    for step in (split.needs["prepare"], split, cell.search.needs["block"]):
        assert call(step.name, step.id, "--log", "logs/x.log").exit_code == 0
    assert f"3 of {len(demo.steps)} steps are done" in call("plan", "demo", "--no-cost").output


def test_each_step_is_handed_its_own_files(call, demo, monkeypatch):
    """The test instances to pruning only, frequencies from train only: no id would notice a mix-up here."""
    prune = demo.cells[0].prune
    search = prune.needs["search"]
    block, split = search.needs["block"], search.needs["split"]
    handed, checked = {}, []
    for module, step in ((trials, search), (pruning, prune), (blocks, block)):
        pretend(step, mse=0.5)
        monkeypatch.setattr(module, "run", lambda *given, step=step: (handed.update({step.name: given}), pretend(step)))
    monkeypatch.setattr(tasks, "check_splits", lambda _task, splits: checked.append(list(splits)))
    files = {name: split.path(name) for name in ("train", "validation", "test")}
    for step in (block, search, prune):
        assert call(step.name, step.id).exit_code == 0
    seen = {name: [each for each in given if isinstance(each, Path | dict)] for name, given in handed.items()}
    assert seen == {
        "block": [block.needs["prepare"].path("vocabulary"), files["train"], block.path("features")],
        "search": [{name: files[name] for name in ("train", "validation")}, block.path("features"), search.folder],
        "prune": [search.path("run"), search.path("weights"), files, prune.folder],
    }
    assert checked == [["train", "validation"], ["train", "validation", "test"]]


def test_a_search_says_who_speaks_and_how_long_the_rest_will_take(call, demo, monkeypatch):
    search = demo.cells[0].search
    pretend(search)
    records.delete_outputs(search)
    remaining.write("demo", {search.id: 90.0})
    monkeypatch.setattr(tasks, "check_splits", lambda *_: None)
    monkeypatch.setattr(trials, "run", lambda *_: pretend(search))
    said = call("search", search.id).stderr
    assert said.startswith(
        f"[planted_ratings mf-grid-seed1 {search.id[:4]}] will take about 1 min 30 s; the 1 searches of demo"
    )


def test_a_step_that_another_process_has_done_meanwhile_is_not_done_again(call, demo, monkeypatch):
    prepare = demo.cells[0].prune.needs["split"].needs["prepare"]
    acquire = FileLock.acquire

    def busy(lock, timeout=None, **more):
        if timeout == 0:
            pretend(prepare)  # by the other, while this one waits
            raise Timeout(str(lock.lock_file))
        return acquire(lock, timeout, **more)

    monkeypatch.setattr(FileLock, "acquire", busy)
    monkeypatch.setattr("nisbench.data.planted_ratings.prepare", None)
    assert call("prepare", prepare.id).exit_code == 0
    records.check(prepare)


def test_a_step_clears_away_what_a_killed_one_left(call, demo):
    prepare = demo.cells[0].prune.needs["split"].needs["prepare"]
    make(prepare.folder / ".download-x" / "archive", prepare.folder / ".instances.parquet.y.part")
    assert call("prepare", prepare.id).exit_code == 0
    assert sorted(path.name for path in prepare.folder.iterdir()) == [
        "instances.parquet",
        "step.json",
        "vocabulary.parquet",
    ]


def test_a_damaged_step_begun_again_and_killed_does_not_come_to_count_as_whole(call, demo, monkeypatch):
    prepare = demo.cells[0].prune.needs["split"].needs["prepare"]
    pretend(prepare)
    prepare.path("instances").write_bytes(b"damaged")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nisbench.data.planted_ratings.prepare", killed)
        call("prepare", prepare.id)
    assert not any(Path(path).exists() for path in prepare.paths())
    assert call("prepare", prepare.id).exit_code == 0
    records.check(prepare)


def test_removing_is_not_cut_short_to_files_without_a_record(demo, monkeypatch):
    prepare = demo.cells[0].prune.needs["split"].needs["prepare"]
    pretend(prepare)
    there = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **_: (there.append(prepare.record.exists()), unlink(path)))
    records.delete_outputs(prepare)
    assert there == [True] * 3  # the record goes last
    assert not prepare.record.exists()


# --- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("[enforce] can't allocate memory: you tried"), "Lower training.base_dimension"),
        (MemoryError(), "out of memory. Lower training.base_dimension"),
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


@pytest.mark.parametrize(
    "error",
    [MemoryError(), pa.lib.ArrowMemoryError("malloc of size 64 failed"), torch.OutOfMemoryError("CUDA out of memory")],
)
def test_memory_that_runs_out_in_a_step_says_what_to_lower(demo, monkeypatch, error):
    def fail(*_):
        raise error

    prepare = demo.cells[0].prune.needs["split"].needs["prepare"]
    monkeypatch.setitem(WORK, "prepare", fail)
    with pytest.raises(NisbenchError, match=r"out of memory. Lower .*instances.*or ask snakemake for fewer --cores"):
        execution.run_step(prepare)


def test_what_cannot_fit_is_refused_before_it_is_made(demo, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=1000))
    prepare = demo.cells[0].prune.needs["split"].needs["prepare"]
    with pytest.raises(
        NisbenchError, match=r"generating .* would take .* GiB of memory, and this machine has 0\.0\. Lower"
    ):
        execution.run_step(prepare)
    assert not prepare.record.exists()


@pytest.mark.usefixtures("call")
def test_an_error_is_one_message_without_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["nisbench", "plan", "nowhere"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("nisbench: There is no study 'nowhere'")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(errno.EACCES, "", "results/x"), "nisbench: results/x: permission denied. Give yourself the right to it"),
        (NotADirectoryError(errno.ENOTDIR, "", "results/x"), "nisbench: results/x: not a directory. It is gone, or is no folder"),
        (OSError(errno.ENOSPC, "", "results/x"), "nisbench: results/x: no space left on device. Free some room"),
        (RuntimeError("cannot cache function 'f': no locator available for file 'x.py'"), "nisbench: no place to keep compiled code. Set NUMBA_CACHE_DIR"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("folder")
def test_an_error_of_the_file_system_says_what_to_do(error, says, monkeypatch, capsys):
    def fail():
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err.startswith(says)


def test_a_benchmark_s_wrong_name_is_one_message(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "benchmarks.__main__", raising=False)  # runpy warns of a second one
    monkeypatch.setattr(sys, "argv", ["nisbench", "bench", "--model", "foo"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert str(stopped.value.code).startswith("nisbench: --model: there is no 'foo'; there is: deepfm, fm, mf")
    assert "Traceback" not in capsys.readouterr().err


def test_benchmarks_are_of_a_checkout(refused):
    assert "there is no folder benchmarks/ here" in refused("bench")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (3599.7, "1 h 00 min"), (7500, "2 h 05 min")],
)  # fmt: skip
def test_durations(seconds, said):
    assert duration(seconds) == said
