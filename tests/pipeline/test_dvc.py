"""The coarse stages through real DVC: it reruns what changed, by file or by overlay, and shows what did."""

import json
import os
import re
import signal
import subprocess
import time

import psutil
import pytest
import yaml

from nisbench.commands import dvc
from tests.helpers.paths import ROOT
from tests.helpers.project import change_dnis, environment, jobs

pytestmark = pytest.mark.pipeline


def test_dvc_yaml_is_of_today_s_studies():
    assert dvc.run(ROOT, check=True) == 0, "run: nisbench dvc"


def test_a_new_study_needs_nothing_but_nisbench_dvc(fresh):
    fresh.succeeded("nisbench", "dvc")
    text = (fresh.root / "params/studies/demo.yaml").read_text().replace("demo:", "mine:")
    (fresh.root / "params/studies/of_mine.yaml").write_text(text)
    stale = fresh.run("nisbench", "dvc", "--check")
    assert stale.returncode == 1
    assert "dvc.yaml is out of date. Run: nisbench dvc" in stale.stdout
    fresh.succeeded("nisbench", "dvc")
    assert "up to date" in fresh.succeeded("nisbench", "dvc", "--check")

    pipeline = yaml.safe_load((fresh.root / "dvc.yaml").read_text())
    assert pipeline["stages"]["report_mine"] == {
        "desc": "Make the tables, figures and page of mine",
        "cmd": "snakemake --cores all mine",
        "deps": [
            "results/plan/report/mine.json",
            *(f"results/runs/{label}/prune" for label in ("planted_ratings", "planted_ctr", "planted_topk")),
        ],
        "params": [{"params/studies/of_mine.yaml": ["studies.mine"]}],
        "outs": [{"results/mine": {"cache": False, "persist": True}}],
    }
    assert pipeline["metrics"] == ["results/demo/metrics.json", "results/mine/metrics.json"]


def test_dvc_reruns_what_a_changed_parameter_asks_for_and_shows_it(versioned, tmp_path):
    stages = [
        "data_planted_ratings",
        "search_planted_ratings",
        "prune_planted_ratings",
        "report_demo",
    ]
    assert "up to date" in versioned.succeeded("dvc", "status", *stages)
    assert versioned.dvc_repro() == {}

    versioned.edit("params/methods.yaml", change_dnis)
    assert "params/methods.yaml" in versioned.succeeded("dvc", "status", *stages)
    assert versioned.dvc_repro() == {"search": 1, "prune": 2, "tables_demo": 1}
    assert "up to date" in versioned.succeeded("dvc", "status", *stages)

    (changed,) = json.loads(versioned.run("dvc", "params", "diff", "--json").stdout)["params/methods.yaml"].items()
    assert changed == ("methods.dnis.learning_rate", {"old": 0.01, "new": 0.02, "diff": 0.01})
    difference = json.loads(versioned.run("dvc", "metrics", "diff", "--json").stdout)
    metrics = set(difference["results/demo/metrics.json"])
    assert metrics
    assert all(".dnis." in metric for metric in metrics)
    shown = json.loads(versioned.run("dvc", "metrics", "show", "--json").stdout)
    assert shown[""]["data"]["results/demo/metrics.json"]["data"]["planted_ratings"]["mf"].keys() == {
        "grid_search", "random_search", "mde", "dnis",
    }  # fmt: skip

    versioned.succeeded("git", "checkout", "-q", "params")
    assert versioned.dvc_repro() == {"tables_demo": 1}

    (tmp_path / "over.yaml").write_text("methods: {mde: {min_dimension: 2}}")
    counts = versioned.dvc_repro(overlays=str(tmp_path / "over.yaml"))
    assert counts == {"search": 1, "prune": 1, "tables_demo": 1}


def test_what_is_wrong_stops_dvc_before_any_job(versioned, tmp_path):
    (tmp_path / "over.yaml").write_text("training: {patiense: 1}")
    stopped = versioned.run("dvc", "repro", "report_demo", overlays=str(tmp_path / "over.yaml"))
    assert stopped.returncode != 0
    assert "over.yaml:1: training.patiense: unknown key; did you mean 'patience'?" in stopped.stderr
    assert "prune_planted_ratings" not in stopped.stdout


def test_when_dvc_alone_is_killed_the_next_one_waits_for_its_snakemake(versioned):
    """Nothing runs twice, and DVC records what the orphan made."""
    versioned.edit("params/methods.yaml", change_dnis)
    first = versioned.start("dvc", "repro", "report_demo")
    try:
        snakemake = holder_below(first, versioned.root / "results/runs/.snakemake.holder")
        os.killpg(first.pid, signal.SIGSTOP)
        first.kill()
        first.wait()
        second = subprocess.Popen(
            ["dvc", "repro", "report_demo"], cwd=versioned.root, env=environment(versioned.root), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said = ""
        while "Waiting for it to end." not in said:
            line = second.stdout.readline()
            assert line, said
            said += line
        assert f"another snakemake is at work here: process {snakemake} on " in said
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    said += second.communicate(timeout=300)[0]
    assert second.returncode == 0, said
    assert "search" not in jobs(said)
    assert jobs(said) == {"prune": 2, "tables_demo": 1}
    assert versioned.dvc_repro() == {}


def holder_below(process, holder):
    """The Snakemake below a process, once it holds the lock."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        below = {each.pid for each in psutil.Process(process.pid).children(recursive=True)}
        if holder.exists() and (named := re.match(r"process (\d+) ", holder.read_text())) and int(named[1]) in below:
            return int(named[1])
        time.sleep(0.01)
    raise TimeoutError


def test_an_experiment_in_a_copy_runs_the_code_of_the_copy(versioned):
    """As `--queue` does. What is installed, or on PYTHONPATH, is the workspace's code."""
    file = "src/nisbench/training/lazy_adam_numba.py"
    before = planned_searches(versioned)
    versioned.edit(file, lambda text: text.replace("LEAST = 1 << 16", "LEAST = 1 << 15"))
    changed = planned_searches(versioned)
    versioned.succeeded("dvc", "exp", "run", "--temp", "-n", "changed", "plan")
    revision = versioned.succeeded("git", "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/changed").strip()
    versioned.succeeded(
        "dvc", "get", "--rev", revision, "-o", "planned", ".", "results/plan/search/planted_ratings.json"
    )
    planned = (versioned.root / "planned").read_text()
    assert not before & changed
    assert {each for each in before | changed if each in planned} == changed


def planned_searches(project):
    plan = json.loads(project.succeeded("nisbench", "plan", "demo", "--no-cost", "--json"))
    return {step["id"] for step in plan["steps"] if step["step"] == "search"}
