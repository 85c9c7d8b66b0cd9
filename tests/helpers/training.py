"""What tests of training, search and pruning share: small settings of every kind, and small data for every task."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from nisbench.data import blocks, instances, planted_ctr, planted_ratings, planted_topk, split
from nisbench.models.pruned import PrunedModel
from nisbench.models.recommender import Recommender
from nisbench.params.datasets import BlockSettings, Dataset
from nisbench.params.loading import load
from nisbench.params.step_settings import PruneSettings, SearchSettings
from nisbench.run_files import PruneRun, SearchRun, read_pruning, read_search
from nisbench.search import pruning, trials
from nisbench.search.context import SearchContext
from nisbench.tasks import task as tasks
from nisbench.tasks.ctr import ClickThroughRate
from nisbench.tasks.rating import RatingPrediction
from nisbench.tasks.topk import TopKRecommendation

CPU = torch.device("cpu")
PARAMS = load(Path(__file__).parents[2], overlays=[]).params
SPLITS = ("train", "validation", "test")
TASK_CLASSES = {"rating": RatingPrediction, "ctr": ClickThroughRate, "topk": TopKRecommendation}

Paths = Mapping[str, Path]


def tiny_data(task: str, folder: Path, planted: Dataset) -> Paths:
    """Planted data for one task, `planted` where that is rating: the files of its three splits and of its features."""
    datasets = {
        "rating": (planted_ratings, planted),
        "ctr": (
            planted_ctr,
            PARAMS.datasets["planted_ctr"].model_copy(
                update={
                    "instances": 3000,
                    "scalar_fields": 2,
                    "categorical_fields": [40, 20, 5],
                    "rank": 4,
                    "levels": 3,
                }
            ),
        ),
        "topk": (
            planted_topk,
            PARAMS.datasets["planted_topk"].model_copy(
                update={"users": 80, "items": 50, "instances": 1600, "rank": 4, "levels": 3}
            ),
        ),
    }
    module, settings = datasets[task]
    module.prepare(settings, None, folder / "instances", folder / "vocabulary")
    paths = {name: folder / name for name in SPLITS}
    split.run(settings.split, folder / "instances", paths)
    paths["features"] = folder / "features"
    blocks.run(BlockSettings(by="count", count=4), folder / "vocabulary", paths["train"], paths["features"])
    return paths


def search_settings(task: str, model: str, method: str, **training: object) -> SearchSettings:
    """A search by the named entries of params/, as small as their kinds make it, of a few epochs."""
    few = {"batch_size": 256, "max_epochs": 3, "learning_rate": 0.01, "checkpoint_seconds": 0}
    return SearchSettings(
        task=PARAMS.tasks[task].small(),
        model=PARAMS.models[model].small(),
        method=PARAMS.methods[method].small(),
        training=PARAMS.training.model_copy(update=few | training),
        seed=1,
    )


def prune_settings(settings: SearchSettings, rate: float) -> PruneSettings:
    """The pruning of that search's result which its method asks for."""
    rate = 1.0 if settings.method.budgeted else rate
    rounds = settings.method.rounds_at(rate)
    return PruneSettings(
        task=settings.task, model=settings.model, importance=settings.method.importance, rounds=rounds,
        rewind=settings.method.rewind if rounds else None,
        recalibrate=settings.training.recalibrate and settings.task.has_base_rate, compression_rate=rate, seed=settings.seed,
        training=settings.training if rounds else None, deterministic=False, device="cpu",
        memory_limit=settings.training.memory_limit,
    )  # fmt: skip


def context_of(settings: SearchSettings, data: Paths) -> SearchContext:
    splits = {name: data[name] for name in ("train", "validation")}
    return SearchContext.read(settings, splits, data["features"], CPU)


def run_search(settings: SearchSettings, data: Paths, folder: Path, device: torch.device = CPU) -> SearchRun:
    splits = {name: data[name] for name in ("train", "validation")}
    trials.run(settings, splits, data["features"], folder, device)
    shutil.rmtree(folder / "trials")  # as `nisbench.execution` does
    return read_search(folder / "run.json")


def run_pruning(
    settings: PruneSettings, search_folder: Path, data: Paths, folder: Path, device: torch.device = CPU
) -> PruneRun:
    splits = {name: data[name] for name in SPLITS}
    pruning.run(settings, search_folder / "run.json", search_folder / "weights.safetensors", splits, folder, device)
    shutil.rmtree(folder / "rounds", ignore_errors=True)
    return read_pruning(folder / "run.json")


def recomputed_metrics(settings: PruneSettings, data: Paths, folder: Path) -> dict[str, float]:
    """The test metrics, computed again from a pruning's files, its settings and the data alone."""
    task = tasks.build(settings.task, {name: data[name] for name in SPLITS}, CPU)
    return task.evaluate(_loaded(settings, folder), instances.read(data["test"], CPU))


def recomputed_validation_loss(settings: PruneSettings, data: Paths, folder: Path) -> float:
    """The same of the validation loss."""
    task = tasks.build(settings.task, {name: data[name] for name in SPLITS[:2]}, CPU)
    return task.validation_loss(_loaded(settings, folder), instances.read(data["validation"], CPU))


def _loaded(settings: PruneSettings, folder: Path) -> Recommender:
    model = PrunedModel.load(folder / "scheme.safetensors", folder / "model.safetensors", settings.model)
    return model.to_recommender()


@contextmanager
def interrupted_after(count: int, task: type, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C at the first validation after `count` of them, which must come."""
    left = iter(range(count))
    validate: Callable[..., float] = task.validation_loss

    def interrupted(*arguments: object) -> float:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return validate(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(task, "validation_loss", interrupted)
        yield
