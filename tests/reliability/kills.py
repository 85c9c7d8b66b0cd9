"""Kill the pipeline at random moments and run it again: it must finish, with the results of an undisturbed run.

    python -m tests.reliability.kills --kills 200 --seed 1 --jobs 2 --json kills.json

A small study that goes through every step is run once, undisturbed. For each kill, part of what it made is removed,
`snakemake --cores 2 demo` is started, and at a random moment of a random phase one of three is killed by SIGKILL:

    all         Snakemake and all its jobs, as by a power cut
    snakemake   Snakemake alone; its jobs go on without it
    job         one job alone; Snakemake goes on, fails, and is waited for

Then the same command is run once more. It must exit with 0, and every file must be as in the undisturbed run (see
fingerprint.py) and no other be there. The same seed makes the same plan of kills; moments differ as machines do.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

import psutil

from nisbench.studies import StudyPlan, plan
from tests.helpers.project import Project
from tests.reliability.fingerprint import LOCK, differences, fingerprint
from tests.reliability.project import make_project

COMMAND = ("snakemake", "--cores", "2", "demo")
WEIGHTS = {"planning": 2, "download": 3, "prepare": 3, "split": 3, "block": 3, "search": 8, "prune": 5, "tables": 4}
"""Phases, and how often each is the one to be killed in."""
KINDS = ("all", "snakemake", "job")
REMOVED = {  # with a step of the phase
    "download": ("download", "prepare"),
    "prepare": ("prepare",),
    "split": ("split", "block"),
    "block": ("block",),
    "search": ("search", "prune"),
    "prune": ("prune",),
}
BEGINNINGS = ("process", "file", "file", "work", "work", "work")
OF_DATA = (".*.part", "*.parquet")
OF_RUNS = (".*.part", "*.npy", "run.json", "*.safetensors", "*/*.safetensors", "*/*.json", "*/.*.part")
APPEARING = {
    "planning": ("*",),
    "download": (".*.part", "archive"),
    "prepare": OF_DATA,
    "split": OF_DATA,
    "block": OF_DATA,
    "search": OF_RUNS,
    "prune": OF_RUNS,
    "tables": (".*.part", "curves/.*.part", "*.csv", "page.html", "runs-*.json"),
}
"""Files that appear, at last or for a moment, in the folder that a phase writes to."""
EVERYTHING = 0.03
"""The share of kills before which all is removed."""
PLANNING = 2.0
"""Seconds that Snakemake takes, about, before its first job."""
PATIENCE = 300
"""Seconds until a run is called stuck."""


@dataclass
class Kill:
    """One kill and what came of it."""

    number: int
    phase: str
    """The phase in which it was to happen."""
    kind: str
    removed: int = 0
    """Steps whose files were removed before."""
    after: float = 0.0
    """Seconds from the beginning of the phase's work."""
    found: tuple[str, ...] = ()
    """The jobs at work at that moment."""
    half_done: int = 0
    """Files of theirs that a later run goes on from or clears away: parts of files, checkpoints, trials."""
    exit_status: int | None = None
    """Of the run that finished."""
    seconds: float = 0.0
    """That it took."""
    differing: tuple[str, ...] = ()
    total_seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.exit_status == 0 and not self.differing

    def line(self) -> str:
        at = ", ".join(self.found) or "no job"
        verdict = (
            "ok" if self.ok else f"FAILED: exit status {self.exit_status}, differing: {', '.join(self.differing[:5])}"
        )
        return (
            f"{self.number:4d}  {self.phase:8}  {self.kind:9}  {self.after:5.2f} s after its beginning, "
            f"{self.half_done:2d} half-done files  finished in {self.seconds:4.1f} s  {verdict}  ({at})"
        )


# --- the three acts -------------------------------------------------------------------------------------------


def run_undisturbed(root: Path, *command: str) -> dict[str, float]:
    """Run the study; the seconds that a job of each phase worked, on average."""
    spans: dict[str, list[float]] = {}
    project = Project(root)
    snakemake = project.start(*(command or COMMAND))
    while snakemake.poll() is None:
        for job in jobs_of(snakemake):
            phase, step_id = job.split()
            if list(root.glob(f"logs/{phase}/*{step_id}.log")):
                now = time.monotonic()
                spans.setdefault(job, [now, now])[1] = now
        time.sleep(0.02)
    if snakemake.returncode:
        raise RuntimeError(f"the undisturbed run failed:\n{project.said.read_text()}")
    worked: dict[str, list[float]] = {}
    for job, (first, last) in spans.items():
        worked.setdefault(job.split()[0], []).append(last - first)
    return {phase: sum(seconds) / len(seconds) for phase, seconds in worked.items()}


def disturb(root: Path, kill: Kill, chance: random.Random, usual: dict[str, float], folders: list[Path]) -> bool:
    """Start the study, and kill in the phase that `kill` names what it names; whether there was anything to be killed.

    `usual` is how long phases work; `folders` are those that the phase will write to. In one of six kills its process has
    but begun to load libraries; in two, a file of some kind has just appeared, whole or in part; else any moment will do.
    """
    for log in root.glob("logs/*/*.log"):  # it will say that its step's work begins
        log.unlink()
    begun, share, pattern = chance.choice(BEGINNINGS), chance.random(), chance.choice(APPEARING[kill.phase])
    now = time.time()
    snakemake = Project(root).start(*COMMAND)

    def has_begun() -> bool:
        if begun == "process":
            at_work = any(job.startswith(kill.phase) for job in jobs_of(snakemake))
        elif begun == "file" and folders:
            at_work = any(_is_new(path, now) for folder in folders for path in folder.glob(pattern))
        else:
            at_work = bool(list(root.glob(f"logs/{kill.phase}/*.log")))
        return at_work or snakemake.poll() is not None

    if kill.phase == "planning":
        delay = share * PLANNING
    else:
        delay = share * (0.003 if begun == "file" else usual.get(kill.phase, 0.1))
        _wait(has_begun)
    since = time.monotonic()
    while time.monotonic() - since < delay and snakemake.poll() is None:
        time.sleep(0.0005)
    kill.after = time.monotonic() - since
    struck = _strike(snakemake, kill)
    kill.half_done = len(half_done(root))
    snakemake.wait(PATIENCE)
    return struck


def _strike(snakemake: "subprocess.Popen[bytes]", kill: Kill) -> bool:
    """Stop all for a moment, to see who is at work, and kill; whether there was anything to be killed."""
    if snakemake.poll() is not None:
        return False
    os.killpg(snakemake.pid, signal.SIGSTOP)
    jobs = jobs_of(snakemake)
    kill.found = tuple(jobs)
    if kill.kind == "all":
        os.killpg(snakemake.pid, signal.SIGKILL)
    elif kill.kind == "snakemake":
        snakemake.kill()
    elif jobs:
        meant = [pid for name, pid in jobs.items() if name.startswith(kill.phase)]
        os.kill((meant or list(jobs.values()))[0], signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(snakemake.pid, signal.SIGCONT)
    return bool(jobs) or kill.kind != "job"


def _is_new(path: Path, since: float) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime >= since
    return False


def finish(root: Path, kill: Kill, expected: dict[str, str]) -> None:
    """The plain rerun: how it ended, how long it took, and whether all is as it was in the undisturbed run."""
    begun = time.monotonic()
    snakemake = Project(root).start(*COMMAND)
    try:
        kill.exit_status = snakemake.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(snakemake.pid, signal.SIGKILL)
        snakemake.wait()
    kill.seconds = time.monotonic() - begun
    for process in _processes_in(root):  # a job that outlived its Snakemake, and did what was done already
        with contextlib.suppress(psutil.NoSuchProcess):
            process.wait(PATIENCE)
    kill.differing = tuple(differences(fingerprint(root), expected))


# --- before ---------------------------------------------------------------------------------------------------


def remove(root: Path, study: StudyPlan, kill: Kill, chance: random.Random) -> list[Path]:
    """Remove what leads through the kill's phase and the report, or everything; return the phase's folders of it."""
    phase = kill.phase
    steps = list(study.steps.values())
    if chance.random() < (0.1 if phase == "planning" else EVERYTHING):
        gone = steps
    else:
        through = phase if phase in REMOVED else chance.choice(list(REMOVED))
        candidates = [step for step in steps if step.name == through]
        chosen = {step.id for step in chance.sample(candidates, min(len(candidates), chance.choice((1, 1, 2))))}
        gone = [step for step in steps if step.name in REMOVED[through] and chosen & {up.id for up in step.upstream()}]
    for step in gone:
        shutil.rmtree(root / step.folder, ignore_errors=True)
    whole = chance.random() < 0.5
    for file in [*(root / study.folder).iterdir()] if whole else (root / study.folder).glob("runs-*.json"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    kill.removed = len(gone)
    return [root / study.folder] if phase == "tables" else [root / step.folder for step in gone if step.name == phase]


# --- processes and files --------------------------------------------------------------------------------------


def jobs_of(snakemake: subprocess.Popen[bytes]) -> dict[str, int]:
    """The nisbench processes below a Snakemake, as `search 0123456789ab`, with their process ids."""
    found = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(snakemake.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                if len(words) > 3 and Path(words[1]).name == "nisbench":
                    found[" ".join(words[2:4])] = process.pid
    return found


def half_done(root: Path) -> list[Path]:
    patterns = ("data/**/.*", "results/**/.*", "results/runs/*/search/*/trials/*", "results/runs/*/prune/*/rounds/*")
    found = (path for pattern in patterns for path in root.glob(pattern) if path.is_file())
    return [path for path in found if not LOCK.fullmatch(path.name)]


def _processes_in(root: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(root):
                found.append(process)
    return found


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.0005)


# --- many of them ---------------------------------------------------------------------------------------------


def run_kills(folder: Path, kills: int, seed: int, jobs: int) -> list[Kill]:
    """All of them, `jobs` at a time, each in a copy of the project of its own."""
    pristine = folder / "pristine"
    make_project(pristine)
    with contextlib.chdir(pristine):
        study = plan(Path()).study("demo")
    begun = time.monotonic()
    usual = run_undisturbed(pristine)
    expected = fingerprint(pristine)
    print(f"undisturbed: {time.monotonic() - begun:.0f} s, {len(expected)} files", flush=True)
    free: SimpleQueue[Path] = SimpleQueue()
    for worker in range(jobs):
        free.put(shutil.copytree(pristine, folder / f"worker-{worker}"))

    def one(number: int) -> Kill:
        root, chance = free.get(), random.Random(f"{seed}-{number}")  # noqa: S311
        kill = Kill(number, *_plan_of(chance))
        begun = time.monotonic()
        while not disturb(root, kill, chance, usual, remove(root, study, kill, chance)):
            pass  # it came too late: once more
        finish(root, kill, expected)
        kill.total_seconds = time.monotonic() - begun
        if not kill.ok:  # kept to be looked at
            root.rename(folder / f"failed-{number}")
            shutil.copytree(pristine, root)
        free.put(root)
        print(kill.line(), flush=True)
        return kill

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, range(1, kills + 1)))


def _plan_of(chance: random.Random) -> tuple[str, str]:
    (phase,) = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
    return phase, chance.choice(KINDS if phase != "planning" else KINDS[:2])


def table(kills: list[Kill]) -> str:
    """Kills by phase and kind, how many of them were survived, and how many with the same results."""
    counted = Counter((kill.phase, kill.kind) for kill in kills)
    lines = [" | ".join(["phase", *KINDS, "half-done files found", "survived", "results identical"])]
    for phase in [*WEIGHTS, "together"]:
        of_phase = [kill for kill in kills if phase in (kill.phase, "together")]
        kinds = [sum(n for (p, k), n in counted.items() if k == kind and phase in (p, "together")) for kind in KINDS]
        ends = [
            sum(kill.half_done > 0 for kill in of_phase),
            sum(kill.exit_status == 0 for kill in of_phase),
            sum(kill.ok for kill in of_phase),
        ]
        lines.append(" | ".join([phase, *map(str, kinds), *map(str, ends)]))
    return "\n".join(f"| {line} |" for line in [lines[0], " | ".join(["---"] * 7), *lines[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="projects that are killed side by side")
    parser.add_argument("--json", type=Path, help="write all kills to this file")
    parser.add_argument("--folder", type=Path, help="where to work; kept. Without it, a temporary folder")
    asked = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        kills = run_kills(folder.resolve(), asked.kills, asked.seed, asked.jobs)
    print(f"\n{table(kills)}\n\n{sum(kill.ok for kill in kills)} of {len(kills)} ok, {time.monotonic() - begun:.0f} s")
    if asked.json:
        asked.json.write_text(
            json.dumps({"seed": asked.seed, "kills": [asdict(kill) for kill in kills]}, indent=2) + "\n"
        )
    sys.exit(not all(kill.ok for kill in kills))


if __name__ == "__main__":
    main()
