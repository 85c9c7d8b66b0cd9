"""Computes the golden values: sums of data, first-epoch losses and test metrics, for every format, task, model and method."""

import hashlib
import io
import platform
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml
from pydantic import TypeAdapter

from nisbench import machine
from nisbench.embedding.scheme import DimensionScheme
from nisbench.params.datasets import AnyDataset, Dataset
from nisbench.params.methods import AnyMethod
from nisbench.params.models import AnyModel
from nisbench.params.tasks import AnyTask
from nisbench.params.training import Training
from nisbench.run_files import read_pruning, read_search
from nisbench.steps import Step, block_step, prune_step, search_step
from nisbench.wiring import WORK

PARAMS = yaml.safe_load(Path(__file__).with_name("params.yaml").read_text())
TASKS = TypeAdapter(dict[str, AnyTask]).validate_python(PARAMS["tasks"])
DATASETS = TypeAdapter(dict[str, AnyDataset]).validate_python(PARAMS["datasets"])
MODELS = TypeAdapter(dict[str, AnyModel]).validate_python(PARAMS["models"])
METHODS = TypeAdapter(dict[str, AnyMethod]).validate_python(PARAMS["methods"])
TRAINING = Training.model_validate(PARAMS["training"])

RATES = (1.0, 3.0)
ON_ONE_MODEL = {
    "pep", "sseds", "gradual", "autodim", "optembed", "uniform", "laws", "hashing", "quotient_remainder", "low_rank",
    "mpe", "quantised",
}  # fmt: skip
"""Kinds of method that are computed on the first data set and model only."""

Values = dict[str, dict[str, Any]]
"""By kind of step and case."""


def compute() -> Values:
    """All golden values, as this checkout's code computes them on one thread."""
    found: Values = {step: {} for step in ("prepare", "split", "block", "search", "prune")}
    with TemporaryDirectory() as folder, machine.device("cpu", threads=1):
        for name, dataset in {**DATASETS, **archives(Path(folder))}.items():
            block = block_step(dataset, TASKS[dataset.task], Path(folder))
            for step in block.upstream():
                _run(step)
                if step.name in found:
                    found[step.name][name] = {key: sums(step.path(key)) for key in step.files}
            if dataset.planted:
                for case, search in _searches(name, dataset, block):
                    found["search"][case] = _search(search)
                    found["prune"] |= {f"{case}/{rate:g}": _prune(search, case, rate) for rate in RATES}
    return found


def machine_kind() -> dict[str, str]:
    """Where values are the same to the last bit."""
    provenance = machine.provenance(torch.device("cpu"))
    return {"device": provenance.device, "torch": provenance.packages["torch"], "system": platform.system()}


def _searches(name: str, dataset: Dataset, block: Step) -> Iterator[tuple[str, Step]]:
    task = TASKS[dataset.task]
    for model, model_settings in MODELS.items():
        for method, settings in METHODS.items():
            first = model == next(iter(MODELS))
            if dataset.task not in model_settings.tasks or (settings.own_model and not first):
                continue
            if settings.kind_name() not in ON_ONE_MODEL or (first and name == next(iter(DATASETS))):
                search = search_step(block, task, model_settings, settings.at(RATES[-1]), TRAINING, 1)
                yield f"{name}/{model}/{method}", search


def _search(step: Step) -> dict[str, Any]:
    _run(step)
    run = read_search(step.path("run"))
    return {"losses": [trial.losses for trial in run.trials], "weights": [trial.weights for trial in run.trials]}


def _prune(search: Step, case: str, rate: float) -> dict[str, Any]:
    method = METHODS[case.split("/")[2]]
    step = prune_step(search, method, rate)
    _run(step)
    run, scheme = read_pruning(step.path("run")), DimensionScheme.load(step.path("scheme"))
    return {
        "metrics": run.metrics,
        "nonzeros": run.nonzeros,
        "threshold": run.threshold,
        "values": float(np.abs(scheme.values).sum(dtype=np.float64)),
        "dimensions": int((scheme.dimensions.astype(np.int64) * (1 + np.arange(len(scheme.dimensions)) % 97)).sum()),
    }


def _run(step: Step) -> None:
    step.folder.mkdir(parents=True, exist_ok=True)
    WORK[step.name](step, 1)


def sums(path: Path) -> dict[str, Any]:
    """Of a Parquet file's columns: of numbers a sum that depends on their order, of texts a hash."""
    table = pq.read_table(path)
    found: dict[str, Any] = {"rows": len(table)}
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = column.to_numpy()
        if values.dtype == object:
            found[name] = hashlib.sha256("\n".join(map(str, values)).encode()).hexdigest()[:16]
        else:
            weights = 1 + np.arange(len(values)) % 97
            total = (values.astype(np.float64) * weights).sum()
            found[name] = int(total) if np.issubdtype(values.dtype, np.integer) else float(total)
    return found


# --- data sets in archives ------------------------------------------------------------------------------------


def archives(folder: Path) -> dict[str, Dataset]:
    """Tiny archives in the publishers' layouts, and the data sets that read them."""
    generator = np.random.default_rng(1)
    pairs = generator.permutation(20 * 15)[:150]
    ratings = [(1 + p // 15, 1 + p % 15, generator.integers(1, 11) / 2, 1000 + generator.integers(500)) for p in pairs]
    dat = "".join(f"{u}::{i}::{int(np.ceil(r))}::{t}\n" for u, i, r, t in ratings)
    csv = "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in ratings)
    movies = "movieId,title\n" + "".join(f"{i},Title\n" for i in range(1, 18))
    _zip(folder / "dat.zip", {"ml/ratings.dat": dat})
    _zip(folder / "csv.zip", {"ml/ratings.csv": csv, "ml/movies.csv": movies})
    lines = [_click(generator) for _ in range(60)]
    _tar(folder / "clicks.tar.gz", "train.txt", "\n".join("\t".join(line) for line in lines) + "\n")
    header = ",".join(["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))])
    whole = {
        f"{name}.csv": "\n".join([header, *(",".join(_filled(line)) for line in lines[start::3])]) + "\n"
        for start, name in enumerate(("train", "valid", "test"))
    }
    _zip(folder / "x1.zip", whole)
    kinds = "".join(f"{i},{'|'.join('abc'[: i % 4])},{i * i if i % 5 else ''}\n" for i in range(1, 16))
    (folder / "own.csv").write_text(csv)
    (folder / "items.csv").write_text("movieId,kinds,price\n" + kinds)
    shared = {"title": "", "blocks": {"by": "count", "count": 3}, "md5": None}
    random = {"split": {"proportions": [8, 1, 1], "seed": 2}}
    movielens = {"format": "movielens", **shared}
    entries = {
        "dat": {**movielens, **random, "task": "rating", "url": "dat.zip", "ratings": "ml/ratings.dat", "movies": None},
        "csv": {
            **movielens, "task": "topk_of_few", "split": "leave_one_out", "url": "csv.zip",
            "ratings": "ml/ratings.csv", "movies": "ml/movies.csv",
        },
        "criteo": {
            **shared, **random, "format": "criteo", "task": "ctr", "url": "clicks.tar.gz", "member": "train.txt",
            "min_count": 3, "scalar_maxima": [40] * 13,
        },
        "criteo_x1": {
            **shared, "format": "criteo_x1", "task": "ctr", "split": "published", "url": "x1.zip",
            **{
                key: {"path": f"{name}.csv", "md5": None}
                for key, name in (("train", "train"), ("validation", "valid"), ("test", "test"))
            },
        },
        "table": {
            **shared, "format": "table", "task": "rating", "url": ["own.csv", "items.csv"], "read": {"layout": "csv"},
            "join": [{"file": "items.csv", "read": {"layout": "csv"}, "key": "movieId"}],
            "label": {"column": "rating", "positive_above": 2, "drop_equal": True}, "time": "timestamp",
            "tokens": ["userId", "movieId"], "multi": {"kinds": {"separator": "|", "at_most": 2}},
            "scalars": {"price": {"scale": "standard"}, "timestamp": {"scale": "log2_buckets"}},
            "min_count": 2, "duplicates": "last", "split": {"by": "time", "proportions": [8, 1, 1]},
        },
    }  # fmt: skip
    for entry in entries.values():
        urls = entry["url"] if isinstance(entry["url"], list) else [entry["url"]]
        paths = [str(folder / str(url)) for url in urls]
        entry["url"] = paths if len(paths) > 1 else paths[0]
    return TypeAdapter(dict[str, AnyDataset]).validate_python(entries)


def _click(generator: np.random.Generator) -> list[str]:
    """A line of Criteo's log; some values are missing."""
    numbers = [str(n) if n < 60 else "" for n in generator.integers(0, 70, 13)]
    tokens = [f"{t:08x}" if t < 9 else "" for t in generator.integers(0, 10, 26)]
    return [str(generator.integers(0, 2)), *numbers, *tokens]


def _filled(line: list[str]) -> list[str]:
    return [line[0], *(value or "0" for value in line[1:14]), *(value or "none" for value in line[14:])]


def _zip(path: Path, members: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name), text)


def _tar(path: Path, name: str, text: str) -> None:
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(text.encode())
        archive.addfile(entry, io.BytesIO(text.encode()))
