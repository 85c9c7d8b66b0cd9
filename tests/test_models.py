"""Each model against its formula written out, the ways to compute and train it, and the exact metrics against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch.nn import functional

from nisbench.data.instances import Instances
from nisbench.embedding.batch import Embeddings
from nisbench.errors import NisbenchError
from nisbench.models import recommender as recommenders
from nisbench.models.recommender import Shape, build_model
from nisbench.params.models import FM, MF, MLP, DeepFM, FirstOrder, NeuMF, WideDeep
from nisbench.tasks import ctr
from nisbench.training.train_step import DenseStep, LazyStep
from tests.helpers.training import PARAMS, TASK_CLASSES

D = 4
IDS = torch.tensor([[0, 3, 5], [1, 4, 5], [2, 3, 5]], dtype=torch.int32)
VALUES = torch.tensor([[1.0, 1.0, 0.3], [1.0, 1.0, 0.0], [1.0, 1.0, 2.0]])
SHAPE = Shape(field_sizes=(3, 2, 1), widths=(D,), prior=3.0)


@pytest.fixture
def embeddings():
    return torch.randn(3, 3, D, generator=torch.Generator().manual_seed(1))


def given(dense):
    """`dense` (B, M, d) as a model is handed it."""
    rows = dense.flatten(0, 1)
    return Embeddings(torch.arange(len(rows), dtype=torch.int32).view(dense.shape[:2]), None, rows)


def weighted(settings, shape=SHAPE):
    """A model whose every weight is random."""
    model = build_model(settings, shape)
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.5, generator=generator)
    return model


@pytest.fixture
def terms():
    """The first-order terms of IDS and VALUES under random weights, written out and as they are computed."""
    weights = torch.randn(6, generator=torch.Generator().manual_seed(4))
    expected = [sum(weights[i] * v for i, v in zip(*row, strict=True)) for row in zip(IDS, VALUES, strict=True)]
    found = recommenders.first_order(weights, IDS, VALUES)
    torch.testing.assert_close(found, torch.stack(expected))
    torch.testing.assert_close(recommenders.first_order(weights[:, None], IDS, VALUES)[:, 0], found)
    return found


def all_pairs(embeddings, reduce=torch.sum):
    pairs = [(0, 1), (0, 2), (1, 2)]
    return sum(reduce(embeddings[:, i] * embeddings[:, j], 1) for i, j in pairs)


def deep(layers, inputs):
    """The linear layers found in `layers`, with a ReLU between any two."""
    linear = [module for module in layers.modules() if isinstance(module, torch.nn.Linear)]
    for i, layer in enumerate(linear):
        inputs = functional.linear(inputs, layer.weight, layer.bias)
        inputs = inputs.relu() if i + 1 < len(linear) else inputs
    return inputs


@pytest.mark.parametrize(("reduction", "reduce"), [("sum", torch.sum), ("mean", torch.mean)])
def test_fm(embeddings, terms, reduction, reduce):
    model = weighted(FM(kind="fm", title="", reduction=reduction))
    expected = model.bias + terms + all_pairs(embeddings, reduce)
    torch.testing.assert_close(model(given(embeddings), terms), expected)


def test_wide_deep(embeddings, terms):
    model = weighted(WideDeep(kind="wide_deep", title="", hidden=[7, 5]))
    expected = terms + deep(model.deep, embeddings.reshape(3, 12))[:, 0]
    torch.testing.assert_close(model(given(embeddings), terms), expected)


def test_deepfm(embeddings, terms):
    model = weighted(DeepFM(kind="deepfm", title="", reduction="sum", hidden=[7, 5]))
    expected = terms + all_pairs(embeddings) + deep(model.deep, embeddings.reshape(3, 12))[:, 0]
    torch.testing.assert_close(model(given(embeddings), terms), expected)


def test_mf_with_the_mean_over_dimensions(embeddings):
    model = weighted(MF(kind="mf", title="", global_mean=True, biases=True, reduction="mean"))
    bias = torch.tensor([0.1, 0.2, 0.3])
    expected = 3 + bias + (embeddings[:, 0] * embeddings[:, 1]).mean(1)
    torch.testing.assert_close(model(given(embeddings[:, :2]), bias), expected)


def test_mlp(embeddings):
    shape = Shape(field_sizes=(3, 3), widths=(D,), prior=3.0)
    model = weighted(MLP(kind="mlp", title="", global_mean=True, hidden=["2d", "d"]), shape)
    widths = [layer.out_features for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    assert widths == [2 * D, D, 1]
    expected = 3 + deep(model.deep, embeddings[:, :2].reshape(3, 8))[:, 0]
    torch.testing.assert_close(model(given(embeddings[:, :2])), expected)


def test_neumf_has_embeddings_of_their_own_for_gmf_and_mlp():
    shape = Shape(field_sizes=(3, 3), widths=(D, 2 * D), prior=3.0)
    model = weighted(NeuMF(kind="neumf", title="", global_mean=True, mlp_dimension=2, hidden=[7, "d"]), shape)
    inputs = torch.randn(3, 2, 3 * D, generator=torch.Generator().manual_seed(3))
    gmf, mlp = inputs[..., :D], inputs[..., D:]
    last = deep(model.deep, mlp.reshape(3, 4 * D)).relu()
    both = torch.cat([gmf[:, 0] * gmf[:, 1], last], dim=1)
    expected = 3 + functional.linear(both, model.output.weight, model.output.bias)[:, 0]
    torch.testing.assert_close(model(given(inputs)), expected)


def test_both_embeddings_share_the_selection_and_only_used_columns_are_held():
    settings = NeuMF(kind="neumf", title="", global_mean=True, mlp_dimension=2, hidden=["d"])
    block = torch.tensor([0, 0, 1, 1])
    selection = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])

    def build(selection):
        return recommenders.build(
            settings, block=block, selection=selection, embedding_std=0.1, field_sizes=(2, 2), prior=3.0, seed=1
        )

    narrow, wide = build(selection), build(torch.ones(2, 4))
    assert (narrow.widths, wide.widths) == ((2, 4), (4, 8))
    assert narrow.embedding.selection.tolist() == [[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0]]
    # a narrow trial starts from the wide one's weights
    assert torch.equal(narrow.embedding.weight, wide.embedding.weight[:, [0, 1, 4, 5, 6, 7]])


def test_xavier_s_deviation_is_that_of_each_embedding_s_width():
    settings = NeuMF(kind="neumf", title="", global_mean=True, mlp_dimension=3, hidden=["d"])
    built = recommenders.build(
        settings,
        block=torch.zeros(500),
        selection=torch.ones(1, 100),
        embedding_std="xavier",
        field_sizes=(250, 250),
        prior=3.0,
        seed=1,
    )
    gmf, mlp = built.embedding.weight.detach().split(built.widths, dim=1)
    assert gmf.std().item() == pytest.approx((2 / 600) ** 0.5, rel=0.02)
    assert mlp.std().item() == pytest.approx((2 / 800) ** 0.5, rel=0.02)


# --- one forward for all ways of training ---------------------------------------------------------------------

EVERY_MODEL = PARAMS.models | {
    "first_order": FirstOrder(kind="first_order", title="", biases=True),
    "constant": FirstOrder(kind="first_order", title="", biases=False),
}


def recommender_of(name, *, soft=True):
    """A recommender in double precision, of 60 + 8 features and, for clicks, one with a value; all weights are random."""
    settings = EVERY_MODEL[name]
    sizes = (60, 8, 1) if "ctr" in settings.tasks and len(settings.tasks) == 1 else (60, 8)
    generator = torch.Generator().manual_seed(3)
    selection = torch.rand(4, 6, generator=generator) if soft else torch.ones(4, 6)
    recommender = recommenders.build(
        settings, block=torch.arange(sum(sizes)) % 4, selection=selection, soft=soft, embedding_std=0.5,
        field_sizes=sizes, prior=0.3, seed=1,
    ).double()  # fmt: skip
    for parameter in recommender.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return recommender, sizes


def batch_of(sizes, n, seed=4):
    generator = torch.Generator().manual_seed(seed)
    within = torch.stack([torch.randint(size, (n,), generator=generator) for size in sizes], 1)
    first = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    values = torch.rand(n, len(sizes), generator=generator, dtype=torch.float64) if len(sizes) == 3 else None
    return Instances((within + first).int(), torch.rand(n, generator=generator, dtype=torch.float64).round(), values)


def rows_of_batch(recommender, batch):
    """What a batch reads: its ids renumbered, the rows of the parameters with a row per feature, and their scales."""
    features, at = torch.unique(batch.ids, return_inverse=True)
    weights = {name: p.detach()[features].requires_grad_() for name, p in recommender.row_parameters().items()}
    return Instances(at, batch.labels, batch.values), weights, recommender.embedding.scales(features), features


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n", [12, 200])  # fewer ids than features, and more
@pytest.mark.parametrize("model", EVERY_MODEL)
def test_rows_of_a_batch_predict_what_the_table_does_and_have_its_gradients(model, n, soft):
    recommender, sizes = recommender_of(model, soft=soft)
    batch = batch_of(sizes, n)
    plain = recommender(batch)
    plain.sin().sum().backward()
    numbered, weights, scales, features = rows_of_batch(recommender, batch)
    found = recommender(numbered, weights, scales)
    torch.testing.assert_close(found, plain)
    gradients = torch.autograd.grad(found.sin().sum(), list(weights.values()), materialize_grads=True)
    for (name, parameter), gradient in zip(recommender.row_parameters().items(), gradients, strict=True):
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        whole = torch.zeros_like(parameter).index_copy(0, features.long(), gradient)
        torch.testing.assert_close(whole, expected, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("model", EVERY_MODEL)
def test_other_weights_of_the_model_may_stand_in_for_its_own(model):
    recommender, sizes = recommender_of(model)
    batch = batch_of(sizes, 12)
    generator = torch.Generator().manual_seed(5)
    others = {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in recommender.named_parameters()
    }
    features = torch.arange(recommender.embedding.features)
    found = recommender(batch, others, recommender.embedding.scales(features))
    recommender.load_state_dict(others, strict=False)
    torch.testing.assert_close(found, recommender(batch))


def test_a_projected_recommender_refuses_rows():
    recommender = recommenders.build(
        EVERY_MODEL["mf"], block=torch.zeros(9), selection=torch.ones(1, 2), projected=4, embedding_std=0.1,
        field_sizes=(5, 4), prior=0.0, seed=1,
    )  # fmt: skip
    batch = Instances(torch.tensor([[0, 5]]), torch.ones(1))
    with pytest.raises(NotImplementedError, match="all rows"):
        recommender(batch, dict(recommender.named_parameters()))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("model", EVERY_MODEL)
def test_lazy_steps_end_where_dense_steps_do(config, model, soft):
    settings = config.params.training.model_copy(update={"learning_rate": 0.01, "l2": 0.0})
    ends = []
    for kind in (DenseStep, LazyStep):
        recommender, sizes = recommender_of(model, soft=soft)
        task = TASK_CLASSES["ctr" if len(sizes) == 3 else "rating"]()
        before = {name: p.detach().clone() for name, p in recommender.named_parameters()}
        stepper = kind(recommender, task, settings)
        losses = []
        for epoch, rate in enumerate((0.01, 0.003)):
            losses += [stepper.step(batch_of(sizes, 6, 20 * epoch + i), rate).item() for i in range(20)]
            stepper.sync()
        moved = {name: (p - before[name]).abs().max().item() for name, p in recommender.named_parameters()}
        ends.append((losses, moved, {name: p.detach().clone() for name, p in recommender.named_parameters()}))
    (dense_losses, moved, dense), (lazy_losses, _, lazy) = ends
    assert lazy_losses == pytest.approx(dense_losses, rel=1e-5)
    assert max(moved.values(), default=1) > 0.05 or model == "constant"
    for name, weights in dense.items():
        torch.testing.assert_close(
            lazy[name], weights, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("model", ["mf", "neumf", "deepfm"])
def test_a_lazy_step_s_state_is_a_dense_step_s(config, model):
    """So a checkpoint says the same of both, and a lazy trial goes on from it."""
    settings, states = config.params.training.model_copy(update={"l2": 0.0}), []
    for kind in (DenseStep, LazyStep):
        recommender, sizes = recommender_of(model)
        task = TASK_CLASSES["ctr" if len(sizes) == 3 else "rating"]()
        stepper = kind(recommender, task, settings)
        for seed in range(15):
            stepper.step(batch_of(sizes, 6, seed), 0.01)
        stepper.sync()
        states.append(stepper.state())
    dense, lazy = states
    assert dense.keys() == lazy.keys()
    for name, tensor in dense.items():
        torch.testing.assert_close(lazy[name].to(tensor.dtype), tensor, rtol=1e-4, atol=1e-7)
    again, sizes = recommender_of(model)
    loaded = LazyStep(again, task, settings)
    loaded.load_state(lazy)
    assert all(torch.equal(tensor, lazy[name]) for name, tensor in loaded.state().items())


# --- click-through rate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [1, 8])  # with many ties, and with few
def test_auc_and_logloss_are_scikit_learn_s(digits):
    generator = np.random.default_rng(0)
    labels = generator.random(5000) < 0.2
    logits = np.round(generator.normal(size=5000) + labels, digits).astype(np.float32)
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))

    class Fixed:
        def predict(self, _data):
            return torch.from_numpy(logits)

    data = Instances(torch.zeros(5000, 1, dtype=torch.int32), torch.from_numpy(labels.astype(np.float32)))
    task = ctr.ClickThroughRate()
    found = task.evaluate(Fixed(), data)
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(labels, probability), abs=1e-9)
    assert found["logloss"] == pytest.approx(metrics.log_loss(labels, probability), abs=1e-9)
    assert task.validation_loss(Fixed(), data) == found["logloss"]


def test_auc_by_hand():
    scores, labels = torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert ctr.auc(scores, labels) == (1 + 0.5 + 2) / 4


def test_auc_without_a_click_is_an_error():
    with pytest.raises(NisbenchError, match="with a click and without"):
        ctr.auc(torch.rand(4), torch.zeros(4))
