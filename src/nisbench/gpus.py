"""The GPUs that this process may use, found without torch."""

import os
import re
import shutil
import subprocess

VARIABLE = "CUDA_VISIBLE_DEVICES"
"""Set by hand, by Slurm for each job, or by a container."""

INSTANCE = "MIG-"
"""Names of parts of a GPU (multi-instance GPU) begin so. CUDA shows a process only the first one that it may use."""


def visible() -> list[str]:
    """Their names or numbers, as the variable takes them: those that it lists, or else all of this machine."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        names = [name.strip() for name in chosen.split(",") if name.strip()]
        return names[: names.index("-1")] if "-1" in names else names
    found: list[str] = []
    for kind, uuid in re.findall(r"^\s*(GPU|MIG)\b.*\(UUID: ([^)]+)\)", _listed(), re.MULTILINE):
        if kind == "MIG" and found and found[-1].startswith("GPU-"):
            found.pop()  # the GPU that is divided
        found.append(uuid)
    return found


def _listed() -> str:
    """What the driver's own program lists; empty where there is none."""
    program = shutil.which("nvidia-smi")
    if not program:
        return ""
    try:
        return subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
