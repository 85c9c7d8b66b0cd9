"""The same run twice on a GPU: the same bytes where asked for, and within a stated tolerance where not; and a CPU beside it."""

import numpy as np
import pytest
import torch

from nisbench import machine
from nisbench.training import train_step
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
