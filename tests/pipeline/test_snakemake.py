"""The workflow through real Snakemake: what runs, what does not run again, and what is refused."""

import hashlib
import json
import os
import re
import shutil
import signal
import time
from contextlib import suppress

import pandas as pd
import psutil
import pytest

from tests.helpers.paths import ROOT
from tests.helpers.project import change_dnis, jobs

pytestmark = pytest.mark.pipeline

EVERYTHING = {"prepare": 3, "split": 3, "block": 3, "search": 6, "prune": 7, "tables_demo": 1}
COLUMNS = [
    "study", "grid", "dataset", "task", "k", "model", "method", "cr", "seed", "metric", "value", "paper_value",
    "weights", "nonzeros", "kept", "size_mib", "bytes", "best_epoch", "epochs", "stopped", "cut_off", "measured_alone", "tuned",
    "validation_loss", "run_id", "code", "failed",
]  # fmt: skip


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
    text = (results / "table2.md").read_text().replace("\N{NO-BREAK SPACE}", " ")
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


def test_a_run_leaves_the_tree_clean(done):
    """What is made is ignored by git: after the demo in a fresh clone, nothing is left to commit."""
    done.succeeded("nisbench", "dvc")
    done.succeeded("git", "init", "-q")
    done.succeeded(
        "git", "add", "Snakefile", "dvc.yaml", "params", "profiles", "src", "workflow", ".gitignore", ".dvcignore"
    )
    done.succeeded("snakemake", "--report", "demo.html", "demo")
    assert (done.root / "demo.html").exists()
    status = done.succeeded("git", "status", "--porcelain").splitlines()
    assert [line for line in status if not line.startswith("A ")] == []


def test_looking_changes_no_file(done):
    """Even where a report is not the one that its manifest names."""
    (done.root / "results/demo/table2.md").write_text("Edited.")
    (searched,) = done.root.glob("results/runs/planted_ratings/search/mf-mde-*")

    def files():
        found = sorted(path for path in done.root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {
            str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
            for path in found
            if path.relative_to(done.root).parts[0] != ".snakemake"
        }

    before = files()
    assert done.to_do("demo") == {"tables_demo": 1}
    for command in (
        ["snakemake", "--rulegraph", "dot", "--", "demo"],
        ["nisbench", "plan"],
        ["nisbench", "plan", "demo"],
        ["nisbench", "show", searched.name.rsplit("-", 1)[1]],
        ["nisbench", "verify", searched.name.rsplit("-", 1)[1]],
    ):
        done.succeeded(*command)
    found = re.findall(r"^    \* (.*)$", done.run("snakemake", "--lint").stderr, re.MULTILINE)
    # No rule needs a conda environment: all run in the one that runs Snakemake.
    assert set(found) == {"Specify a conda environment or container for each rule.:"}
    assert files() == before


def test_what_is_done_is_not_done_again(done):
    """Neither where intermediate files are missing, as after a clone that pulled results without data, nor where a rule is written
    otherwise: the code that counts is in the ids, and Snakemake's own memory of rules and times is not asked."""
    shutil.rmtree(done.root / "data")
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
    assert done.to_do("demo") == {"search": 6, "prune": 7, "tables_demo": 1}


def test_a_table_that_was_lost_or_changed_is_made_again(done):
    table = done.root / "results/demo/table2.csv"
    whole = table.read_text()
    table.unlink()
    assert done.to_do("demo") == {"tables_demo": 1}
    table.write_text(whole.replace("dnis", "other"))  # as by a `git checkout` of another commit's
    said = done.succeeded("snakemake", "--cores", "2", "demo")
    assert jobs(said) == {"tables_demo": 1}
    assert table.read_text() == whole
    assert "nisbench: The page of demo: results/demo/README.md" in said
    assert done.to_do("demo") == {}


@pytest.mark.parametrize(
    ("arguments", "overlay", "says"),
    [
        (["demo"], "methods: {dnis: {learning_rat: 1}}", "methods.dnis.learning_rat: unknown key; did you mean"),
        (["demmo"], "", "There is no target 'demmo'. Did you mean 'demo'?\nStudies: demo. "),
        (["search_ml"], "", "Data sets: planted_ratings, "),
        (["demo", "--config", "seed=2"], "", "NISBENCH_PARAMS"),
        (["demo", "--configfile", "params/training.yaml"], "", "NISBENCH_PARAMS"),
        (["demo", "-n", "--workflow-profile", "none"], "", "Put these lines into your profile's config.yaml"),
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


def test_only_what_keeps_finished_runs_is_taken_for_a_profile(done, tmp_path):
    """What was a run's input and is no more would make Snakemake, by its own rules, delete the run and do it again."""
    profile = tmp_path / "cluster"
    profile.mkdir()
    (profile / "config.yaml").write_text("cores: 2\n")
    options = ["--workflow-profile", str(profile)]
    for wrong in (
        options,
        ["--workflow-profile", "none", "--cores", "2"],
        ["--rerun-triggers", "input", "--cores", "2"],
        ["--rerun-triggers", "mtime", "input", "--cores", "2"],
        ["--rerun-triggers", "mtime", "--workflow-profile", "none", "--cores", "2", "--nolock", "--ignore-incomplete"],
    ):
        stopped = done.run("snakemake", *wrong, "demo")
        assert stopped.returncode == 1
        said = re.search(
            r"^nisbench: With these settings \((?:rerun-triggers|keep-incomplete): .*\n.*:\n((?:    .*\n)+)",
            stopped.stderr,
            re.MULTILINE,
        )
    (profile / "config.yaml").write_text("cores: 2\n" + re.sub("^ +", "", said[1], flags=re.MULTILINE))
    assert jobs(done.succeeded("snakemake", *options, "demo")) == {}


def test_dates_in_the_future_and_an_unwritable_home_change_nothing(done, monkeypatch):
    """Snakemake takes a job for failed if what it read is younger than what it made, and deletes that."""
    lose_search(done)
    later = time.time() + 7200
    for file in [*done.root.glob("data/*/*/*.parquet"), *done.root.glob("results/runs/*/*/*/*.json")]:
        os.utime(file, (later, later))
    monkeypatch.setenv("HOME", "/proc")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert done.snakemake("demo") == {"search": 1, "prune": 1, "tables_demo": 1}
    assert done.to_do("demo") == {}


@pytest.mark.parametrize(
    ("place", "named"), [(".snakemake", ".snakemake"), ("results/demo", "results/demo"), ("logs", "logs")]
)
def test_a_folder_that_cannot_be_written_is_told_before_any_job(fresh, place, named):
    (fresh.root / place).parent.mkdir(exist_ok=True)
    (fresh.root / place).touch()
    stopped = fresh.run("snakemake", "--cores", "2", "demo")
    assert stopped.returncode == 1
    (message,) = re.findall(r"^nisbench: .*$", stopped.stderr, re.MULTILINE)
    assert message.startswith(f"nisbench: {named}: not a directory.")
    assert "Traceback" not in stopped.stderr
    assert not (fresh.root / "data").exists()


def test_without_a_target_the_paper_s_grid_is_made(fresh):
    shutil.copy(ROOT / "params/studies/paper.yaml", fresh.root / "params/studies")
    said = fresh.succeeded("snakemake", "--cores", "2", "-n")
    assert "prune mf-dnis-seed1-cr2.5 on ml-20m" in said
    assert "make the tables, figures and page of paper" in said


# --- killed, interrupted, started twice -------------------------------------------------------------------------


def lose_search(project):
    """Remove a search, what was made from it, and the mark that the report is whole; return the search's folder."""
    (searched,) = project.root.glob("results/runs/planted_ratings/search/mf-random-*")
    for folder in (searched, *project.root.glob("results/runs/planted_ratings/prune/mf-random-*")):
        shutil.rmtree(folder)
    for manifest in project.root.glob("results/demo/runs-*.json"):
        manifest.unlink()
    shutil.rmtree(project.root / "logs")
    for lock in project.root.glob("results/runs/**/.*.lock"):
        lock.unlink()
    return searched


@pytest.fixture
def started_search():
    """A function that starts Snakemake in a project and returns it and the process of the search that it runs."""
    started = []

    def start(project):
        snakemake = project.start("snakemake", "--cores", "2", "demo")
        started.append(snakemake)
        wait_for(lambda: list(project.root.glob("results/runs/*/search/.*.lock")), snakemake)  # the search has begun
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
    assert not [file.path for file in job.open_files() if "snakemake.lock" in file.path]
    rerun = done.start("snakemake", "--cores", "2", "demo")
    wait_for(lambda: "another process is at this step" in done.said.read_text(), rerun)
    job.resume()
    assert rerun.wait(120) == 0
    assert done.to_do("demo") == {}


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
    assert done.to_do("demo") == {}


def test_ctrl_c_ends_at_once_and_the_same_command_goes_on(done, started_search):
    searched = lose_search(done)
    interrupted, _ = started_search(done)
    os.killpg(interrupted.pid, signal.SIGINT)
    assert interrupted.wait(60) == 1  # on a busy machine; else within a few seconds
    said = done.said.read_text()
    assert said.count("Finished jobs are kept; rerun the same command to continue.") == 1
    end = time.monotonic() + 10
    while session(interrupted) and time.monotonic() < end:
        time.sleep(0.05)
    assert not session(interrupted)
    assert not list(done.root.glob("results/**/.*.part"))
    assert not (searched / "run.json").exists()
    assert done.snakemake("demo")["tables_demo"] == 1


def test_what_a_done_search_once_read_may_be_lost(done):
    """Made anew for the report, it has what read it once not done again."""
    for lost in done.root.glob("data/planted_ratings/[!.]*"):  # locks stay
        shutil.rmtree(lost)
    lose_search(done)
    assert done.to_do("demo") == {"prepare": 1, "split": 1, "block": 1, "search": 1, "prune": 1, "tables_demo": 1}
    assert done.to_do("--forceall", "demo") == EVERYTHING


def test_a_killed_search_goes_on_to_the_same_result(done):
    (finished,) = done.root.glob("results/runs/planted_ratings/search/mf-random-*")
    step_id = finished.name.rsplit("-", 1)[1]
    expected = json.loads((finished / "run.json").read_text())
    weights = (finished / "weights.safetensors").read_bytes()
    lose_search(done)

    process = done.start("nisbench", "search", step_id, "--threads", "2")
    while not list(finished.glob("trials/*.json")) and process.poll() is None:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (finished / "run.json").exists()

    assert done.snakemake("demo") == {"search": 1, "prune": 1, "tables_demo": 1}
    resumed = json.loads((finished / "run.json").read_text())
    assert [trial["losses"] for trial in resumed["trials"]] == [trial["losses"] for trial in expected["trials"]]
    assert (finished / "weights.safetensors").read_bytes() == weights


def test_a_data_set_that_fails_leaves_the_others_their_tables(done):
    (done.root / "rare.yaml").write_text("datasets: {planted_ctr: {click_rate: 1.0e-9}}")
    found = done.run("snakemake", "--cores", "2", "demo", overlays="rare.yaml")
    output = found.stdout + found.stderr
    assert found.returncode == 1
    assert "Planted clicks: AUC is not defined on train (2,400 instances, none of them clicks)" in output
    assert "search deepfm" not in output  # nothing trains in vain
    results = done.root / "results" / "demo"
    summary = pd.read_csv(results / "summary.csv")
    missing = summary["failed"].notna()
    assert set(summary[missing]["dataset"]) == {"planted_ctr"}
    assert summary[~missing]["value"].notna().all()
    assert set(summary[~missing]["dataset"]) == {"planted_ratings", "planted_topk"}
    assert "failed" in (results / "table3.md").read_text()
    assert "split planted_ctr failed: Planted clicks: AUC is not defined" in (results / "README.md").read_text()
    assert done.snakemake("demo") == {"tables_demo": 1}  # mended: the whole report is made
    assert "failed" not in (results / "table3.md").read_text()


@pytest.mark.parametrize(("asked", "at_once"), [("search:mem_mb=1000000000", 1), ("search:mem_mb=1", 2)])
def test_searches_run_side_by_side_as_far_as_there_is_memory(asked, at_once, fresh):
    fresh.edit("params/studies/demo.yaml", lambda study: study.replace("random_search: [1], mde: [1], ", ""))
    said = fresh.succeeded("snakemake", "--cores", "2", "--set-resources", asked, "--", "search_planted_ratings")
    running = most = 0
    for line in said.splitlines():
        running += bool(re.match(r"Job \d+: search ", line)) - bool(
            re.match(r"Finished jobid: \d+ \(Rule: search\)", line)
        )
        most = max(most, running)
    assert (most, jobs(said)["search"]) == (at_once, 2)
