"""`nisbench doctor`: is this installation fit for work, and if not, what to do."""

import json
import os
import platform
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import unquote, urlsplit

import psutil
from rich.console import Console
from rich.markup import escape

from nisbench import checkout, identity, locks, records
from nisbench.commands.output import print_json, size
from nisbench.errors import NisbenchError, without_password
from nisbench.files import check_writable
from nisbench.params.datasets import Archive
from nisbench.params.kinds import ENTRY_POINTS, kinds, plugin_files
from nisbench.params.loading import Config, load
from nisbench.steps import block_step, download_step

PACKAGES = ("nisbench", "torch", "snakemake", "dvc", "pandas", "pyarrow", "scipy", "pydantic")
LOW_DISK, LOW_MEMORY = 10 << 30, 4 << 30

State = Literal["ok", "note", "wrong"]
COLOURS: dict[State, str] = {"ok": "green", "note": "yellow", "wrong": "red"}


@dataclass(frozen=True)
class Finding:
    state: State
    """`wrong` is what must be mended before a study can run."""
    what: str
    text: str


class Findings(list[Finding]):
    def ok(self, what: str, text: str) -> None:
        self.append(Finding("ok", what, text))

    def note(self, what: str, text: str) -> None:
        self.append(Finding("note", what, text))

    def wrong(self, what: str, text: str) -> None:
        self.append(Finding("wrong", what, text))


def run(as_json: bool) -> int:
    """Print the state of the installation; 0 if a study can run, 1 if something must be mended first."""
    found = examine()
    troubles = any(each.state == "wrong" for each in found)
    if as_json:
        print_json([asdict(each) for each in found])
        return int(troubles)
    console = Console(highlight=False, soft_wrap=True)
    for each in found:
        state = f"[{COLOURS[each.state]}]{each.state:<5}[/]"
        console.print(f"{state} {each.what:<11}{escape(each.text)}")
    console.print("Mend what is wrong first." if troubles else "Ready. Try: snakemake --cores all demo")
    return int(troubles)


def examine() -> Findings:
    """All that is to be known of the installation."""
    found = Findings()
    _code(found)
    _versions(found)
    _device(found)
    _room(found)
    _git(found)
    _folders(found)
    try:
        _plugins(found)
        config = load(Path())
    except NisbenchError as error:
        found.wrong("parameters", str(error))
        return found
    overlays = ", ".join(map(str, config.overlays)) or "none"
    _wanted_devices(config, found)
    found.ok("parameters", f"valid; studies: {', '.join(config.params.studies)}; overlays: {overlays}")
    _identity(found)
    _data(config, found)
    return found


def _code(found: Findings) -> None:
    try:
        checkout.check(Path())
    except NisbenchError as error:
        found.wrong("code", str(error))
        return
    installed = _installed_checkout()
    if not checkout.own_package(Path()):
        found.ok("code", f"{checkout.RUNNING}: this folder has params/ and no src/ of its own")
    elif installed and not installed.samefile(Path()):
        found.note(
            "code",
            f"{checkout.RUNNING}, this folder's, is what snakemake, dvc and nisbench run here. But {installed} is "
            "installed, so Python and notebooks import that. For these, set PYTHONPATH=$PWD/src, or install this folder: "
            "make .venv/ready && source .venv/bin/activate",
        )
    else:
        found.ok("code", f"{checkout.RUNNING}, beside params/")


def _installed_checkout() -> Path | None:
    """The checkout that an editable installation is of."""
    for distribution in metadata.distributions(name="nisbench"):
        if url := distribution.read_text("direct_url.json"):
            source = json.loads(url)
            if source.get("dir_info", {}).get("editable"):
                folder = Path(unquote(urlsplit(source["url"]).path))
                return folder if folder.exists() else None
    return None


def _versions(found: Findings) -> None:
    found.ok("python", platform.python_version())
    for package in PACKAGES:
        try:
            found.ok(package, version(package))
        except PackageNotFoundError:
            found.wrong(package, "is not installed. Run: make")
    for program in ("snakemake", "dvc"):
        if not shutil.which(program):
            found.wrong(program, "is not on the PATH. Run: source .venv/bin/activate")


def _device(found: Findings) -> None:
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(index).total_memory
            found.ok("device", f"cuda:{index}: {torch.cuda.get_device_name(index)}, {size(memory)}")
    else:
        found.ok("device", "cpu (torch sees no GPU)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found.ok(
        "threads",
        f"{cores} cores may be used; each step gets its own number of threads, 1 unless --set-threads says otherwise",
    )
    if "OMP_NUM_THREADS" in os.environ:
        found.ok(
            "threads", f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} is set; steps do not follow it but --threads"
        )


def _wanted_devices(config: Config, found: Findings) -> None:
    from nisbench import machine  # noqa: PLC0415

    for wanted in sorted({params.training.device for params in config.by_study.values()}):
        try:
            machine.check(wanted)
        except NisbenchError as error:
            found.wrong("device", str(error))


def _room(found: Findings) -> None:
    memory = psutil.virtual_memory()
    text = f"{size(memory.available)} of {size(memory.total)} are free"
    if memory.available > LOW_MEMORY:
        found.ok("memory", text)
    else:
        found.note("memory", f"{text}: ask for fewer --cores if jobs are killed")
    free = shutil.disk_usage(Path()).free
    if free > LOW_DISK:
        found.ok("disk", f"{size(free)} free here")
    else:
        found.note("disk", f"{size(free)} free here: little for large data sets")


def _git(found: Findings) -> None:
    if not shutil.which("git"):
        found.note("git", "is not installed: results do not record the commit of their code")
    elif commit := records.commit():
        found.ok(
            "git", f"results record the commit {commit}{' (+: files under src/ are changed)' if '+' in commit else ''}"
        )
    else:
        found.note("git", "this is no git repository: results do not record the commit of their code")


def _folders(found: Findings) -> None:
    """Those that steps, Snakemake and numba write to. Shared data may be read-only, as long as none is to be made."""
    folders = [Path("results"), locks.SNAKEMAKE.parent, Path("logs"), Path(".snakemake")]
    troubles = [trouble for folder in folders if (trouble := _unwritable(folder))]
    for trouble in dict.fromkeys(troubles):
        found.wrong("folders", trouble)
    if trouble := _unwritable(Path("data")):
        found.note("folders", f"{trouble} As long as it is so, no data can be prepared")
    try:
        check_writable(Path(tempfile.gettempdir()))
    except (NisbenchError, FileNotFoundError) as error:
        found.wrong("folders", f"{error} Set TMPDIR to a folder that you may write to")
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    caches = [Path(chosen)] if chosen else [checkout.RUNNING / "training" / "__pycache__", user_cache / "numba"]
    if all(_unwritable(cache) for cache in caches):
        where = " or ".join(map(str, caches))
        found.wrong(
            "folders", f"no compiled code can be kept in {where}. Set NUMBA_CACHE_DIR to a folder you may write to"
        )
    if not any(each.what == "folders" for each in found):
        found.ok("folders", "results/, logs/ and data/ may be written to")


def _unwritable(folder: Path) -> str | None:
    try:
        check_writable(folder)
    except NisbenchError as error:
        return str(error)
    return None


def _plugins(found: Findings) -> None:
    loaded = [
        f"{kind.section} {name} ({kind.module_name()})"
        for section in ("datasets", "tasks", "models", "methods")
        for name, kind in kinds(section).items()
        if not kind.__module__.startswith("nisbench.params.")
    ]
    sources = [str(path) for path in plugin_files()]
    sources += [f"{point.name} = {point.value}" for point in metadata.entry_points(group=ENTRY_POINTS)]
    found.ok("plug-ins", f"{', '.join(loaded)}; from {', '.join(sources)}" if loaded else "none")


def _identity(found: Findings) -> None:
    steps = [step for step in get_args(identity.CoreStep) if identity.is_development(step)]
    if steps:
        text = (
            f"the code of {', '.join(steps)} is not the one that golden values were made with: ids are development ids."
        )
        found.note("ids", f"{text} When the change is done: make golden")
    else:
        found.ok("ids", "the code is the one that golden values were made with")


def _data(config: Config, found: Findings) -> None:
    for name, dataset in config.params.datasets.items():
        if block_step(dataset, config.params.task_of(name)).path("features").exists():
            found.ok("data", f"{name}: ready")
        elif not isinstance(dataset, Archive):
            found.ok("data", f"{name}: will be generated")
        elif download_step(dataset).path("archive").exists():
            found.ok("data", f"{name}: downloaded, not yet prepared")
        else:
            for url in dataset.urls:
                _source(name, url, found)


def _source(name: str, url: str, found: Findings) -> None:
    if "://" in url:
        found.note("data", f"{name}: will be fetched from {without_password(url)}, which needs a network")
    elif not Path(url).is_file():
        found.wrong("data", f"{name}: there is no file {url}")
    elif os.access(url, os.R_OK):
        found.ok("data", f"{name}: will be read from {url}")
    else:
        found.wrong("data", f"{name}: {url} may not be read. Give yourself the right to it")
