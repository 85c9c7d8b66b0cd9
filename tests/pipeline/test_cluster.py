"""A tiny study as jobs of a real Slurm, of one node and two GPUs that do not exist, and of a Kubernetes that is none."""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from tests.helpers.project import TINY, Project, copy_project, jobs, put_into_git_and_dvc
from tests.helpers.slurm import CannotStart, Slurm, SlurmJob, install_plugins, one_node
from tests.reliability.fingerprint import differences, fingerprint

pytestmark = pytest.mark.pipeline

SITE = """
default-resources: [slurm_partition=cpu]
set-resources:
  search: {slurm_partition: gpu}
  prune: {slurm_partition: gpu}
slurm-no-account: true
slurm-status-command: squeue
slurm-init-seconds-before-status-checks: 1
seconds-between-status-checks: 1
"""
"""What a user of this Slurm says in a profile of their own. It has no accounting, and its jobs are short."""

EVERYTHING = {"prepare": 1, "split": 1, "block": 1, "search": 2, "prune": 3, "tables_demo": 1}
SUBMITTED = 5
"""Jobs of a cluster: a group of data, two searches, a group of prunings, the report."""

PATIENCE = 1800

KUBECTL = """#!{python}
import json, os, subprocess, sys
jobs = {folder!r}
name = sys.argv[2].rpartition("/")[2]
if sys.argv[1] == "create":
    job = json.load(sys.stdin)
    name = job["metadata"]["generateName"] + str(len(os.listdir(jobs)))
    json.dump(job, open(f"{{jobs}}/{{name}}.json", "w"))
    container = job["spec"]["template"]["spec"]["containers"][0]
    with open(f"{{jobs}}/{{name}}.log", "w") as log:
        command = ["sh", "-c", '"$@"; echo $? > "$0"', f"{{jobs}}/{{name}}.rc", *container["command"]]
        subprocess.Popen(command, cwd=container["workingDir"], stdout=log, stderr=log, start_new_session=True)
    print(f"job.batch/{{name}}")
elif os.path.exists(f"{{jobs}}/{{name}}.rc"):
    print(json.dumps({{"status": {{"failed" if int("0" + open(f"{{jobs}}/{{name}}.rc").read()) else "succeeded": 1}}}}))
elif os.path.exists(f"{{jobs}}/{{name}}.json"):
    print("{{}}")
else:
    sys.exit("Error from server (NotFound)")
"""
"""What takes jobs for Kubernetes and runs them here."""


def of_two_methods() -> str:
    """The text of a study: each job of a cluster starts Python several times."""
    tree = yaml.safe_load(TINY)
    demo = tree["studies"]["demo"]
    demo["grids"] = {"rating": demo["grids"]["rating"] | {"methods": {"grid_search": [1], "dnis": [1, 2]}}}
    demo["tables"] = ["table1", "table2"]
    return yaml.safe_dump(tree, sort_keys=False)


@pytest.fixture(scope="module")
def slurm():
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a socket's path must be short, which pytest's folders are not
    try:
        with one_node(folder) as running:
            yield running
    except CannotStart as reason:
        pytest.skip(f"there is no Slurm here: {reason}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory) -> Path:
    """Snakemake's plug-ins for both clusters, in a folder."""
    folder = tmp_path_factory.mktemp("plugins")
    try:
        install_plugins(folder)
    except CannotStart as reason:
        pytest.skip(str(reason))
    return folder


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, str]:
    """What one machine makes of the study."""
    project = copy_project(tmp_path_factory.mktemp("one") / "project", of_two_methods())
    assert project.snakemake("demo") == EVERYTHING
    return fingerprint(project.root)


@pytest.fixture
def project(tmp_path, plugins) -> Project:
    """A project in which nothing was run, with the plug-ins where Python looks for its code."""
    project = copy_project(tmp_path / "project", of_two_methods())
    shutil.copytree(plugins, project.root / "src", dirs_exist_ok=True)
    return project


@pytest.fixture
def cluster(project, slurm, monkeypatch) -> Project:
    """A project that Slurm can run."""
    (project.root / "site").mkdir()
    (project.root / "site" / "config.yaml").write_text(SITE)
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    return project


@pytest.mark.slow
def test_a_killed_job_is_done_again_while_the_controller_restarts_and_all_is_as_on_one_machine(
    cluster, slurm, expected
):
    run = cluster.start("snakemake", "--profile", "site", "--workflow-profile", "workflow/profiles/slurm", "demo")
    try:
        killed, other = two_searches(slurm, run)
        assert {slurm.gpu_of(killed), slurm.gpu_of(other)} == {"0", "1"}
        slurm.run("scancel", killed.id)
        slurm.stop("slurmctld")
        time.sleep(2)
        slurm.start_controller()
        assert run.wait(timeout=PATIENCE) == 0, cluster.said.read_text()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    said = cluster.said.read_text()
    assert f"SLURM-job '{killed.id}' failed, SLURM status is: 'CANCELLED'" in said
    assert len(slurm.jobs()) == SUBMITTED + 1
    asked = {job.comment.partition("_wildcards")[0]: (job.gpus, job.partition) for job in slurm.jobs()}
    assert asked["rule_search"] == asked["rule_prunings_prune"] == ("gres:gpu:1", "gpu")
    assert asked["rule_data_block_prepare_split"] == asked["rule_tables_demo"] == ("N/A", "cpu")
    shutil.rmtree(cluster.root / "site")
    assert differences(fingerprint(cluster.root), expected) == []
    assert cluster.to_do("demo") == {}


@pytest.mark.slow
def test_dvc_takes_its_stages_to_slurm(cluster, slurm, expected, monkeypatch):
    put_into_git_and_dvc(cluster)
    before = len(slurm.jobs())
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "[workflow/profiles/slurm, site]")
    assert jobs(finished(cluster, "dvc", "repro", "report_demo")) == EVERYTHING
    assert len(slurm.jobs()) - before == SUBMITTED
    found = fingerprint(cluster.root)
    assert [path for path in differences(found, expected) if path in expected] == []


@pytest.mark.slow
def test_pods_on_a_shared_volume_make_what_one_machine_makes(project, expected, tmp_path, monkeypatch):
    """Kubernetes is a script that runs what it is given, so this says nothing of images, volumes and limits."""
    programs, pods = tmp_path / "bin", tmp_path / "pods"
    programs.mkdir()
    pods.mkdir()
    kubectl = programs / "kubectl"
    kubectl.write_text(KUBECTL.format(python=sys.executable, folder=str(pods)))
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    run = ["snakemake", "--workflow-profile", "workflow/profiles/kubernetes", "--latency-wait", "5", "demo"]
    assert jobs(project.succeeded(*run, "-n").rpartition("Job stats:")[2]) == EVERYTHING
    assert list(pods.iterdir()) == []
    finished(project, *run)
    assert differences(fingerprint(project.root), expected) == []
    limits = [
        json.loads(path.read_text())["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        for path in pods.glob("*.json")
    ]
    assert len(limits) == SUBMITTED
    assert sum("nvidia.com/gpu" in each for each in limits) == 3


def finished(project: Project, *command: str) -> str:
    """What a command says that must succeed, and may take long where others are at work."""
    run = project.start(*command)
    try:
        assert run.wait(timeout=PATIENCE) == 0, project.said.read_text()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    return project.said.read_text()


def two_searches(slurm: Slurm, run) -> list[SlurmJob]:
    """Two searches that run at the same time, once there are."""
    for _ in range(1200):
        found = [job for job in slurm.jobs() if job.comment.startswith("rule_search") and job.state == "RUNNING"]
        if len(found) == 2:
            return found
        assert run.poll() is None
        time.sleep(0.5)
    pytest.fail(f"no two searches ran at once: {slurm.jobs()}")
