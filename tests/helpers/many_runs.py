"""A study of thousands of cells, and runs for all of them whose results were made up: for tests of what is slow at that size."""

import os
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from nisbench import records
from nisbench.data.parquet import read_features
from nisbench.embedding.scheme import DimensionScheme
from nisbench.execution import run_with_inputs
from nisbench.params.step_settings import PruneSettings
from nisbench.run_files import FeatureCounts, PruneRun, SearchRun, Trial, write_run
from nisbench.steps import Step
from nisbench.studies import Plan, StudyPlan
from nisbench.tensor_files import save_tensors
from tests.helpers.fake_runs import MACHINE

CELLS_PER_SEED = 1000
"""5 models, 20 methods at their compression rates, 5 grids that tables compare and 5 values of a sweep."""

DATA = """
datasets:
  planted_ratings: {users: 60, items: 40, instances: 3000, rank: 4, levels: 3}
"""


def study(cells: int, name: str = "demo") -> str:
    """The text of a study with so many cells, a multiple of `CELLS_PER_SEED`: four tenths as many searches."""
    assert cells % CELLS_PER_SEED == 0
    methods = (
        "{grid_search: [1, 2, 4], random_search: [1], mde: [1], dnis: [1, 2, 4, 8, 16], network_pruning: [1, 2, 4, 8, 16], "
        "iterative_pruning: [2, 4], uniform_tuned: [1], uniform: [2, 4]}"
    )
    shared = f"datasets: [planted_ratings], models: [mf, mlp, fm, wide_deep, deepfm], methods: {methods}"
    rates = [0.003, 0.002, 0.005, 0.01]
    overridden = "\n".join(
        f"      rate_{i}: {{{shared}, title: learning rate {rate}, overrides: {{training: {{learning_rate: {rate}}}}}}}"
        for i, rate in enumerate(rates, 1)
    )
    return f"""
studies:
  {name}:
    title: Many cells
    grids:
      main: {{{shared}}}
{overridden}
      dimensions: {{{shared}, sweep: {{training.base_dimension: [16, 24, 32, 48, 64]}}}}
    seeds: {list(range(1, cells // CELLS_PER_SEED + 1))}
    tables: [table1, table2, recovery]
    figures: [figure2a, figure3a, figure3b, figure3c, pareto]
    overrides:
      training: {{base_dimension: 20}}
      methods:
        grid_search: {{dimensions: [4, 8, 16]}}
        random_search: {{trials: 4, min_dimension: 2}}
        mde: {{settings: [{{base_dimension: 4, temperature: 0.1}}, {{base_dimension: 8, temperature: 0.3}}]}}
        uniform_tuned: {{dimensions: [4, 8]}}
"""


def pretend_all(plan: Plan, study: StudyPlan) -> None:
    """Have all steps of a study done: data for real, searches and prunings with results and files that were made up."""
    assert plan.study(study.name) is study
    with mock.patch.object(os, "fsync"):  # nothing here must outlast a power cut
        for block in study.blocks.values():
            run_with_inputs(block)
        for step in study.steps.values():
            if step.name in {"search", "prune"}:
                pretend(step, np.random.default_rng(int(step.id, 16)))


def pretend(step: Step, random: np.random.Generator) -> None:
    """Have a search or a pruning done, what it needs being done."""
    step.folder.mkdir(parents=True, exist_ok=True)
    if step.name == "search":
        _search(step, random)
    else:
        _prune(step, random)
    records.write(step)


K = 16


def _search(step: Step, random: np.random.Generator) -> None:
    features = _features(step.needs["block"].path("features"))
    blocks = int(features.max()) + 1
    tensors = {
        "embedding.block": torch.from_numpy(features),
        "embedding.selection": torch.from_numpy(random.random((blocks, K), dtype=np.float32)),
        "embedding.weight": torch.from_numpy(random.normal(size=(len(features), K)).astype(np.float32)),
    }
    save_tensors(step.path("weights"), tensors)
    trials = []
    for trial in range(4):
        losses = (1 + 1 / np.arange(1, 13) + 0.05 * random.normal(size=12)).tolist()
        best = int(np.argmin(losses))
        trials.append(
            Trial(
                name=f"trial {trial}", validation_loss=losses[best], best_epoch=best + 1, epochs=12, warm_start_epochs=0,
                stopped="patience", learning_rate=0.001, weights=K * len(features), seconds=10.0, peak_memory_mib=300.0,
                other_load=0.0, losses=losses,
            )
        )  # fmt: skip
    best = min(range(4), key=lambda trial: trials[trial].loss)
    run = SearchRun(
        best_trial=best, weights=trials[best].weights, seconds=40.0, peak_memory_mib=300.0, machine=MACHINE, trials=trials,
        failed=None,
    )  # fmt: skip
    write_run(step.path("run"), run)


def _prune(step: Step, random: np.random.Generator) -> None:
    settings = step.settings
    assert isinstance(settings, PruneSettings)
    features = len(_features(step.needs["search"].needs["block"].path("features")))
    kept = random.random((features, K)) < 1 / settings.compression_rate
    scheme = DimensionScheme.from_dense(np.where(kept, random.normal(size=(features, K)), 0))
    scheme.save(step.path("scheme"))
    save_tensors(step.path("model"), {"bias": torch.from_numpy(random.normal(size=features))})
    left, precisions = int(kept.sum()), {"float32": 4.0, "float16": 2.0, "int8": 1.0, "int4": 0.5}
    sizes = {name: int(left * bytes_each) for name, bytes_each in precisions.items()}
    metrics = {metric.name: float(1 + 0.05 * random.random()) for metric in settings.task.metrics}
    run = PruneRun(
        metrics=metrics, weights=K * features, nonzeros=left, size_mib=left * 4 / 2**20,
        bytes={"csr": sizes, "dense": sizes, "mask": sizes}, rounded_metrics={name: metrics for name in sizes if name != "float32"},
        mean_prediction=0.5, mean_label=0.5, features=FeatureCounts(count=features, without_dimensions=int((~kept.any(1)).sum())),
        test_instances=300, seconds=1.0, machine=MACHINE,
    )  # fmt: skip
    write_run(step.path("run"), run)


_blocks_of: dict[Path, np.ndarray] = {}


def _features(path: Path) -> np.ndarray:
    """The block of each feature."""
    if path not in _blocks_of:
        _blocks_of[path] = read_features(path)["block"].to_numpy().astype(np.int32)
    return _blocks_of[path]
