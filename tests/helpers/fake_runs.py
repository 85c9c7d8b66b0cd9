"""Steps that look done, with results that were made up: for tests of what reads them."""

from collections.abc import Iterable

from nisbench import records
from nisbench.params.step_settings import PruneSettings, SearchSettings
from nisbench.run_files import FeatureCounts, Machine, PruneRun, SearchRun, Trial, write_run
from nisbench.steps import Step
from nisbench.studies import Cell

MACHINE = Machine(
    device="CPU: Abacus", threads=2, python="3.12.1", system="Linux x86_64",
    packages={"nisbench": "0", "torch": "2.99"}, time="2026-01-01T00:00:00Z",
)  # fmt: skip

SEARCH = SearchRun(
    best_trial=1, weights=600, seconds=75.0, peak_memory_mib=300.0, machine=MACHINE, failed=None,
    trials=[
        Trial(name="4 dimensions", validation_loss=0.5, best_epoch=1, epochs=2, warm_start_epochs=0, stopped="patience",
              learning_rate=0.001, weights=300, seconds=15.0, peak_memory_mib=200.0, other_load=0.0, losses=[0.5, 0.6]),
        Trial(name="8 dimensions", validation_loss=0.25, best_epoch=3, epochs=3, warm_start_epochs=0, stopped="max_epochs",
              learning_rate=0.001, weights=600, seconds=60.0, peak_memory_mib=300.0, other_load=0.0, losses=[0.5, 0.3, 0.25]),
    ],
)  # fmt: skip


def pretend(step: Step, validation_loss: float | None = None, **metrics: float) -> None:
    """Have a step and all that it needs done; a pruning measured these metrics, or failed without any.

    It has four bytes for each of 600 weights, divided by the compression rate that it was asked for.
    """
    for needed in step.needs.values():
        if not records.done(needed):
            pretend(needed)
    step.folder.mkdir(parents=True, exist_ok=True)
    for file in step.files:
        step.path(file).write_bytes(b"0" * 1000)
    if step.name == "search":
        write_run(step.path("run"), SEARCH)
    if isinstance(step.settings, PruneSettings):
        counts = FeatureCounts(count=100, without_dimensions=7)
        searched = step.needs["search"].settings
        assert isinstance(searched, SearchSettings)
        left = int(600 / step.settings.compression_rate * getattr(searched.method, "budget", 1))
        sizes = {"float32": 4 * left, "float16": 2 * left, "int8": left, "int4": left // 2}
        rounded = {precision: {name: 2 * value for name, value in metrics.items()} for precision in list(sizes)[1:]}
        based = {"mean_prediction": 0.5, "mean_label": 0.25} if metrics and step.settings.task.has_base_rate else {}
        run = PruneRun(
            metrics=metrics, validation_loss=validation_loss, weights=600, nonzeros=left, size_mib=0.25,
            bytes={"csr": sizes, "dense": dict.fromkeys(sizes, 2400)}, rounded_metrics=rounded, **based,
            features=counts, test_instances=10, seconds=1.0, machine=MACHINE, failed=None if metrics else "no result",
        )  # fmt: skip
        write_run(step.path("run"), run)
    records.write(step)


def pretend_cells(cells: Iterable[Cell], metric: str, values: Iterable[float]) -> None:
    """Have cells done that measured these values of one metric, which is all that they measured."""
    for cell, value in zip(cells, values, strict=True):
        others = {each.name: 0.5 for each in cell.settings.task.metrics}
        pretend(cell.prune, **(others | {metric: value}))
