"""The same run twice on a GPU: the same bytes where asked for, and within a stated tolerance where not; and a CPU beside it."""

import numpy as np
import pytest
import torch

from nisbench import machine, records
from nisbench.search import pruning, trials
from nisbench.training import optimizers
from tests.test_conformance import PARAMS, data_of, prune_settings, settings_for

__all__ = ["data_of"]  # a fixture

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")

TOLERANCE = 1e-2
"""Relative, of validation losses after three epochs: what the order of a GPU's sums, or another device, may make of them."""

CASES = [
    ("rating", "mf", "grid_search"), ("rating", "mf", "dnis"), ("rating", "mf", "mde_projected"),
    ("rating", "mlp", "dnis"), ("rating", "neumf", "grid_search"),
    ("ctr", "fm", "dnis"), ("ctr", "wide_deep", "grid_search"), ("ctr", "deepfm", "dnis"), ("ctr", "deepfm", "nis_me"),
    ("topk", "neumf_topk", "dnis"),
]  # fmt: skip


def run(settings, data, folder, device, deterministic):
    """A search and a pruning; their validation losses, and the bytes of the weights and the scheme."""
    training = settings.training.model_copy(update={"deterministic": deterministic, "device": device})
    settings = settings.model_copy(update={"training": training})
    parts = {f"{name}_file": data[name] for name in ("train", "validation", "features")}
    with machine.device(device, 1, deterministic) as used:
        trials.run(settings, **parts, folder=folder / "search", device=used)
        pruning.run(
            prune_settings(settings, 2.0),
            weights_file=folder / "search" / "weights.safetensors", search_file=folder / "search" / "run.json",
            parts={part: data[part] for part in ("train", "validation", "test")}, folder=folder / "prune", device=used,
        )  # fmt: skip
    found = records.read_search(folder / "search" / "run.json")
    files = (folder / "search" / "weights.safetensors", folder / "prune" / "scheme.safetensors")
    losses = np.concatenate([trial["losses"] for trial in found["trials"]])
    metrics = records.read_pruning(folder / "prune" / "run.json")["metrics"]
    return losses, metrics, [file.read_bytes() for file in files]


@pytest.mark.parametrize("by_rows", [False, True], ids=["all rows", "batch rows"])
@pytest.mark.parametrize(("task", "model", "method"), CASES)
def test_deterministic_runs_are_the_same_to_the_byte(task, model, method, by_rows, data_of, tmp_path, monkeypatch):
    if by_rows:
        if method == "mde_projected":
            pytest.skip("projected embeddings are trained as a whole")
        monkeypatch.setattr(optimizers, "worth_reading_rows", lambda *_: True)
    settings = settings_for(task, model, method)
    first, second = (run(settings, data_of[task], tmp_path / name, "cuda", deterministic=True) for name in "ab")
    assert (first[0] == second[0]).all()
    assert first[1:] == second[1:]


@pytest.mark.parametrize(("task", "model", "method"), CASES)
def test_other_runs_are_within_the_tolerance(task, model, method, data_of, tmp_path):
    settings = settings_for(task, model, method)
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
