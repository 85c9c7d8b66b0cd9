"""Steps that are captured and replayed end where others do. The graph is one of operations on a CPU (`tests.helpers.graphs`)."""

import os
import re
import subprocess
import sys

import pytest
import torch

from nisbench.cost import shapes
from nisbench.cost.steps import search_in
from nisbench.data.instances import Instances
from nisbench.search.dnis import first_order
from nisbench.training import step_loop, train_step
from nisbench.training.step_loop import StepLoop
from nisbench.training.train_step import DenseStep, LazyStep, StaticLazyStep
from tests.helpers.graphs import captured_on_cpu
from tests.helpers.paths import ROOT
from tests.helpers.training import (
    CPU,
    PARAMS,
    TASK_CLASSES,
    context_of,
    interrupted_after,
    run_search,
    search_settings,
    tiny_data,
)


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


@pytest.mark.parametrize("kind", [StaticLazyStep, DenseStep])
@pytest.mark.parametrize(
    ("model", "method"),
    [("mf", "dnis"), ("neumf", "network_pruning"), ("fm", "dnis"), ("deepfm", "dnis"), ("wide_deep", "nis_me")],
)
def test_no_step_asks_the_device_for_a_value(model, method, kind, monkeypatch):
    """Steps on the device `meta`, where tensors have shapes and no values, and meet none of a CPU."""
    clicks = model in ("fm", "deepfm", "wide_deep")
    settings = search_settings("ctr" if clicks else "rating", model, method)
    shape = shapes.of_clicks(2, 3, 200, 1000) if clicks else shapes.of_ratings(300, 100, 1000)
    search = search_in(shape, settings, CPU, steps=6)
    spec, meta = search.specs()[0], torch.device("meta")
    recommender = search.recommender(spec).to(meta)
    data = search.data.training
    data = Instances(data.ids.to(meta), data.labels.to(meta), None if data.values is None else data.values.to(meta))
    stepper = kind(recommender, search.data.task, settings.training)
    optimizer = spec.selection_optimizer(recommender, search.data.task) if spec.selection_optimizer else None
    if optimizer:
        optimizer.begin_epoch(recommender, 0.01)
    monkeypatch.setattr(step_loop, "can_capture", lambda _device: True)
    monkeypatch.setattr(step_loop, "capture", lambda work: work)
    loop = StepLoop(recommender, stepper, optimizer, settings.training.batch_size)
    order = torch.randperm(len(data) - 100, device=meta)
    data = data[: len(order)]
    loop.begin(data, order, *((data, order) if optimizer else (None, None)), 0.01)
    loop.run()
    assert loop.replay is not None
    assert loop.step_losses().shape == (6,)


def test_the_losses_of_all_steps_are_kept_after_the_learning_rate_has_dropped(monkeypatch):
    settings = search_settings("rating", "mf", "network_pruning")
    search = search_in(shapes.of_ratings(300, 100, 1000), settings, CPU, steps=12)

    def losses():
        recommender = search.recommender(search.specs()[0])
        loop = StepLoop(
            recommender, DenseStep(recommender, search.data.task, settings.training), None, settings.training.batch_size
        )
        data, found = search.data.training, []
        for rate in (0.1, 0.1, 0.01, 0.01):
            loop.begin(data, torch.arange(len(data)), None, None, rate)
            loop.run()
            found.append(loop.step_losses())
        return torch.stack(found)

    plain = losses()
    with captured_on_cpu(monkeypatch) as captures:
        captured = losses()
    assert len(captures) == 2  # one for each rate
    assert (plain > 0).all()
    assert torch.equal(captured, plain)


def test_a_step_that_cannot_be_captured_is_done_all_the_same(data_of, tmp_path, monkeypatch, caplog):
    settings = search_settings("rating", "mf", "dnis")
    plain = found(settings, data_of["rating"], tmp_path / "plain")

    def refuses(_work):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(step_loop, "can_capture", lambda _device: True)
    monkeypatch.setattr(step_loop, "capture", refuses)
    assert found(settings, data_of["rating"], tmp_path / "refused") == plain
    assert "steps are not captured" in caplog.text


def test_an_interrupted_search_ends_alike(data_of, tmp_path, monkeypatch):
    static(monkeypatch)
    settings = search_settings("rating", "mf", "dnis")
    with captured_on_cpu(monkeypatch):
        whole = found(settings, data_of["rating"], tmp_path / "whole")
        with interrupted_after(1, TASK_CLASSES["rating"], monkeypatch):
            found(settings, data_of["rating"], tmp_path / "interrupted")
        assert found(settings, data_of["rating"], tmp_path / "interrupted") == whole


def test_parts_of_an_epoch_are_the_epoch(data_of, monkeypatch):
    """As a loop does that reports its progress in between."""
    settings, ends = search_settings("rating", "mf", "dnis"), []
    for parts in ([None], [2, 1, 3, None]):
        context = context_of(settings, data_of["rating"])
        spec = context.specs()[0]
        recommender, task = context.recommender(spec), context.data.task
        optimizer = spec.selection_optimizer(recommender, task)
        loop = StepLoop(recommender, StaticLazyStep(recommender, task, settings.training), optimizer, 256)
        data, order = context.data.training, torch.arange(len(context.data.training))
        with captured_on_cpu(monkeypatch):
            loop.captures = True
            loop.begin(data, order, data, order.flip(0), 0.01)
            for count in parts:
                loop.run(count)
        loop.stepper.sync()
        ends.append((loop.step_losses(), recommender.selected.weight, recommender.selected.selection))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.slow
def test_kernels_compile_for_an_h100(tmp_path):
    """Triton compiles without a GPU; what is compiled is run by `tests/test_gpu.py`."""
    pytest.importorskip("triton", reason="Triton is not installed (on Linux, CUDA builds of torch come with it)")
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    command = [sys.executable, "-m", "tests.helpers.compile_kernels"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    spilled = [int(count) for count in re.findall(r"(\d+) bytes spill", done.stdout)]
    assert "registers" in done.stdout
    assert max(spilled, default=0) < 100


@pytest.mark.parametrize("kind", [LazyStep, StaticLazyStep])
@pytest.mark.parametrize("model", ["fm", "deepfm"])
def test_a_selection_s_gradient_is_the_same_by_rows(model, kind):
    """On the batch's distinct rows, once they were found by `sync`, and on all occurrences."""
    search = search_in(shapes.of_clicks(2, 3, 3000, 1000), search_settings("ctr", model, "dnis"), CPU, steps=2)
    recommender, task = search.recommender(search.specs()[0]), search.data.task
    stepper = kind(recommender, task, search.settings.training)
    batch, held_out = search.data.training[:256], search.data.training[256:]
    stepper.reserve(1, 0.01)
    stepper.step(batch, 0.01)
    stepper.sync(held_out)
    by_rows = first_order(recommender, task, held_out)
    assert recommender.read is not None
    recommender.read = None
    torch.testing.assert_close(by_rows, first_order(recommender, task, held_out), rtol=1e-5, atol=1e-8)
