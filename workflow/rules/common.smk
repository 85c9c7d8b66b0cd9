"""The plan, and what rules say of their inputs."""

import gc
import os
import sys
from difflib import get_close_matches
from functools import cache, lru_cache
from os.path import exists
from pathlib import Path
from shlex import quote

# The code beside the parameters is what runs, whichever is installed: in a git worktree, in a second clone, and in the
# copy that DVC makes for a queued experiment.
SOURCE = Path("src").resolve()
if (SOURCE / "nisbench").is_dir():
    sys.path.insert(0, str(SOURCE))
    CODE_PATH = "PYTHONPATH"  # of jobs
    os.environ[CODE_PATH] = os.pathsep.join(
        filter(None, [str(SOURCE), os.environ.get(CODE_PATH)])
    )

from nisbench import checkout
from nisbench.cost.resources import resources_of
from nisbench.errors import NisbenchError
from nisbench.files import check_writable, problem
from nisbench.params.kinds import VARIABLE as PLUGINS_VARIABLE
from nisbench.params.loading import OVERLAYS_VARIABLE
from nisbench.records import done
from nisbench.steps import ID_LENGTH, STAGES
from nisbench.studies import plan

if config:
    sys.exit(
        f"nisbench: --config and --configfile are not used ({', '.join(config)}): Snakemake, DVC and the command line "
        f"read the same parameters.\nPut the values into a YAML file of the same keys as params/, and name it: "
        f"{OVERLAYS_VARIABLE}=FILE snakemake ..."
    )

try:
    checkout.check(Path())
    check_writable(Path(".snakemake"))
    PLAN = plan(Path())
except NisbenchError as error:
    sys.exit(f"nisbench: {error}")
except OSError as error:
    sys.exit(f"nisbench: {problem(error)}")

# Plans live as long as this process, and so does Snakemake's graph: looking for garbage in them took a sixth of the time.
gc.freeze()
gc.set_threshold(200_000, 20, 20)

# `nisbench` is beside this Python, whether or not the environment is activated.
shell.prefix(f'export PATH={quote(str(Path(sys.executable).parent))}:"$PATH"; ')

for _variable in {OVERLAYS_VARIABLE, PLUGINS_VARIABLE} & os.environ.keys():

    envvars:
        _variable,


wildcard_constraints:
    dataset="[a-z][a-z0-9_-]*",
    label="[a-z0-9_.-]+",
    id=f"[0-9a-f]{{{ID_LENGTH}}}",


STUDY_OF = {
    id: study.name
    for study in sorted(PLAN.studies.values(), key=lambda study: -len(study.cells))
    for id in study.steps
}
"""The smallest study that asks for a step: its job plans that one only."""


@cache
def made_by(step, *files):
    """Files made by another step. Their times say nothing (`ancient`): the id in the path does."""
    return ancient(asked_for(step, *(str(step.path(file)) for file in files)))


def asked_for(step, *paths):
    """What to ask Snakemake for, to have these files of a step: its record, which is written last, stands for them.

    Each file that a job reads costs Snakemake about as much as a third of a job. So the others are named only if they are lost
    while the record is there, and must be made again.
    """
    lost = [path for path in paths if not exists(path)] if exists(step.record) else []
    return [*lost, str(step.record)]


def stage_of(dataset, names):
    """The files of a data set's steps of these names, as a function for a rule's input."""
    return lambda wildcards: [
        path
        for step in PLAN.of_dataset(dataset, *names)
        for path in asked_for(step, *step.paths()[:-1])
    ]


def read_by(name, **files):
    """What steps of this name read of each step that they need, as a function for a rule's input.

    A step that is done reads nothing. Otherwise Snakemake, where it must make anew what such a step once read, would
    delete the step's files and do it again, with all its trials.
    """

    def inputs(wildcards):
        check_settings()
        step = PLAN.step(wildcards.id, name)
        finished = done(step)
        if not finished:
            will_write(step.folder)
        if finished and not planned_anew():
            return {}
        return {
            need: made_by(needed, *files[need]) for need, needed in step.needs.items()
        }

    return inputs


asked_of = lru_cache(maxsize=1)(resources_of)
"""Snakemake asks for a job's resources one after another."""


def needed(name):
    """How much of a resource a step asks for, as a function for a rule's resources. What failed may need more memory or time.

    Beside these, rules have the resource `in_turn`, by which a cluster's profile has the jobs of a group run one by one.
    """

    def amount(wildcards, attempt):
        found = getattr(asked_of(PLAN.steps[wildcards.id]), name)
        return found if name == "gpu" else found * attempt

    return amount


NEEDED = {
    "rerun-triggers": "mtime",
    "nolock": "true",
    "ignore-incomplete": "true",
    "keep-incomplete": "true",
}
"""What profiles/default says and every other profile must say. By Snakemake's own rules, a finished search is deleted
and done again if its list of inputs is another than last time, or its Snakemake was killed, or a clock is wrong."""


def check_settings():
    """Stop before anything is deleted if a profile or an option replaces what keeps finished runs.

    Snakemake knows its settings only once it has read the Snakefile: this is called from input functions, and at the start.
    """
    run = workflow.execution_settings
    if run is None or not workflow.is_main_process:
        return
    found = {
        "rerun-triggers": " ".join(
            sorted(each.name.lower() for each in workflow.dag_settings.rerun_triggers)
        ),
        "nolock": str(not run.lock).lower(),
        "ignore-incomplete": str(run.ignore_incomplete).lower(),
        "keep-incomplete": str(run.keep_incomplete).lower(),
    }
    if found != NEEDED:
        wrong = ", ".join(
            f"{key}: {value}" for key, value in found.items() if value != NEEDED[key]
        )
        lines = "".join(f"\n    {key}: {value}" for key, value in NEEDED.items())
        sys.exit(
            f"nisbench: With these settings ({wrong}) Snakemake would delete finished searches and train them again. "
            "Nothing was changed.\nPut these lines into your profile's config.yaml, or leave out --workflow-profile and "
            f"--rerun-triggers:{lines}"
        )


WRITABLE = set()
"""Folders that were found to be."""


def will_write(*folders):
    """Stop, before any job begins, if a folder may not be written to. A dry run writes nothing."""
    if workflow.execution_settings is None or workflow.dryrun:
        return
    try:
        for folder in folders:
            there = next(
                (each for each in [folder, *folder.parents] if each.exists()), folder
            )
            if there not in WRITABLE:
                check_writable(there)
                WRITABLE.add(there)
    except NisbenchError as error:
        sys.exit(f"nisbench: {error}")


def planned_anew():
    """Whether what is done does not count: rules are forced, or nothing is run at all, as for a report or a graph."""
    asked = workflow.dag_settings
    return workflow.execution_settings is None or bool(
        asked.forceall or asked.forcerun or asked.forcetargets
    )


def no_such_target(wildcards):
    """Stop, and list what there is. Snakemake would only say that no rule produces it."""
    targets = [rule.name for rule in workflow.rules if not rule.has_wildcards()]
    close = get_close_matches(wildcards.target, targets, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    sys.exit(
        f"nisbench: There is no target {wildcards.target!r}.{meant}\n"
        f"Studies: {', '.join(PLAN.studies)}. A study of your own is in params/studies/ or in a file that {OVERLAYS_VARIABLE} names.\n"
        f"Stages of a data set: {', '.join(f'{stage}_DATASET' for stage in STAGES)}. Data sets: {', '.join(PLAN.datasets)}."
    )
