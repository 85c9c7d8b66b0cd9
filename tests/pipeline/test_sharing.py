"""Results shared through a remote of DVC's, in a directory or over SSH, and compared as DVC's experiments."""

import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from dvc.utils.serialize import modify_yaml

from nisbench.params.tree import read_yaml
from tests.helpers.paths import ROOT
from tests.helpers.project import Project, change_dnis, identify, jobs

pytestmark = pytest.mark.pipeline

OF_CHANGED_DNIS = {"search": 1, "prune": 2, "tables_demo": 1}
SET_DNIS = "params/methods.yaml:methods.dnis.learning_rate=0.02"


@pytest.fixture
def remote(request, tmp_path):
    """A remote's address, and what a user has to say to DVC besides."""
    if request.param == "directory":
        return f"{tmp_path}/remote", {}
    port, key = request.getfixturevalue("sftp_server")
    return f"ssh://{getpass.getuser()}@127.0.0.1:{port}{tmp_path}/remote", {"keyfile": str(key)}


@pytest.fixture(scope="session")
def sftp_server(tmp_path_factory):
    """OpenSSH's server on loopback, with keys and settings of its own; its port, and a key that it accepts."""
    path = os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin"
    sshd, keygen = shutil.which("sshd", path=path), shutil.which("ssh-keygen", path=path)
    if not sshd or not keygen:
        pytest.skip("there is no sshd here (on Debian or Ubuntu: apt-get install openssh-server)")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "Subsystem sftp internal-sftp\nForceCommand internal-sftp\n"
    )
    separation = Path("/run/sshd")  # root's sshd asks for it, and a service's start would have made it
    made = os.geteuid() == 0 and not separation.exists()
    if made:
        separation.mkdir(0o755)
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "config"], stderr=log)
    try:
        for _ in range(100):
            assert server.poll() is None, (folder / "log").read_text()
            if "listening" in (folder / "log").read_text():
                break
            time.sleep(0.1)
        yield port, folder / "user"
    finally:
        server.terminate()
        server.wait(timeout=30)
        if made:
            separation.rmdir()


@pytest.mark.parametrize("remote", ["directory", "ssh"], indirect=True)
def test_who_clones_and_pulls_makes_only_the_report_and_what_they_change(versioned, remote, tmp_path):
    colleague = pulled_clone(versioned, *remote, tmp_path / "colleague")
    assert changed_stages(colleague) == ["plan"]  # which is always run
    assert colleague.snakemake("demo") == {"tables_demo": 1}
    assert colleague.succeeded("git", "status", "--porcelain") == ""  # the same bytes
    assert changed_stages(colleague) == ["plan"]
    assert colleague.to_do("demo") == {}
    colleague.edit("params/methods.yaml", change_dnis)
    assert colleague.to_do("demo") == OF_CHANGED_DNIS


@pytest.mark.parametrize("remote", ["directory"], indirect=True)
def test_what_a_colleague_has_run_comes_back(versioned, remote, tmp_path):
    colleague = pulled_clone(versioned, *remote, tmp_path / "colleague")
    colleague.edit("params/methods.yaml", change_dnis)
    assert colleague.dvc_repro() == OF_CHANGED_DNIS
    colleague.succeeded("git", "commit", "-qam", "DNIS learns faster")
    colleague.succeeded("dvc", "push", "--with-deps", "report_demo")

    versioned.succeeded("git", "pull", "-q", str(colleague.root))
    versioned.succeeded("dvc", "pull", "--with-deps", "report_demo")
    assert changed_stages(versioned) == ["plan"]
    assert versioned.to_do("demo") == {"tables_demo": 1}
    (rate,) = json.loads(versioned.run("dvc", "params", "diff", "HEAD^", "--json").stdout).values()
    assert rate == {"methods.dnis.learning_rate": {"old": 0.01, "new": 0.02, "diff": 0.01}}


def pulled_clone(project, url, options, target):
    """A clone of the project with what it has pushed to a remote."""
    project.succeeded("dvc", "remote", "add", "-d", "team", url)
    project.succeeded("git", "commit", "-qam", "remote")
    clone = Project(target)
    project.succeeded("git", "clone", "-q", ".", str(target))
    identify(clone)
    for each in (project, clone):
        for option, value in options.items():
            each.succeeded("dvc", "remote", "modify", "--local", "team", option, value)
    project.succeeded("dvc", "push", "--with-deps", "report_demo")
    clone.succeeded("dvc", "pull", "--with-deps", "report_demo")
    return clone


def changed_stages(project):
    """Those of the demo. DVC also lists the stages of data sets that were never made."""
    return re.findall(r"^(\S+):$", project.succeeded("dvc", "status", "--with-deps", "report_demo"), re.MULTILINE)


def test_an_experiment_runs_what_its_parameter_asks_for_and_is_told_apart(versioned):
    summary = versioned.root / "results/demo/summary.csv"
    before = summary.read_text()
    done = versioned.succeeded("dvc", "exp", "run", "-n", "faster", "-S", SET_DNIS, "report_demo")
    assert jobs(done) == OF_CHANGED_DNIS  # though DVC writes the whole file anew: ids go by values
    after = summary.read_text()

    shown = json.loads(versioned.run("dvc", "exp", "show", "--json").stdout)
    (experiment,) = [run for commit in shown for run in commit.get("experiments") or []]
    assert experiment["name"] == "faster"
    difference = json.loads(versioned.run("dvc", "exp", "diff", "HEAD", "faster", "--json").stdout)
    (rate,) = difference["params"].values()
    assert rate == {"methods.dnis.learning_rate": {"old": 0.01, "new": 0.02, "diff": 0.01}}
    assert difference["metrics"] == json.loads(versioned.run("dvc", "metrics", "diff", "--json").stdout)
    (metrics,) = difference["metrics"].values()
    assert metrics
    assert all(".dnis." in name for name in metrics)

    versioned.succeeded("git", "checkout", "-q", ".")
    versioned.succeeded("dvc", "checkout", "-q", "report_demo")
    assert summary.read_text() == before
    # DVC took the tables back, but not the file that says they are of the parameters asked for now.
    versioned.edit("params/methods.yaml", change_dnis)
    assert versioned.dvc_repro() == {"tables_demo": 1}
    assert summary.read_text() == after


@pytest.mark.parametrize("file", sorted((ROOT / "params").rglob("*.yaml")), ids=lambda file: file.stem)
def test_a_parameter_file_means_the_same_once_dvc_has_written_it(file, tmp_path):
    """`dvc exp run -S` writes the whole file, in another layout."""
    copy = tmp_path / file.name
    shutil.copy(file, copy)
    with modify_yaml(str(copy)) as values:
        values["added"] = 1e-5
    assert read_yaml(copy).values == read_yaml(file).values | {"added": 1e-5}


def test_dvc_plots_the_figures_of_two_revisions(tmp_path):
    """Those that this repository has. Of a study that was not run here, DVC says so and plots the others."""
    project = Project(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copytree(ROOT / "workflow" / "plots", tmp_path / "workflow" / "plots")
    ignored = shutil.ignore_patterns("demo", "runs*", "*.svg", "*.png")
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=ignored)
    project.succeeded("git", "init", "-q")
    identify(project)
    project.succeeded("dvc", "init", "-q")
    project.succeeded("git", "add", "-A")
    project.succeeded("git", "commit", "-qm", "results")
    figure = tmp_path / "results/movielens_1m/figure2a.csv"
    values = pd.read_csv(figure)
    values["mean"] *= 2
    values.to_csv(figure, index=False)

    drawn = json.loads(project.run("dvc", "plots", "diff", "HEAD", "--json").stdout)["data"]
    assert set(drawn) >= {
        *(f"results/movielens_1m/{name}.csv" for name in ("figure2a", "figure2b", "figure3c", "pareto")),
        "results/recovery/recovery_dimensions.csv",
    }
    (picture,) = drawn["results/movielens_1m/figure2a.csv"]
    points = pd.DataFrame(picture["content"]["data"]["values"]).astype({"mean": float})
    by_revision = points.groupby("rev")["mean"].sum()
    assert by_revision["workspace"] == pytest.approx(2 * by_revision["HEAD"])
    project.succeeded("dvc", "plots", "show")
    assert "figure2a" in (tmp_path / "dvc_plots" / "index.html").read_text()
