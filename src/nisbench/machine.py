"""The machine a step runs on: its device, its threads, and what is recorded of it beside every result."""

import ctypes
import os
import platform
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import cast

import psutil
import torch

from nisbench import gpus, locks
from nisbench.errors import NisbenchError
from nisbench.logs import log
from nisbench.params.training import Precision
from nisbench.run_files import Machine, Packages

RECORDED_PACKAGES = ("nisbench", "numba", "numpy", "pyarrow", "scipy", "torch")


@contextmanager
def device(
    setting: str, threads: int | None = None, deterministic: bool = False, precision: Precision = "float32"
) -> Iterator[torch.device]:
    """The torch device that `setting` (auto, cpu, cuda, cuda:INDEX) means, with torch held to `threads`.

    With `deterministic`, a GPU sums in one order only; torch refuses what has none. `precision` is that of its matrix products.

    Snakemake does not say which GPU a job may use. On a machine of several, each job therefore locks one until it is
    done, and waits while all are taken. Only those that CUDA_VISIBLE_DEVICES lets through are there to be locked, parts of a GPU
    (MIG) among them.
    """
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    if setting == "cpu":
        with denormals_flushed():
            yield torch.device("cpu")
        return
    with denormals_flushed(), _one_instance() as held:
        wanted = check(setting)
        if not wanted:
            yield torch.device("cpu")
            return
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
        by_name = {str(torch.cuda.get_device_properties(index).uuid): index for index in wanted}
        with (
            torch_modes(deterministic, precision),
            nullcontext(next(iter(by_name))) if held else _one_of(list(by_name)) as name,
        ):
            index = by_name[name]
            torch.cuda.set_device(index)
            yield torch.device("cuda", index)


@contextmanager
def torch_modes(deterministic: bool, precision: Precision) -> Iterator[None]:
    """Set how torch sums and multiplies matrices; then what the process had before, for whoever called us."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    products = torch.get_float32_matmul_precision()
    torch.use_deterministic_algorithms(deterministic)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.set_float32_matmul_precision(products)


def keep_freed_memory() -> None:
    """Have memory that is freed kept for the next step's tensors, and large tensors lie in large pages.

    Otherwise the kernel clears each page of 4 KiB again at every step, and reading a table's rows looks up page after page.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch when it makes its first tensor; Linux only
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD: larger blocks are mapped one by one; 32 MiB is the most there is
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: free memory at the heap's end that is kept


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Have a CPU take numbers below 1.2e-38 for 0, in this thread and in those that torch starts from it, which stay so.

    Under an L2 penalty, weights behind hidden units that no longer respond shrink for ever. A CPU works on such small numbers in
    microcode: once they were 2 % of its weights, an epoch of Wide&Deep took ten times as long.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def check(setting: str) -> list[int]:
    """The indices of the GPUs that `setting` allows; none means the CPU. Raises `NisbenchError` if it asks for what is not there."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if setting == "cpu" or (setting == "auto" and count == 0):
        return []
    wanted = [int(setting.split(":")[1])] if ":" in setting else list(range(count))
    if not wanted or max(wanted) >= count:
        present = ", ".join(["cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(count))])
        raise NisbenchError(f"training.device: there is no {setting} on this machine. There is: {present}.")
    return wanted


@contextmanager
def _one_instance() -> Iterator[bool]:
    """Where there are several parts of GPUs, of which CUDA shows a process the first only: have it show one that is locked.

    Whether there are.
    """
    before, names = os.environ.get(gpus.VARIABLE), gpus.visible()
    if len(names) < 2 or not all(name.startswith(gpus.INSTANCE) for name in names) or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        yield False
        return
    with _one_of(names) as name:
        os.environ[gpus.VARIABLE] = name
        try:
            yield True
        finally:
            if before is None:
                del os.environ[gpus.VARIABLE]
            else:
                os.environ[gpus.VARIABLE] = before


@contextmanager
def _one_of(names: list[str]) -> Iterator[str]:
    """One of several GPUs, by its unique name, that no other job of this user holds."""
    folder = Path(tempfile.gettempdir(), f"nisbench-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    waiting = False
    while True:
        for name in names:
            lock = locks.take(folder / f"{name.replace('/', '_')}.lock")
            if lock is None:
                continue
            try:
                yield name
            finally:
                lock.release()
            return
        if not waiting:
            log.info("waiting for a free GPU (all are held by other jobs of this user)")
            waiting = True
        time.sleep(1)


def peak_memory_mib(used: torch.device) -> float:
    """Most memory held so far: by the process on a CPU, by torch's tensors on a GPU."""
    if used.type == "cuda":
        return torch.cuda.max_memory_allocated(used) / 2**20
    status = Path("/proc/self/status")
    own = re.search(r"VmHWM:\s*(\d+)", status.read_text()) if status.exists() else None
    if own:  # what getrusage says begins, on Linux, at what the process that started this one held
        return int(own[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


class OtherLoad:
    """How busy other processes keep the machine's cores, from when it is made."""

    def __init__(self) -> None:
        self.before = _processor_seconds()

    def share(self) -> float | None:
        """Of all cores, from 0 to 1; None where the system does not tell (some sandboxes count nothing)."""
        busy, idle, own = (now - before for now, before in zip(_processor_seconds(), self.before, strict=True))
        return min(1.0, max(0.0, busy - own) / (busy + idle)) if busy + idle > 0 and busy >= own / 2 else None


def _processor_seconds() -> tuple[float, float, float]:
    """Seconds of all cores, busy and idle, and of them this process's own."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted in user and nice, too
    return sum(times) - guests - idle, idle, time.process_time()


def provenance(used: torch.device) -> Machine:
    """The machine that this runs on, as results record it."""
    return Machine(
        device=torch.cuda.get_device_name(used) if used.type == "cuda" else _processor(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages=cast(Packages, {name: version(name) for name in RECORDED_PACKAGES}),
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = cpuinfo.read_text().split("model name\t: ")[1:] if cpuinfo.exists() else []
    return f"CPU: {names[0].splitlines()[0] if names else platform.processor() or platform.machine()}"
