"""Steps that are captured and replayed end where others do. The graph is one of operations on a CPU (`tests.helpers.graphs`)."""

import pytest

from nisbench.training import train_step
from nisbench.training.train_step import StaticLazyStep
from tests.helpers.graphs import captured_on_cpu
from tests.helpers.training import PARAMS, run_search, search_settings, tiny_data


@pytest.fixture(scope="module")
def data_of(planted, tmp_path_factory):
    return {task: tiny_data(task, tmp_path_factory.mktemp(task), planted) for task in PARAMS.tasks}


def static(monkeypatch):
    """Steps on rows as on a GPU."""
    monkeypatch.setattr(train_step, "worth_reading_rows", lambda *_: True)
    monkeypatch.setattr(train_step, "LazyStep", StaticLazyStep)


CASES = [
    ("rating", "mf", "network_pruning"), ("rating", "mf", "dnis"), ("rating", "neumf", "dnis"), ("ctr", "fm", "dnis"),
    ("ctr", "deepfm", "dnis"), ("ctr", "deepfm", "dnis_second_order"), ("ctr", "wide_deep", "nis_me"), ("topk", "neumf_topk", "dnis"),
    ("ctr", "fm", "pep"), ("rating", "mf", "grid_search"),
]  # fmt: skip


def found(settings, data, folder):
    run = run_search(settings, data, folder)
    return [trial.losses for trial in run.trials], (folder / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("rows", [False, True], ids=["dense", "static"])
@pytest.mark.parametrize(("task", "model", "method"), CASES)
def test_captured_steps_end_where_others_do(task, model, method, rows, data_of, tmp_path, monkeypatch):
    if rows:
        if method in ("pep", "dnis_second_order"):
            pytest.skip("all rows are read at each step, or the host waits for their number")
        static(monkeypatch)
    settings = search_settings(task, model, method)
    plain = found(settings, data_of[task], tmp_path / "plain")
    with captured_on_cpu(monkeypatch) as captures:
        captured = found(settings, data_of[task], tmp_path / "captured")
    assert captures
    assert captured == plain
