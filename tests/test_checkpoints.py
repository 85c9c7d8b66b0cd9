"""Trials that are killed within an epoch go on to the same bytes."""

from contextlib import contextmanager

import pytest
import torch

from nisbench.embedding.table import SelectedTable
from nisbench.search import trials
from nisbench.tensor_files import load_tensors
from nisbench.training import train_step, trainer
from tests.helpers.graphs import captured_on_cpu
from tests.helpers.training import CPU, run_search, search_settings, tiny_data

METHODS = (
    "grid_search", "dnis", "dnis_second_order", "nis_se", "autodim", "optembed", "pep", "sseds", "gradual", "deeplight_masked",
    "mpe", "quantised_8",
)  # fmt: skip


class KilledError(BaseException):
    """Not an error that a search would record."""


@pytest.fixture(scope="module")
def data(planted, tmp_path_factory):
    return tiny_data("rating", tmp_path_factory.mktemp("data"), planted)


@contextmanager
def killed_after(steps, monkeypatch):
    """A trial is saved after each step that another one follows in the epoch; after so many of them, the process is killed."""
    watched, left = trainer.Watch.step, iter(range(steps))

    def watch(self, *arguments):
        self.saver.took = 0.0
        watched(self, *arguments)
        if next(left, None) is None:
            raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(trainer.Watch, "step", watch)
        yield


def can_read_rows(recommender, settings, _fields):
    table = recommender.embedding
    return isinstance(table, SelectedTable) and table.row_parameters and not (recommender.projection or settings.l2)


@pytest.mark.parametrize("step", ["dense", "lazy", "static"])
@pytest.mark.parametrize("method", METHODS)
def test_a_search_killed_within_an_epoch_has_the_same_result(method, step, data, tmp_path, monkeypatch):
    """The `static` step is a GPU's, here by torch's own operations."""
    if step != "dense":
        monkeypatch.setattr(train_step, "worth_reading_rows", can_read_rows)
    if step == "static":
        monkeypatch.setattr(train_step, "LazyStep", train_step.StaticLazyStep)
    settings = search_settings("rating", "mf", method, learning_rate_drop=0.5 if "dnis" in method else 1.0)
    whole = run_search(settings, data, tmp_path / "whole")
    for steps in (
        3,
        11,
    ):  # in the first epoch, and, of nine such steps each, in the second or the first of another trial
        with killed_after(steps, monkeypatch):
            splits = {name: data[name] for name in ("train", "validation")}
            trials.run(settings, splits, data["features"], tmp_path / "cut", CPU)
        saved = [load_tensors(path)[0] for path in (tmp_path / "cut" / "trials").glob("*-*.safetensors")]
        assert any("losses" in tensors for tensors in saved)
    found = run_search(settings, data, tmp_path / "cut")
    assert [trial.losses for trial in found.trials] == [trial.losses for trial in whole.trials]
    before, after = (load_tensors(tmp_path / name / "weights.safetensors")[0] for name in ("whole", "cut"))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("method", ["full_table", "dnis", "nis_se"])
def test_captured_steps_go_on_within_an_epoch_too(method, data, tmp_path, monkeypatch):
    monkeypatch.setattr(train_step, "worth_reading_rows", can_read_rows)
    monkeypatch.setattr(train_step, "LazyStep", train_step.StaticLazyStep)
    monkeypatch.setattr(trainer, "AT_ONCE", 2)
    settings = search_settings("rating", "mf", method)
    with captured_on_cpu(monkeypatch) as captures:
        whole = run_search(settings, data, tmp_path / "whole")
        for times in (1, 6):  # of four in each epoch
            with killed_after(times, monkeypatch):
                splits = {name: data[name] for name in ("train", "validation")}
                trials.run(settings, splits, data["features"], tmp_path / "cut", CPU)
        found = run_search(settings, data, tmp_path / "cut")
    assert captures
    assert [trial.losses for trial in found.trials] == [trial.losses for trial in whole.trials]


def test_no_more_than_a_share_of_the_time_goes_into_saving(tmp_path, monkeypatch):
    now, saves = [0.0], []
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: now[0])
    saver = trainer.Saver(30, tmp_path / "checkpoint")

    def save(*_):
        saves.append(now[0])
        now[0] += 3

    for second in range(0, 300, 10):
        now[0] = max(now[0], second)
        saver.save_if_due(save)
    assert saves == [30, 100, 170, 240]  # the first after 30 s, and then each 60 s after the end of the last
