"""`python -m benchmarks.fullsize FOLDER --rows N`: the pipeline step by step on generated clicks, as large as Criteo's.

Each step runs in a process of its own, of which time, memory and output are measured. What is done is kept in FOLDER, so the same
command goes on where it was stopped. Lines have Criteo's layout. A field's tokens are as many, and as unevenly frequent, as in
Criteo's 45.8 million lines; fewer lines have as many of them as so many lines of the log would.
"""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import typer
import yaml
from scipy.optimize import brentq
from scipy.stats import poisson
from tabulate import tabulate

from nisbench.files import atomic_write, read_json, write_json
from nisbench.params.loading import OVERLAYS_VARIABLE
from nisbench.progress import Ticker, share

ROOT = Path(__file__).parents[1]
NISBENCH = [sys.executable, "-c", "from nisbench.cli import main; main()"]
ROWS = 45_840_617
"""Of Criteo's log."""
ROWS_AT_ONCE = 1 << 18
KEPT = 2_065_195
"""Features of Criteo's log, as params/ prepares it: tokens of at least `MIN_COUNT` occurrences, and others."""
MIN_COUNT = 5

TOKENS = (
    1_460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5_683, 8_351_593, 3_194, 27, 14_992, 5_461_306, 10, 5_652,
    2_173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572,
)  # fmt: skip
"""Different tokens of each field of Criteo's log, as Naumov et al. (2019, arXiv 1906.00091) list them."""
SMALL = 20_000
LARGEST = (20, 600, 100, 50, 64_000, 500, 100, 50, 500, 10, 10, 10, 50)
"""Up to about this, the numbers of each field go."""
MISSING = (0.45, 0, 0.21, 0.22, 0.03, 0.22, 0.04, 0.0005, 0.04, 0.45, 0.04, 0.76, 0.22)
"""The share of lines that lack the number; of tokens, a tenth is missing in every other field."""


# --- generated lines ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frequencies:
    """The token of rank r < `size` is `size` * u ** `power`, u uniform: frequencies fall as a power of the rank."""

    size: float
    power: float

    @classmethod
    def of(cls, tokens: int, power: float) -> "Frequencies":
        """Of a field with so many different tokens in `ROWS` lines. In small fields, which have hardly any rare ones, it is 4."""
        if tokens < SMALL:
            return cls(tokens, 4.0)

        def missing(log_size: float) -> float:
            return cls(np.exp(log_size), power).tokens(1) - tokens

        return cls(float(np.exp(brentq(missing, np.log(tokens), np.log(1e4 * tokens)))), power)

    def tokens(self, least: int) -> float:
        """How many different tokens occur at least so often in `ROWS` lines, as expected."""
        edges = np.unique(np.floor(np.geomspace(1, self.size + 1, 2000)) - 1)
        shares = np.diff((edges / self.size) ** (1 / self.power))
        ranks = np.diff(edges)
        return float((ranks * poisson.sf(least - 1, ROWS * shares / ranks)).sum())

    def drawn(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """(count,) ranks."""
        return (self.size * generator.random(count) ** self.power).astype(np.int64)


@cache
def frequencies() -> tuple[Frequencies, ...]:
    """Of all fields: by the power with which as many features are kept as of Criteo's log."""

    def too_many(power: float) -> float:
        return sum(Frequencies.of(tokens, power).tokens(MIN_COUNT) for tokens in TOKENS) + 39 - KEPT

    power = brentq(too_many, 10.0, 40.0, xtol=1e-3)
    return tuple(Frequencies.of(tokens, power) for tokens in TOKENS)


def lines(rows: int, number: int) -> pa.Table:
    """So many lines, the `number`-th chunk of them: clicks depend on the numbers and on the commonest tokens."""
    generator = np.random.default_rng(number)
    logit, columns = np.full(rows, -1.1), dict[str, pa.Array]()
    for i, (largest, share_missing) in enumerate(zip(LARGEST, MISSING, strict=True), start=1):
        values = np.minimum(generator.exponential(largest / 8, rows), largest).astype(np.int64)
        missing = generator.random(rows) < share_missing
        logit += 0.5 * (values / largest - 0.1) * ~missing
        columns[f"I{i}"] = pa.array(values, mask=missing)
    for i, of_field in enumerate(frequencies()):
        ranks = of_field.drawn(rows, generator)
        missing = generator.random(rows) < (0.1 if i % 2 else 0)
        logit += np.where(ranks < 1000, np.random.default_rng(i).normal(0, 0.2, 1000)[np.minimum(ranks, 999)], 0)
        columns[f"C{i + 1}"] = hexadecimal(ranks, i, missing)
    clicked = generator.random(rows) < 1 / (1 + np.exp(-logit))
    return pa.table({"label": pa.array(clicked.astype(np.int8)), **columns})


def hexadecimal(ranks: np.ndarray, field: int, missing: np.ndarray) -> pa.Array:
    """Eight digits for each rank, different ones for different ranks."""
    digits = np.array([f"{byte:02x}" for byte in range(256)], dtype="S2")
    mixed = (ranks.astype(np.uint64) * np.uint64(2_654_435_761) + np.uint64(field * 40_503)).astype(np.uint32)
    text = digits[mixed.view(np.uint8)].tobytes()
    offsets = np.arange(0, 8 * len(ranks) + 1, 8, dtype=np.int32)
    present = np.packbits(~missing, bitorder="little").tobytes()
    buffers = [pa.py_buffer(present), pa.py_buffer(offsets), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.string(), len(ranks), buffers)


def write_lines(path: Path, rows: int) -> None:
    """A file of lines, compressed by gzip."""
    heartbeat = Ticker()
    options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with atomic_write(path) as temporary, gzip.open(temporary, "wb", compresslevel=1) as file:
        for number, start in enumerate(range(0, rows, ROWS_AT_ONCE)):
            pa.csv.write_csv(lines(min(ROWS_AT_ONCE, rows - start), number), file, options)
            if heartbeat.is_due():
                heartbeat.log("lines %s", share(start, rows, heartbeat.seconds))
                print(f"line {share(start, rows, heartbeat.seconds)}", file=sys.stderr)


# --- the project ----------------------------------------------------------------------------------------------


def project(folder: Path, rows: int, training: dict[str, Any]) -> Path:
    """A folder with the parameters of this checkout and a study of what is generated; returns the overlay that has it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("params", "src"):
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(ROOT / name)
    lines_file = folder / f"lines-{rows}.txt.gz"
    if not lines_file.exists():
        write_lines(lines_file, rows)
    study = {
        "title": "Criteo's size",
        "grids": {
            "ctr": {
                "datasets": ["generated_clicks"],
                "models": ["fm"],
                "methods": {"grid_search": [1, 20], "dnis": [1, 20]},
            }
        },
        "seeds": [1],
        "tables": ["table3"],
        "overrides": {
            "training": {"max_epochs": 1} | training,
            "methods": {"grid_search": {"dimensions": [64]}},
        },
    }
    dataset = {
        "extends": "criteo", "title": "Generated clicks", "url": lines_file.name, "md5": None, "member": lines_file.name.removesuffix(".gz"),
    }  # fmt: skip
    overlay = folder / "fullsize.yaml"
    overlay.write_text(yaml.safe_dump({"datasets": {"generated_clicks": dataset}, "studies": {"fullsize": study}}))
    return overlay


# --- measuring ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What a step took, in a process of its own."""

    step: str
    id: str
    seconds: float
    cpu_seconds: float
    system_seconds: float
    peak_mib: float
    """Most memory resident at once, pages of files that are mapped among them."""
    output_mb: float
    exit_status: int


def measure(folder: Path, command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run a command to its end: its times, peak memory and exit status."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, "taken.json")
        paths = os.pathsep.join([environment["PYTHONPATH"], str(ROOT)])
        measuring = [sys.executable, "-m", "benchmarks.process", str(file), *command]
        subprocess.run(measuring, cwd=folder, env=environment | {"PYTHONPATH": paths}, check=True)
        taken: dict[str, Any] = read_json(file)
        return taken


def planned(folder: Path, environment: dict[str, str]) -> Iterator[dict[str, Any]]:
    said = subprocess.run(
        [*NISBENCH, "plan", "fullsize", "--no-cost", "--json"],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    order = ("download", "prepare", "split", "block", "search", "prune")
    yield from sorted(json.loads(said)["steps"], key=lambda step: order.index(step["step"]))


def table(found: list[Measured], rows: int) -> str:
    lines_of = [
        [
            each.step,
            f"{each.seconds:,.0f} s",
            f"{each.cpu_seconds:,.0f} s",
            f"{each.system_seconds:,.0f} s",
            f"{each.peak_mib:,.0f} MiB",
            f"{each.output_mb:,.0f} MB" + ("" if each.exit_status == 0 else f"; failed ({each.exit_status})"),
        ]
        for each in found
    ]
    heads = [f"{rows:,} lines", "wall", "CPU", "of it system", "peak memory", "output"]
    return tabulate(lines_of, heads, tablefmt="github", colalign=["left", *["right"] * 5], disable_numparse=True)


def main(
    folder: Annotated[Path, typer.Argument(help="Where everything is kept.")],
    rows: Annotated[int, typer.Option(min=1000, help="Lines to generate.")] = ROWS,
    setting: Annotated[
        list[str] | None, typer.Option(help="A setting of training, such as memory_limit=2 or order=blocks.")
    ] = None,
) -> None:
    """Measure each step of the pipeline on generated clicks of Criteo's size: hours for all of its lines."""
    folder = folder.absolute()
    training = {key: yaml.safe_load(value) for key, _, value in (each.partition("=") for each in setting or [])}
    overlay = project(folder, rows, training)
    environment = os.environ | {OVERLAYS_VARIABLE: str(overlay), "PYTHONPATH": str(ROOT / "src")}
    name = "".join(f"-{each}" for each in setting or [])
    kept = folder / f"measured-{rows}{name}.json"
    found = [Measured(**each) for each in read_json(kept)] if kept.exists() else []
    for step in planned(folder, environment):
        if any(each.id == step["id"] and each.exit_status == 0 for each in found):
            continue
        title = f"{step['step']} {step['what']}"
        print(title, file=sys.stderr)
        threads = ["--threads", "1"] if step["step"] in {"search", "prune"} else []
        used = measure(folder, [*NISBENCH, step["step"], step["id"], *threads], environment)
        where = folder / step["folder"]
        output = sum(file.stat().st_size for file in where.rglob("*") if file.is_file()) / 1e6
        found = [each for each in found if each.id != step["id"]]
        found.append(Measured(step=title, id=step["id"], output_mb=output, **used))
        write_json(kept, [asdict(each) for each in found])
        if used["exit_status"]:
            break
    print(table(found, rows))


if __name__ == "__main__":
    typer.run(main)
