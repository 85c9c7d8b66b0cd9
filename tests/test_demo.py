"""The demo as its user runs it: all tables and figures, equal to those in the repository, and what a change makes anew."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from nisbench.studies import plan
from tests.conftest import ROOT

KEYS = ["grid", "dataset", "model", "method", "cr", "seed", "metric"]

# Relative. On a machine of the same kind all is equal; on others, rounding lets a search stop an epoch earlier or later.
QUALITY_TOLERANCE = 0.04
SIZE_TOLERANCE = 0.25


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The project without anything made, in which the demo is then run."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copy(ROOT / "Snakefile", folder)
    for name in ("workflow", "params", "profiles"):
        shutil.copytree(ROOT / name, folder / name)
    snakemake(folder, "demo")
    return folder


def snakemake(folder, *arguments, overlay=None):
    """What Snakemake says. An overlay is what the user wrote into a file of their own."""
    environment = {k: v for k, v in os.environ.items() if k != "NISBENCH_PARAMS"}
    if overlay:
        (folder / "over.yaml").write_text(overlay)
        environment["NISBENCH_PARAMS"] = "over.yaml"
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def jobs(said):
    """How many jobs of each rule a dry run announces."""
    stats = said.partition("Job stats:")[2].partition("\n\n")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", stats, re.MULTILINE) if rule != "total"}


def test_a_fresh_demo_equals_the_one_in_the_repository(checkout):
    fresh, kept = (pd.read_csv(folder / "results/demo/summary.csv") for folder in (checkout, ROOT))
    both = fresh.merge(kept, on=KEYS, how="outer", suffixes=("", "_kept"), indicator=True)
    assert set(both["_merge"]) == {"both"}, "results/demo is of an older demo: run it and commit what it makes"
    both = both[~both["metric"].isin(["hours", "peak_memory_mib"])]
    size = both["metric"].isin(["nonzeros", "params_mib"])
    tolerance = size.map({True: SIZE_TOLERANCE, False: QUALITY_TOLERANCE})
    off = both[(both["value"] - both["value_kept"]).abs() > tolerance * both["value_kept"].abs()]
    assert off.empty, off


def test_every_table_and_figure_is_there_and_in_the_repository(checkout):
    demo = plan(checkout).study("demo")
    assert all(Path(checkout, path).is_file() for path in demo.outputs())
    shown = [path for path in demo.outputs() if not re.search(r"curves/|page\.html|runs-", path)]
    assert [path for path in shown if not (ROOT / path).is_file()] == []
    heads = [
        re.findall("^#+ .*", (folder / "results/demo/README.md").read_text(), re.MULTILINE)
        for folder in (checkout, ROOT)
    ]
    assert heads[0] == heads[1]


def test_what_is_done_is_not_done_again(checkout):
    assert "Nothing to be done" in snakemake(checkout, "-n", "demo")


def test_a_compression_rate_more_is_one_pruning_and_the_tables(checkout):
    overlay = "studies: {demo: {grids: {rating: {methods: {dnis: [1, 2, 2.5, 8]}}}}}"
    assert jobs(snakemake(checkout, "-n", "demo", overlay=overlay)) == {"prune": 1, "tables_demo": 1, "demo": 1}


def test_a_seed_more_is_that_seed_s_runs_and_the_tables(checkout):
    said = snakemake(checkout, "-n", "demo", overlay="studies: {demo: {seeds: [1, 2]}}")
    demo = plan(checkout).study("demo")
    searches, prunings = ({getattr(cell, name).id for cell in demo.cells} for name in ("search", "prune"))
    expected = {"search": len(searches), "prune": len(prunings), "tables_demo": 1, "demo": 1}
    assert jobs(said) == expected


def test_the_html_report_holds_the_page_and_the_curves_of_each_method(checkout):
    snakemake(checkout, "--report", "report.html", "demo")
    report = (checkout / "report.html").read_text()
    for text in ("the study's page", "figure3b", "Random Search", "Validation loss of every trial"):
        assert text in report
