"""The same run twice on a GPU: the same bytes where asked for, and within a stated tolerance where not; and a CPU beside it."""

import multiprocessing
import time

import numpy as np
import pytest
import torch

from nisbench import machine
from nisbench.embedding import distinct_rows
from nisbench.embedding.distinct_rows import DistinctRows
from nisbench.training import lazy_adam_static, lazy_adam_torch, step_loop, train_step
from nisbench.training.lazy_adam_static import StaticLazyAdam
from tests.helpers.training import PARAMS, prune_settings, run_pruning, run_search, search_settings, tiny_data

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine"),
]

TOLERANCE = 1e-2
"""Relative, of validation losses after three epochs: what the order of a GPU's sums, or another device, may make of them."""

CASES = [
    ("rating", "mf", "grid_search"), ("rating", "mf", "dnis"), ("rating", "mf", "mde_projected"),
    ("rating", "mf", "dnis_retrained"), ("rating", "mlp", "dnis"), ("rating", "neumf", "grid_search"),
    ("ctr", "fm", "dnis"), ("ctr", "wide_deep", "grid_search"), ("ctr", "deepfm", "dnis"), ("ctr", "deepfm", "nis_me"),
    ("topk", "neumf_topk", "dnis"),
]  # fmt: skip


@pytest.fixture(scope="module")
def data_of(planted, tmp_path_factory):
    return {task: tiny_data(task, tmp_path_factory.mktemp(task), planted) for task in PARAMS.tasks}


def run(settings, data, folder, device, deterministic):
    """A search and a pruning; their validation losses, the test metrics, and the bytes of what they leave."""
    training = settings.training.model_copy(update={"deterministic": deterministic, "device": device})
    settings = settings.model_copy(update={"training": training})
    with machine.device(device, 1, deterministic) as used:
        found = run_search(settings, data, folder / "search", used)
        pruned = run_pruning(prune_settings(settings, 2.0), folder / "search", data, folder / "prune", used)
    names = ("search/weights.safetensors", "prune/scheme.safetensors", "prune/model.safetensors")
    losses = np.concatenate([trial.losses for trial in found.trials])
    return losses, pruned.metrics, [(folder / name).read_bytes() for name in names]


@pytest.mark.parametrize("lazy", [False, True], ids=["dense", "lazy"])
@pytest.mark.parametrize(("task", "model", "method"), CASES)
def test_deterministic_runs_are_the_same_to_the_byte(task, model, method, lazy, data_of, tmp_path, monkeypatch):
    if lazy:
        if method == "mde_projected":
            pytest.skip("projected embeddings are trained as a whole")
        monkeypatch.setattr(train_step, "worth_reading_rows", lambda *_: True)
    settings = search_settings(task, model, method)
    first, second = (run(settings, data_of[task], tmp_path / name, "cuda", deterministic=True) for name in "ab")
    assert (first[0] == second[0]).all()
    assert first[1:] == second[1:]


@pytest.mark.parametrize(("task", "model", "method"), CASES)
def test_other_runs_are_within_the_tolerance(task, model, method, data_of, tmp_path):
    settings = search_settings(task, model, method)
    found = [
        run(settings, data_of[task], tmp_path / name, device, deterministic=False)[0]
        for name, device in (("a", "cuda"), ("b", "cuda"), ("c", "cpu"))
    ]
    shortest = min(map(len, found))
    first, *others = (losses[:shortest] for losses in found)
    differences = [float((np.abs(other - first) / np.abs(first)).max()) for other in others]
    print(f"largest relative difference: {differences[0]:.1e} to another run, {differences[1]:.1e} to a CPU")
    assert max(differences) < TOLERANCE
    assert PARAMS.training.deterministic is False


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("method", ["quantised_8", "mpe", "low_rank"])
def test_tables_in_a_form_of_their_own_are_trained_and_stored(method, deterministic, data_of, tmp_path):
    settings = search_settings("rating", "mf", method)
    losses, metrics, _ = run(settings, data_of["rating"], tmp_path, "cuda", deterministic)
    assert np.isfinite(losses).all()
    assert np.isfinite(list(metrics.values())).all()


# --- steps that are captured ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True], ids=["dense", "static"])
@pytest.mark.parametrize(("task", "model", "method"), CASES)
def test_captured_steps_give_the_same_bytes(task, model, method, lazy, data_of, tmp_path, monkeypatch):
    if lazy:
        if method == "mde_projected":
            pytest.skip("projected embeddings are trained as a whole")
        monkeypatch.setattr(train_step, "worth_reading_rows", lambda *_: True)
    captures = []
    capture = step_loop.capture
    monkeypatch.setattr(step_loop, "capture", lambda work: captures.append(capture(work)) or captures[-1])
    settings = search_settings(task, model, method)
    captured = run(settings, data_of[task], tmp_path / "captured", "cuda", deterministic=True)
    monkeypatch.setattr(step_loop, "can_capture", lambda _device: False)
    plain = run(settings, data_of[task], tmp_path / "plain", "cuda", deterministic=True)
    assert bool(captures) == (method != "mde_projected")
    assert (captured[0] == plain[0]).all()
    assert captured[1:] == plain[1:]


def search(settings, data, folder):
    """In a process of its own."""
    with machine.device("cuda", 1, deterministic=True) as used:
        run_search(settings, data, folder, used)


@pytest.mark.parametrize(("task", "model"), [("rating", "mf"), ("ctr", "deepfm")])
def test_a_search_that_is_killed_ends_with_the_same_bytes(task, model, data_of, tmp_path):
    settings = search_settings(task, model, "dnis", max_epochs=40, patience=40)
    processes = multiprocessing.get_context("spawn")
    search(settings, data_of[task], tmp_path / "whole")
    job = processes.Process(target=search, args=(settings, data_of[task], tmp_path / "killed"))
    job.start()
    while job.is_alive() and not list((tmp_path / "killed").glob("trials/*checkpoint*")):
        time.sleep(0.01)
    assert job.is_alive(), "it was done before it could be killed"
    job.kill()
    job.join()
    search(settings, data_of[task], tmp_path / "killed")
    name = "weights.safetensors"
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# --- kernels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 5, 64, 300])
def test_sums_by_row_are_those_of_double_precision(width):
    generator = torch.Generator().manual_seed(1)
    ids = (torch.rand(4096, 39, generator=generator) ** 4 * 100_000).int()
    ids[:, :13] = torch.arange(13)
    values, gradient = torch.rand(4096, 39, generator=generator), torch.randn(4096, width, generator=generator)
    distinct = DistinctRows.of(ids.cuda(), 80_000)
    kernels = distinct_rows.triton_kernels(distinct.rows.device)
    assert kernels is not None, "torch has no Triton here"
    summed = kernels.summed_by_row(gradient.cuda(), values.cuda(), distinct)
    again = kernels.summed_by_row(gradient.cuda(), values.cuda(), distinct)
    assert torch.equal(summed, again)
    count, rows = int(distinct.count), distinct.rows.cpu()
    exact = torch.zeros(100_013, width, dtype=torch.float64)
    exact.index_add_(0, ids.flatten().long(), (gradient.double()[:, None] * values.double()[..., None]).flatten(0, 1))
    torch.testing.assert_close(summed[:count].cpu().double(), exact[rows[:count]], rtol=1e-5, atol=1e-4)
    assert (summed[count:] == 0).all()


@pytest.mark.parametrize("kernels", ["triton", "torch"])
@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_lazy_steps_equal_dense_adam(kernels, scale, monkeypatch):
    """3,000 steps of skewed accesses, against torch's Adam in double precision."""
    if kernels == "torch":
        monkeypatch.setattr(lazy_adam_static, "kernels_for", lambda _device: lazy_adam_torch)
    generator = torch.Generator(device="cuda").manual_seed(1)
    start = [torch.randn(shape, generator=generator, device="cuda") for shape in ((500, 64), (500,), (500, 300))]
    dense = [table.double().requires_grad_() for table in start]
    adam, mine = torch.optim.Adam(dense, 1e-2, fused=True), [table.clone() for table in start]
    lazy, probability = StaticLazyAdam(mine), (1.0 + torch.arange(500, device="cuda")) ** -1.2
    for _ in range(3000):
        ids = torch.multinomial(probability, 40, replacement=True, generator=generator).view(20, 2)
        distinct = DistinctRows.of(ids, 500)
        lazy.reserve(1, 1e-2)
        leaves = lazy.read(distinct, 1e-2)
        used = (torch.arange(len(distinct), device="cuda") < distinct.count).double()
        for table, leaf in zip(dense, leaves, strict=True):
            leaf.grad = torch.randn(leaf.shape, generator=generator, device="cuda") * scale
            weighted = leaf.grad.double() * used.view(-1, *[1] * (leaf.dim() - 1))
            table.grad = torch.zeros_like(table).index_add_(0, distinct.rows, weighted)
        lazy.step(distinct, leaves, 1e-2)
        adam.step()
    lazy.catch_up_all(1e-2)
    for ours, theirs in zip(mine, dense, strict=True):
        assert (ours - theirs).abs().max() < 2e-5
