"""Fused trials against the same trials trained alone, and against Adam in double precision."""

import pytest
import torch

from nisbench.data.instances import Instances
from nisbench.models import recommender as recommenders
from nisbench.tasks.rating import RatingPrediction
from nisbench.tensor_files import load_tensors
from nisbench.training import fused, train_step
from nisbench.training.fused import LossPerTrial, can_fuse, copy_back, fuse, train_fused
from nisbench.training.trainer import Data, DivergenceError, snapshot, train
from tests.helpers.training import CPU, PARAMS, interrupted_after

RATING = RatingPrediction()
FIELDS = (20, 10)
SELECTIONS = {  # 3 blocks, K = 24: narrow, wide, a staircase, and one that leaves a block without dimensions
    "narrow": torch.ones(3, 2),
    "wide": torch.ones(3, 24),
    "stairs": torch.tensor([[1.0] * 6, [1.0] * 4 + [0.0] * 2, [1.0] + [0.0] * 5]),
    "gap": torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]),
}
TITLES = list(SELECTIONS)
FACTORISATIONS = {
    "mf": PARAMS.models["mf"],
    "mean": PARAMS.models["mf"].model_copy(update={"reduction": "mean"}),
    "plain": PARAMS.models["mf"].model_copy(update={"biases": False, "global_mean": False}),
}


@pytest.fixture
def settings(config):
    update = {"batch_size": 64, "max_epochs": 12, "patience": 2, "learning_rate": 0.02, "checkpoint_seconds": 0}
    return config.params.training.model_copy(update=update)


@pytest.fixture
def learnable(ratings):
    """Ratings that depend on who rates what."""
    user, item = ratings.ids.double().unbind(1)
    labels = 3 + torch.sin(user) * torch.cos(2 * item) + 0.3 * torch.sin(12.3 * user + 45.6 * item)
    found = Instances(ratings.ids, labels)
    return Data(found[:400], found[400:], RATING)


def in_single(data):
    """The same data with labels in single precision, as they are stored."""
    splits = [Instances(split.ids, split.labels.float()) for split in (data.training, data.validation)]
    return Data(*splits, data.task)


def members(model="mf"):
    block = torch.arange(30) * 3 // 30
    return [
        recommenders.build(
            FACTORISATIONS[model], block=block, selection=selection, embedding_std=0.1, field_sizes=FIELDS, prior=3.0, seed=1
        )
        for selection in SELECTIONS.values()
    ]  # fmt: skip


def test_only_factorisations_at_a_constant_learning_rate_can_be_fused(settings):
    assert {name for name, model in PARAMS.models.items() if can_fuse(model, settings)} == {
        name for name, model in PARAMS.models.items() if model.kind == "mf"
    }
    for update in ({"learning_rate_drop": 0.5}, {"fused_trials": 1}):
        assert not can_fuse(PARAMS.models["mf"], settings.model_copy(update=update))


@pytest.mark.parametrize("model", FACTORISATIONS)
@pytest.mark.parametrize("valued", [False, True])
def test_fused_trials_predict_what_each_predicts(model, valued, ratings):
    for count in (len(ratings), 8):  # more ids than features, and fewer
        batch = ratings[:count]
        if valued:
            values = torch.rand(batch.ids.shape, generator=torch.Generator().manual_seed(1))
            batch = Instances(batch.ids, batch.labels, values)
        alone = members(model)
        for recommender in alone:
            if recommender.first_order is not None:
                recommender.first_order.data.normal_(generator=torch.Generator().manual_seed(2))
        expected = torch.stack([recommender(batch) for recommender in alone], 1)
        torch.testing.assert_close(fuse(alone)(batch), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("model", FACTORISATIONS)
def test_fused_trials_end_as_each_does_alone(model, lazy, learnable, settings, monkeypatch):
    monkeypatch.setattr(train_step, "worth_reading_rows", lambda *_: lazy)
    together, alone = members(model), members(model)
    for recommender in (*together, *alone):  # in double precision, so that no rounding grows on the way
        recommender.double()
    found = train_fused(together, TITLES, learnable, settings, seed=1)
    expected = [train(recommender, learnable, settings, seed=1) for recommender in alone]
    for ours, theirs, one, other in zip(found, expected, together, alone, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-6)
        assert (ours.best_epoch, ours.best_loss) == pytest.approx((theirs.best_epoch, theirs.best_loss), rel=1e-6)
        theirs_state = other.state_dict()
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(tensor, theirs_state[name], rtol=1e-4, atol=1e-5)
    assert len({len(progress.losses) for progress in expected}) > 1, "they all stop together: nothing is shown of that"


def test_fused_steps_are_adam_in_double_precision(ratings, settings):
    """The loss, its gradient and Adam, each written out, for two matrix factorisations in float64."""
    alone = members()[:2]
    weights = [one.embedding.weight.detach().double() for one in alone]
    biases = [one.first_order.detach().double() for one in alone]
    both = fuse(alone)
    stepper = train_step.build(both, LossPerTrial(RATING), settings, fields=2)
    moments = [[torch.zeros_like(tensor) for tensor in (w, b, w, b)] for w, b in zip(weights, biases, strict=True)]
    for step in range(1, 41):
        batch = ratings[step * 8 : step * 8 + 8]
        stepper.step(batch, settings.learning_rate)
        user, item = batch.ids.long().unbind(1)
        for w, b, (m_w, m_b, v_w, v_b) in zip(weights, biases, moments, strict=True):
            error = 2 / 8 * (3 + b[user] + b[item] + (w[user] * w[item]).sum(1) - batch.labels.double())
            g_w, g_b = torch.zeros_like(w), torch.zeros_like(b)
            for one, other in ((user, item), (item, user)):
                g_w.index_add_(0, one, error[:, None] * w[other])
                g_b.index_add_(0, one, error)
            for tensor, gradient, m, v in ((w, g_w, m_w, v_w), (b, g_b, m_b, v_b)):
                m.mul_(0.9).add_(gradient, alpha=0.1)
                v.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                update = m / (1 - 0.9**step) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
                tensor.sub_(settings.learning_rate * update)
    torch.testing.assert_close(both.embedding.weight.double(), torch.cat(weights, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both.first_order.double(), torch.stack(biases, 1), rtol=1e-4, atol=1e-4)


def test_weights_copied_back_are_each_trial_s_own():
    alone = members()
    together = fuse(alone)
    together.embedding.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    together.first_order.data.normal_(generator=torch.Generator().manual_seed(2))
    copy_back(together, alone)
    assert torch.equal(torch.cat([one.embedding.weight for one in alone], 1), together.embedding.weight)
    assert torch.equal(torch.stack([one.first_order for one in alone], 1), together.first_order)


def test_a_narrowed_state_keeps_the_columns_of_the_trials_that_go_on():
    state = {
        "embedding.weight.exp_avg": torch.arange(6.0).expand(30, 6),
        "first_order.exp_avg": torch.arange(3.0).expand(30, 3),
        "first_order.step": torch.tensor(7.0),
    }
    found = fused.narrowed(state, widths=[1, 2, 3], kept=[0, 2])
    assert found["embedding.weight.exp_avg"][0].tolist() == [0, 3, 4, 5]
    assert found["first_order.exp_avg"][0].tolist() == [0, 2]
    assert found["first_order.step"].item() == 7


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("validations", [4, 13, 22])
def test_interrupted_fused_trials_end_alike(validations, lazy, learnable, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(train_step, "worth_reading_rows", lambda *_: lazy)
    data, checkpoint = in_single(learnable), tmp_path / "checkpoint"
    undisturbed = members()
    expected = train_fused(undisturbed, TITLES, data, settings, seed=1)
    with interrupted_after(validations, RatingPrediction, monkeypatch):
        train_fused(members(), TITLES, data, settings, 1, checkpoint)
    resumed = members()
    found = train_fused(resumed, TITLES, data, settings, 1, checkpoint)
    assert [progress.losses for progress in found] == [progress.losses for progress in expected]
    for one, other in zip(resumed, undisturbed, strict=True):
        assert all(torch.equal(tensor, one.state_dict()[name]) for name, tensor in snapshot(other).items())


def test_a_checkpoint_that_is_damaged_or_of_other_trials_is_not_used(learnable, settings, tmp_path, monkeypatch):
    data, checkpoint = in_single(learnable), tmp_path / "checkpoint"
    expected = train_fused(members(), TITLES, data, settings, seed=1)
    with interrupted_after(13, RatingPrediction, monkeypatch):
        train_fused(members(), TITLES, data, settings, 1, checkpoint)
    assert load_tensors(checkpoint)[1]["titles"] == TITLES
    renamed = train_fused(members(), [f"{title}, renamed" for title in TITLES], data, settings, 1, checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-7])
    damaged = train_fused(members(), TITLES, data, settings, 1, checkpoint)
    for found in (renamed, damaged):
        assert [progress.losses for progress in found] == [progress.losses for progress in expected]


def test_a_trial_that_diverges_leaves_the_others_as_they_are(learnable, settings):
    data = in_single(learnable)
    expected = train_fused(members(), TITLES, data, settings, seed=1)
    poisoned = members()
    poisoned[1].embedding.weight.data[0, 0] = torch.inf
    found = train_fused(poisoned, TITLES, data, settings, seed=1)
    assert [progress is None for progress in found] == [False, True, False, False]
    for i in (0, 2, 3):
        assert found[i].losses == pytest.approx(expected[i].losses, rel=1e-5)
    with pytest.raises(DivergenceError):  # alone it fails as well
        train(poisoned[1], data, settings, seed=1)


def test_the_seconds_of_an_epoch_are_shared(learnable, settings):
    found = train_fused(members(), TITLES, in_single(learnable), settings, seed=1)
    assert all(progress.seconds > 0 for progress in found)
    longest = max(len(progress.losses) for progress in found)
    assert {progress.seconds for progress in found if len(progress.losses) == longest} == {
        max(progress.seconds for progress in found)
    }


def test_columns_with_room_are_bounded_by_memory_and_cache(monkeypatch):
    assert fused.columns_with_room(CPU, 9_746, 8_192) == (1 << 21) // 9_746
    assert fused.columns_with_room(CPU, 165_237, 8_192) == (1 << 23) // 8_192
    monkeypatch.setattr(fused.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 1 << 30}))
    assert fused.columns_with_room(CPU, 165_237, 8_192) < 100
