"""The command line: one thin function per command. What commands do is in `nisbench.commands` and `nisbench.execution`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import nisbench
from nisbench import logs
from nisbench.errors import NisbenchError
from nisbench.steps import StepName
from nisbench.studies import Plan
from nisbench.studies import plan as resolve_plan

# Modules are imported where they are used: most commands need no torch, which takes over a second to import.

HELP = """Benchmark neural input search: how many embedding dimensions does each feature deserve?

[bold]snakemake --cores all demo[/] runs a study; it calls the steps for you. The commands here say what will run and what came out.

Parameters are in params/. The variable NISBENCH_PARAMS names files to merge over them (separated by colons), NISBENCH_PLUGINS
Python files with methods, models, tasks or data formats of your own.
"""

RUN, LOOK, EXTEND = "Before and after a run", "Look at results", "Extend"
STEPS = "Steps (Snakemake calls these; they take an id or its beginning)"

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Id = Annotated[str, typer.Argument(metavar="ID", help="The step's id or the beginning of it, from `nisbench plan`.")]
Log = Annotated[Path | None, typer.Option("--log", help="Also write progress, with times and details, to this file.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads for torch.")]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name, from `nisbench studies`.")]

# Those that this process may use: a container or a cluster often allows fewer than the machine has.
ALL_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """Run the command line. A user's error is one message, on stderr and in the step's log, and exit status 1."""
    logs.set_up()
    try:
        app()
    except NisbenchError as error:
        logs.log.error("nisbench: %s", error)
        sys.exit(1)
    except KeyboardInterrupt:
        logs.log.error("nisbench: Interrupted. Progress is saved; run the same command to resume.")
        sys.exit(130)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("nisbench"):
            raise
        logs.log.error("nisbench: %s is not installed. Run: pip install 'nisbench[workflow,report]'", error.name)
        sys.exit(1)
    except (OSError, MemoryError) as error:
        logs.log.debug("unexpected", exc_info=True)
        logs.log.error("nisbench: %s: %s", type(error).__name__, error)
        sys.exit(1)
    except Exception as error:
        logs.log.debug("unexpected", exc_info=True)
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):  # torch's
            first = str(error).splitlines()[0]
            logs.log.error("nisbench: out of memory. Lower training.batch_size or training.base_dimension.\n%s", first)
            sys.exit(1)
        raise


def _version(asked: bool) -> None:
    if asked:
        print(f"nisbench {nisbench.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


def current_plan() -> Plan:
    return resolve_plan(Path())


# --- before and after a run -----------------------------------------------------------------------------------


@app.command(rich_help_panel=RUN)
def plan(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="Only this study.")] = None,
    write: Annotated[
        Path | None, typer.Option(help="Instead of printing, write the ids of each data set's steps into this folder.")
    ] = None,
    cost: Annotated[
        bool, typer.Option(help="For a STUDY, also estimate time, memory and disk: steps are timed here.")
    ] = True,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each search, for the estimate.")] = 1,
) -> None:
    """List the steps that studies ask for, with their ids, which of them are done, and what the others will take."""
    from nisbench.commands import plan as command

    whole = current_plan()
    if write:
        command.write(whole, write)
        return
    command.show([whole.study(study)] if study else list(whole.studies.values()))
    if study and cost:
        from nisbench import machine
        from nisbench.commands import estimate

        chosen = whole.study(study)
        with machine.device(chosen.params.training.device, threads) as device:
            estimate.show(chosen, device, ALL_CORES)


@app.command(rich_help_panel=RUN)
def doctor() -> None:
    """Check this installation: versions, device, threads, memory, disk, parameters, data."""
    from nisbench.commands import doctor as command

    sys.exit(command.run())


@app.command(rich_help_panel=RUN)
def verify(
    what: Annotated[
        str | None, typer.Argument(metavar="[STUDY|ID]", help="Only this study's steps, or this one.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Delete what is damaged, so that it is made again.")] = False,
) -> None:
    """Read all files of the steps that are done, and compare them with the checksums that were taken when they were written."""
    from nisbench.commands import verify as command

    whole = current_plan()
    if what is None:
        steps = list(whole.steps.values())
    else:
        steps = list(whole.study(what).steps.values()) if what in whole.studies else [whole.step(what)]
    sys.exit(command.run(steps, remove))


@app.command(
    rich_help_panel=RUN,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def bench(context: typer.Context) -> None:
    """Time training on this machine, beside a textbook loop and what the machine allows. `nisbench bench --help` says how."""
    from nisbench.commands import bench as command

    command.run(context.args)


# --- look at results ------------------------------------------------------------------------------------------


@app.command(rich_help_panel=LOOK)
def show(step_id: Id) -> None:
    """Print all that is known of a step: its settings, what it depends on, its results, the machine it ran on."""
    from nisbench.commands import show as command

    command.show_step(current_plan().step(step_id))


# --- steps ----------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=STEPS)
def download(step_id: Id, log: Log = None) -> None:
    """Fetch a data set's archive and check its MD5 sum."""
    _run("download", step_id, log)


@app.command(rich_help_panel=STEPS)
def prepare(step_id: Id, log: Log = None) -> None:
    """Turn an archive into instances, or generate them."""
    _run("prepare", step_id, log)


@app.command(rich_help_panel=STEPS)
def split(step_id: Id, log: Log = None) -> None:
    """Divide instances into train, validation and test."""
    _run("split", step_id, log)


@app.command(rich_help_panel=STEPS)
def block(step_id: Id, log: Log = None) -> None:
    """Count each feature's frequency in train and put features into blocks."""
    _run("block", step_id, log)


@app.command(rich_help_panel=STEPS)
def search(step_id: Id, threads: Threads = ALL_CORES, log: Log = None) -> None:
    """Train a model under every selection that a method proposes; validation picks one.

    Trials are saved as they end: after a kill, the same command resumes where it stopped.
    """
    _run("search", step_id, log, threads)


@app.command(rich_help_panel=STEPS)
def prune(step_id: Id, threads: Threads = ALL_CORES, log: Log = None) -> None:
    """Prune a search's result at one compression rate, derive the dimension scheme, and measure it on test."""
    _run("prune", step_id, log, threads)


@app.command(rich_help_panel=STEPS)
def tables(study: StudyName, log: Log = None) -> None:
    """Assemble a study's tables, figures and page from its runs, into results/STUDY/. (Takes a study, not an id.)"""
    from nisbench.execution import delete_leftovers, locked
    from nisbench.report import build
    from nisbench.report.outputs import is_current

    logs.set_up(log, f"tables {study}")
    plan = current_plan().study(study)
    with locked(Path(), f"tables-{study}") as waited:
        if waited and is_current(plan):
            logs.log.info("already finished by another process")
            return
        delete_leftovers(plan.folder)
        delete_leftovers(plan.folder / "curves")
        build.run(plan)


def _run(name: StepName, step_id: str, log: Path | None, threads: int = 1) -> None:
    from nisbench.execution import run_step

    logs.set_up(log)
    step = current_plan().step(step_id, name)
    logs.set_up(log, f"{step.dataset} {step.label or step.name}")
    run_step(step, threads)
