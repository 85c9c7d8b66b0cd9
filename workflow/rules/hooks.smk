"""One Snakemake at a time in a checkout, and what is said when it ends.

The lock is of the kind that the kernel frees when its holder dies, however it dies. Snakemake's own is not, and so is
turned off (`nolock`, in the profile). Hooks run in the main process only, when there are jobs to run: dry runs and the
jobs that a cluster runs here take no lock. A job that outlives its Snakemake keeps a lock of its own on its step.
"""

import shlex
import socket
import time

from filelock import FileLock, Timeout

from nisbench.files import write_text

LOCK = FileLock(Path(".snakemake", "nisbench.lock").absolute())
HOLDER = Path(LOCK.lock_file).with_suffix(".holder")


onstart:
    try:
        LOCK.acquire(timeout=0)
    except Timeout:
        holder = HOLDER.read_text() if HOLDER.exists() else "it has just begun"
        sys.exit(
            f"nisbench: another snakemake is at work here: {holder}\n"
            "Wait until it has ended, or end it (Ctrl-C where it runs; kill and its process's number lets jobs at work end first). "
            "Then give the same command again. Nothing was changed."
        )
    write_text(
        HOLDER,
        f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}: "
        f"{shlex.join(sys.argv)}",
    )


onsuccess:
    for study in PLAN.studies.values():
        if study.name in (workflow.dag_settings.targets or ["paper"]):
            page = study.folder / "README.md"
            print(
                f"nisbench: The page of {study.name}: {page} (in a browser: {page.with_name('page.html')})",
                file=sys.stderr,
            )


onerror:
    print(
        "nisbench: Some jobs failed. Finished jobs are kept; rerun the same command to continue. A failed job says why in its log, "
        "named above. A job that was killed without a message usually ran out of memory: ask for fewer --cores.",
        file=sys.stderr,
    )
