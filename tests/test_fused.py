"""Trials trained at once against the same trials trained alone, and against Adam in double precision."""

import itertools

import pytest
import torch
from torch.nn import functional

from nisbench.data.instances import Instances
from nisbench.embedding import Embeddings
from nisbench.evaluation.rating import RatingPrediction
from nisbench.models import recommender as recommenders
from nisbench.models.side_by_side import pack
from nisbench.params.loading import load
from nisbench.search import trials
from nisbench.training import optimizers
from nisbench.training.packed import train_packed
from nisbench.training.trainer import snapshot, train
from tests.conftest import ROOT

PARAMS = load(ROOT, overlays=[]).params
RATING = RatingPrediction()
FIELDS = (20, 10)
SELECTIONS = {  # 3 blocks, K = 24: narrow, wide, a staircase, and one that leaves a block without dimensions
    "narrow": torch.ones(3, 2),
    "wide": torch.ones(3, 24),
    "stairs": torch.tensor([[1.0] * 6, [1.0] * 4 + [0.0] * 2, [1.0] + [0.0] * 5]),
    "gap": torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]),
}


@pytest.fixture
def settings(config):
    update = {"batch_size": 64, "max_epochs": 12, "patience": 2, "learning_rate": 0.02, "checkpoint_seconds": 0}
    return config.params.training.model_copy(update=update)


@pytest.fixture
def learnable(ratings):
    """Train and validation of ratings that depend on who rates what."""
    user, item = ratings.ids.double().unbind(1)
    labels = 3 + torch.sin(user) * torch.cos(2 * item) + 0.3 * torch.sin(12.3 * user + 45.6 * item)
    found = Instances(ratings.ids, labels)
    return found[:400], found[400:]


def members(model):
    block = torch.arange(30) * 3 // 30
    return [
        recommenders.build(
            PARAMS.models[model], block=block, selection=selection, embedding_std=0.1, field_sizes=FIELDS, prior=3.0, seed=1
        )
        for selection in SELECTIONS.values()
    ]  # fmt: skip


RATING_MODELS = ["mf", "mlp", "neumf", "fm", "wide_deep", "deepfm"]


@pytest.mark.parametrize("model", RATING_MODELS)
@pytest.mark.parametrize("valued", [False, True])
def test_a_pack_predicts_what_its_members_predict(model, valued, ratings):
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
        torch.testing.assert_close(pack(alone)(batch), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("model", RATING_MODELS)
def test_packed_trials_end_as_each_does_alone(model, by_rows, learnable, settings, monkeypatch):
    monkeypatch.setattr(optimizers, "worth_reading_rows", lambda *_: by_rows)
    packed, alone = members(model), members(model)
    for recommender in (*packed, *alone):  # in double precision, so that no rounding grows on the way
        recommender.double()
    found = train_packed(packed, list(SELECTIONS), *learnable, RATING, settings, seed=1)
    expected = [train(each, *learnable, RATING, settings, seed=1) for each in alone]
    for ours, theirs, one, other in zip(found, expected, packed, alone, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-6)
        assert (ours.best_epoch, ours.best_loss) == pytest.approx((theirs.best_epoch, theirs.best_loss), rel=1e-6)
        theirs_state = other.state_dict()
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(tensor, theirs_state[name], rtol=1e-4, atol=1e-5)
    assert len({len(progress.losses) for progress in expected}) > 1, "they all stop together: nothing is shown of that"


def test_packed_steps_are_adam_in_double_precision(ratings, settings):
    """The loss, its gradient and Adam, each written out, for two matrix factorisations in float64."""
    alone = members("mf")[:2]
    weights = [each.embedding.weight.detach().double() for each in alone]
    biases = [each.first_order.detach().double() for each in alone]
    packed = pack(alone)
    optimizer = optimizers.build(packed, RATING, settings, fields=2)
    moments = [[torch.zeros_like(tensor) for tensor in (w, b, w, b)] for w, b in zip(weights, biases, strict=True)]
    for step in range(1, 41):
        batch = ratings[step * 8 : step * 8 + 8]
        optimizer.step(batch, settings.learning_rate)
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
    torch.testing.assert_close(packed.embedding.weight.double(), torch.cat(weights, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(packed.first_order.double(), torch.stack(biases, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("evaluations", [4, 13, 22])
def test_an_interrupted_pack_ends_alike(evaluations, learnable, settings, tmp_path, monkeypatch):
    parts = [Instances(part.ids, part.labels.float()) for part in learnable]
    undisturbed = members("deepfm")
    expected = train_packed(undisturbed, list(SELECTIONS), *parts, RATING, settings, seed=1)
    validate, calls = RatingPrediction.validation_loss, itertools.count()

    def interrupted(*args):
        if next(calls) == evaluations:
            raise KeyboardInterrupt
        return validate(*args)

    with monkeypatch.context() as patch:
        patch.setattr(RatingPrediction, "validation_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_packed(members("deepfm"), list(SELECTIONS), *parts, RATING, settings, 1, tmp_path / "checkpoint")
    resumed = members("deepfm")
    found = train_packed(resumed, list(SELECTIONS), *parts, RATING, settings, 1, tmp_path / "checkpoint")
    assert [progress.losses for progress in found] == [progress.losses for progress in expected]
    for one, other in zip(resumed, undisturbed, strict=True):
        assert all(torch.equal(tensor, one.state_dict()[name]) for name, tensor in snapshot(other).items())


def test_columns_at_once_are_bounded_by_memory_and_cache(monkeypatch):
    cpu = torch.device("cpu")
    assert trials.columns_at_once(cpu, 9_746, 8_192) == (1 << 21) // 9_746
    assert trials.columns_at_once(cpu, 165_237, 8_192) == (1 << 23) // 8_192
    monkeypatch.setattr(trials.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 1 << 30}))
    assert trials.columns_at_once(cpu, 165_237, 8_192) < 100


def test_parts_are_read_from_the_table_once(monkeypatch):
    table, ids = torch.randn(9, 6, requires_grad=True), torch.tensor([[0, 8], [3, 3]], dtype=torch.int32)
    parts = Embeddings(ids, None, table).split([2, 4])
    expected = functional.embedding(ids, table).split([2, 4], 2)
    for part, each in zip(parts, expected, strict=True):
        assert torch.equal(part.each, each)
    monkeypatch.setattr("nisbench.embedding.rows_of", None)  # not needed again
    assert parts[1].each.shape == (2, 2, 4)
