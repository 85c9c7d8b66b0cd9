"""Pruning against numpy, sizes against scipy's own files, and the derived scheme against the pruned model."""

import itertools
import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
import torch

from nisbench.data import instances
from nisbench.embedding import storage
from nisbench.embedding.batch import Embeddings
from nisbench.embedding.scheme import DimensionScheme
from nisbench.errors import NisbenchError
from nisbench.models import recommender as recommenders
from nisbench.models.pruned import PrunedModel
from nisbench.params.step_settings import PruneSettings
from nisbench.search import pruning
from nisbench.search.trial_spec import TrialSpec
from nisbench.tasks.rating import RatingPrediction
from nisbench.tensor_files import load_tensors, save_tensors
from nisbench.training.trainer import train
from tests.helpers.training import (
    CPU,
    PARAMS,
    context_of,
    interrupted_after,
    prune_settings,
    recomputed_metrics,
    recomputed_validation_loss,
    run_pruning,
    run_search,
    search_settings,
    tiny_data,
)


def prune(embeddings, importances, weights, rate):
    """The pruned matrix and the threshold."""
    kept, threshold = pruning.most_important(importances, weights, rate)
    return np.where(kept, embeddings, np.float32(0)), threshold


@pytest.fixture
def effective():
    return np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)


@pytest.mark.parametrize("rate", [1, 1.5, 2, 2.5, 20, 800])
def test_the_largest_weights_stay(effective, rate):
    pruned, threshold = prune(effective, np.abs(effective), effective.size, rate)
    keep = int(800 / rate)
    kept = np.sort(np.argsort(np.abs(effective).ravel())[800 - keep :])
    assert np.flatnonzero(pruned).tolist() == kept.tolist()
    assert np.array_equal(pruned.ravel()[kept], effective.ravel()[kept])
    assert np.count_nonzero(np.abs(effective) >= threshold) == keep


def test_the_rate_counts_weights_that_exist(effective):
    effective[:, 8:] = 0  # half the columns were not selected
    pruned, _ = prune(effective, np.abs(effective), 400, 2)
    assert np.count_nonzero(pruned) == 200


def test_what_is_already_sparser_is_left_alone(effective):
    effective[np.abs(effective) < 2] = 0
    pruned, threshold = prune(effective, np.abs(effective), effective.size, 2)
    assert np.array_equal(pruned, effective)
    assert threshold == 0


def test_a_rate_beyond_all_weights_leaves_none(effective):
    pruned, threshold = prune(effective, np.abs(effective), 800, 1000)
    assert np.count_nonzero(pruned) == 0
    assert np.abs(effective).max() < threshold < np.inf


def test_of_equal_weights_as_many_stay_as_there_is_room_for():
    equal = np.full((4, 5), 0.5, dtype=np.float32)
    equal[0, 0] = 1.0
    pruned, threshold = prune(equal, equal, equal.size, 4)
    assert np.flatnonzero(pruned).tolist() == [0, 1, 2, 3, 4]
    assert threshold == 0.5


@pytest.mark.parametrize("at_once", [storage.ROWS_AT_ONCE, 100])
@pytest.mark.parametrize("rate", [1, 2, 400, 801])
def test_the_paper_s_size_is_that_of_scipy_s_file(effective, tmp_path, monkeypatch, rate, at_once):
    monkeypatch.setattr(storage, "ROWS_AT_ONCE", at_once)
    pruned, _ = prune(effective, np.abs(effective), effective.size, rate)
    scipy.sparse.save_npz(tmp_path / "coo.npz", scipy.sparse.coo_matrix(pruned), compressed=True)
    assert pruning.deflated_mib(pruned) == (tmp_path / "coo.npz").stat().st_size / 2**20


@pytest.mark.parametrize("rate", [1, 2, 5])
def test_the_scheme_predicts_like_the_pruned_model(mf, ratings, tmp_path, rate):
    selection = torch.rand(3, 6)
    block = torch.arange(30) * 3 // 30
    original = recommenders.build(
        mf, block=block, selection=selection, soft=True, embedding_std=0.5, field_sizes=(15, 15), prior=3.0, seed=1
    )
    original.first_order.data.normal_()
    weights = original.embedding.weight.detach() * selection[block]
    pruned, _ = prune(weights.numpy(), weights.abs().numpy(), 180, rate)
    others = {name: tensor for name, tensor in original.state_dict().items() if not name.startswith("embedding.")}
    PrunedModel(pruned, others, mf, (6,), (15, 15)).save(tmp_path / "scheme", tmp_path / "model")
    served = PrunedModel.load(tmp_path / "scheme", tmp_path / "model", mf).to_recommender()

    embeddings = Embeddings(ratings.ids, None, torch.from_numpy(pruned))
    expected = original.model(embeddings, recommenders.first_order(original.first_order, ratings.ids, None))
    torch.testing.assert_close(served(ratings), expected)
    if rate == 1:
        torch.testing.assert_close(served(ratings), original(ratings))


@pytest.fixture
def settings(config, mf):
    def build(**update):
        plain = {
            "task": config.params.tasks["rating"], "model": mf, "importance": "effective", "rounds": 0, "rewind": None,
            "recalibrate": False, "compression_rate": 2.0, "seed": 1, "training": None, "deterministic": False, "device": "cpu",
        }  # fmt: skip
        return PruneSettings(**plain | {"memory_limit": None} | update)

    return build


def test_what_goes_first(settings):
    embeddings = np.array([[0.1, -0.4], [0.0, 0.3]], dtype=np.float32)
    found = pruning.Found(np.array([[1.0, -0.4], [9.0, 0.6]], dtype=np.float32), None, [])
    assert pruning.importance(settings(), embeddings, found).tolist() == np.abs(embeddings).tolist()
    # what the selection took away does not exist, whatever its weight
    by_raw = pruning.importance(settings(importance="raw"), embeddings, found)
    np.testing.assert_array_equal(by_raw, np.array([[1.0, 0.4], [0.0, 0.6]], dtype=np.float32))
    at_random = [pruning.importance(settings(importance="random", seed=s), embeddings, found) for s in (1, 1, 2)]
    assert (at_random[0] == at_random[1]).all()
    assert (at_random[0] != at_random[2]).any()
    assert (at_random[0] > 0).tolist() == [[True, True], [False, True]]


def test_a_random_mask_at_a_higher_rate_is_within_one_at_a_lower(settings, effective):
    at_random = settings(importance="random")
    order = pruning.importance(at_random, effective, pruning.Found(effective, None, []))
    few, many = (prune(effective, order, effective.size, rate)[0] != 0 for rate in (4, 2))
    assert (few.sum(), many.sum()) == (200, 400)
    assert (few <= many).all()
    assert abs(np.abs(effective[few]).mean() - np.abs(effective).mean()) < 0.1  # no regard to magnitude


@pytest.fixture
def trained(planted, tmp_path):
    """A search of the full table on small planted ratings: its folder, the data's files, and its terms of training."""
    data = tiny_data("rating", tmp_path, planted)
    searched = search_settings("rating", "mf", "network_pruning", base_dimension=8, max_epochs=8, learning_rate=0.02)
    run_search(searched, data, tmp_path / "search")
    return tmp_path / "search", data, searched.training


def pruned(settings, trained, folder):
    search, data, _ = trained
    return run_pruning(settings, search, data, folder), DimensionScheme.load(folder / "scheme.safetensors")


def test_iterative_pruning_keeps_what_is_pruned_at_zero_and_is_better_than_one_shot(settings, trained, tmp_path):
    once, _ = pruned(settings(compression_rate=8.0), trained, tmp_path / "once")
    iterative = settings(compression_rate=8.0, rounds=3, rewind="pruned", training=trained[2])
    found, scheme = pruned(iterative, trained, tmp_path / "rounds")
    assert [round(one.compression_rate, 6) for one in found.rounds] == [2, 4, 8]
    assert found.nonzeros == once.nonzeros == 800 // 8 == np.count_nonzero(scheme.to_dense())
    assert found.metrics["mse"] < once.metrics["mse"]
    assert found.seconds == pytest.approx(sum(one.seconds for one in found.rounds))
    files = sorted(path.name for path in (tmp_path / "rounds").iterdir())
    assert files == ["model.safetensors", "run.json", "scheme.safetensors"]


@pytest.mark.parametrize("rewind", ["initial", "fresh"])
def test_a_rewound_round_starts_at_the_initial_weights_without_those_that_were_pruned(
    settings, trained, tmp_path, rewind, monkeypatch
):
    _, data, training = trained
    starts = []

    def recorded(recommender, *arguments, **others):
        starts.append({name: tensor.clone() for name, tensor in recommender.state_dict().items()})
        return train(recommender, *arguments, **others)

    monkeypatch.setattr(pruning, "train", recorded)
    found, scheme = pruned(
        settings(compression_rate=8.0, rounds=3, rewind=rewind, training=training), trained, tmp_path / "p"
    )
    searched = search_settings("rating", "mf", "network_pruning", base_dimension=8)
    initial = context_of(searched, data).recommender(
        TrialSpec("all", torch.ones(1, 8), block=torch.zeros(100, dtype=torch.int32))
    )
    masks = [start["embedding.selection"] for start in starts]
    assert [int(mask.sum()) for mask in masks] == [400, 200, 100]
    assert all((later <= earlier).all() for earlier, later in pairwise(masks))
    for start, mask in zip(starts, masks, strict=True):
        assert torch.equal(start["embedding.weight"], initial.selected.weight * mask) == (rewind == "initial")
        assert not start["first_order"].any()  # the network is rewound, too
        assert torch.equal(start["embedding.weight"], starts[0]["embedding.weight"] * mask)
    assert found.nonzeros == 100
    assert ((scheme.to_dense() != 0) == masks[-1].bool().numpy()).all()
    assert all(one.validation_loss < math.inf for one in found.rounds)


def test_weights_that_a_search_ranks_are_pruned_by_their_ranks_and_equal_ones_together():
    ranks = np.array([[0, 1, 2], [3, 3, 4]], dtype=np.float32)
    kept, threshold = pruning.most_important(ranks, 6, 3, "search")
    assert kept.tolist() == [[False, False, False], [False, False, True]]
    assert threshold == 3
    kept, _ = pruning.most_important(ranks, 6, 2, "search")
    assert kept.tolist() == [[False, False, False], [True, True, True]]


@pytest.mark.parametrize(("rate", "expected"), [(1, 0), (1.25, 1), (2, 2), (10, 7), (50, 11), (1 / 0.7**3, 3)])
def test_rounds_are_as_many_as_the_rate_needs(config, rate, expected):
    method = config.params.methods["lottery_ticket"]
    assert method.rounds.keep == 0.7
    assert method.rounds_at(rate) == expected
    assert 0.7**expected <= 1 / rate * (1 + 1e-9)
    assert config.params.methods["network_pruning"].rounds_at(rate) == 0


def test_rounds_by_raw_weights_are_by_raw_weights(settings, trained, tmp_path):
    search, _, training = trained
    tensors, about = load_tensors(search / "weights.safetensors")
    tensors["embedding.selection"] = torch.linspace(0.1, 1, tensors["embedding.selection"].numel()).view(
        tensors["embedding.selection"].shape
    )
    save_tensors(search / "weights.safetensors", tensors, about)
    found = {
        by: pruned(settings(importance=by, rounds=1, rewind="pruned", training=training), trained, tmp_path / by)[
            0
        ].threshold
        for by in ("effective", "raw")
    }
    assert found["raw"] > 1.2 * found["effective"]


def test_pruning_in_rounds_that_is_killed_goes_on_to_the_same_result(settings, trained, tmp_path, monkeypatch):
    iterative = settings(compression_rate=8.0, rounds=2, rewind="pruned", training=trained[2])
    undisturbed, scheme = pruned(iterative, trained, tmp_path / "a")
    with interrupted_after(undisturbed.rounds[0].epochs + 2, RatingPrediction, monkeypatch):
        pruned(iterative, trained, tmp_path / "b")
    assert (tmp_path / "b" / "rounds" / "1.safetensors").exists()
    again, same = pruned(iterative, trained, tmp_path / "b")
    assert again.metrics == undisturbed.metrics
    assert (same.to_dense() == scheme.to_dense()).all()
    kept, same_kept = (load_tensors(tmp_path / name / "model.safetensors")[0] for name in "ab")
    assert all(torch.equal(tensor, same_kept[name]) for name, tensor in kept.items())


def test_a_pruning_without_a_result_leaves_files_that_say_so(settings, trained, tmp_path):
    found, scheme = pruned(
        settings(compression_rate=2.0, rounds=1, rewind="pruned", training=divergent(trained)), trained, tmp_path / "p"
    )
    assert "loss is" in found.failed
    assert (found.metrics, found.nonzeros, len(scheme.values)) == ({}, 0, 0)
    with pytest.raises(NisbenchError, match=r"model\.safetensors: holds no model, because the run failed"):
        PrunedModel.load(
            tmp_path / "p" / "scheme.safetensors", tmp_path / "p" / "model.safetensors", PARAMS.models["mf"]
        )


def divergent(trained):
    return trained[2].model_copy(update={"learning_rate": 1e30})


# --- precision and base rate ----------------------------------------------------------------------------------


def test_bytes_and_quality_are_recorded_for_all_layouts_and_precisions(settings, trained, tmp_path):
    found, scheme = pruned(settings(compression_rate=4.0), trained, tmp_path / "p")
    dense, extent = scheme.to_dense(), storage.Extent.of(scheme.to_dense())
    assert found.bytes == extent.all_bytes()
    assert {layout: list(of) for layout, of in found.bytes.items()} == {
        layout: list(storage.PRECISIONS) for layout in storage.LAYOUTS
    }
    assert found.stored_bytes("int8") == min(of["int8"] for of in found.bytes.values()) < found.stored_bytes()
    model = PrunedModel.load(
        tmp_path / "p" / "scheme.safetensors", tmp_path / "p" / "model.safetensors", PARAMS.models["mf"]
    )
    test = instances.read(trained[1]["test"], CPU)
    for precision, metrics in found.rounded_metrics.items():
        rounded = model.with_embeddings(storage.rounded(dense, precision, np.empty_like(dense)))
        assert metrics == RatingPrediction().evaluate(rounded.to_recommender(), test)
    errors = [abs(found.metrics_at(of)["mse"] - found.metrics["mse"]) for of in storage.PRECISIONS]
    assert errors == sorted(errors)
    assert errors[1] > 0


@pytest.mark.parametrize(("task", "model"), [("rating", "mf"), ("ctr", "fm")])
def test_recalibration_refits_one_number_on_validation(task, model, data_of, tmp_path):
    searched, data = search_settings(task, model, "full_table", max_epochs=1), data_of[task]
    run_search(searched, data, tmp_path / "search")
    runs = {}
    for recalibrate in (False, True):
        chosen = prune_settings(searched, 8.0).model_copy(update={"recalibrate": recalibrate})
        runs[recalibrate] = run_pruning(chosen, tmp_path / "search", data, tmp_path / str(recalibrate))
        assert recomputed_metrics(chosen, data, tmp_path / str(recalibrate)) == runs[recalibrate].metrics
    plain, refitted = runs.values()
    assert plain.offset == 0 != refitted.offset
    assert plain.mean_label == refitted.mean_label
    assert plain.nonzeros == refitted.nonzeros
    error = {name: abs(run.mean_prediction - run.mean_label) for name, run in runs.items()}
    assert error[True] < error[False]
    if task == "ctr":
        assert refitted.metrics["auc"] == pytest.approx(plain.metrics["auc"], abs=1e-4)
    folder, known = tmp_path / "True", PARAMS.models[model].small()
    pruned_model = PrunedModel.load(folder / "scheme.safetensors", folder / "model.safetensors", known)
    validation = instances.read(data["validation"], CPU)
    predictions = pruned_model.to_recommender().predict(validation).double()
    means = (predictions.sigmoid() if task == "ctr" else predictions).mean(), validation.labels.double().mean()
    torch.testing.assert_close(*means, atol=1e-5, rtol=0)


def test_a_mean_prediction_that_left_the_base_rate_is_told(data_of, tmp_path, caplog):
    searched, data = search_settings("rating", "mf", "full_table", max_epochs=1), data_of["rating"]
    run_search(searched, data, tmp_path / "search")
    weights, about = load_tensors(tmp_path / "search" / "weights.safetensors")
    save_tensors(tmp_path / "search" / "weights.safetensors", weights | {"model.mean": torch.tensor(9.0)}, about)
    with caplog.at_level("WARNING", logger="nisbench"):
        run_pruning(prune_settings(searched, 2.0), tmp_path / "search", data, tmp_path / "off")
    assert "the mean prediction on test is" in caplog.text
    assert "training.recalibrate: true" in caplog.text


def test_ranking_has_no_base_rate(data_of, tmp_path):
    searched, data = search_settings("topk", "mf", "full_table", max_epochs=1, recalibrate=True), data_of["topk"]
    run_search(searched, data, tmp_path / "search")
    found = run_pruning(prune_settings(searched, 2.0), tmp_path / "search", data, tmp_path / "p")
    assert (found.offset, found.mean_prediction, found.mean_label) == (0.0, None, None)


# --- the files are the whole model ----------------------------------------------------------------------------

RETRAINED = ("dnis_retrained", "iterative_pruning")
FAST = {
    *(
        ("rating", "mf", method)
        for method in (*RETRAINED, "random_mask", "mde_projected", "dnis", "nis_me", "grid_search")
    ),
    *(("rating", "neumf", method) for method in ("dnis_retrained", "mde_projected")),
    *(("rating", "mlp", method) for method in ("iterative_pruning", "random_mask")),
    *(("ctr", "deepfm", method) for method in (*RETRAINED, "dnis_released", "mde_projected")),
    *(("ctr", model, "dnis_retrained") for model in ("fm", "wide_deep")),
    ("topk", "neumf_topk", "iterative_pruning"),
    ("topk", "mf", "mde_projected"),
}
"""Every model, and every way in which a result differs: retrained, projected, soft, frozen, chosen at random, fused."""
CASES = [
    pytest.param(task, model, method, id=f"{model}-{method}-{task}", marks=[] if chosen else pytest.mark.slow)
    for (model, of_model), (method, of_method) in itertools.product(PARAMS.models.items(), PARAMS.methods.items())
    for task in of_model.tasks
    for chosen in [(task, model, method) in FAST]
    if chosen or model == {"rating": "mf", "ctr": "deepfm", "topk": "neumf_topk"}[task]
]


@pytest.fixture(scope="module")
def data_of(planted, tmp_path_factory):
    return {task: tiny_data(task, tmp_path_factory.mktemp(task), planted) for task in PARAMS.tasks}


@pytest.mark.parametrize(("task", "model", "method"), CASES)
def test_the_recorded_metrics_come_out_of_the_files_alone(task, model, method, data_of, tmp_path):
    """A pruning's scheme and model, its settings and the test file: no file of the search, and nothing in memory."""
    searched, data = search_settings(task, model, method), data_of[task]
    searched = searched.model_copy(update={"model": searched.method.own_model or searched.model})
    if searched.method.budgeted:
        searched = searched.model_copy(update={"method": searched.method.at(2.0)})
    run = run_search(searched, data, tmp_path / "search")
    rates = (1.0,) if searched.method.own_model or searched.method.budgeted else (1.0, 4.0)
    runs = {
        rate: run_pruning(prune_settings(searched, rate), tmp_path / "search", data, tmp_path / f"{rate}")
        for rate in rates
    }
    for path in (tmp_path / "search").iterdir():
        path.unlink()
    for rate, recorded in runs.items():
        settings, folder = prune_settings(searched, rate), tmp_path / f"{rate}"
        assert recomputed_metrics(settings, data, folder) == recorded.metrics
        assert list(recorded.metrics) == [metric.name for metric in settings.task.metrics]
        scheme = DimensionScheme.load(folder / "scheme.safetensors")
        composed = recorded.bytes.keys() == {"dense"}  # of fewer weights than the embeddings have
        left = run.weights if composed else len(scheme.values)
        assert recorded.nonzeros == left <= len(scheme.values) == np.count_nonzero(scheme.values)
        assert recorded.nonzeros <= run.weights / rate
        assert len(recorded.rounds) == (settings.rounds if rate > 1 else 0)
        if recorded.rounds:  # what retraining changed besides the embeddings is in the files too
            loss = recomputed_validation_loss(settings, data, folder)
            assert loss == pytest.approx(recorded.rounds[-1].validation_loss, rel=1e-6)
        assert recorded.features.count == len(scheme.sizes())
