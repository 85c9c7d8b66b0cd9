"""One Snakemake at a time on a folder of runs, and what is said when it ends.

The lock is of the kind that the kernel frees when its holder dies, however it dies. Snakemake's own is not, and so is
turned off (`nolock`, in the profile). It lies in results/runs/, so clones that share that folder take turns: before a
job, Snakemake deletes its outputs, even those that another has made since the plan. Hooks run in the main process only,
when there are jobs to run: dry runs and the jobs that a cluster runs here take no lock. A job that outlives its
Snakemake keeps a lock of its own on its step.
"""

import shlex
import socket
import subprocess
import time

from nisbench import locks
from nisbench.files import write_text
from nisbench.records import failure

HOLDER = locks.SNAKEMAKE.with_suffix(".holder")


def hold_the_lock(wait):
    """Take the lock, and keep it to the end. If another has it, wait for its end or stop."""
    global HELD
    try:
        HELD = locks.take(locks.SNAKEMAKE)
        if HELD is None:
            holder = HOLDER.read_text() if HOLDER.exists() else "it has just begun"
            at_work = f"nisbench: another snakemake is at work here: {holder}"
            if not wait:
                sys.exit(
                    f"{at_work}\nWait until it has ended, or end it (Ctrl-C where it runs; kill and its process's number "
                    "lets jobs at work end first). Then give the same command again. Nothing was changed."
                )
            print(f"{at_work}\nWaiting for it to end.", file=sys.stderr, flush=True)
            HELD = locks.take(locks.SNAKEMAKE, wait=True)
        if option := locks.of_one_machine(HOLDER.parent):
            print(
                f"nisbench: {HOLDER.parent} is mounted with {option}: a snakemake on another machine would not be noticed. "
                "Start none there until this has ended.",
                file=sys.stderr,
            )
        write_text(
            HOLDER,
            f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}: "
            f"{shlex.join(sys.argv)}",
        )
    except NisbenchError as error:
        sys.exit(f"nisbench: {error}")


# A Snakemake that DVC started goes on when DVC alone is killed. The next one that DVC starts waits for it, and only then
# makes its plan.
if "DVC_STAGE" in os.environ and workflow.is_main_process:
    hold_the_lock(wait=True)


onstart:
    check_settings()
    if "HELD" not in globals():
        hold_the_lock(wait=False)


onsuccess:
    for study in PLAN.studies.values():
        if study.name in (workflow.dag_settings.targets or ["paper"]):
            page = study.folder / "README.md"
            print(
                f"nisbench: The page of {study.name}: {page} (in a browser: {page.with_name('page.html')})",
                file=sys.stderr,
            )


onerror:
    for study in PLAN.studies.values():
        asked = study.name in (workflow.dag_settings.targets or ["paper"])
        if asked and any(failure(step).exists() for step in study.steps.values()):
            subprocess.run(
                [
                    Path(sys.executable).parent / "nisbench",
                    "tables",
                    study.name,
                    "--partial",
                ]
            )
    print(
        "nisbench: Some jobs failed. Finished jobs are kept; rerun the same command to continue. A failed job says why in its log, "
        "named above. A job that was killed without a message usually ran out of memory: ask for fewer --cores.",
        file=sys.stderr,
    )
