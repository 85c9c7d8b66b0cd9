"""The command line: one thin command per step, and a few that look."""

import os
import runpy
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, cast

import typer
from filelock import FileLock, Timeout

from nisbench import console, records
from nisbench.errors import NisbenchError
from nisbench.runs import (
    DownloadSettings,
    PruneSettings,
    SearchSettings,
    Step,
    StepName,
)
from nisbench.studies import Plan
from nisbench.studies import plan as resolve_plan

HELP = """Benchmark neural input search: how many embedding dimensions does each feature deserve?

Usually Snakemake calls the steps for you: [bold]snakemake --cores all demo[/]. To run one by hand, look its id up with
[bold]nisbench plan STUDY[/] and give the id, or the beginning of it, to the step's command. A step needs the files of the
steps before it: download, prepare, split, block, search, prune, tables.

Parameters are in params/. Files named by NISBENCH_PARAMS (separated by colons) are merged over them.
"""

app = typer.Typer(
    help=HELP, no_args_is_help=True, rich_markup_mode="rich", add_completion=False, pretty_exceptions_enable=False
)

Id = Annotated[str, typer.Argument(metavar="ID", help="The step's id or the beginning of it, from `nisbench plan`.")]
Log = Annotated[Path | None, typer.Option("--log", help="Also write progress, with times and details, to this file.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads for torch.")]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name, from params/studies.")]

_held: list[FileLock] = []

# Those that this process may use: a container or a cluster often allows fewer than there are.
ALL_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """Run the command line; a user's error is one message, on stderr and in the step's log, and exit status 1."""
    console.set_up()
    try:
        app()
    except NisbenchError as error:
        console.log.error("nisbench: %s", error)
        sys.exit(1)
    except KeyboardInterrupt:
        console.log.error("nisbench: interrupted. What is saved stays; the same command goes on from there.")
        sys.exit(130)
    except (OSError, MemoryError) as error:
        console.log.debug("unexpected", exc_info=True)
        console.log.error("nisbench: %s: %s", type(error).__name__, error)
        sys.exit(1)
    except Exception as error:
        console.log.debug("unexpected", exc_info=True)
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):  # torch's
            console.log.error(
                "nisbench: out of memory. Lower training.batch_size or training.base_dimension.\n%s",
                str(error).splitlines()[0],
            )
            sys.exit(1)
        raise


# --- steps ----------------------------------------------------------------------------------------------------


@app.command()
def download(step_id: Id, log: Log = None) -> None:
    """Fetch a data set's archive and check its MD5 sum."""
    from nisbench.data import download as fetching

    with doing("download", step_id, log) as step:
        settings = cast(DownloadSettings, step.settings)
        fetching.run(settings.url, settings.md5, Path(step.path("archive")))


@app.command()
def prepare(step_id: Id, log: Log = None) -> None:
    """Turn an archive into instances, or generate them: instances.parquet and vocabulary.parquet."""
    _make_data("prepare", step_id, log)


@app.command()
def split(step_id: Id, log: Log = None) -> None:
    """Divide instances into train, validation and test."""
    _make_data("split", step_id, log)


@app.command()
def block(step_id: Id, log: Log = None) -> None:
    """Count each feature's frequency in train and put features into blocks: features.parquet."""
    _make_data("block", step_id, log)


def _make_data(name: StepName, step_id: str, log: Path | None) -> None:
    from nisbench.data import steps

    with doing(name, step_id, log) as step:
        steps.make(step, {file: Path(step.path(file)) for file in step.files})


@app.command()
def search(step_id: Id, threads: Threads = ALL_CORES, log: Log = None) -> None:
    """Train a model under every selection that a method proposes; validation picks one.

    Trials are saved as they end: the same command, after a kill, goes on where it stopped.
    """
    from nisbench import machine
    from nisbench.search import trials

    with doing("search", step_id, log) as step:
        settings = cast(SearchSettings, step.settings)
        with machine.device(settings.training.device, threads, settings.training.deterministic) as device:
            trials.run(
                settings,
                train_file=Path(step.needs["split"].path("train")),
                validation_file=Path(step.needs["split"].path("validation")),
                features_file=Path(step.needs["block"].path("features")),
                folder=Path(step.folder),
                device=device,
            )


@app.command()
def prune(step_id: Id, threads: Threads = ALL_CORES, log: Log = None) -> None:
    """Prune a search's result at one compression rate, derive the dimension scheme, and measure it on test."""
    from nisbench import machine
    from nisbench.search import pruning

    with doing("prune", step_id, log) as step:
        settings = cast(PruneSettings, step.settings)
        with machine.device(settings.device, threads, settings.deterministic) as device:
            pruning.run(
                settings,
                weights_file=Path(step.needs["search"].path("weights")),
                search_file=Path(step.needs["search"].path("run")),
                parts={part: Path(step.needs["split"].path(part)) for part in step.needs["split"].files},
                folder=Path(step.folder),
                device=device,
            )


@app.command()
def tables(study: StudyName, log: Log = None) -> None:
    """Assemble a study's tables from its runs, into results/STUDY/."""
    from nisbench.report import assembly

    console.set_up(log)
    plan = current_plan().study(study)
    if _hold(f"tables-{study}") and Path(plan.manifest).exists():
        console.log.info("that process has done it")
        return
    folder = Path(plan.folder)
    _clear(*folder.glob(".*.part"), *folder.glob("curves/.*.part"))
    assembly.run(plan)


# --- looking --------------------------------------------------------------------------------------------------


@app.command()
def plan(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="Only this study.")] = None,
    write: Annotated[
        Path | None, typer.Option(help="Instead of printing, write the ids of each data set's steps into this folder.")
    ] = None,
    cost: Annotated[
        bool, typer.Option(help="Of a STUDY, also estimate time, memory and disk: steps are timed here.")
    ] = True,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each search, for the estimate.")] = 1,
) -> None:
    """List the steps that studies ask for, with their ids, which of them are done, and what the others will take."""
    from nisbench.report import listing

    whole = current_plan()
    if write:
        listing.write(whole, write)
        return
    listing.show([whole.study(study)] if study else list(whole.studies.values()))
    if study and cost:
        from nisbench import machine
        from nisbench.report import prospects

        chosen = whole.study(study)
        with machine.device(chosen.params.training.device, threads) as device:
            prospects.show(chosen, device, ALL_CORES)


@app.command()
def show(step_id: Id) -> None:
    """Print all that is known of a step: its settings, what it depends on, its results, the machine it ran on."""
    from nisbench.report import listing

    listing.show_step(current_plan().step(step_id))


@app.command()
def verify(
    what: Annotated[
        str | None, typer.Argument(metavar="[STUDY|ID]", help="Only this study's steps, or this one.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Delete what is damaged, so that it is made again.")] = False,
) -> None:
    """Read all files of the steps that are done, and compare them with the checksums that were taken when they were written."""
    from nisbench.report import listing

    console.set_up()
    whole = current_plan()
    if what is None:
        steps = list(whole.steps.values())
    else:
        steps = list(whole.study(what).steps.values()) if what in whole.studies else [whole.step(what)]
    sys.exit(listing.verify(steps, remove))


@app.command()
def adopt(
    study: StudyName,
    epochs: Annotated[int, typer.Option(min=1, help="Of each compared search, train so many again.")] = 2,
) -> None:
    """After a change of code that changes no result: let a study's older runs count as today's, where golden losses agree.

    Of each kind of run, today's code does some of the cheapest one's work again; only where it finds the very numbers that are
    recorded do the runs of that kind get today's ids. Each keeps the name of the code that computed it.
    """
    from nisbench.report import adoption

    console.set_up()
    sys.exit(1 if adoption.run(current_plan().study(study), epochs) else 0)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def bench(context: typer.Context) -> None:
    """Time training on this machine, beside a textbook loop and what the machine allows. `nisbench bench --help` says how."""
    if not Path("benchmarks", "__main__.py").exists():
        raise NisbenchError("there is no folder benchmarks/ here: run this in the project's top folder")
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = ["nisbench bench", *context.args]
    runpy.run_module("benchmarks", run_name="__main__")


@app.command()
def doctor() -> None:
    """Check this installation: versions, device, threads, disk, parameters, data."""
    from nisbench.report import checkup

    sys.exit(checkup.run())


# --- shared ---------------------------------------------------------------------------------------------------


def current_plan() -> Plan:
    return resolve_plan(Path())


@contextmanager
def doing(name: StepName, step_id: str, log: Path | None) -> Iterator[Step]:
    """The step to run, once all files it reads are seen to be there and whole; done when the block ends well."""
    console.set_up(log)
    step = current_plan().step(step_id, name)
    if _hold(step.id) and records.done(step):
        console.log.info("that process has done it")
        raise typer.Exit
    folder = Path(step.folder)
    if not Path(step.record).exists() and all(Path(step.path(file)).exists() for file in step.files):
        console.log.info("killed when all was done but to say so")  # files are only ever placed whole
        _finish(step)
        raise typer.Exit
    records.withdraw(step)
    _clear(*folder.glob(".*.part"), *folder.glob(".download-*"))  # left by a killed process
    for needed in step.needs.values():
        records.check(needed)
    yield step
    _finish(step)


def _finish(step: Step) -> None:
    """Remove what was there to go on from, and then say that the step is done."""
    _clear(*(left for left in Path(step.folder).iterdir() if left.name not in step.files.values()))
    records.write(step)


def _clear(*left: Path) -> None:
    for path in left:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _hold(name: str) -> bool:
    """Keep other processes from a step's or a report's files until this one ends, or turns to another. True after a wait."""
    while _held:
        _held.pop().release()
    path = Path("logs", "locks", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    waited = False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.log.info("another process is at this step; waiting for it to end")
        lock.acquire()
        waited = True
    _held.append(lock)
    return waited
