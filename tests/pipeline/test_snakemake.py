"""The workflow through real Snakemake: what runs, what does not run again, and what is refused."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.pipeline.conftest import jobs

EVERYTHING = {"prepare": 3, "split": 3, "block": 3, "search": 6, "prune": 7, "tables_demo": 1}
COLUMNS = [
    "study", "grid", "dataset", "task", "k", "model", "method", "cr", "seed", "metric", "value", "paper_value",
    "weights", "nonzeros", "size_mib", "seconds", "run_id", "search_code", "prune_code", "failed",
]  # fmt: skip


def change_dnis(text):
    return text.replace("learning_rate: 0.01 # of that", "learning_rate: 0.02 # of that")


def test_the_study_runs_and_its_tables_are_there(done, first_jobs):
    assert first_jobs == EVERYTHING
    results = done.root / "results" / "demo"
    summary = pd.read_csv(results / "summary.csv")
    assert list(summary) == COLUMNS
    mse = summary[summary["metric"] == "mse"]
    assert [tuple(row) for row in mse[["method", "cr"]].to_numpy()] == [
        ("grid_search", 1), ("random_search", 1), ("mde", 1), ("dnis", 1), ("dnis", 2),
    ]  # fmt: skip
    assert mse["value"].between(0.01, 5).all()
    assert (mse["nonzeros"] <= mse["weights"] / mse["cr"]).all()
    text = (results / "table2.md").read_text()
    assert "DNIS (CR = 2)" in text
    assert f"{mse['value'].min():.4f}" in text
    assert "**" not in text.partition("MSE on the test")[0]  # one seed tells nothing apart
    assert (results / "table1.md").read_text().count("3,000") == 2
    auc = summary[summary["metric"] == "auc"]["value"]
    assert auc.between(0.4, 1).all()
    assert f"{auc.max():.4f}" in (results / "table3.md").read_text()
    topk = summary[summary["task"] == "topk"]
    assert set(topk["grid"]) == {"topk"}
    assert set(topk["k"]) == {4}
    assert (
        topk[topk["metric"] == "recall@10"]["value"].between(0.99, 1.01).all()
    )  # among 9 others, the tenth is the last
    assert "K = 4" in (results / "table4.md").read_text()
    for run_id in mse["run_id"]:
        assert list(done.root.glob(f"results/runs/planted_ratings/prune/*-{run_id}/run.json"))


def test_what_is_done_is_not_done_again(done):
    assert done.snakemake("demo") == {}


def test_intermediate_files_that_nothing_needs_are_not_missed(done):
    """As after a clone that pulled results without data."""
    shutil.rmtree(done.root / "data")
    assert done.snakemake("demo") == {}


def test_a_rule_written_otherwise_reruns_nothing(done):
    """The code that counts is in the ids; Snakemake's own memory of rules and times is not asked."""
    old, new = "--threads {threads} --log {log}", "--log {log} --threads {threads}"
    done.edit("workflow/rules/search.smk", lambda text: text.replace(old, new))
    assert done.snakemake("demo") == {}


def test_a_method_s_parameter_reruns_that_method_and_back_reruns_nothing(done):
    before = (done.root / "results/demo/summary.csv").read_text()
    done.edit("params/methods.yaml", change_dnis)
    assert done.snakemake("demo") == {"search": 1, "prune": 2, "tables_demo": 1}
    changed = (done.root / "results/demo/summary.csv").read_text()
    assert changed != before
    done.edit("params/methods.yaml", lambda text: text.replace("learning_rate: 0.02 ", "learning_rate: 0.01 "))
    assert done.snakemake("demo") == {"tables_demo": 1}
    assert (done.root / "results/demo/summary.csv").read_text() == before


def test_a_seed_more_is_that_seed_only(done):
    done.edit("params/studies/demo.yaml", lambda text: text.replace("seeds: [1]", "seeds: [1, 2]"))
    assert done.snakemake("demo") == {"search": 6, "prune": 7, "tables_demo": 1}
    assert " ± " in (done.root / "results/demo/table2.md").read_text()


def test_a_table_that_was_lost_or_changed_is_made_again(done):
    table = done.root / "results/demo/table2.csv"
    whole = table.read_text()
    table.unlink()
    assert done.snakemake("demo") == {"tables_demo": 1}
    table.write_text(whole.replace("dnis", "other"))  # as by a `git checkout` of another commit's
    assert done.snakemake("demo") == {"tables_demo": 1}
    assert table.read_text() == whole
    assert done.snakemake("demo") == {}


@pytest.mark.parametrize(
    ("arguments", "overlay", "says"),
    [
        (["demo"], "methods: {dnis: {learning_rat: 1}}", "methods.dnis.learning_rat: unknown key; did you mean"),
        (["demo", "--config", "seed=2"], "", "NISBENCH_PARAMS"),
        (["demo", "--configfile", "params/training.yaml"], "", "NISBENCH_PARAMS"),
    ],
)
def test_what_is_wrong_stops_snakemake_before_any_job(fresh, tmp_path, arguments, overlay, says):
    overlays = ""
    if overlay:
        (tmp_path / "over.yaml").write_text(overlay)
        overlays = str(tmp_path / "over.yaml")
    stopped = fresh.run("snakemake", "--cores", "2", *arguments, overlays=overlays)
    assert stopped.returncode != 0
    assert says in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (fresh.root / "data").exists()


def test_all_is_the_paper_s_grid(fresh):
    counts = fresh.succeeded("snakemake", "--cores", "2", "-n")
    assert "movielens_20m mf-dnis-seed1-cr2.5" in counts
    assert "tables_paper" in counts


def test_snakemake_s_linter_finds_only_that_no_rule_has_a_conda_environment(fresh):
    """They need none: the one environment that runs Snakemake runs all rules."""
    found = re.findall(r"^    \* (.*)$", fresh.run("snakemake", "--lint").stderr, re.MULTILINE)
    assert set(found) == {"Specify a conda environment or container for each rule.:"}


# --- killed, interrupted, started twice -------------------------------------------------------------------------


def lose_search(project):
    """Remove a search, what was made from it, and the mark that the report is whole; return the search's folder."""
    (searched,) = project.root.glob("results/runs/planted_ratings/search/mf-random_search-*")
    for folder in (searched, *project.root.glob("results/runs/planted_ratings/prune/mf-random_search-*")):
        shutil.rmtree(folder)
    for manifest in project.root.glob("results/demo/runs-*.json"):
        manifest.unlink()
    shutil.rmtree(project.root / "logs")
    return searched


@pytest.fixture
def started_search():
    """A function that starts Snakemake in a project and returns it and the process of the search that it runs."""
    started = []

    def start(project):
        snakemake = project.start("snakemake", "--cores", "2", "demo")
        started.append(snakemake)
        wait_for(lambda: list(project.root.glob("logs/locks/*")), snakemake)  # the search has begun
        return snakemake, search_below(snakemake)

    yield start
    for snakemake in started:  # where a test failed
        for pid in session(snakemake):
            os.kill(pid, signal.SIGKILL)
        snakemake.wait()


def search_below(snakemake):
    below = psutil.Process(snakemake.pid).children(recursive=True)
    (job,) = [process for process in below if process.cmdline()[2:3] == ["search"]]
    return job


def session(leader):
    """The processes that a process started with `start_new_session` and all below it are, as far as they live."""
    living = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError):
            if os.getsid(pid) == leader.pid:
                living.append(pid)
    return living


def wait_for(condition, process):
    end = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, "it ended before its time"
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


def test_a_rerun_after_a_kill_waits_for_the_job_that_lives_on(done, started_search):
    """Snakemake alone is killed: its lock is free, its job's is not."""
    lose_search(done)
    killed, job = started_search(done)
    job.suspend()  # so that it outlives Snakemake for certain
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not [file.path for file in job.open_files() if "nisbench.lock" in file.path]
    rerun = done.start("snakemake", "--cores", "2", "demo")
    wait_for(lambda: "another process is at this step" in done.said.read_text(), rerun)
    job.resume()
    assert rerun.wait(120) == 0
    assert done.snakemake("demo") == {}


def test_a_second_snakemake_in_a_checkout_is_told_of_the_first(done, started_search):
    lose_search(done)
    first, _ = started_search(done)
    os.killpg(first.pid, signal.SIGSTOP)
    second = done.run("snakemake", "--cores", "1", "demo")
    dry = done.run("snakemake", "--cores", "1", "-n", "demo")
    os.killpg(first.pid, signal.SIGCONT)
    assert second.returncode == 1
    (message,) = re.findall(r"^nisbench: .*$", second.stderr, re.MULTILINE)
    assert f"another snakemake is at work here: process {first.pid} on " in message
    assert "snakemake --cores 2 demo" in message
    assert "Traceback" not in second.stderr
    assert dry.returncode == 0  # looks only
    assert first.wait(120) == 0
    assert done.snakemake("demo") == {}


def test_ctrl_c_ends_at_once_and_the_same_command_goes_on(done, started_search):
    searched = lose_search(done)
    interrupted, _ = started_search(done)
    os.killpg(interrupted.pid, signal.SIGINT)
    assert interrupted.wait(60) == 1  # on a busy machine; else within a few seconds
    said = done.said.read_text()
    assert said.count("nisbench: not all is made. What is done stays, and the same command goes on from there.") == 1
    end = time.monotonic() + 10
    while session(interrupted) and time.monotonic() < end:
        time.sleep(0.05)
    assert not session(interrupted)
    assert not list(done.root.glob("results/**/.*.part"))
    assert not (searched / "run.json").exists()
    assert done.snakemake("demo")["tables_demo"] == 1


def test_what_a_done_search_once_read_may_be_lost(done):
    """Made anew for the report, it has what read it once not done again."""
    for lost in done.root.glob("data/planted_ratings/*"):
        shutil.rmtree(lost)
    lose_search(done)
    assert done.snakemake("demo") == {"prepare": 1, "split": 1, "block": 1, "search": 1, "prune": 1, "tables_demo": 1}
    forced = jobs(done.succeeded("snakemake", "--cores", "2", "-n", "--forceall", "demo"))
    assert {name: forced[name] // 2 for name in EVERYTHING} == EVERYTHING  # a dry run lists all twice


def test_a_killed_search_goes_on_to_the_same_result(done):
    (finished,) = done.root.glob("results/runs/planted_ratings/search/mf-random_search-*")
    step_id = finished.name.rsplit("-", 1)[1]
    expected = json.loads((finished / "run.json").read_text())
    weights = (finished / "weights.safetensors").read_bytes()
    lose_search(done)

    command = [str(Path(sys.executable).parent / "nisbench"), "search", step_id, "--threads", "2"]
    process = subprocess.Popen(command, cwd=done.root, stderr=subprocess.DEVNULL)
    while not list(finished.glob("trials/*.json")) and process.poll() is None:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (finished / "run.json").exists()

    assert done.snakemake("demo") == {"search": 1, "prune": 1, "tables_demo": 1}
    resumed = json.loads((finished / "run.json").read_text())
    assert [trial["losses"] for trial in resumed["trials"]] == [trial["losses"] for trial in expected["trials"]]
    assert (finished / "weights.safetensors").read_bytes() == weights
