"""`python -m benchmarks`: times every model and mode, each beside a textbook loop and the machine's limit."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from tabulate import tabulate

from benchmarks import card as card_report
from benchmarks import limits, scale
from benchmarks import lookup as lookup_case
from benchmarks.card import Work
from benchmarks.case import STEPS
from benchmarks.cases import CLICK_MODELS, MODES, RATING_MODELS, SHAPES, models_of
from benchmarks.libraries import LIBRARIES, WITHOUT
from nisbench.errors import NisbenchError
from nisbench.machine import device as held_device
from nisbench.params.tree import nearest

LEDGER = Path("results", "benchmarks", "ledger.csv")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(stderr=True, highlight=False)


@app.command()
def main(
    shape: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(SHAPES)}; all unless given.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One of {', '.join(RATING_MODELS)} (MovieLens) or {', '.join(CLICK_MODELS)} (Criteo); all unless given."
        ),
    ] = None,
    mode: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(MODES)}; all unless given.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads for torch.")] = os.cpu_count() or 1,
    k: Annotated[int, typer.Option("--k", min=16, help="Columns of the embedding table, a multiple of 16.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1)] = 4096,
    rounds: Annotated[int, typer.Option(min=1, help="That medians are taken of.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:INDEX.")] = "auto",
    libraries: Annotated[
        Path | None,
        typer.Option(help="A Python in whose environment benchmarks/libraries.txt is installed: time these too."),
    ] = None,
    curve: Annotated[
        bool, typer.Option(help="Instead, time steps against the number of features, batch and K.")
    ] = False,
    card: Annotated[
        bool,
        typer.Option(
            help="Instead, all that is to be known of a GPU, in six minutes; what `--device cuda` does where nothing is chosen."
        ),
    ] = False,
    movielens_1m: Annotated[
        Path | None, typer.Option(help="With --card: ml-1m.zip, on which one search is done, too.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0, help="Of --card, at most.")] = 6,
    lookup: Annotated[
        int | None,
        typer.Option(
            metavar="FEATURES", help="Instead, time lookups in compressed tables of so many rows beside nn.Embedding."
        ),
    ] = None,
) -> None:
    """Time training on this machine, print a table and append it to results/benchmarks/.

    Every round times nisbench in each mode and then a textbook loop
    (DataLoader, nn.Embedding, dense Adam) on the same generated instances; the
    ratio is the median of the rounds' ratios. Memory is that of a process of
    its own.

    Example: nisbench bench --shape movielens_1m --model mf
    Example: nisbench bench --device cuda
    """
    check(shape or [], model or [], mode or [], k)
    if card or (device.startswith("cuda") and not any([shape, model, mode, curve, lookup, libraries])):
        show_card(Work(device, threads, k, batch_size, rounds=rounds, minutes=minutes, movielens_1m=movielens_1m))
        return
    common = {"k": k, "batch_size": batch_size, "threads": threads, "device": device}
    if curve or lookup:
        show_curve(common, model or ["mf", "deepfm"]) if curve else show_lookup(common, lookup or 0, rounds)
        return
    show_cases(common, shape or list(SHAPES), model, mode or list(MODES), rounds, libraries)


def show_cases(
    common: dict[str, Any],
    wanted: list[str],
    model: list[str] | None,
    modes: list[str],
    rounds: int,
    libraries: Path | None,
) -> None:
    """Time models in every mode, print a table and append it to results/benchmarks/ledger.csv."""
    device, threads = common["device"], common["threads"]
    with held_device(device, threads) as held:
        machine = limits.measure(held)
    console.print(
        f"{machine.bandwidth / 1e9:.1f} GB/s, {machine.peak / 1e9:.0f} GFLOP/s on {held} with {threads} threads"
    )
    records: list[dict[str, Any]] = []
    for shape_name in wanted:
        for name in chosen_models(shape_name, model):
            console.print(f"{shape_name} {name} ...")
            case = {"shape": shape_name, "model": name, "modes": modes, "rounds": rounds}
            limit = {"bandwidth": machine.bandwidth, "peak": machine.peak}
            found = run("benchmarks.case", common | case | limit)
            if len(found) < len(modes):
                console.print("16 trials do not fit into memory side by side: grid_search is left out")
            if not found:
                continue
            for library in LIBRARIES if libraries else ():
                if (library, name) not in WITHOUT:
                    steps = max(4, STEPS[shape_name])
                    given = [library, name, shape_name, "--threads", threads, "--k", common["k"]]
                    given += ["--batch-size", common["batch_size"], "--steps", steps]
                    told = run_in(str(libraries), ["-m", "benchmarks.libraries", *map(str, given)])
                    for record in found:
                        record[library] = record["instances_per_second"] / told["instances_per_second"]
            found = [record | limit for record in found]
            keep(LEDGER, found)
            records += found
    if not records:
        return
    extra = [library for library in LIBRARIES if any(library in record for record in records)]
    heads = ["shape", "model", "mode", "instances/s", "x textbook", *(f"x {library}" for library in extra),
             "time / plain", "fused / alone", "step / its products", "of the limit", "peak memory"]  # fmt: skip
    body = [
        [r["shape"], r["model"], r["mode"], f"{r['instances_per_second']:,.0f}", times(r["ratio"]),
         *(times(r.get(library)) for library in extra), times(r["of_plain"]), times(r["fused_of_alone"]),
         times(r["of_products"]), f"{100 * r['of_limit']:.0f} %", f"{r['peak_mib']:,.0f} MiB"]
        for r in records
    ]  # fmt: skip
    print(
        tabulate(
            body, heads, tablefmt="pipe", disable_numparse=True, colalign=["left"] * 3 + ["right"] * (len(heads) - 3)
        )
    )


def show_card(work: Work) -> None:
    """Measure a card, print what was found, keep it in results/benchmarks/card.json and append its rows to the ledger."""
    found = card_report.measured(work, LEDGER.with_name("card.json"), console.print)
    more = ("captured", "not_captured", "compiled")
    keep(LEDGER, [{key: value for key, value in record.items() if key not in more} for record in found["records"]])
    print(card_report.shown(found))


def check(shape: list[str], model: list[str], mode: list[str], k: int) -> None:
    """Raise `NisbenchError` for a name that does not exist, or a model that no shape asked for is for."""
    models = (*RATING_MODELS, *CLICK_MODELS)
    for option, given, known in (("shape", shape, SHAPES), ("model", model, models), ("mode", mode, MODES)):
        for name in given:
            if name not in known:
                raise NisbenchError(f"--{option}: there is no {name!r}{nearest(name, known)}")
    for name in model:
        if not any(name in models_of(SHAPES[each]) for each in shape or SHAPES):
            fit = [each for each in SHAPES if name in models_of(SHAPES[each])]
            raise NisbenchError(f"--model {name} is not for {', '.join(shape)}; it is for {', '.join(fit)}")
    if k % 16:
        raise NisbenchError(f"--k {k}: must be a multiple of 16, the number of Grid Search's trials")


def chosen_models(shape: str, model: list[str] | None) -> list[str]:
    """The models to time in a shape."""
    return [name for name in models_of(SHAPES[shape]) if not model or name in model]


def show_curve(common: dict[str, Any], models: list[str]) -> None:
    """Time steps over a range of sizes, print a table and append it to results/benchmarks/scale.csv."""
    records = []
    for name in models:
        for case in scale.CASES:
            console.print(f"{name} {case} ...")
            records.append(run("benchmarks.scale", common | case | {"model": name}))
    keep(LEDGER.with_name("scale.csv"), records)
    heads = ["model", "features", "batch", "K", "rows read", "ms / step", "ms / epoch's end", "table", "peak memory"]
    body = [
        [r["model"], f"{r['features']:,}", f"{r['batch_size']:,}", r["k"], f"{r['rows']:,}", f"{r['step_ms']:.2f}",
         f"{r['epoch_end_ms']:.0f}", f"{r['table_mib']:,.0f} MiB", f"{r['peak_mib']:,.0f} MiB"]
        for r in records
    ]  # fmt: skip
    print(
        tabulate(body, heads, tablefmt="pipe", disable_numparse=True, colalign=["left"] + ["right"] * (len(heads) - 1))
    )


def show_lookup(common: dict[str, Any], features: int, rounds: int) -> None:
    """Time lookups in every layout and precision, print a table and append it to results/benchmarks/lookup.csv."""
    case = {"features": features, "rounds": rounds * lookup_case.TURN, "rates": lookup_case.RATES}
    case["every_layout"] = features <= lookup_case.MOST_FOR_ALL
    records = run("benchmarks.lookup", {key: common[key] for key in ("k", "threads", "device")} | case)
    keep(LEDGER.with_name("lookup.csv"), records)
    heads = ["CR", "rows are", "layout", "weights", "bytes", "of dense", "us", "nn.Embedding", "ratio"]
    body = [
        [f"{r['cr']:g}", r["rows"], f"**{r['layout']}**" if r["auto"] else r["layout"], r["values"], f"{r['bytes']:,}",
         f"{100 * r['of_dense_bytes']:.1f} %", f"{r['microseconds']:.0f}", f"{r['dense_microseconds']:.0f}", times(r["ratio"])]
        for r in records
    ]  # fmt: skip
    print(
        tabulate(body, heads, tablefmt="pipe", disable_numparse=True, colalign=["right"] + ["left"] * 3 + ["right"] * 5)
    )


def times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def run(module: str, case: dict[str, Any]) -> Any:
    return run_in(sys.executable, ["-m", module, json.dumps(case)])


def run_in(python: str, arguments: list[str]) -> Any:
    """What a Python process prints last, as JSON."""
    paths = os.pathsep.join([str(Path.cwd()), str(Path.cwd() / "src")])
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run([python, *arguments], check=False, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise NisbenchError(f"{' '.join(arguments[:2])} failed (status {done.returncode}); what it said is above.")
    return json.loads(done.stdout.splitlines()[-1])


def keep(path: Path, records: list[dict[str, Any]]) -> None:
    """Append records to a CSV file; one whose columns are others is put aside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [key for key in records[0] if key not in LIBRARIES] + list(LIBRARIES if path == LEDGER else ())
    if path.exists() and path.read_text().splitlines()[:1] != [",".join(columns)]:
        path.rename(path.with_suffix(".old.csv"))
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(records)


if __name__ == "__main__":
    try:
        app()
    except NisbenchError as error:
        sys.exit(f"nisbench: {error}")
