"""The steps of a data set that are computed here: preparation, split, blocking."""

from importlib import import_module
from pathlib import Path

from nisbench.data import blocks, split
from nisbench.params.settings import BlockSettings
from nisbench.runs import PrepareSettings, SplitSettings, Step


def make(step: Step, files: dict[str, Path]) -> None:
    """Write a step's `files`, by their names in ``step.files``, from those of the steps that it needs."""
    needed = {name: {key: Path(each.path(key)) for key in each.files} for name, each in step.needs.items()}
    settings = step.settings
    if isinstance(settings, PrepareSettings):
        archive = needed["download"]["archive"] if "download" in needed else None
        preparation = import_module(f"nisbench.data.{settings.dataset.format}")
        preparation.run(settings.dataset, archive, files["instances"], files["vocabulary"])
    elif isinstance(settings, SplitSettings):
        split.run(settings.split, needed["prepare"]["instances"], files)
    else:
        assert isinstance(settings, BlockSettings), step.name
        blocks.run(
            settings,
            vocabulary_file=needed["prepare"]["vocabulary"],
            train_file=needed["split"]["train"],
            features_file=files["features"],
        )
