"""The training loop: it stops when it should, keeps the best, and an interruption changes nothing."""

import itertools
import json
import os
import subprocess
import sys

import pytest
import torch

from nisbench.data import instances, movielens, split
from nisbench.errors import NisbenchError
from nisbench.files import atomic_write
from nisbench.models import recommender as recommenders
from nisbench.search.dnis import AlphaOptimizer
from nisbench.tasks.rating import RatingPrediction
from nisbench.tensor_files import load_tensors
from nisbench.training import order as orders
from nisbench.training.order import shuffled
from nisbench.training.trainer import Data, Progress, snapshot, train
from tests.helpers.training import CPU, PARAMS, SPLITS, interrupted_after

RATING = RatingPrediction()


@pytest.fixture
def settings(config):
    return config.params.training.model_copy(
        update={"batch_size": 64, "max_epochs": 6, "patience": 6, "learning_rate": 0.02, "checkpoint_seconds": 0}
    )


@pytest.fixture
def data(ratings):
    return Data(ratings[:400], ratings[400:], RATING)


def build(mf, *, soft=False, prior=3.0):
    block = torch.arange(30) * 3 // 30
    return recommenders.build(
        mf,
        block=block,
        selection=torch.ones(3, 4),
        soft=soft,
        embedding_std="xavier",
        field_sizes=(20, 10),
        prior=prior,
        seed=1,
    )


def optimizer_for(recommender):
    settings = PARAMS.methods["dnis"].model_copy(update={"learning_rate": 0.05})
    return AlphaOptimizer(recommender, RATING, settings)


def test_mf_is_mean_plus_biases_plus_inner_product(mf, ratings):
    recommender = build(mf)
    recommender.first_order.data.normal_()
    embeddings, biases = recommender.embedding.weight, recommender.first_order
    for row, (user, item) in enumerate(ratings.ids[:20].tolist()):
        expected = 3.0 + biases[user] + biases[item] + embeddings[user] @ embeddings[item]
        assert recommender(ratings)[row].item() == pytest.approx(expected.item(), abs=1e-5)


def test_mf_without_mean_and_biases_is_the_inner_product(mf, ratings):
    recommender = build(mf.model_copy(update={"global_mean": False, "biases": False}))
    user, item = recommender.embedding.weight[ratings.ids.long()].unbind(1)
    torch.testing.assert_close(recommender(ratings), (user * item).sum(1))
    assert [name for name, _ in recommender.named_parameters()] == ["embedding.weight"]


def test_mse_is_of_the_whole_set(mf, ratings, monkeypatch):
    monkeypatch.setattr(recommenders, "PREDICTION_FLOATS", 64 * 8)  # the last batch is smaller
    recommender = build(mf)
    expected = ((recommender(ratings) - ratings.labels).double() ** 2).mean().item()
    assert RATING.evaluate(recommender, ratings)["mse"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("soft", [False, True])
def test_training_lowers_the_loss_and_keeps_the_best_epoch(mf, settings, data, soft):
    recommender = build(mf, soft=soft)
    before = RATING.validation_loss(recommender, data.training)
    progress = train(
        recommender, data, settings, seed=1, selection_optimizer=optimizer_for(recommender) if soft else None
    )
    assert RATING.validation_loss(recommender, data.training) < before
    assert progress.best_loss == min(progress.losses)
    assert progress.losses[progress.best_epoch - 1] == progress.best_loss
    assert RATING.validation_loss(recommender, data.validation) == progress.best_loss


def test_a_trial_stops_after_patience_epochs_without_gain(mf, settings, data, monkeypatch):
    losses = iter([5.0, 4.0, 4.5, 4.0, 4.1, 3.0])
    monkeypatch.setattr(RatingPrediction, "validation_loss", lambda *_: next(losses))
    progress = train(build(mf), data, settings.model_copy(update={"patience": 3}), seed=1)
    assert progress.losses == [5.0, 4.0, 4.5, 4.0, 4.1]  # an equal loss is no gain
    assert (progress.epoch, progress.best_epoch, progress.best_loss) == (5, 2, 4.0)
    assert progress.stopped(settings.model_copy(update={"patience": 3})) == "patience"


@pytest.mark.parametrize(
    ("losses", "reason"),
    [([5.0, 4.0], "max_epochs"), ([4.0, 5.0], "max_epochs"), ([4.0, 5.0, 6.0], "patience"), ([4.0], None)],
)
def test_the_reason_why_training_stopped_is_known(settings, losses, reason):
    few = settings.model_copy(update={"max_epochs": len(losses) if reason else 5, "patience": 2})
    progress = Progress(few.learning_rate, epoch=7, first_epoch=7, best_epoch=7)  # behind a warm start of 7 epochs
    for loss in losses:
        progress.epoch += 1
        progress.add(loss, few)
    assert progress.stopped(few) == reason
    assert progress.is_active(few) == (reason is None)


def test_training_does_not_go_beyond_max_epochs(mf, settings, data):
    few = settings.model_copy(update={"max_epochs": 2})
    progress = train(build(mf), data, few, seed=1)
    assert (progress.epoch, progress.stopped(few)) == (2, "max_epochs")


def test_a_loss_that_is_not_a_number_is_reported(mf, settings, data):
    with pytest.raises(NisbenchError, match=r"epoch 1.*lower the learning rates"):
        train(build(mf), data, settings.model_copy(update={"learning_rate": 1e30}), seed=1)


@pytest.mark.parametrize("soft", [False, True])
def test_a_killed_trial_goes_on_to_the_same_result_bit_for_bit(mf, settings, data, soft, tmp_path, monkeypatch):
    def trained(checkpoint=None):
        recommender = build(mf, soft=soft)
        optimizer = optimizer_for(recommender) if soft else None
        return snapshot(recommender), recommender, lambda: train(
            recommender, data, settings, seed=1, selection_optimizer=optimizer, checkpoint=checkpoint
        )  # fmt: skip

    _, undisturbed, run = trained()
    expected = run()

    for killed_after in (1, 4):
        checkpoint = tmp_path / f"{killed_after}.safetensors"
        with interrupted_after(killed_after, RatingPrediction, monkeypatch):
            trained(checkpoint)[2]()
        assert checkpoint.exists()

        start, resumed, run = trained(checkpoint)
        assert not torch.equal(start["embedding.weight"], undisturbed.embedding.weight)
        progress = run()
        assert progress.losses == expected.losses
        assert progress.best_epoch == expected.best_epoch
        for name, tensor in undisturbed.state_dict().items():
            assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_the_learning_rate_drops_after_each_epoch_without_gain(mf, settings, data, monkeypatch):
    losses = iter([5.0, 6.0, 4.0, 4.5, 4.6, 4.7])
    monkeypatch.setattr(RatingPrediction, "validation_loss", lambda *_: next(losses))
    dropping = settings.model_copy(update={"learning_rate_drop": 0.5})
    progress = train(build(mf), data, dropping, seed=1)
    assert progress.learning_rate == pytest.approx(settings.learning_rate * 0.5**4)


def test_l2_is_a_share_of_each_weight_in_its_gradient(mf, settings, data):
    """Adam's first step is by the sign of the gradient: with a penalty that outweighs all else, by the weight's own sign."""
    recommender = build(mf)
    before = recommender.embedding.weight.detach().clone()
    penalised = settings.model_copy(update={"l2": 1e6, "max_epochs": 1, "batch_size": 400, "learning_rate": 1e-4})
    train(recommender, data, penalised, seed=1)
    torch.testing.assert_close(recommender.embedding.weight.detach(), before - 1e-4 * before.sign(), atol=1e-6, rtol=0)


def test_weights_that_no_epoch_makes_better_are_kept(mf, settings, data):
    recommender = build(mf)
    before = snapshot(recommender)
    loss = RATING.validation_loss(recommender, data.validation)
    useless = settings.model_copy(update={"learning_rate": 5.0, "patience": 2})
    progress = train(recommender, data, useless, seed=1, best_loss=loss)
    assert (progress.best_epoch, progress.best_loss) == (0, loss)
    assert all(torch.equal(tensor, before[name]) for name, tensor in recommender.state_dict().items())


def test_batches_depend_on_seed_and_epoch_alone():
    one = shuffled(100, 100, (1, 0), "training_batches", CPU)
    assert torch.equal(one, shuffled(100, 100, (1, 0), "training_batches", CPU))
    for seeds, stream in [((2, 0), "training_batches"), ((1, 1), "training_batches"), ((1, 0), "validation_batches")]:
        assert not torch.equal(one, shuffled(100, 100, seeds, stream, CPU))
    assert sorted(one.tolist()) == list(range(100))


def test_validation_batches_go_round_the_whole_set():
    order = shuffled(30, 100, (1, 0), "validation_batches", CPU)
    assert len(order) == 100
    for start in (0, 30, 60):
        assert sorted(order[start : start + 30].tolist()) == list(range(30))


def test_the_same_seed_gives_the_same_weights(mf, settings, data):
    runs = []
    for seed in (1, 1, 2):
        recommender = build(mf)
        train(recommender, data, settings, seed=seed)
        runs.append(recommender.embedding.weight.detach().clone())
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_file_that_is_not_whole_is_not_there(tmp_path):
    def write_half():
        with atomic_write(tmp_path / "x") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_weight_file_is_named(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(json.dumps({"x": 1}).encode())
    with pytest.raises(NisbenchError, match=r"w\.safetensors: not a readable"):
        load_tensors(tmp_path / "w.safetensors")


def test_a_selection_is_updated_after_the_weights_on_validation_batches(mf, settings, data):
    """Algorithm 1: weights on a training batch, then the selection on a validation batch."""
    training, validation = data.training, data.validation
    seen, trained, weights, rates = [], [], [], []

    class Recorder:
        def step(self, recommender, validation, training):
            seen.append(validation.labels)
            trained.append(training.labels)
            weights.append(recommender.embedding.weight.detach().clone())

        def begin_epoch(self, _recommender, learning_rate):
            rates.append(learning_rate)

        def finalize(self, recommender):
            pass

        def state(self):
            return {}

        def load_state(self, state):
            pass

    recommender = build(mf, soft=True)
    before = recommender.embedding.weight.detach().clone()
    train(recommender, data, settings.model_copy(update={"max_epochs": 1}), seed=1, selection_optimizer=Recorder())
    assert len(seen) == -(-len(training) // settings.batch_size)
    assert rates == [settings.learning_rate]
    assert sorted(torch.cat(trained).tolist()) == sorted(training.labels.tolist())
    assert set(torch.cat(seen).tolist()) == set(validation.labels.tolist())
    steps = [before, *weights]
    assert all(not torch.equal(one, two) for one, two in itertools.pairwise(steps))


def test_a_damaged_checkpoint_costs_the_trial_s_epochs_only(mf, settings, data, tmp_path):
    undisturbed = build(mf)
    train(undisturbed, data, settings, seed=1)
    (tmp_path / "checkpoint").write_bytes(b"damaged")
    again = build(mf)
    train(again, data, settings, seed=1, checkpoint=tmp_path / "checkpoint")
    assert torch.equal(undisturbed.embedding.weight, again.embedding.weight)


def test_biases_alone_explain_what_is_known_of_movielens_1m(real_data, config, mf, tmp_path):
    """Published: RMSE .909, which is an MSE of .826. No embedding has a dimension here."""
    dataset = config.params.datasets["movielens_1m"]
    movielens.prepare(dataset, real_data / "ml-1m.zip", tmp_path / "i", tmp_path / "v")
    paths = {name: tmp_path / name for name in SPLITS}
    split.run(dataset.split, tmp_path / "i", paths)
    training, validation, test = (instances.read(path, CPU) for path in paths.values())
    recommender = recommenders.build(
        mf, block=torch.zeros(9746), selection=torch.zeros(1, 1), embedding_std=0.1, field_sizes=(6040, 3706),
        prior=RATING.prior(training), seed=1,
    )  # fmt: skip
    fast = config.params.training.model_copy(update={"learning_rate": 0.01})
    train(recommender, Data(training, validation, RATING), fast, seed=1)
    assert RATING.evaluate(recommender, test)["mse"] == pytest.approx(0.826, abs=0.006)


def test_orders_drawn_ahead_are_those_of_the_epochs(monkeypatch):
    """For a GPU; the device `meta` stands in for one."""
    monkeypatch.setattr(orders, "_DRAWN_AHEAD", ahead := {})
    drawn, seen = orders.drawn, []
    monkeypatch.setattr(orders, "drawn", lambda *key: seen.append(drawn(*key)) or seen[-1])
    for epoch in (0, 1, 2, 7):
        seeds = 3, epoch
        assert orders.shuffled(50, 70, seeds, "training_batches", torch.device("meta")).shape == (70,)
        future = ahead[50, 70, (3, epoch + 1), "training_batches"]
        assert torch.equal(future.result(), drawn(50, 70, (3, epoch + 1), "training_batches"))
    assert len(ahead) <= 2
    assert len(seen) == 6  # none of those that followed each other was drawn twice
    assert torch.equal(orders.shuffled(50, 70, (3, 1), "training_batches", torch.device("cpu")), seen[1])


DENORMALS = """
import torch
from nisbench import machine

tiny = torch.full((1 << 20,), 1e-39)
with machine.device("cpu", {threads}):
    flushed = tiny * 1.0
kept = tiny[:9] * 1.0
print(*(int(of.view(torch.int32).count_nonzero()) for of in (flushed, kept)))
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_denormal_numbers_are_zero_while_a_step_runs(threads):
    """A CPU takes ten times as long for them, and an L2 penalty makes them. Threads are flushed that torch has not started before."""
    command = [sys.executable, "-c", DENORMALS.format(threads=threads)]
    found = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["0", "9"]
