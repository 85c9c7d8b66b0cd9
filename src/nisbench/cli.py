"""The command line: one thin function per command. What commands do is in `nisbench.commands` and `nisbench.execution`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import nisbench
from nisbench import checkout, logs, memory
from nisbench.commands.formats import Format, Layout, Precision
from nisbench.errors import NisbenchError
from nisbench.files import problem
from nisbench.steps import StepName
from nisbench.studies import Plan
from nisbench.studies import plan as resolve_plan

# Modules are imported where they are used: most commands need no torch, which takes over a second to import.

HELP = """Benchmark neural input search: how many embedding dimensions does each feature deserve?

[bold]snakemake --cores all demo[/] runs a study; it calls the steps for you. The commands here say what will run and what came out.

Parameters are in params/. The variable NISBENCH_PARAMS names files to merge over them (separated by colons), NISBENCH_PLUGINS \
Python files with methods, models, tasks or data formats of your own.
"""

RUN, LOOK, EXTEND = "Before and after a run", "Look at results", "Extend"
STEPS = "Steps (Snakemake calls these; ids are those of `nisbench plan STUDY`)"

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
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OfStudy = Annotated[
    str | None,
    typer.Option(
        "--study", help="A study that asks for it. It is then found without planning all the others, which is faster."
    ),
]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name, from `nisbench studies`.")]

# Those that this process may use: a container or a cluster often allows fewer than the machine has.
ALL_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """Run the command line. A user's error is one message, on stderr and in the step's log, and exit status 1."""
    logs.set_up()
    try:
        checkout.restart_with_own_code(Path())
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
    except OSError as error:
        logs.log.debug("unexpected", exc_info=True)
        logs.log.error("nisbench: %s", problem(error))
        sys.exit(1)
    except Exception as error:
        logs.log.debug("unexpected", exc_info=True)
        if memory.has_run_out(error):
            logs.log.error("nisbench: %s", memory.advice(None, error))
            sys.exit(1)
        if "no locator available" in str(error):  # numba's
            logs.log.error(
                "nisbench: no place to keep compiled code. Set NUMBA_CACHE_DIR to a folder you may write to."
            )
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


def current_plan(only: str | None = None) -> Plan:
    return resolve_plan(Path(), only=only)


# --- before and after a run -----------------------------------------------------------------------------------


@app.command(rich_help_panel=RUN)
def studies(json: Json = False) -> None:
    """List the studies: title, data sets, how much there is to do, how much is done, and whether the report is current.

    Example: nisbench studies
    """
    from nisbench.commands import plan as command

    command.studies(current_plan(), json)


@app.command(rich_help_panel=RUN)
def plan(
    study: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="A study's name. Without one, the studies are listed.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="Instead of printing, write the ids of each data set's steps into this folder.")
    ] = None,
    cost: Annotated[
        bool, typer.Option(help="Also estimate time, memory and disk: steps are timed here, once, in a minute or two.")
    ] = True,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each search, for the estimate.")] = 1,
    json: Json = False,
) -> None:
    """List a study's steps with their ids, which of them are done, and what the others will take.

    Example: nisbench plan demo
    """
    from nisbench.commands import plan as command

    whole = current_plan()
    if write:
        command.write(whole, write)
    elif study is None:
        command.studies(whole, json)
    else:
        command.run(whole.study(study), threads if cost else None, ALL_CORES, json)


@app.command(rich_help_panel=RUN)
def dvc(
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether the file is up to date; exit 1 if not.")
    ] = False,
) -> None:
    """Write DVC's pipeline, dvc.yaml, from params/: needed when a study or a data set is new.

    Says whether the file was up to date.

    Example: nisbench dvc --check
    """
    from nisbench.commands import dvc as command

    sys.exit(command.run(Path(), check))


@app.command(rich_help_panel=RUN)
def doctor(json: Json = False) -> None:
    """Check this installation: versions, device, threads, memory, disk, git, plug-ins, parameters, ids, data.

    Prints a line for each, with what to do about it. Ends with status 1 if
    something must be fixed before a study can run.

    Example: nisbench doctor
    """
    from nisbench.commands import doctor as command

    sys.exit(command.run(json))


@app.command(rich_help_panel=RUN)
def verify(
    what: Annotated[
        str | None, typer.Argument(metavar="STUDY|ID", help="Only this study's steps, or this one.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Delete what is damaged, so that it is made again.")] = False,
    json: Json = False,
) -> None:
    """Read all files of finished steps, and compare them with the checksums that were taken when they were written.

    Prints what is damaged, and ends with status 1 if anything is.

    Example: nisbench verify demo
    """
    from nisbench.commands import verify as command

    whole = current_plan()
    if what is None:
        steps = list(whole.steps.values())
    else:
        steps = list(whole.study(what).steps.values()) if what in whole.studies else [whole.step(what)]
    sys.exit(command.run(steps, remove, json))


@app.command(rich_help_panel=RUN)
def gc(
    remove: Annotated[bool, typer.Option("--remove", help="Delete what is listed.")] = False,
    json: Json = False,
) -> None:
    """List what takes room in data/ and results/runs/ and is asked for by no study, with sizes.

    Lists finished and half-finished steps, and what killed processes left.
    What another process is at is never deleted. Runs of an overlay are asked
    for only while NISBENCH_PARAMS names it.

    Example: nisbench gc
    """
    from nisbench.commands import gc as command

    command.run(current_plan(), remove, json)


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

Grid = Annotated[str | None, typer.Option(help="Only cells of this grid; '' for those that nothing sets apart.")]
DatasetName = Annotated[str | None, typer.Option("--dataset", help="Only cells of this data set.")]
ModelName = Annotated[str | None, typer.Option("--model", help="Only cells of this model.")]
MethodName = Annotated[str | None, typer.Option("--method", help="Only cells of this method.")]
Rate = Annotated[float | None, typer.Option("--cr", help="Only cells of this compression rate.")]
Seed = Annotated[int | None, typer.Option(help="Only cells of this seed.")]


@app.command(rich_help_panel=LOOK)
def results(
    study: StudyName,
    grid: Grid = None,
    dataset: DatasetName = None,
    model: ModelName = None,
    method: MethodName = None,
    cr: Rate = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Metric or cost; may be given several times. `all` for all; the task's first unless given."),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Sort by a column; from high to low with a minus: --sort=-mean."),
    ] = None,
    by_seed: Annotated[bool, typer.Option("--by-seed", help="A row for each seed, with the id of its run.")] = False,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
) -> None:
    """Print what a study's finished cells measured on test: mean, standard deviation and number of seeds.

    Beside it: the best epoch and the epochs done, and at how many seeds training was cut off by training.max_epochs.

    csv and json have all digits.

    Example: nisbench results demo --model mf --metric mse --sort mean
    """
    from nisbench.commands import results as command
    from nisbench.commands.cells import Filter

    chosen = Filter(grid, dataset, model, method, cr)
    command.show(current_plan().study(study), chosen, metric or [], sort, by_seed, form)


@app.command(rich_help_panel=LOOK)
def compare(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="[STUDY] A B", help="A study and two cells, each MODEL/METHOD@CR, or two ids of prunings."
        ),
    ],
    grid: Grid = None,
    dataset: DatasetName = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="May be given several times; the task's headlines unless given.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare two cells, seed by seed: values, differences, their mean with its 95 % interval, and p of a paired t-test.

    A cell is MODEL/METHOD@CR. The model may be left out where the study has
    one, and the rate where it is 1. What is not paired is named.

    Example: nisbench compare movielens_1m mf/dnis@2 mf/uniform_tuned --grid rating
    """
    from nisbench.commands import results as command
    from nisbench.commands.cells import Filter

    command.compare(current_plan(), what, Filter(grid, dataset), metric or [], json)


@app.command(rich_help_panel=LOOK)
def show(
    what: Annotated[str, typer.Argument(metavar="ID|STUDY", help="A step's id or its beginning, or a study's name.")],
    grid: Grid = None,
    dataset: DatasetName = None,
    model: ModelName = None,
    method: MethodName = None,
    cr: Rate = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Print what is known of a step or a table's cell: settings, result, learning curves, machine, command to repeat it.

    With a study, the options choose its cells: several are listed, one is
    shown. --json prints all that is recorded.

    Example: nisbench show demo --model mf --method dnis --cr 2
    """
    from nisbench.commands import show as command
    from nisbench.commands.cells import Filter

    command.show(current_plan(), what, Filter(grid, dataset, model, method, cr, seed), json)


@app.command(rich_help_panel=LOOK)
def export(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="ID|STUDY CELL FOLDER",
            help="A pruning's id, or a study and a cell (MODEL/METHOD@CR); and the folder to write.",
        ),
    ],
    layout: Annotated[Layout, typer.Option(help="How the table is stored; auto takes the fewest bytes.")] = Layout.auto,
    values: Annotated[Precision, typer.Option(help="The precision of the table's weights.")] = Precision.float32,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write model.onnx. Needs nisbench\\[onnx].")] = False,
    grid: Grid = None,
    dataset: DatasetName = None,
    seed: Seed = None,
) -> None:
    """Write a pruned model into a folder that stands alone: compressed table, network, vocabulary, README.

    nisbench.load_model(FOLDER).predict(frame) reads it, without a checkout.

    Example: nisbench export demo mf/dnis@2 small/ --seed 1 --values int8
    """
    from nisbench.commands import export as command
    from nisbench.commands.cells import Filter

    *named, folder = what
    chosen = Filter(grid, dataset, seed=seed)
    command.run(current_plan(), named, Path(folder), chosen, layout.value, values.value, onnx=onnx)


# --- extend ---------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=LOOK)
def pages(
    into: Annotated[
        Path,
        typer.Option("--into", help="Where the pages go; elsewhere than results/, tables and figures are copied, too."),
    ] = Path("results"),
) -> None:
    """Make the page of every study in results/, and the index over all of them, from the files of their reports alone.

    It needs no runs: what is in git is enough. `nisbench tables` makes a study's own page and the index.

    Example: nisbench pages --into site/results
    """
    from nisbench.report import index

    logs.set_up()
    for path in index.publish(Path("results"), into):
        logs.log.info("%s", path)


@app.command("check-plugin", rich_help_panel=EXTEND)
def check_plugin(file: Annotated[Path, typer.Argument(metavar="FILE", help="A Python file.")]) -> None:
    """Test a method, model, task or data format of your own on tiny data: a line for each claim that all kinds must meet.

    Example: nisbench check-plugin my_method.py
    """
    from nisbench.commands import check_plugin as command

    sys.exit(command.run(file))


@app.command(rich_help_panel=EXTEND)
def new_dataset(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="CSV, TSV, JSON lines or Parquet; or an archive. Several are one table."
        ),
    ],
    validation: Annotated[
        list[Path] | None, typer.Option(help="The file for validation, where the publisher divided the table.")
    ] = None,
    test: Annotated[
        list[Path] | None, typer.Option(help="The file for test, likewise. FILE is then for training.")
    ] = None,
    member: Annotated[str | None, typer.Option(help="The file in the archive.")] = None,
    names: Annotated[
        str | None, typer.Option(help="Its columns' names, separated by commas, if it has none or repeats one.")
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option("--header/--no-header", help="Whether its first line names them; else that is guessed."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The data set's name; else it is called like the file.")] = None,
    label: Annotated[str | None, typer.Option(help="The column to predict; else it is guessed.")] = None,
    output: Annotated[Path | None, typer.Option(help="The overlay to write; else NAME.yaml.")] = None,
) -> None:
    """Look at a table's head and write an overlay with a data set and a study of it, for you to check and correct.

    Every guess has a comment that says what it rests on. The command that runs
    the study is printed.

    Example: nisbench new-dataset ratings.csv
    """
    from nisbench.commands import new_dataset as command

    command.run(
        files, validation=validation or (), test=test or (),
        member=member, names=names, header=header, name=name, label=label, output=output,
    )  # fmt: skip


# --- steps ----------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=STEPS)
def download(step_id: Id, log: Log = None) -> None:
    """Fetch a data set's archive and check its MD5 sum.

    Progress goes to stderr.

    Example: nisbench download 6d1f0a
    """
    _run("download", step_id, log)


@app.command(rich_help_panel=STEPS)
def prepare(step_id: Id, log: Log = None) -> None:
    """Turn an archive into instances, or generate them.

    Progress goes to stderr.

    Example: nisbench prepare 6d1f0a
    """
    _run("prepare", step_id, log)


@app.command(rich_help_panel=STEPS)
def split(step_id: Id, log: Log = None) -> None:
    """Divide instances into train, validation and test.

    Progress goes to stderr.

    Example: nisbench split 6d1f0a
    """
    _run("split", step_id, log)


@app.command(rich_help_panel=STEPS)
def block(step_id: Id, log: Log = None) -> None:
    """Count each feature's frequency in train and put features into blocks.

    Progress goes to stderr.

    Example: nisbench block 6d1f0a
    """
    _run("block", step_id, log)


@app.command(rich_help_panel=STEPS)
def search(step_id: Id, threads: Threads = ALL_CORES, log: Log = None, study: OfStudy = None) -> None:
    """Train a model under every selection that a method proposes; validation picks one.

    Trials are saved as they end: after a kill, the same command resumes.
    Progress goes to stderr: each trial's loss and time, and every 15 seconds
    the epoch, the best one and the patience. Where `nisbench plan STUDY` has
    estimated it, the first line says how long this and the rest will take.

    Example: nisbench search 6d1f0a --threads 2
    """
    _run("search", step_id, log, threads, study)


@app.command(rich_help_panel=STEPS)
def prune(step_id: Id, threads: Threads = ALL_CORES, log: Log = None, study: OfStudy = None) -> None:
    """Prune a search's result at one compression rate, derive the dimension scheme, and measure it on test.

    Progress goes to stderr; `nisbench show ID` prints what was measured.

    Example: nisbench prune 6d1f0a
    """
    _run("prune", step_id, log, threads, study)


@app.command(rich_help_panel=STEPS)
def tables(
    study: StudyName,
    log: Log = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Of what is done: the rest is marked as failed, with the reason.")
    ] = False,
) -> None:
    """Assemble a study's tables, figures and page from its runs, into results/STUDY/. It takes a study, not an id.

    Names each file as it is made, on stderr. Where some runs cannot be made,
    --partial makes the tables of the others. Snakemake does so at its end.

    Example: nisbench tables demo
    """
    from nisbench.execution import at_work, delete_leftovers
    from nisbench.report import build
    from nisbench.report.outputs import is_current

    logs.set_up(log, f"tables {study}")
    plan = current_plan(study).study(study)
    with at_work(plan.folder, plan.steps.values()) as waited:
        if waited and is_current(plan):
            logs.log.info("already finished by another process")
            return
        delete_leftovers(plan.folder)
        delete_leftovers(plan.folder / "curves")
        build.run(plan, partial)


def _run(name: StepName, step_id: str, log: Path | None, threads: int = 1, study: str | None = None) -> None:
    from nisbench.cost import remaining
    from nisbench.execution import run_step

    logs.set_up(log)
    whole = current_plan(study)
    step = whole.step(step_id, name)
    logs.set_up(log, f"{step.dataset} {step.label or step.name} {step.id[:4]}")
    if name == "search":
        for line in remaining.lines(whole, step):
            logs.log.info("%s", line)
    run_step(step, threads)
