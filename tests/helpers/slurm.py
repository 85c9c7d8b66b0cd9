"""A Slurm of one node on loopback, with two GPUs that do not exist, in a folder and under ports of its own."""

import getpass
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.helpers.paths import ROOT

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "sinfo", "scontrol")
PLUGINS = [f"snakemake-executor-plugin-{name}" for name in ("slurm", "slurm-jobstep", "cluster-generic")]
SBIN = f"{os.environ['PATH']}:/usr/sbin"

CONFIG = """
ClusterName=nisbench
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SchedulerParameters=sched_interval=5,batch_sched_delay=1
ReturnToService=2
KillWait=5
MinJobAge=86400
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=64000 Gres=gpu:2
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE
PartitionName=gpu Nodes={host} MaxTime=INFINITE
"""


class CannotStart(Exception):  # noqa: N818 - it is a reason to skip
    """Why there can be no Slurm here."""


@dataclass(frozen=True)
class SlurmJob:
    id: str
    state: str
    gpus: str
    """What it asks for: gres:gpu:1, or N/A."""
    partition: str
    comment: str
    """What Snakemake runs in it: rule_NAME_wildcards_..."""


@dataclass(frozen=True)
class Slurm:
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What leads commands, and the jobs that they submit, to this Slurm."""
        return {"SLURM_CONF": f"{self.folder}/slurm.conf", "PATH": f"{self.folder}/bin:{os.environ['PATH']}:/usr/sbin"}

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, env=os.environ | self.environment, text=True, capture_output=True, check=False, timeout=60
        )
        if done.returncode:
            raise CannotStart(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def jobs(self) -> list[SlurmJob]:
        """All jobs, ended ones too."""
        form = "JobID:|,State:|,tres-per-job:|,Partition:|,Comment:|"
        lines = self.run("squeue", "--noheader", "--states=all", f"--Format={form}").splitlines()
        return [SlurmJob(*line.removesuffix("|").split("|")) for line in lines]

    def gpu_of(self, job: SlurmJob) -> str:
        """The number of the GPU that a running job was given."""
        (index,) = re.findall(r"IDX:(\d+)", self.run("scontrol", "--details", "show", "job", job.id))
        return str(index)

    def start_controller(self) -> None:
        self.run("slurmctld")

    def stop(self, daemon: str) -> None:
        """End a daemon, if it runs, and wait for its end."""
        with suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
            process = psutil.Process(int((self.folder / f"{daemon}.pid").read_text()))
            process.terminate()
            for _ in range(100):
                if process.status() == psutil.STATUS_ZOMBIE:  # nobody asks how it ended
                    return
                time.sleep(0.1)
            process.kill()


@contextmanager
def one_node(folder: Path) -> Iterator[Slurm]:
    """A Slurm in `folder`, whose path must be short: a socket lies there. Raises `CannotStart`."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=SBIN)]
    if missing:
        raise CannotStart(
            f"no {', '.join(missing)} (on Debian or Ubuntu: apt-get install munge slurmctld slurmd slurm-client)"
        )
    slurm = Slurm(folder)
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    # The step in which a job runs its command loses SLURM_CONF on its way.
    step = folder / "bin" / "srun"
    step.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun", path=SBIN)} "$@"\n')
    step.chmod(0o755)
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(
        CONFIG.format(folder=folder, host=host, user=getpass.getuser(), ports=_free_ports())
    )
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    try:
        slurm.run(
            "munged", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
        )  # fmt: skip
        slurm.start_controller()
        slurm.run("slurmd")
        _wait_until_idle(slurm)
        yield slurm
    finally:
        with suppress(CannotStart, subprocess.TimeoutExpired):
            slurm.run("scancel", "--user", getpass.getuser())
        for daemon in ("slurmd", "slurmctld", "munged"):
            slurm.stop(daemon)


def install_plugins(folder: Path) -> None:
    """Put Snakemake's plug-ins for clusters into `folder`. Raises `CannotStart`.

    In the tests' environment that for Slurm would make each Snakemake look for a controller, which takes seconds if there is none.
    """
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run(
        [*pip, "-c", str(ROOT / "constraints.txt"), *PLUGINS], text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise CannotStart(f"Snakemake's plug-ins cannot be installed: {done.stderr.strip()}")


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _wait_until_idle(slurm: Slurm) -> None:
    state = ""
    for _ in range(60):
        with suppress(CannotStart):
            state = slurm.run("sinfo", "--noheader", "--format=%t %E").strip()
        if state.startswith("idle "):
            return
        time.sleep(0.5)
    raise CannotStart(f"slurmd does not come up: {state}")
