"""Which files each kind of step is handed. One function per kind of step; its source is part of that step's core (`identity`).

A search is handed train and validation, never test. Only a pruning is handed all three splits, because a top-k test must know
what a user has taken already.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import cast

from nisbench import memory
from nisbench.errors import NisbenchError
from nisbench.files import md5_sum
from nisbench.params.datasets import BlockSettings
from nisbench.params.step_settings import (
    DownloadSettings,
    PrepareSettings,
    PruneSettings,
    SearchSettings,
    SplitSettings,
)
from nisbench.steps import Step, StepName

# Modules are imported where they are used: most commands need no torch, which takes over a second to import.


def download(step: Step, _threads: int) -> None:
    """Fetch a data set's archive, or its files into one."""
    from nisbench.data import download as fetching  # noqa: PLC0415

    settings = cast(DownloadSettings, step.settings)
    fetching.run(settings.urls, settings.md5s, step.path("archive"))


def prepare(step: Step, _threads: int) -> None:
    """Turn an archive into instances, or generate them."""
    from nisbench.data.archives import fetched_from  # noqa: PLC0415

    dataset = cast(PrepareSettings, step.settings).dataset
    memory.require(dataset.memory_to_prepare(), f"generating {step.dataset}", memory.LOWER["prepare"])
    archive = step.needs["download"].path("archive") if "download" in step.needs else None
    with fetched_from(getattr(dataset, "urls", ()), archive):
        dataset.module().prepare(dataset, archive, step.path("instances"), step.path("vocabulary"))


def split(step: Step, _threads: int) -> None:
    """Divide instances into train, validation and test."""
    from nisbench.data import split as splitting  # noqa: PLC0415

    settings = cast(SplitSettings, step.settings)
    with _naming_dataset(step):
        splitting.run(
            settings.split, step.needs["prepare"].path("instances"), {name: step.path(name) for name in step.files}
        )
    _check_splits(step, settings, step.files)


def block(step: Step, _threads: int) -> None:
    """Count features in train and put them into blocks."""
    from nisbench.data import blocks  # noqa: PLC0415

    settings = cast(BlockSettings, step.settings)
    vocabulary, train = step.needs["prepare"].path("vocabulary"), step.needs["split"].path("train")
    blocks.run(settings, vocabulary, train, step.path("features"))


def search(step: Step, threads: int) -> None:
    """Train a model under every selection that a method proposes."""
    from nisbench import machine  # noqa: PLC0415
    from nisbench.search import trials  # noqa: PLC0415

    settings = cast(SearchSettings, step.settings)
    splits = {name: step.needs["split"].path(name) for name in ("train", "validation")}
    _check_splits(step.needs["split"], settings, splits)  # which may have been made for another task
    features = step.needs["block"].path("features")
    with machine.device(
        settings.training.device, threads, settings.training.deterministic, settings.training.precision
    ) as device:
        trials.run(settings, splits, features, step.folder, device)


def prune(step: Step, threads: int) -> None:
    """Prune a search's result, and measure what is left on test."""
    from nisbench import machine  # noqa: PLC0415
    from nisbench.search import pruning  # noqa: PLC0415

    settings = cast(PruneSettings, step.settings)
    splits = {name: step.needs["split"].path(name) for name in ("train", "validation", "test")}
    _check_splits(step.needs["split"], settings, splits)
    searched = step.needs["search"]
    with machine.device(settings.device, threads, settings.deterministic, settings.precision) as device:
        pruning.run(settings, searched.path("run"), searched.path("weights"), splits, step.folder, device)


def _check_splits(split: Step, settings: SplitSettings | SearchSettings | PruneSettings, names: Iterable[str]) -> None:
    """Raise `NisbenchError` if a step's task is not defined on those splits of a data set."""
    from nisbench.tasks import task as tasks  # noqa: PLC0415

    with _naming_dataset(split):
        tasks.check_splits(settings.task, {name: split.path(name) for name in names})


@contextmanager
def _naming_dataset(split: Step) -> Iterator[None]:
    try:
        yield
    except NisbenchError as error:
        title = cast(PrepareSettings, split.needs["prepare"].settings).dataset.title
        raise NisbenchError(f"{title}: {error}") from error


def is_whole(step: Step) -> bool:
    """Whether a step's files are seen to be right without its record: an archive, by its MD5 sum. It is not fetched again."""
    settings = step.settings
    if not isinstance(settings, DownloadSettings) or len(settings.urls) > 1 or settings.md5s[0] is None:
        return False
    archive = step.path("archive")
    return archive.is_file() and md5_sum(archive) == settings.md5s[0]


WORK: dict[StepName, Callable[[Step, int], None]] = {
    "download": download,
    "prepare": prepare,
    "split": split,
    "block": block,
    "search": search,
    "prune": prune,
}
