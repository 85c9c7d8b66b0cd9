"""`python -m benchmarks`: times every model and mode, each beside a textbook loop and the machine's limit."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from tabulate import tabulate

from benchmarks import limits
from benchmarks.shapes import SHAPES, Mode
from nisbench.machine import device as held_device

LEDGER = Path("results/benchmarks/ledger.csv")
MODES: tuple[Mode, ...] = get_args(Mode)

app = typer.Typer(add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False)
console = Console(stderr=True)


@app.command()
def main(
    shape: Annotated[list[str], typer.Option(help=f"One of {', '.join(SHAPES)}; repeat for several.")] = list(SHAPES),
    model: Annotated[list[str] | None, typer.Option(help="Of the shape's task; all of them unless given.")] = None,
    mode: Annotated[list[str], typer.Option(help=f"One of {', '.join(MODES)}.")] = list(MODES),
    threads: Annotated[int, typer.Option(min=1, help="CPU threads for torch.")] = os.cpu_count() or 1,
    k: Annotated[int, typer.Option("--k", min=16, help="Columns of the embedding table, a multiple of 16.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1)] = 4096,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:INDEX.")] = "auto",
) -> None:
    """Time training, print a table and append it to results/benchmarks/ledger.csv.

    Every figure is the median of five rounds, each of which times nisbench and then a textbook loop (DataLoader, nn.Embedding,
    dense Adam) on the same generated instances; the ratio is the median of the rounds' ratios. Memory is that of a process of its own.
    """
    with held_device(device, threads) as held:
        machine = limits.measure(held)
    console.print(
        f"{machine.bandwidth / 1e9:.1f} GB/s, {machine.peak / 1e9:.0f} GFLOP/s on {held} with {threads} threads"
    )
    rows = []
    for shape_name in shape:
        for model_name in model or SHAPES[shape_name].models:
            for mode_name in mode:
                case = {
                    "shape": shape_name, "model": model_name, "mode": mode_name, "k": k, "batch_size": batch_size,
                    "threads": threads, "device": device, "bandwidth": machine.bandwidth, "peak": machine.peak,
                }  # fmt: skip
                console.print(f"{shape_name} {model_name} {mode_name} ...")
                found = subprocess.run(
                    [sys.executable, "-m", "benchmarks.case", json.dumps(case)],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                rows.append(case | json.loads(found.stdout))
    heads = ["shape", "model", "mode", "instances/s", "x textbook", "of the limit", "peak memory"]
    body = [
        [r["shape"], r["model"], r["mode"], f"{r['instances_per_second']:,.0f}", f"{r['ratio']:.1f}",
         f"{100 * r['of_limit']:.0f} %", f"{r['peak_mib']:,.0f} MiB"]
        for r in rows
    ]  # fmt: skip
    print(tabulate(body, heads, tablefmt="pipe", disable_numparse=True, colalign=["left"] * 3 + ["right"] * 4))
    LEDGER.parent.mkdir(parents=True, exist_ok=True)
    new = not LEDGER.exists()
    with LEDGER.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    app()
