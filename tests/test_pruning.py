"""Pruning against numpy, sizes against scipy's own files, and the derived scheme against the pruned model."""

import json

import numpy as np
import pytest
import scipy.sparse
import torch

from nisbench.data import blocks, planted_ratings, split
from nisbench.embedding import DimensionScheme, Embeddings
from nisbench.evaluation.rating import RatingPrediction
from nisbench.models import recommender as recommenders
from nisbench.params.settings import BlockSettings
from nisbench.runs import PruneSettings, SearchSettings
from nisbench.search import pruning, trials
from nisbench.training.checkpoints import load_tensors, save_tensors


@pytest.fixture
def merged():
    return np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)


@pytest.mark.parametrize("rate", [1, 1.5, 2, 2.5, 20, 800])
def test_the_largest_weights_stay(merged, rate):
    pruned, threshold = pruning.prune(merged, np.abs(merged), merged.size, rate)
    keep = int(800 / rate)
    kept = np.sort(np.argsort(np.abs(merged).ravel())[800 - keep :])
    assert np.flatnonzero(pruned).tolist() == kept.tolist()
    assert np.array_equal(pruned.ravel()[kept], merged.ravel()[kept])
    assert np.count_nonzero(np.abs(merged) >= threshold) == keep


def test_the_rate_counts_weights_that_exist(merged):
    merged[:, 8:] = 0  # half the columns were not selected
    pruned, _ = pruning.prune(merged, np.abs(merged), 400, 2)
    assert np.count_nonzero(pruned) == 200


def test_what_is_already_sparser_is_left_alone(merged):
    merged[np.abs(merged) < 2] = 0
    pruned, threshold = pruning.prune(merged, np.abs(merged), merged.size, 2)
    assert np.array_equal(pruned, merged)
    assert threshold == 0


def test_a_rate_beyond_all_weights_leaves_none(merged):
    pruned, threshold = pruning.prune(merged, np.abs(merged), 800, 1000)
    assert np.count_nonzero(pruned) == 0
    assert np.abs(merged).max() < threshold < np.inf


def test_of_equal_weights_as_many_stay_as_there_is_room_for():
    equal = np.full((4, 5), 0.5, dtype=np.float32)
    equal[0, 0] = 1.0
    pruned, threshold = pruning.prune(equal, equal, equal.size, 4)
    assert np.flatnonzero(pruned).tolist() == [0, 1, 2, 3, 4]
    assert threshold == 0.5


def test_sizes_are_scipy_s(merged, tmp_path):
    pruned, _ = pruning.prune(merged, np.abs(merged), merged.size, 2)
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
    original.first_order.data.normal_()
    weights = original.embedding.weight.detach() * selection[block]
    pruned, _ = pruning.prune(weights.numpy(), weights.abs().numpy(), 180, rate)
    DimensionScheme.from_dense(pruned).save(tmp_path / "scheme")
    own = {name: tensor for name, tensor in original.state_dict().items() if not name.startswith("embedding.")}
    served = pruning.Result(pruned, own, mf, (6,), (15, 15)).served(DimensionScheme.load(tmp_path / "scheme"))

    embeddings = Embeddings(ratings.ids, None, torch.from_numpy(pruned))
    expected = original.model(embeddings, recommenders.first_order(original.first_order, ratings.ids, None))
    torch.testing.assert_close(served(ratings), expected)
    if rate == 1:
        torch.testing.assert_close(served(ratings), original(ratings))


@pytest.fixture
def settings(config, mf):
    def build(**update):
        plain = {
            "task": config.params.tasks["rating"], "model": mf, "prune_by": "scaled", "rounds": 0,
            "compression_rate": 2.0, "seed": 1, "training": None, "deterministic": False, "device": "cpu",
        }  # fmt: skip
        return PruneSettings(**plain | update)

    return build


def test_what_goes_first(settings):
    embeddings = np.array([[0.1, -0.4], [0.0, 0.3]], dtype=np.float32)
    unscaled = np.array([[1.0, -0.4], [9.0, 0.6]], dtype=np.float32)
    assert pruning.importance(settings(), embeddings, unscaled).tolist() == np.abs(embeddings).tolist()
    # what the selection took away does not exist, whatever its weight
    by_weights = pruning.importance(settings(prune_by="weights"), embeddings, unscaled)
    np.testing.assert_array_equal(by_weights, np.array([[1.0, 0.4], [0.0, 0.6]], dtype=np.float32))
    at_random = [pruning.importance(settings(prune_by="random", seed=s), embeddings, unscaled) for s in (1, 1, 2)]
    assert (at_random[0] == at_random[1]).all()
    assert (at_random[0] != at_random[2]).any()
    assert (at_random[0] > 0).tolist() == [[True, True], [False, True]]


def test_a_random_mask_at_a_higher_rate_is_within_one_at_a_lower(settings, merged):
    at_random = settings(prune_by="random")
    order = pruning.importance(at_random, merged, merged)
    few, many = (pruning.prune(merged, order, merged.size, rate)[0] != 0 for rate in (4, 2))
    assert (few.sum(), many.sum()) == (200, 400)
    assert (few <= many).all()
    assert abs(np.abs(merged[few]).mean() - np.abs(merged).mean()) < 0.1  # no regard to magnitude


@pytest.fixture
def trained(planted, config, mf, tmp_path):
    """A search of the full table on small planted ratings: its files, and those of its parts."""
    parts = {part: tmp_path / part for part in split.PARTS}
    planted_ratings.run(planted, None, tmp_path / "i", tmp_path / "v")
    split.run(planted.split, tmp_path / "i", parts)
    blocks.run(BlockSettings(by="count", count=4), tmp_path / "v", parts["train"], tmp_path / "features")
    training = config.params.training.model_copy(
        update={"base_dimension": 8, "batch_size": 256, "max_epochs": 8, "learning_rate": 0.02, "checkpoint_seconds": 0}
    )
    searched = SearchSettings(
        task=config.params.tasks["rating"],
        model=mf,
        method=config.params.methods["network_pruning"],
        training=training,
        seed=1,
    )
    files = {
        "train_file": parts["train"],
        "validation_file": parts["validation"],
        "features_file": tmp_path / "features",
    }
    trials.run(searched, **files, folder=tmp_path / "search", device=torch.device("cpu"))
    return tmp_path / "search", parts, training


def pruned(settings, trained, folder):
    search, parts, _ = trained
    pruning.run(
        settings, weights_file=search / "weights.safetensors", search_file=search / "run.json", parts=parts,
        folder=folder, device=torch.device("cpu"),
    )  # fmt: skip
    return json.loads((folder / "run.json").read_text()), DimensionScheme.load(folder / "scheme.safetensors")


def test_iterative_pruning_keeps_what_is_pruned_at_zero_and_is_better_than_one_shot(settings, trained, tmp_path):
    once, _ = pruned(settings(compression_rate=8.0), trained, tmp_path / "once")
    iterative = settings(compression_rate=8.0, rounds=3, training=trained[2])
    found, scheme = pruned(iterative, trained, tmp_path / "rounds")
    assert [round(each["compression_rate"], 6) for each in found["rounds"]] == [2, 4, 8]
    assert found["nonzeros"] == once["nonzeros"] == 800 // 8 == np.count_nonzero(scheme.to_dense())
    assert found["metrics"]["mse"] < once["metrics"]["mse"]
    assert found["seconds"] == pytest.approx(sum(each["seconds"] for each in found["rounds"]))
    assert sorted(path.name for path in (tmp_path / "rounds").iterdir()) == ["run.json", "scheme.safetensors"]


def test_rounds_by_unscaled_weights_are_by_unscaled_weights(settings, trained, tmp_path):
    search, _, training = trained
    tensors, about = load_tensors(search / "weights.safetensors")
    tensors["embedding.selection"] = torch.linspace(0.1, 1, tensors["embedding.selection"].numel()).view(
        tensors["embedding.selection"].shape
    )
    save_tensors(search / "weights.safetensors", tensors, about)
    found = {
        by: pruned(settings(prune_by=by, rounds=1, training=training), trained, tmp_path / by)[0]["threshold"]
        for by in ("scaled", "weights")
    }
    assert found["weights"] > 1.2 * found["scaled"]


def test_pruning_in_rounds_that_is_killed_goes_on_to_the_same_result(settings, trained, tmp_path, monkeypatch):
    iterative = settings(compression_rate=8.0, rounds=2, training=trained[2])
    undisturbed, scheme = pruned(iterative, trained, tmp_path / "a")
    loss, calls = RatingPrediction.validation_loss, iter(range(undisturbed["rounds"][0]["epochs"] + 2))

    def killed(*args):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return loss(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RatingPrediction, "validation_loss", killed)
        pruned(iterative, trained, tmp_path / "b")
    assert (tmp_path / "b" / "rounds" / "1.safetensors").exists()
    again, same = pruned(iterative, trained, tmp_path / "b")
    assert again["metrics"] == undisturbed["metrics"]
    assert (same.to_dense() == scheme.to_dense()).all()
