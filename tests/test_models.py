"""Each model against its formula written out, and the exact metrics against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch.nn import functional

from nisbench.data.instances import Instances
from nisbench.embedding import Embeddings
from nisbench.errors import NisbenchError
from nisbench.evaluation import ctr
from nisbench.models import recommender as recommenders
from nisbench.models.recommender import Shape, build_model
from nisbench.params.settings import FM, MF, MLP, DeepFM, NeuMF, WideDeep

D = 4
IDS = torch.tensor([[0, 3, 5], [1, 4, 5], [2, 3, 5]], dtype=torch.int32)
VALUES = torch.tensor([[1.0, 1.0, 0.3], [1.0, 1.0, 0.0], [1.0, 1.0, 2.0]])
SHAPE = Shape(field_sizes=(3, 2, 1), widths=(D,), prior=3.0)


@pytest.fixture
def embeddings():
    return torch.randn(3, 3, D, generator=torch.Generator().manual_seed(1))


def given(each):
    """Embeddings of which each is what `each` (B, M, d) says."""
    rows = each.flatten(0, 1)
    return Embeddings(torch.arange(len(rows), dtype=torch.int32).view(each.shape[:2]), None, rows)


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


def test_neumf_has_embeddings_of_its_own_for_either_part():
    shape = Shape(field_sizes=(3, 3), widths=(D, 2 * D), prior=3.0)
    model = weighted(NeuMF(kind="neumf", title="", global_mean=True, mlp_dimension=2, hidden=[7, "d"]), shape)
    inputs = torch.randn(3, 2, 3 * D, generator=torch.Generator().manual_seed(3))
    gmf, mlp = inputs[..., :D], inputs[..., D:]
    last = deep(model.deep, mlp.reshape(3, 4 * D)).relu()
    both = torch.cat([gmf[:, 0] * gmf[:, 1], last], dim=1)
    expected = 3 + functional.linear(both, model.output.weight, model.output.bias)[:, 0]
    torch.testing.assert_close(model(given(inputs)), expected)


def test_parts_share_the_selection_and_only_used_columns_are_held():
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


def test_xavier_s_deviation_is_each_part_s_own():
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
