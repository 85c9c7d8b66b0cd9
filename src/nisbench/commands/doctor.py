"""`nisbench doctor`: is this installation fit for work, and if not, what to do."""

import platform
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from nisbench.errors import NisbenchError
from nisbench.params.datasets import Archive
from nisbench.params.loading import Config, load
from nisbench.steps import block_step, download_step

PACKAGES = ("nisbench", "torch", "snakemake", "dvc", "pandas", "pyarrow", "scipy", "pydantic")
LOW_DISK_GIB = 10

Say = Callable[[str, str], None]


def run() -> int:
    """Print the state of the installation; 0 if a study can run, 1 if something must be mended first."""
    console = Console(highlight=False, soft_wrap=True)
    troubles = 0

    def good(what: str, text: str) -> None:
        console.print(f"[green]ok[/]    {what:<11}{escape(text)}")

    def note(what: str, text: str) -> None:
        console.print(f"[yellow]note[/]  {what:<11}{escape(text)}")

    def bad(what: str, text: str) -> None:
        nonlocal troubles
        troubles += 1
        console.print(f"[red]wrong[/] {what:<11}{escape(text)}")

    _versions(good, bad)
    _device(good)
    _disk(good, note)
    try:
        config = load(Path())
    except NisbenchError as error:
        bad("parameters", str(error))
    else:
        overlays = ", ".join(map(str, config.overlays)) or "no overlay"
        _wanted_devices(config, bad)
        good("parameters", f"valid: {', '.join(config.params.studies)}; {overlays}")
        _data(config, good, note, bad)
    console.print("[red]Fix the problems above first.[/]" if troubles else "Ready. Try: snakemake --cores all demo")
    return min(troubles, 1)


def _versions(good: Say, bad: Say) -> None:
    good("python", platform.python_version()) if sys.version_info >= (3, 11) else bad("python", "needs 3.11 or newer")
    for package in PACKAGES:
        try:
            good(package, version(package))
        except PackageNotFoundError:
            bad(package, "is not installed. Run: make")
    for program in ("snakemake", "dvc"):
        if not shutil.which(program):
            bad(program, "is not on the PATH. Run: source .venv/bin/activate")


def _device(good: Say) -> None:
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(index).total_memory / 2**30
            good("device", f"cuda:{index}: {torch.cuda.get_device_name(index)}, {memory:.0f} GiB")
    else:
        good("device", "cpu (no GPU is seen by torch)")
    good("threads", f"{torch.get_num_threads()} for torch; Snakemake gives each search the threads of its rule")


def _wanted_devices(config: Config, bad: Say) -> None:
    from nisbench import machine  # noqa: PLC0415

    for wanted in sorted({params.training.device for params in config.by_study.values()}):
        try:
            machine.check(wanted)
        except NisbenchError as error:
            bad("device", str(error))


def _disk(good: Say, note: Say) -> None:
    free = shutil.disk_usage(Path()).free / 2**30
    text = f"{free:.0f} GiB free here"
    good("disk", text) if free > LOW_DISK_GIB else note("disk", f"{text}: little for large data sets")


def _data(config: Config, good: Say, note: Say, bad: Say) -> None:
    for name, dataset in config.params.datasets.items():
        if block_step(dataset).path("features").exists():
            good("data", f"{name}: ready")
        elif not isinstance(dataset, Archive):
            note("data", f"{name}: will be generated")
        elif download_step(dataset).path("archive").exists():
            note("data", f"{name}: downloaded, not yet prepared")
        elif "://" in dataset.url or Path(dataset.url).is_file():
            note("data", f"{name}: will be fetched from {dataset.url}")
        else:
            bad("data", f"{name}: there is no file {dataset.url}")
