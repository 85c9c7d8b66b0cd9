"""A study of thousands of cells: what looks at all of them must take time in proportion, and not much of it.

Processor time is measured, in seconds, of a machine that may be busy: limits are about twice what docs/explanation/performance.md says.
"""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.many_runs import DATA, study
from tests.helpers.paths import ROOT
from tests.helpers.project import Project, copy_project, environment

pytestmark = pytest.mark.slow

CELLS = 2000

MAKE_RUNS = """
from pathlib import Path
from nisbench.studies import plan
from tests.helpers.many_runs import pretend_all
whole = plan(Path())
pretend_all(whole, whole.study("demo"))
"""

COMPARE = """
from pathlib import Path
from nisbench.params.tasks import Rating
from nisbench.report import claims, recovery, results, tables
from nisbench.studies import plan
study = results.chosen(plan(Path()).study("demo"))
found = results.summary(study)
compared = results.complete(study, found)
assert len(claims.findings(*compared)) > 100
assert len(tables.comparison(study, found, Rating).data) > 500
assert len([recovery.measured(cell, recovery.dimensions(cell)) for cell in study.compared]) == 1000
assert len(results.provenance(study)["prunings"]) == 2000
"""


@pytest.fixture(scope="module")
def to_do(tmp_path_factory) -> Project:
    """With nothing done."""
    return copy_project(tmp_path_factory.mktemp("many") / "to_do", study(CELLS), DATA)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Project:
    """With all runs there, but no report."""
    project = copy_project(tmp_path_factory.mktemp("many") / "done", study(CELLS), DATA)
    variables = environment(project.root)
    variables["PYTHONPATH"] = f"{variables['PYTHONPATH']}:{ROOT}"
    subprocess.run([sys.executable, "-c", MAKE_RUNS], cwd=project.root, env=variables, check=True, timeout=600)
    return project


def seconds(project: Project, *command: str) -> float:
    """Processor time of a command that succeeds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    project.succeeded(*command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_planning(to_do):
    assert seconds(to_do, "nisbench", "plan", "demo", "--no-cost") < 8


def test_a_dry_run_asks_for_every_job_and_takes_little_more_than_snakemake_itself(to_do):
    assert seconds(to_do, "snakemake", "-n", "demo") < 20
    assert to_do.to_do("demo") == {"prepare": 1, "split": 1, "block": 1, "search": 800, "prune": 2000, "tables_demo": 1}
    assert not Path(to_do.root, "results").exists()  # looking has no effect


def test_a_tenth_of_a_study_is_planned_alone(to_do):
    jobs = to_do.to_do("--batch", "tables_demo=1/10", "demo")
    assert 150 < jobs["prune"] < 350


def test_results(done):
    assert seconds(done, "nisbench", "results", "demo", "--format", "csv") < 15


def test_a_lost_file_is_asked_for_again(done):
    """Rules name records; a search's other files only where they are lost."""
    weights = min(done.root.glob("results/runs/*/search/*/weights.safetensors"))
    kept = weights.read_bytes()
    weights.unlink()
    try:
        assert done.to_do("demo") == {"search": 1, "tables_demo": 1}
    finally:
        weights.write_bytes(kept)
    assert done.to_do("demo") == {"tables_demo": 1}


def test_what_a_report_reads_and_compares(done):
    """All of it but pictures, whose time is matplotlib's."""
    assert seconds(done, sys.executable, "-c", COMPARE) < 30
