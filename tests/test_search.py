"""The methods' selections against hand-made ones, and DNIS's step against a dense re-computation."""

import copy
import itertools

import numpy as np
import pytest
import torch

from nisbench.data import instances, parquet
from nisbench.data.instances import Instances
from nisbench.embedding.batch import Embeddings
from nisbench.embedding.table import SelectedTable, Table
from nisbench.errors import NisbenchError
from nisbench.models import recommender as recommenders
from nisbench.models.pruned import PrunedModel
from nisbench.params.methods import MDE, GridSearch, MDEPair, ProjectedSetting, RandomSearch
from nisbench.search import dnis, grid, mde, mde_projected, nis, random, trials
from nisbench.search.context import SearchContext
from nisbench.search.trial_spec import FeatureStats, TrialSpec, prefix_selection
from nisbench.tasks import task as tasks
from nisbench.tasks.ctr import ClickThroughRate
from nisbench.tasks.rating import RatingPrediction
from nisbench.tensor_files import load_tensors
from nisbench.training import train_step
from tests.helpers.training import (
    CPU,
    PARAMS,
    TASK_CLASSES,
    interrupted_after,
    prune_settings,
    recomputed_metrics,
    run_pruning,
    run_search,
    search_settings,
    tiny_data,
)

FEATURES = FeatureStats(
    block=np.array([0, 0, 1, 1, 2, 2, 2, 2]),
    sizes=np.array([2, 2, 4]),
    mass=np.array([0.64, 0.32, 0.04]),
    frequency=np.array([40, 24, 20, 12, 1, 1, 1, 1]),
    field=np.array([0, 1, 0, 1, 0, 1, 1, 0]),
)


def dimensions(specs):
    return [spec.selection.sum(1).int().tolist() for spec in specs]


def is_prefix(selection):
    return torch.equal(selection, selection.sort(dim=1, descending=True).values)


def test_blocks_have_sizes_and_a_mass():
    stats = FeatureStats.of(np.array([0, 1, 1, 0]), np.array([5, 1, 2, 2]), [1, 3])
    assert stats.sizes.tolist() == [2, 2]
    assert stats.mass.tolist() == [0.7, 0.3]


def test_grid_search_gives_every_block_the_same_dimension():
    settings = GridSearch(kind="grid", title="", importance="effective", rounds=0, dimensions=[2, 5])
    specs = grid.propose(settings, FEATURES, 8, seed=1)
    assert dimensions(specs) == [[2, 2, 2], [5, 5, 5]]
    assert all(is_prefix(spec.selection) for spec in specs)


def test_random_search_descends_within_its_bounds():
    settings = RandomSearch(kind="random", title="", importance="effective", rounds=0, trials=50, min_dimension=4)
    specs = random.propose(settings, FEATURES, 64, seed=1)
    stairs = np.array(dimensions(specs))
    assert stairs.shape == (50, 3)
    assert (np.diff(stairs, axis=1) <= 0).all()
    assert stairs.min() >= 4
    assert stairs.max() < 64
    assert len(np.unique(stairs, axis=0)) > 40
    assert dimensions(random.propose(settings, FEATURES, 64, seed=1)) == stairs.tolist()
    assert dimensions(random.propose(settings, FEATURES, 64, seed=2)) != stairs.tolist()


def test_mde_by_hand():
    # a = 1/2: sqrt of the masses .64 .32 .04 = .8 .5657 .2, sum 1.5657; budget 8 x 8 features = 64 weights:
    # 32.70 / 2, 23.12 / 2, 8.175 / 4 -> 16, 11, 2
    assert mde.staircase(FEATURES, 8, 0.5, low=1, k=64).tolist() == [16, 11, 2]
    # a = 1: 64 x mass / size = 20.48, 10.24, 0.64
    assert mde.staircase(FEATURES, 8, 1.0, low=1, k=64).tolist() == [20, 10, 1]
    assert mde.staircase(FEATURES, 8, 1.0, low=0, k=16).tolist() == [16, 10, 0]
    # a = 0: the budget shared equally among blocks: 64 / 3 / size
    assert mde.staircase(FEATURES, 8, 0.0, low=1, k=64).tolist() == [10, 10, 5]


def test_mde_keeps_its_budget_and_proposes_every_pair():
    pairs = [MDEPair(base_dimension=b, temperature=t) for b in (8, 16) for t in (0.1, 0.5, 0.9)]
    settings = MDE(kind="mde", title="", importance="effective", rounds=0, min_dimension=0, settings=pairs)
    found = dimensions(mde.propose(settings, FEATURES, 64, seed=1))
    assert len(found) == 6
    for pair, stair in zip(pairs, found, strict=True):
        assert stair @ FEATURES.sizes <= pair.base_dimension * FEATURES.sizes.sum()


def test_prefix_selection():
    assert prefix_selection(np.array([2, 0, 9]), 3).tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]


def test_equal_selections_are_the_same_trial():
    one, again, other = (TrialSpec("x", prefix_selection(np.array(stair), 4)) for stair in ([4, 2], [9, 2], [4, 1]))
    learned = TrialSpec("x", one.selection, lambda *_: None)
    assert one.same_as(again)
    assert not one.same_as(other)
    assert not one.same_as(learned)
    assert not learned.same_as(learned)
    for own in (
        {"l2": 0.1},
        {"patience": 3},
        {"block": torch.zeros(8)},
        {"projected": 4},
        {"table": lambda table: table},
    ):
        special = TrialSpec("x", one.selection, **own)
        assert not special.same_as(one)
        assert special.same_as(special) == (own.keys() <= {"l2", "patience"})


RATING = RatingPrediction()

# --- DNIS -----------------------------------------------------------------------------------------------------


@pytest.fixture
def soft(mf):
    """A recommender with a soft selection somewhere inside [0, 1]: 3 blocks of 10 features, K = 5."""
    block = torch.arange(30) * 3 // 30
    selection = torch.rand(3, 5, generator=torch.Generator().manual_seed(1))
    return recommenders.build(
        mf, block=block, selection=selection, soft=True, embedding_std=0.5, field_sizes=(15, 15), prior=3.0, seed=1
    )


def settings(**update):
    return PARAMS.methods["dnis"].model_copy(update=update)


def test_equation_8():
    gradient = torch.tensor([[1.0, -3.0, 2.0], [1e-6, 0.0, -2e-6], [0.0, 0.0, 0.0]])
    found = dnis.normalised(gradient, 1e-7)
    expected = [[1 / (2 + 1e-7), -3 / (2 + 1e-7), 2 / (2 + 1e-7)], [1e-6 / 1.1e-6, 0, -2e-6 / 1.1e-6], [0, 0, 0]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_alpha_s_gradient_equals_a_dense_recomputation(soft, ratings):
    found = dnis.first_order(soft, RATING, ratings)
    alpha = soft.embedding.selection.double().requires_grad_()
    embeddings = soft.embedding.weight.detach().double() * alpha[soft.embedding.block.long()]
    user, item = (torch.nn.functional.one_hot(ids.long(), 30).double() @ embeddings for ids in ratings.ids.T)
    loss = ((soft.model.mean + (user * item).sum(1) - ratings.labels) ** 2).mean()
    loss.backward()
    torch.testing.assert_close(found.double(), alpha.grad, rtol=1e-5, atol=1e-8)


def test_alpha_s_gradient_equals_finite_differences(soft, ratings):
    found = dnis.first_order(soft, RATING, ratings)
    soft.double()
    step = 1e-6
    for entry in [(0, 0), (1, 3), (2, 4)]:
        losses = []
        for sign in (1, -1):
            soft.embedding.selection[entry] += sign * step
            losses.append(((soft(ratings) - ratings.labels) ** 2).mean().item())
            soft.embedding.selection[entry] -= sign * step
        assert found[entry].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("order", [1, 2])
def test_a_step_of_alpha_leaves_the_weights_alone_and_stays_within_0_and_1(soft, ratings, order):
    weights = {name: tensor.clone() for name, tensor in soft.named_parameters()}
    before = soft.embedding.selection.clone()
    optimizer = dnis.AlphaOptimizer(soft, RATING, settings(learning_rate=0.3, order=order))
    optimizer.begin_epoch(soft, 0.1)
    for _ in range(10):
        optimizer.step(soft, ratings[250:], ratings[:250])
    assert all(torch.equal(tensor, weights[name]) for name, tensor in soft.named_parameters())
    assert all(parameter.grad is None for parameter in soft.parameters())
    alpha = soft.embedding.selection
    assert not torch.equal(alpha, before)
    assert alpha.min() == 0
    assert alpha.max() <= 1
    assert not alpha.requires_grad


def test_the_first_step_of_alpha_is_adam_s_on_the_normalised_gradient(soft, ratings):
    before = soft.embedding.selection.clone()
    gradient = dnis.normalised(dnis.first_order(soft, RATING, ratings), 1e-7)
    dnis.AlphaOptimizer(soft, RATING, settings()).step(soft, ratings, ratings)
    expected = (before - 0.01 * gradient / (gradient.abs() + 1e-8)).clamp(0, 1)
    torch.testing.assert_close(soft.embedding.selection, expected)


def test_a_step_of_alpha_by_sgd_with_an_l1_penalty_and_a_plain_gradient(soft, ratings):
    before = soft.embedding.selection.clone()
    gradient = dnis.first_order(soft, RATING, ratings)
    plain = settings(optimizer="sgd", learning_rate=0.1, normalise=False, l1=0.03)
    dnis.AlphaOptimizer(soft, RATING, plain).step(soft, ratings, ratings)
    torch.testing.assert_close(soft.embedding.selection, (before - 0.1 * (gradient + 0.03)).clamp(0, 1))


def test_the_l1_term_is_inside_the_gradient_that_equation_8_divides(soft, monkeypatch):
    """As in the released code: inside, the L1 term decides the rare blocks, whose data gradient is as small; behind, it is nothing."""
    released = PARAMS.methods["dnis_released"]
    assert (released.l1, released.gradient_epsilon, released.optimizer) == (1e-5, 1e-8, "sgd")
    generator = np.random.default_rng(1)
    scale = np.array([[1e-1], [1e-3], [1e-5]])  # of the data gradient, from frequent to rare blocks
    data_gradients = [(scale * generator.normal(size=(3, 5))).astype(np.float32) for _ in range(200)]
    start = soft.embedding.selection.numpy().copy()

    def reference(inside):
        alpha = start.copy()
        for data in data_gradients:
            l1 = 1e-5 * np.sign(alpha)
            gradient = data + l1 if inside else data
            gradient = gradient / (np.abs(gradient).mean(1, keepdims=True) + 1e-8)
            alpha = np.clip(alpha - 0.01 * (gradient if inside else gradient + l1), 0, 1)
        return alpha

    steps = iter(data_gradients)
    monkeypatch.setattr(dnis, "first_order", lambda *_: torch.from_numpy(next(steps).copy()))
    optimizer = dnis.AlphaOptimizer(soft, RATING, released)
    for _ in data_gradients:
        optimizer.step(soft, None, None)
    found = soft.embedding.selection.numpy()
    np.testing.assert_allclose(found, reference(inside=True), atol=1e-5)
    behind = np.abs(found - reference(inside=False)).max(1)
    assert behind[0] < 0.01
    assert behind[2] > 0.2


def test_at_0_the_l1_term_has_no_slope_and_without_a_penalty_alpha_moves_as_before_to_the_last_bit(soft, ratings):
    soft.embedding.selection[1] = 0
    expected = soft.embedding.selection.clone()
    gradient = dnis.normalised(dnis.first_order(soft, RATING, ratings), 1e-7)
    dnis.AlphaOptimizer(soft, RATING, settings(optimizer="sgd")).step(soft, ratings, ratings)
    assert torch.equal(soft.embedding.selection, (expected - 0.01 * gradient).clamp(0, 1))
    soft.embedding.selection[:] = 0
    gradient = dnis.first_order(soft, RATING, ratings)
    penalty = settings(optimizer="sgd", learning_rate=0.1, normalise=False, l1=10.0)
    dnis.AlphaOptimizer(soft, RATING, penalty).step(soft, ratings, ratings)
    assert torch.equal(soft.embedding.selection, (-0.1 * gradient).clamp(0, 1))


@pytest.mark.parametrize("model", ["mf", "mlp", "neumf", "neumf_topk", "fm", "wide_deep", "deepfm"])
@pytest.mark.parametrize("few", [True, False])  # features, so that the whole table is differentiated; and more
def test_second_order_equals_finite_differences(config, model, few):
    """Of L_val after a step of descent on L_train, in double precision; first order does not."""
    settings = config.params.models[model]
    clicks = settings.kind in ("fm", "wide_deep", "deepfm")
    large = 12 if few else 300
    task, sizes = (ClickThroughRate(), (large, 8, 1)) if clicks else (RATING, (large, 8))
    generator = torch.Generator().manual_seed(1)

    def batch(n):
        within = torch.stack([torch.randint(size, (n,), generator=generator) for size in sizes], 1)
        labels = torch.rand(n, generator=generator, dtype=torch.float64).round()
        values = torch.rand(n, 3, generator=generator, dtype=torch.float64) if clicks else None
        return Instances((within + torch.tensor([0, large, large + 8])[: len(sizes)]).int(), labels, values)

    block, xi = torch.arange(sum(sizes)) % 4, 0.1
    recommender = recommenders.build(
        settings, block=block, selection=torch.rand(4, 8, generator=generator), soft=True, embedding_std=0.5,
        field_sizes=sizes, prior=0.0, seed=1,
    ).double()  # fmt: skip
    for name, parameter in recommender.named_parameters():
        if name != "embedding.weight":
            parameter.data.normal_(0, 0.3, generator=generator)
    training, validation = batch(40), batch(30)

    def loss_after_a_step(change):
        moved = copy.deepcopy(recommender)
        moved.embedding.selection += change
        parameters = list(moved.parameters())
        gradients = torch.autograd.grad(task.loss(moved(training), training.labels), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(xi * gradient)
            return task.loss(moved(validation), validation.labels).item()

    step, expected = 1e-5, torch.zeros_like(recommender.embedding.selection)
    for entry in itertools.product(*map(range, expected.shape)):
        change = torch.zeros_like(expected)
        change[entry] = step
        expected[entry] = (loss_after_a_step(change) - loss_after_a_step(-change)) / (2 * step)
    found = dnis.second_order(recommender, task, validation, training, xi)
    assert (found - expected).norm() < 1e-6 * expected.norm()
    assert (dnis.first_order(recommender, task, validation) - expected).norm() > 1e-3 * expected.norm()


def test_a_frozen_network_trains_embeddings_and_first_order_weights_only(config, ratings):
    built = recommenders.build(
        config.params.models["deepfm"], block=torch.zeros(30), selection=torch.ones(1, 4), soft=True, embedding_std=0.5,
        field_sizes=(20, 10), prior=0.0, seed=1,
    )  # fmt: skip
    dnis.AlphaOptimizer(built, RATING, settings(freeze_network=True))
    learned = [name for name, parameter in built.named_parameters() if parameter.requires_grad]
    assert learned == ["first_order", "embedding.weight"]
    optimizer = dnis.AlphaOptimizer(built, RATING, settings(freeze_network=True, order=2))
    optimizer.begin_epoch(built, 0.1)
    optimizer.step(built, ratings, ratings)


def test_dnis_starts_from_ones():
    (spec,) = dnis.propose(settings(), FEATURES, 7, seed=1)
    assert torch.equal(spec.selection, torch.ones(3, 7))
    assert spec.selection_optimizer is not None
    assert spec.block is None


def test_shuffled_blocks_have_the_sizes_of_those_they_replace():
    (spec,), (again,), (other,) = (dnis.propose(settings(blocks="shuffled"), FEATURES, 7, seed) for seed in (1, 1, 2))
    assert torch.bincount(spec.block).tolist() == FEATURES.sizes.tolist()
    assert torch.equal(spec.block, again.block)
    assert not torch.equal(spec.block, other.block)
    assert spec.block.tolist() != FEATURES.block.tolist()


# --- MDE with projections -------------------------------------------------------------------------------------


def projected(config, **update):
    return config.params.methods["mde_projected"].model_copy(update=update)


def test_blocks_of_equal_mass_within_each_field(config):
    frequency, field = np.array([10, 1, 4, 5, 3, 3, 0, 6]), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    features = FeatureStats(np.zeros(8, dtype=int), np.array([8]), np.array([1.0]), frequency, field)
    # field 0: 10 | 5 4 1 of 20 in all, field 1: 6 | 3 3 0 of 12
    by_mass, by_field = projected(config, blocks_per_field=2), projected(config, blocks_per_field=None)
    assert mde_projected.own_blocks(by_mass, features).tolist() == [0, 1, 1, 1, 3, 3, 3, 2]
    assert mde_projected.own_blocks(by_field, features).tolist() == field.tolist()


@pytest.mark.parametrize(
    ("temperature", "budget", "power_of_two", "expected"),
    [
        (0.5, None, False, [16, 8, 2]),  # 16 sqrt(p / max p), p = 1/2, 1/8, 1/128
        (0.0, None, False, [16, 16, 16]),
        (1.0, None, False, [16, 4, 1]),  # 16 / 64 is below 1
        (0.5, None, True, [16, 8, 2]),
        (0.5, 3.0, False, [15, 7, 1]),  # 16 would come with an 8, and that is beyond 3 * 21
        (0.5, 1.0, False, [1, 1, 1]),
        (0.0, 4.5, False, [4, 4, 4]),
        (0.5, 99.0, False, [16, 16, 16]),
        (0.3, None, True, [16, 8, 4]),  # 16, 10.6, 4.6
    ],
)
def test_projected_dimensions_by_hand(config, temperature, budget, power_of_two, expected):
    setting = ProjectedSetting(base_dimension=16, temperature=temperature, budget=budget)
    probability, sizes = np.array([1 / 2, 1 / 8, 1 / 128]), np.array([1, 4, 16])
    found = mde_projected.dimensions(setting, probability, sizes, projected(config, power_of_two=power_of_two), k=64)
    assert found.tolist() == expected


@pytest.mark.parametrize("model", ["mf", "neumf_topk"])
def test_what_a_model_sees_is_the_block_s_columns_times_its_matrix(config, ratings, model):
    block = torch.arange(30) % 3
    selection = prefix_selection(np.array([4, 2, 1]), 6)
    built = recommenders.build(
        config.params.models[model], block=block, selection=selection, projected=5, embedding_std=0.5, field_sizes=(20, 10),
        prior=0.0, seed=1,
    )  # fmt: skip
    multiples = (1, 4) if model == "neumf_topk" else (1,)
    assert built.widths == tuple(5 * multiple for multiple in multiples)
    matrices, columns, expected = iter(built.projection.weights), 0, []
    weight = built.embedding.weight
    for multiple in multiples:
        part = torch.zeros(30, 5 * multiple)
        for number, d in enumerate((4, 2, 1)):
            matrix = next(matrices)
            assert matrix.shape == (d * multiple, 5 * multiple)
            part[block == number] = weight[block == number, columns : columns + d * multiple] @ matrix
        columns += 4 * multiple
        expected.append(part)
    table = torch.cat(expected, 1)
    for few in (ratings, ratings[:5]):  # more ids than rows, and fewer
        found = built.projection(built.embedding, few.ids, None).dense()
        torch.testing.assert_close(found, table[few.ids.long()])
        built.zero_grad()
        built(few).sum().backward()
        assert all(matrix.grad.abs().sum() > 0 for matrix in built.projection.weights)
        beyond = weight.grad[block == 2][:, 1:4]
        assert (beyond == 0).all()
    # a mask, weight by weight, holds wherever rows are taken from
    built.embedding.block, built.embedding.selection = torch.arange(30), weight.ne(weight).float()
    built.embedding.selective = True
    for few in (ratings, ratings[:5]):
        assert (built.projection(built.embedding, few.ids, None).dense() == 0).all()


# --- NIS ------------------------------------------------------------------------------------------------------


def test_choices_are_drawn_as_the_logits_say(config, mf):
    built = recommenders.build(
        mf, block=torch.arange(30) % 3, selection=torch.ones(3, 6), soft=True, embedding_std=0.5, field_sizes=(20, 10),
        prior=0.0, seed=1,
    )  # fmt: skip
    settings = config.params.methods["nis_me"].model_copy(update={"column_blocks": 2})
    controller = nis.Controller(built, RATING, settings, nis.Space(settings, FEATURES, 6), seed=1)
    controller.logits += torch.tensor([[0.0, 1.0, 2.0, -1.0], [3.0, 0.0, 0.0, 0.0]])
    drawn = []
    for _ in range(4000):
        controller.begin_epoch(built, 0.1)
        drawn.append(controller.choice)
    for decision, probability in enumerate(controller.logits.softmax(1)):
        counts = torch.bincount(torch.stack(drawn)[:, decision], minlength=4)
        assert (counts / 4000 - probability).abs().max() < 0.04


def space(config, choice, budget=0.5, k=6):
    settings = config.params.methods["nis_se"].model_copy(
        update={"choice": choice, "budget": budget, "column_blocks": 3}
    )
    return nis.Space(settings, FEATURES, k)


def test_single_size_gives_the_first_rows_the_first_columns(config):
    found = space(config, "single")
    assert found.logits == (1, 1 + 3 * 3)
    selections = found.selections(torch.arange(10)[:, None])
    assert selections[0].sum() == 0
    shapes = {(int(s.any(1).sum()), int(s.any(0).sum())) for s in selections[1:]}
    assert shapes == set(itertools.product((1, 2, 3), (2, 4, 6)))
    for selection in selections[1:]:
        rows, columns = selection.any(1).sum(), selection.any(0).sum()
        assert selection[:rows, :columns].all()
        assert selection.sum() == rows * columns


def test_multi_size_chooses_the_rows_of_each_column_block(config):
    found = space(config, "multi")
    assert found.logits == (3, 1 + 3)
    (selection,) = found.selections(torch.tensor([[3, 0, 2]]))
    assert selection.tolist() == [[1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0]]
    assert found.cost(selection[None]).item() == 2 * FEATURES.sizes.sum() + 2 * FEATURES.sizes[:2].sum()


@pytest.mark.parametrize("choice", ["single", "multi"])
@pytest.mark.parametrize("budget", [0.1, 0.5, 1.0])
def test_the_likeliest_choice_within_the_budget_is_found(config, choice, budget):
    found = space(config, choice, budget)
    decisions, options = found.logits
    every = torch.tensor(list(itertools.product(range(options), repeat=decisions)))
    costs = found.cost(found.selections(every))
    for seed in range(5):
        logits = torch.randn(found.logits, generator=torch.Generator().manual_seed(seed))
        scores = logits.log_softmax(1).gather(1, every.T).sum(0).masked_fill(costs > found.budget, -torch.inf)
        assert found.likeliest(logits).tolist() == every[scores.argmax()].tolist()


@pytest.mark.parametrize("choice", ["single", "multi"])
def test_the_controller_finds_what_pays(config, mf, ratings, choice):
    """A task in which the loss is what the selection lacks: within the budget, the controller comes to fill it."""
    settings = config.params.methods["nis_se"].model_copy(
        update={"choice": choice, "column_blocks": 3, "learning_rate": 0.1, "penalty": 10.0}
    )
    the_space = nis.Space(settings, FEATURES, 6)
    built = recommenders.build(
        mf, block=torch.arange(30) % 3, selection=torch.ones(3, 6), soft=True, embedding_std=0.5, field_sizes=(20, 10),
        prior=0.0, seed=1,
    )  # fmt: skip

    class Missing:
        def loss(self, _predictions, _labels):
            return 1 - built.embedding.selection.mean()

    controller = nis.Controller(built, Missing(), settings, the_space, seed=1)
    controller.begin_epoch(built, 0.1)
    for _ in range(600):
        controller.step(built, ratings, ratings)
    controller.finalize(built)
    chosen = built.embedding.selection
    cost = the_space.cost(chosen[None]).item()
    assert cost <= the_space.budget
    every = the_space.selections(
        torch.tensor(list(itertools.product(range(the_space.logits[1]), repeat=the_space.logits[0])))
    )
    best = max(s.mean().item() for s in every if the_space.cost(s[None]).item() <= the_space.budget)
    assert chosen.mean().item() >= 0.8 * best


# --- which trials train together ------------------------------------------------------------------------------


def context(specs, model="mf", **training):
    """A search of `specs` on FEATURES, as far as the choice of trials to fuse depends on it."""
    found = search_settings("rating", model, "grid_search", **training)
    context = SearchContext(found, data=None, field_sizes=(4, 4), features=FEATURES, device=CPU)
    return lambda index: trials.trials_to_fuse(index, specs, context)


def test_trials_on_the_same_terms_are_fused_and_no_others():
    def spec(columns, **own):
        return TrialSpec(f"{columns}", prefix_selection(np.full(3, columns), 8), **own)

    specs = [spec(2), spec(3, l2=0.1), spec(4), spec(2), spec(5, block=torch.zeros(8)), spec(6, l2=0.1), spec(7)]
    chosen = context(specs, fused_trials=8)
    assert chosen(0) == [0, 2, 6]  # not the second of dimension 2, which is trained once
    assert chosen(1) == [1, 5]
    assert chosen(4) == [4]  # of blocks of its own
    assert context(specs, fused_trials=2)(0) == [0, 2]
    assert context(specs, fused_trials=1)(0) == [0]
    assert context(specs, "mlp", fused_trials=8)(0) == [0]


def test_no_more_columns_are_fused_than_there_is_room_for(monkeypatch):
    specs = [TrialSpec(f"{d}", prefix_selection(np.full(3, d), 8)) for d in (2, 3, 4)]
    monkeypatch.setattr(trials.fused, "columns_with_room", lambda *_: 5)
    assert context(specs, fused_trials=8)(0) == [0, 1]


def test_tables_and_selections_that_cannot_fit_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr("nisbench.memory.total", lambda: 4 * 3 * 16 - 1)
    settings = search_settings("rating", "mf", "grid_search", base_dimension=16)
    context = SearchContext(settings, data=None, field_sizes=(4, 4), features=FEATURES, device=CPU)
    with pytest.raises(
        NisbenchError, match=r"3 blocks by 16 dimensions would take .* Lower training\.base_dimension or blocks\.count"
    ):
        context.specs()
    with pytest.raises(NisbenchError, match=r"the table of 'wide' would take .* Lower training\.base_dimension"):
        context.recommender(TrialSpec("wide", torch.ones(3, 16)))


# --- a table of a method's own --------------------------------------------------------------------------------


class HashedTable(Table):
    """Features share the rows of a small table by their number."""

    def __init__(self, drawn: SelectedTable, rows: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(drawn.weight.detach()[:rows].clone())
        self.register_buffer("count", torch.tensor(drawn.features))

    @property
    def features(self) -> int:
        return int(self.count)

    @property
    def width(self) -> int:
        return self.weight.shape[1]

    def forward(self, ids, values=None):
        return Embeddings(ids % len(self.weight), values, self.weight)

    def rows(self, features):
        return self.weight[features.long() % len(self.weight)]

    def stored(self):
        weight = self.rows(torch.arange(self.features))
        return SelectedTable(torch.zeros(len(weight)), torch.ones(1, self.width), weight.detach().clone())


def hashed(_settings, features, k, _seed):
    """What a method with such tables proposes: two trials, of different sizes."""
    everything = torch.ones(len(features), k)
    return [
        TrialSpec(f"{rows} rows", everything, table=lambda drawn, rows=rows: HashedTable(drawn, rows))
        for rows in (5, 17)
    ]


@pytest.mark.parametrize(("task", "model"), [("rating", "mf"), ("topk", "neumf_topk"), ("ctr", "deepfm")])
def test_a_method_s_own_table_goes_through_the_whole_search(task, model, planted, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "propose", hashed)
    data = tiny_data(task, tmp_path, planted)
    found = search_settings(task, model, "grid_search", base_dimension=8, max_epochs=2)
    run = run_search(found, data, tmp_path / "a")
    assert [trial.name for trial in run.trials] == ["5 rows", "17 rows"]
    assert all(trial.fused == 1 for trial in run.trials)

    # what is stored predicts what the trial's table did
    tensors, about = load_tensors(tmp_path / "a" / "weights.safetensors")
    stored = PrunedModel.of_search(tensors, about, found.model, parquet.field_sizes(data["test"]))
    rows = 5 if run.best_trial == 0 else 17
    assert len(np.unique(stored.embeddings, axis=0)) == rows
    known = {name: data[name] for name in ("train", "validation")}
    validation = instances.read(data["validation"], CPU)
    loss = tasks.build(found.task, known, CPU).validation_loss(stored.to_recommender(), validation)
    assert loss == pytest.approx(run.best.validation_loss, rel=1e-6)

    # resumed, it is the same; pruned, so are its files
    with interrupted_after(1, TASK_CLASSES[task], monkeypatch):
        run_search(found, data, tmp_path / "b")
    again = run_search(found, data, tmp_path / "b")
    assert [trial.losses for trial in again.trials] == [trial.losses for trial in run.trials]
    resumed, _ = load_tensors(tmp_path / "b" / "weights.safetensors")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in tensors.items())
    pruning = prune_settings(found, 2.0)
    pruned = run_pruning(pruning, tmp_path / "a", data, tmp_path / "p")
    assert pruned.metrics == recomputed_metrics(pruning, data, tmp_path / "p")


def test_a_table_s_stored_form_is_its_forward():
    drawn = SelectedTable(
        torch.zeros(30), torch.ones(1, 4), torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    )
    table = HashedTable(drawn, 7)
    ids, values = torch.arange(30).view(10, 3), torch.rand(10, 3, generator=torch.Generator().manual_seed(2))
    stored = table.stored()
    assert torch.equal(table(ids, values).dense(), stored(ids, values).dense())
    assert torch.equal(table.rows(torch.arange(30)), stored.effective_weight())


class RowPerFeature(HashedTable):
    row_parameters = ("weight",)


def test_only_a_selected_table_is_trained_by_rows(config, mf, monkeypatch):
    monkeypatch.setattr(train_step, "LARGE", 0)
    few = config.params.training.model_copy(update={"batch_size": 2, "l2": 0.0})
    tables = {
        None: train_step.LazyStep,
        (lambda drawn: HashedTable(drawn, 7)): train_step.DenseStep,
        (lambda drawn: RowPerFeature(drawn, 30)): train_step.DenseStep,
    }
    for table, expected in tables.items():
        built = recommenders.build(
            mf, block=torch.zeros(30), selection=torch.ones(1, 4), table=table, embedding_std=0.5, field_sizes=(20, 10),
            prior=0.0, seed=1,
        )  # fmt: skip
        assert type(train_step.build(built, RATING, few, fields=2)) is expected
