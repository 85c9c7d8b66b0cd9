"""Pruning against numpy, sizes against scipy's own files, and the derived scheme against the pruned model."""

import numpy as np
import pytest
import scipy.sparse
import torch

from nisbench.embedding import DimensionScheme, Embeddings
from nisbench.models import recommender as recommenders
from nisbench.search import pruning


@pytest.fixture
def merged():
    return np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)


@pytest.mark.parametrize("rate", [1, 1.5, 2, 2.5, 20, 800])
def test_the_largest_weights_stay(merged, rate):
    pruned, threshold = pruning.prune(merged, merged.size, rate)
    keep = int(800 / rate)
    kept = np.sort(np.argsort(np.abs(merged).ravel())[800 - keep :])
    assert np.flatnonzero(pruned).tolist() == kept.tolist()
    assert np.array_equal(pruned.ravel()[kept], merged.ravel()[kept])
    assert np.count_nonzero(np.abs(merged) >= threshold) == keep


def test_the_rate_counts_weights_that_exist(merged):
    merged[:, 8:] = 0  # half the columns were not selected
    pruned, _ = pruning.prune(merged, 400, 2)
    assert np.count_nonzero(pruned) == 200


def test_what_is_already_sparser_is_left_alone(merged):
    merged[np.abs(merged) < 2] = 0
    pruned, threshold = pruning.prune(merged, merged.size, 2)
    assert np.array_equal(pruned, merged)
    assert threshold == 0


def test_a_rate_beyond_all_weights_leaves_none(merged):
    pruned, threshold = pruning.prune(merged, 800, 1000)
    assert np.count_nonzero(pruned) == 0
    assert np.abs(merged).max() < threshold < np.inf


def test_sizes_are_scipy_s(merged, tmp_path):
    pruned, _ = pruning.prune(merged, merged.size, 2)
    found = pruning.sizes(pruned)
    scipy.sparse.save_npz(tmp_path / "coo.npz", scipy.sparse.coo_matrix(pruned), compressed=True)
    assert found["size_mib"] == (tmp_path / "coo.npz").stat().st_size / 2**20
    assert found["coo_bytes"] == 400 * (4 + 4 + 4)
    assert found["csr_bytes"] == 400 * (4 + 4) + 51 * 4


@pytest.mark.parametrize("rate", [1, 2, 5])
def test_the_scheme_predicts_like_the_pruned_model(mf, ratings, tmp_path, rate):
    selection = torch.rand(3, 6)
    block = torch.arange(30) * 3 // 30
    original = recommenders.build(
        mf, block=block, selection=selection, soft=True, embedding_std=0.5, field_sizes=(15, 15), prior=3.0, seed=1
    )
    original.model.biases.weight.data.normal_()
    weights = original.embedding.weight.detach() * selection[block]
    pruned, _ = pruning.prune(weights.numpy(), 180, rate)
    DimensionScheme.from_dense(pruned).save(tmp_path / "scheme")
    served = pruning.with_scheme(
        mf, original.state_dict(), (6,), DimensionScheme.load(tmp_path / "scheme"), field_sizes=(15, 15)
    )

    embeddings = Embeddings(ratings.ids, None, torch.from_numpy(pruned))
    expected = original.model(embeddings, ratings.ids, None)
    torch.testing.assert_close(served(ratings), expected)
    if rate == 1:
        torch.testing.assert_close(served(ratings), original(ratings))
