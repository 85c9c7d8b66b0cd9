"""All that is to be known of a card, in one command: `nisbench bench --device cuda`.

Everything is generated. What is found is kept as it is found: where time runs out, the rest is left out, and the report says so.
"""

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from tabulate import tabulate

from benchmarks import limits, textbook
from benchmarks.cases import SHAPES, Mode, settings_of
from nisbench.cost import shapes
from nisbench.cost.shapes import Shape
from nisbench.cost.steps import TimedTraining, per, search_in
from nisbench.files import write_json
from nisbench.machine import device as held_device
from nisbench.machine import peak_memory_mib, provenance
from nisbench.params.datasets import Archive
from nisbench.params.loading import load
from nisbench.run_files import read_search
from nisbench.steps import block_step, search_step
from nisbench.wiring import WORK

CASES = (("movielens_20m", "mf"), ("criteo", "fm"), ("criteo", "deepfm"))
MODES: tuple[Mode, ...] = ("plain", "dnis")

LOSS_TOLERANCE = 1e-4
"""Relative, of the losses of a few steps on the card and on a CPU: sums of another order."""
WEIGHT_TOLERANCE = 1e-2
"""The distance between the embeddings after those steps, over the way that they have gone. Adam divides by the root of the second
moment: where a gradient is all but 0, its rounding errors are steps."""
COMPARED_STEPS, COMPARED_BATCH = 12, 512

COMPILE_SECONDS = 60
"""That torch.compile may take for one model, at most."""


@dataclass(frozen=True)
class Work:
    """What is measured, and how long it may take."""

    device: str
    threads: int
    k: int = 64
    batch_size: int = 4096
    steps: int = 64
    """Of a round; their instances are generated."""
    rounds: int = 5
    minutes: float = 6.0
    compiled: bool = True
    study: str | None = "paper"
    movielens_1m: Path | None = None


class Report:
    """What was found so far, in a file."""

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self.found = path, dict[str, Any]()
        self.end = time.monotonic() + 60 * minutes

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def add(self, key: str, value: Any) -> None:
        self.found[key] = value
        write_json(self.path, self.found)

    def leave_out(self, what: str) -> None:
        self.add("left_out", [*self.found.get("left_out", []), what])


def measured(work: Work, path: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure a card, and write what is found to `path` as it is found."""
    report = Report(path, work.minutes)
    report.add("when", datetime.now(UTC).strftime("%Y-%m-%d %H:%M"))
    with held_device(work.device, work.threads) as device:
        report.add("machine", provenance(device).model_dump(mode="json"))
        machine = limits.measure(device)
        report.add("bandwidth", machine.bandwidth)
        report.add("peak", machine.peak)
        report.add("tf32_peak", _with_tf32(lambda: limits.measure(device).peak) if device.type == "cuda" else None)
        say(
            f"{report.found['machine']['device']}: {machine.bandwidth / 1e9:,.0f} GB/s, {machine.peak / 1e12:.2f} TFLOP/s"
        )
        report.add("equality", [compared(*case, mode, work.k, device) for case in CASES for mode in MODES])
        for each in report.found["equality"]:
            say(
                f"{each['shape']} {each['model']} {each['mode']}: losses {each['losses']:.1e}, weights {each['weights']:.1e} from a CPU's"
            )
        records: list[dict[str, Any]] = []
        for case in CASES:
            for record in timed(*case, machine, work, device):
                records.append(record)
                report.add("records", records)
                say(
                    f"{record['shape']} {record['model']} {record['mode']}: {record['instances_per_second']:,.0f} instances/s"
                )
        for case in CASES:
            others = baselines(*case, work, device, report)
            for record in records:
                if (record["shape"], record["model"]) == case:
                    record.update({name: rate for name, rate in others.items() if rate})
                    if others.get("textbook"):
                        record["ratio"] = record["instances_per_second"] / others["textbook"]
            report.add("records", records)
    torch.cuda.empty_cache()
    if work.movielens_1m:  # these take the card for themselves
        report.add("search", real_search(work.movielens_1m, work.device))
    if work.study:
        report.add("study", projected(work.study, report))
    report.add("seconds", 60 * work.minutes - report.left)
    return report.found


# --- steps ----------------------------------------------------------------------------------------------------


def timed(
    shape_name: str, model: str, machine: limits.Machine, work: Work, device: torch.device
) -> Iterator[dict[str, Any]]:
    """A record per mode, with the columns of the ledger and some more."""
    shape, rates = SHAPES[shape_name], dict[str, float]()
    modes: list[tuple[str, Mode]] = [(mode, mode) for mode in MODES]
    if device.type == "cuda" and model == "deepfm":
        modes.append(("plain, tf32", "plain"))
    for name, mode in modes:
        with_precision = _with_tf32 if name.endswith("tf32") else _as_it_is
        rate, eager, captured, peak = with_precision(partial(_rate, shape, model, mode, work, device))
        rates[name] = rate
        data = shapes.generate(shape, work.steps * work.batch_size, device)
        least = limits.seconds(machine, model, shape, data, work.k, work.batch_size, mode) / work.batch_size
        yield {
            "shape": shape_name, "model": model, "k": work.k, "batch_size": work.batch_size, "threads": work.threads, "mode": name,
            "instances_per_second": rate, "textbook": None, "ratio": None, "of_plain": rates["plain"] / rate,
            "fused_of_alone": None, "of_limit": rate * least, "of_products": None, "peak_mib": peak,
            "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"), "device": provenance(device).device, "torch": torch.__version__,
            "bandwidth": machine.bandwidth, "peak": machine.peak,
            "captured": captured, "not_captured": eager, "compiled": None,
        }  # fmt: skip


def _rate(
    shape: Shape, model: str, mode: Mode, work: Work, device: torch.device
) -> tuple[float, float | None, bool, float]:
    """Instances per second, those without capturing, whether steps were captured, and peak memory in MiB."""
    search = search_in(shape, settings_of(model, mode, work.k, work.batch_size), device, work.steps)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    training = TimedTraining(search, search.specs()[:1])
    instances = work.steps * work.batch_size

    def steps() -> int:
        training.steps()
        return instances

    steps()  # warms up, and captures
    rate = 1 / statistics.median(per(steps) for _ in range(work.rounds))
    captured, peak, eager = training.loop.replay is not None, peak_memory_mib(device), None
    if captured:
        training.loop.captures = False
        steps()
        eager = 1 / per(steps)
    return rate, eager, captured, peak


def baselines(shape_name: str, model: str, work: Work, device: torch.device, report: Report) -> dict[str, float | None]:
    """Instances per second of a textbook's loop, and of one that torch compiles."""
    shape = SHAPES[shape_name]
    data = shapes.generate(shape, work.steps * work.batch_size, device)
    on_cpu = type(data)(data.ids.cpu(), data.labels.cpu(), None if data.values is None else data.values.cpu())
    found: dict[str, float | None] = {}
    loops: dict[str, Callable[[], Iterator[int]]] = {
        "textbook": partial(textbook.steps, model, shape, on_cpu, work.k, work.batch_size, device)
    }
    if work.compiled:
        loops["compiled"] = partial(textbook.compiled_steps, model, shape, data, work.k, work.batch_size, device)
    for name, begin in loops.items():
        if report.left < COMPILE_SECONDS:
            report.leave_out(f"{name}: {shape_name} {model}")
            continue
        loop = begin()
        try:
            sum(itertools.islice(loop, 3))  # warms up, and compiles
            count = 8 if name == "textbook" else work.steps
            found[name] = 1 / per(partial(_sum_of, loop, count))
        except RuntimeError as error:  # no compiler
            report.leave_out(f"{name}: {shape_name} {model}: {' '.join(str(error).split())[:200]}")
    return found


def _sum_of(loop: Iterator[int], count: int) -> int:
    return sum(itertools.islice(loop, count))


def _as_it_is(work: Callable[[], Any]) -> Any:
    return work()


def _with_tf32(work: Callable[[], Any]) -> Any:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return work()
    finally:
        torch.set_float32_matmul_precision(before)


# --- equality -------------------------------------------------------------------------------------------------


def compared(shape_name: str, model: str, mode: Mode, k: int, device: torch.device) -> dict[str, Any]:
    """How far a few steps on this device end from those on a CPU."""
    shape = shapes.of_rows_read(SHAPES[shape_name], k)
    ends = []
    for each in (torch.device("cpu"), device):
        search = search_in(shape, settings_of(model, mode, k, COMPARED_BATCH), each, COMPARED_STEPS)
        training = TimedTraining(search, search.specs()[:1])
        training.order = torch.randperm(len(training.order), generator=torch.Generator().manual_seed(1)).to(each)
        before = training.recommender.selected.weight.detach().cpu().clone()
        training.steps()
        training.sync()
        ends.append((training.loop.step_losses().cpu(), training.recommender.selected.weight.detach().cpu(), before))
    (losses, weights, before), (other_losses, other_weights, _) = ends
    apart = float(((other_losses - losses) / losses).abs().max())
    distance = float((other_weights - weights).norm() / (weights - before).norm())
    equal = apart <= LOSS_TOLERANCE and distance <= WEIGHT_TOLERANCE
    return {"shape": shape_name, "model": model, "mode": mode, "losses": apart, "weights": distance, "equal": equal}


# --- searches -------------------------------------------------------------------------------------------------


def real_search(archive: Path, device: str) -> dict[str, Any]:
    """MF's search by DNIS on MovieLens-1M, whose archive is at hand."""
    params = load(Path.cwd(), overlays=[]).params
    dataset = cast(Archive, params.datasets["movielens_1m"]).model_copy(update={"url": str(archive)})
    with tempfile.TemporaryDirectory() as folder:
        block = block_step(dataset, params.tasks["rating"], Path(folder))
        training = params.training.model_copy(update={"device": device})
        search = search_step(block, params.tasks["rating"], params.models["mf"], params.methods["dnis"], training, 1)
        for step in search.upstream():
            step.folder.mkdir(parents=True, exist_ok=True)
            WORK[step.name](step, 1)
        found = read_search(search.path("run")).best
    assert found is not None
    return {"validation_loss": found.validation_loss, "epochs": found.epochs, "seconds": found.seconds}


def projected(study: str, report: Report) -> dict[str, Any] | None:
    """Hours of a study's searches one by one, and of the longest; None where they cannot be timed in the time that is left."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "nisbench", "plan", study, "--json"], stdout=subprocess.PIPE, text=True,
            timeout=max(1.0, report.left), check=True,
        )  # fmt: skip
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        report.leave_out(f"the projection of {study}: {error}; `nisbench plan {study}` goes on where it stopped")
        return None
    searches = json.loads(done.stdout).get("cost", {}).get("searches", [])
    hours = [each["seconds"] / 3600 for each in searches]
    return {"name": study, "searches": len(hours), "hours": sum(hours), "longest": max(hours, default=0.0)}


# --- what is printed ------------------------------------------------------------------------------------------


def shown(found: dict[str, Any]) -> str:
    """What was found, as Markdown."""
    heads = ["shape", "model", "mode", "instances/s", "ms / step", "x textbook", "x compiled", "x not captured", "time / plain",
             "time / limit", "peak memory"]  # fmt: skip
    body = [
        [r["shape"], r["model"], r["mode"], f"{r['instances_per_second']:,.0f}", f"{1e3 * r['batch_size'] / r['instances_per_second']:.3f}",
         *(_ratio(r, name) for name in ("textbook", "compiled", "not_captured")), f"{r['of_plain']:.2f}", f"{1 / r['of_limit']:.1f}",
         f"{r['peak_mib']:,.0f} MiB"]
        for r in found["records"]
    ]  # fmt: skip
    wrong = [each for each in found["equality"] if not each["equal"]]
    lines = [
        f"{found['machine']['device']}, torch {found['machine']['packages']['torch']}, {found['when']}: "
        f"{found['bandwidth'] / 1e9:,.0f} GB/s, {found['peak'] / 1e12:.2f} TFLOP/s"
        + (f", with tf32 {found['tf32_peak'] / 1e12:.0f}" if found["tf32_peak"] else ""),
        "",
        tabulate(
            body, heads, tablefmt="pipe", disable_numparse=True, colalign=["left"] * 3 + ["right"] * (len(heads) - 3)
        ),
        "",
        f"After {COMPARED_STEPS} steps on the card and on a CPU, losses are within {LOSS_TOLERANCE:g} and embeddings within "
        f"{WEIGHT_TOLERANCE:g} of the way that they have gone: "
        + (f"NOT in {wrong}" if wrong else "in all cases")
        + ".",
    ]
    if search := found.get("search"):
        lines.append(
            f"MovieLens-1M, MF by DNIS: {search['epochs']} epochs in {search['seconds']:.1f} s, {search['validation_loss']:.5f}"
        )
    if study := found.get("study"):
        lines.append(
            f"{study['name']}: {study['hours']:.2f} hours for {study['searches']} searches one by one on this card"
        )
    return "\n".join([*lines, *(f"left out: {each}" for each in found.get("left_out", []))])


def _ratio(record: dict[str, Any], name: str) -> str:
    return f"{record['instances_per_second'] / record[name]:.1f}" if record[name] else "-"
