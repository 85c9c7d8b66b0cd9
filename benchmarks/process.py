"""`python -m benchmarks.process FILE COMMAND ...`: run a command to its end and write what it took to a file, as JSON.

It is a process of its own and imports little, because on Linux a process's peak of memory begins at what the one that started it holds.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main(file: str, *command: str) -> None:
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    taken = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "system_seconds": used.ru_stime,
        "peak_mib": used.ru_maxrss / 2**10,
        "exit_status": process.returncode,
    }
    Path(file).write_text(json.dumps(taken), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
