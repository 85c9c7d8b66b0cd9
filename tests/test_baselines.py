"""Invariants of the baselines within a budget: what they store, and that no trial of theirs exceeds it."""

import math
import sys

import numpy as np
import pytest
import torch

from nisbench.embedding.composed import HashedTable, LowRankTable, QuotientRemainderTable
from nisbench.embedding.table import SelectedTable
from nisbench.errors import NisbenchError
from nisbench.params.loading import load
from nisbench.search import hashing, laws, low_rank, quotient_remainder, tpe
from nisbench.search.budget import allowed, fitted, numbered
from nisbench.search.trial_spec import FeatureStats
from nisbench.search.trial_store import TrialStore
from nisbench.search.trials import _train_alone
from nisbench.tensor_files import load_tensors
from tests.helpers import training as helpers
from tests.helpers.paths import ROOT
from tests.helpers.training import CPU, PARAMS, prune_settings, run_pruning, run_search, search_settings, tiny_data

COMPOSED = ("hashing", "quotient_remainder", "low_rank")
MOVIELENS = np.array([6040, 3706])


@pytest.fixture
def data(planted, tmp_path):
    return tiny_data("rating", tmp_path, planted)


def settings_of(method, rate=1.0, **training):
    few = {"base_dimension": 8, "max_epochs": 2, "learning_rate": 0.02} | training
    settings = search_settings("rating", "mf", method, **few)
    return settings.model_copy(update={"method": settings.method.at(rate)})


def context_of(data, method, rate=1.0, **training):
    return helpers.context_of(settings_of(method, rate, **training), data)


def skewed(sizes=(60, 40), blocks=5, seed=0):
    """Features of fields of these sizes, in blocks of equal size by falling frequency, though not in that order."""
    generator, n = np.random.default_rng(seed), sum(sizes)
    frequency = generator.permutation(1000 // np.arange(1, n + 1))
    block = np.empty(n, dtype=np.int64)
    block[np.argsort(-frequency, kind="stable")] = np.arange(n) * blocks // n
    return FeatureStats.of(block, frequency, sizes)


def drawn(features, width, seed=1):
    weight = torch.empty(features, width).normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
    return SelectedTable(torch.zeros(features), torch.ones(1, width), weight)


# --- budgets --------------------------------------------------------------------------------------------------


def test_a_budget_of_a_rate_s_inverse_is_exact():
    assert [allowed(1 / rate, 60) for rate in (1, 3, 20, 49, 60, 61)] == [60, 20, 3, 1, 1, 0]
    assert all(allowed(1 / rate, 64 * rate * 12345) == 64 * 12345 for rate in range(1, 200))


@pytest.mark.parametrize("limit", [10, 37, 100, 639, 640, 9999])
@pytest.mark.parametrize("slope", [0, 1, 5, 200])
def test_sizes_are_as_near_to_the_limit_as_one_more_would_exceed(limit, slope):
    sizes = np.array([1, 2, 1, 3, 1, 1, 1])
    found = fitted(np.exp(-slope * np.arange(7.0)), sizes, 1, 64, limit)
    used = found @ sizes
    assert used <= limit
    assert ((found >= 1) & (found <= 64)).all()
    assert all(used + size > limit for size, one in zip(sizes, found, strict=True) if one < 64)
    if slope == 1 and limit == 100:  # in proportion, apart from what whole numbers leave
        assert found[0] / found[1] == pytest.approx(math.e, rel=0.1)


def test_a_limit_below_the_least_size_is_an_error():
    with pytest.raises(NisbenchError, match="budget of 9 weights is below the least size, 10"):
        fitted(1, np.ones(5), 2, 4, 9)


@pytest.mark.parametrize("order", ["random", "frequency"])
def test_features_are_numbered_within_their_fields(order):
    features = skewed()
    found = numbered(features, order, 3)
    for field, size in enumerate((60, 40)):
        assert sorted(found[features.field == field]) == list(range(size))
    falls = all(
        (np.diff(features.frequency[features.field == f][np.argsort(found[features.field == f])]) <= 0).all()
        for f in (0, 1)
    )
    assert falls == (order == "frequency")


def test_a_rate_that_leaves_no_dimension_is_found_before_anything_runs(tmp_path):
    overlay = tmp_path / "over.yaml"
    for method, least in (("uniform", 1), ("laws", 1), ("tpe", 1), ("low_rank", 1)):
        overlay.write_text(f"studies: {{demo: {{grids: {{rating: {{methods: {{{method}: [2, 100]}}}}}}}}}}")
        with pytest.raises(
            NisbenchError,
            match=rf"rating\.methods\.{method}\.1: .*fewer than {least}; leave out compression rates above",
        ):
            load(ROOT, [overlay])
    overlay.write_text("studies: {demo: {grids: {rating: {methods: {hashing: [2, 100]}}}}}")
    load(ROOT, [overlay])


# --- uniform --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "dimension"), [(1, 8), (2, 4), (2.9, 2), (5, 1), (8, 1)])
def test_uniform_has_the_first_columns_that_the_budget_allows(data, rate, dimension):
    context, full = context_of(data, "uniform", rate), context_of(data, "full_table")
    specs = context.specs()
    assert [(spec.l2, spec.learning_rate) for spec in specs] == [(0.0, 1e-2), (1e-5, 1e-2)]
    recommender = context.recommender(specs[0])
    assert context.weights_of(specs[0], recommender) == 100 * dimension <= 800 / rate
    whole = full.recommender(full.specs()[0]).selected.effective_weight()
    assert torch.equal(recommender.selected.effective_weight(), whole[:, :dimension])


def test_each_trial_has_its_own_penalty_and_learning_rate(data):
    context = context_of(data, "uniform", 2)
    found = [context.training_of(spec) for spec in context.specs()]
    assert [(one.l2, one.learning_rate) for one in found] == [(0.0, 1e-2), (1e-5, 1e-2)]
    assert len(PARAMS.methods["uniform"].l2) * len(PARAMS.methods["uniform"].learning_rate) == 8


# --- laws -----------------------------------------------------------------------------------------------------


def law_settings(rate, **update):
    return PARAMS.methods["laws"].model_copy(update=update).at(rate)


def dimensions_of(spec):
    return spec.selection.sum(1).long()[spec.block].numpy()


@pytest.mark.parametrize("rate", [1, 2, 5, 7.3, 20, 64])
@pytest.mark.parametrize("seed", [1, 2])
def test_every_law_uses_up_the_budget_and_no_more(rate, seed):
    features = skewed()
    specs = laws.propose(law_settings(rate), features, 64, seed)
    assert len(specs) == 8
    for spec in specs:
        dimensions = dimensions_of(spec)
        assert dimensions.sum() == int(6400 / rate + 1e-9)
        assert dimensions.min() >= 1
        for field in (0, 1):
            own = features.field == field
            assert (np.diff(dimensions[own][np.argsort(-features.frequency[own], kind="stable")]) <= 0).all()


def test_laws_are_drawn_by_the_seed_and_by_their_names():
    features, settings = skewed(), law_settings(5)
    turned = settings.model_copy(update={"laws": dict(reversed(settings.laws.items()))})
    names = [
        [spec.name for spec in laws.propose(s, features, 64, seed)]
        for s, seed in ((settings, 1), (turned, 1), (settings, 2))
    ]
    assert names[0] == names[1] != names[2]
    assert [name.split(",")[0] for name in names[0][:4]] == ["exponential", "log_normal", "normal", "power"]


@pytest.mark.parametrize("law", list(laws.LAWS))
def test_a_slope_of_0_is_one_dimension_for_all_and_a_steeper_one_takes_from_the_rare(law):
    features, settings = skewed(), law_settings(8)
    shares = np.array([0.6, 0.4])  # of fields of 60 and 40 features
    flat, steep = (laws.dimensions(settings, features, 64, laws.LAWS[law], slope, shares) for slope in (0, 2))
    assert (flat == 8).all()
    rare = features.frequency < np.median(features.frequency)
    assert steep[rare].mean() < 8 < steep[~rare].mean()


def test_a_field_that_is_full_leaves_its_share_to_the_others():
    features = skewed((2, 98))
    found = laws.dimensions(law_settings(4), features, 64, laws.LAWS["power"], 0.0, np.array([0.5, 0.5]))
    assert (found[:2] == 64).all()
    assert found.sum() == 1600


# --- TPE ------------------------------------------------------------------------------------------------------


def proposals(settings, features, losses):
    (spec,), found = tpe.propose(settings, features, 64, 7), []
    for loss in losses:
        found.append(spec)
        (spec,) = spec.next(loss) or [None]
    assert spec is None
    return found


@pytest.mark.parametrize("rate", [1, 5, 50])
def test_tpe_s_proposals_are_within_the_budget_and_none_could_grow(rate):
    pytest.importorskip("optuna")
    features = skewed()
    for spec in proposals(PARAMS.methods["tpe"].at(rate), features, np.linspace(1, 0, 16)):
        dimensions = spec.selection.sum(1).numpy()
        used = dimensions @ features.sizes
        assert used <= 6400 / rate
        assert all(used + 20 > 6400 / rate for one in dimensions if one < 64)
        assert dimensions.min() >= 1


def test_tpe_learns_from_losses_and_proposes_the_same_again():
    pytest.importorskip("optuna")
    features, settings = skewed(), PARAMS.methods["tpe"].at(5)

    def names(losses):
        return [spec.name for spec in proposals(settings, features, losses)]

    losses = [*np.linspace(1, 0.5, 9), math.inf, *np.linspace(0.6, 0.4, 6)]  # one of them failed
    others = [*reversed(losses[:9]), *losses[9:]]
    assert names(losses) == names(losses)
    assert names(losses)[:5] == names(others)[:5]  # random ones
    assert names(losses)[9:] != names(others)[9:]
    first = tpe.propose(settings, features, 64, 7)[0]
    assert first.next(0.5)[0].name == first.next(0.5)[0].name  # asking changes nothing


def test_tpe_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(NisbenchError, match=r"tpe needs Optuna. Run: pip install 'nisbench\[tpe\]'"):
        tpe.propose(PARAMS.methods["tpe"], skewed(), 64, 1)


# --- tables of fewer weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", COMPOSED)
@pytest.mark.parametrize("rate", [1, 1.5, 2])
def test_a_composed_table_s_size_is_within_the_budget_and_is_what_is_counted(data, tmp_path, method, rate):
    settings = settings_of(method, rate)
    run = run_search(settings, data, tmp_path / "search")
    pruned = run_pruning(prune_settings(settings, rate), tmp_path / "search", data, tmp_path / "prune")
    tensors, about = load_tensors(tmp_path / "search" / "weights.safetensors")
    assert pruned.nonzeros == about["stored_weights"] == run.best.weights == pruned.weights
    assert 0.7 * 800 / rate <= pruned.nonzeros <= 800 / rate
    assert tensors["embedding.weight"].shape == (100, 8)


@pytest.mark.parametrize("method", COMPOSED)
def test_a_composed_table_that_may_have_all_weights_trains_like_the_full_table(data, tmp_path, method):
    found = []
    for name in (method, "full_table"):
        context = context_of(data, name, 1, learning_rate=0.01)
        store = TrialStore(tmp_path / name, CPU)
        found.append(
            (_train_alone(0, context.specs()[0], context, store).losses, store.load_weights(0)[0]["embedding.weight"])
        )
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("method", COMPOSED)
def test_a_composed_table_s_batches_are_rows_of_the_dense_one(data, method):
    context = context_of(data, method, 2)
    table = context.recommender(context.specs()[0]).embedding
    whole = table.stored().effective_weight()
    ids = torch.tensor([[3, 99], [41, 60], [3, 80]], dtype=torch.int32)
    for few in (ids, ids.repeat(20, 1)):  # fewer ids than features, and more
        torch.testing.assert_close(table(few).dense(), whole[few.long()])
        twice = table(few, torch.full(few.shape, 2.0)).dense()
        torch.testing.assert_close(twice, 2 * whole[few.long()])
    torch.testing.assert_close(table.rows(ids.flatten()), whole[ids.flatten().long()])


@pytest.mark.parametrize("method", COMPOSED)
def test_a_composed_table_begins_with_the_variance_of_the_full_one(method):
    features, settings = skewed((3000, 2000)), PARAMS.methods[method].at(4)
    module = {"hashing": hashing, "quotient_remainder": quotient_remainder, "low_rank": low_rank}[method]
    table = module.propose(settings, features, 32, 1)[0].table(drawn(5000, 32))
    assert float(table.whole().detach().std()) == pytest.approx(0.1, rel=0.1)


def test_features_that_share_a_row_are_the_same_to_the_bit_and_learn_together():
    row = torch.tensor([0, 1, 0, 1, 0])
    table, original = HashedTable(drawn(5, 3), row), drawn(5, 3).weight
    whole = table.whole()
    assert torch.equal(whole, original[[0, 1, 0, 1, 0]])
    whole.sum().backward()
    assert table.weight.grad[:, 0].tolist() == [3, 2]


@pytest.mark.parametrize("order", ["random", "frequency"])
def test_hashing_shares_rows_within_fields_and_evenly(order):
    features = skewed()
    settings = PARAMS.methods["hashing"].model_copy(update={"order": order}).at(5)
    row = hashing.rows(settings, features, 1)
    assert sorted(set(row)) == list(range(20))
    assert not set(row[:60]) & set(row[60:])
    assert np.bincount(row).tolist() == [5] * 20
    if order == "frequency":
        most = np.argsort(-features.frequency[:60], kind="stable")[:12]
        assert len(set(row[most])) == 12
    else:
        assert (row != hashing.rows(settings, features, 2)).any()


@pytest.mark.parametrize("combine", ["product", "sum"])
def test_quotient_and_remainder_tell_all_features_of_a_field_apart(combine):
    features = skewed((60, 40, 2, 1))
    settings = PARAMS.methods["quotient_remainder"].model_copy(update={"combine": combine}).at(2.5)
    quotient, remainder = quotient_remainder.rows_of_features(settings, features, 1)
    assert len(set(zip(quotient, remainder, strict=True))) == 103
    assert (remainder[100:] == -1).all()  # two rows would be no fewer
    source = drawn(103, 4)
    table = QuotientRemainderTable(
        source, torch.from_numpy(quotient), torch.from_numpy(remainder), combine, torch.Generator().manual_seed(1)
    )
    rows = table.quotient[quotient[:100]], table.remainder[remainder[:100]]
    expected = rows[0] * rows[1] if combine == "product" else rows[0] + rows[1]
    torch.testing.assert_close(table.whole()[:100], expected)
    torch.testing.assert_close(table.whole()[100:], source.weight[100:])
    assert table.stored_weights == 4 * (quotient.max() + remainder.max() + 2) <= 4 * 103 / 2.5


def test_divisors_are_the_smallest_whose_rows_fit():
    """At half the rows, c = 2 exceeds the budget by the remainders, and a common c = 3 wastes a third; the users' may be 2."""
    cases = {2: [2, 3], 5: [5, 6], 10: [10, 11], 20: [22, 23]}
    for rate, expected in cases.items():
        found, limit = quotient_remainder.divisors(MOVIELENS, int(9746 / rate)), int(9746 / rate)
        assert found.tolist() == expected
        assert (-(-MOVIELENS // found) + found).sum() <= limit
    assert quotient_remainder.divisors(np.array([1, 2, 3, 1000]), 520).tolist() == [1, 1, 1, 2]
    with pytest.raises(NisbenchError, match=r"at least 2\.85 % .* budget is 1\.99 %; leave out this compression rate"):
        quotient_remainder.divisors(MOVIELENS, 9746 // 50)


def test_ranks_are_the_largest_whose_weights_fit():
    def weights(ranks):
        return sum(n * 64 if r == 64 else (n + 64) * r for n, r in zip(MOVIELENS, ranks, strict=True))

    for rate in (1, 2, 5, 10, 20, 50):
        limit = 9746 * 64 // rate
        found = low_rank.ranks(MOVIELENS, 64, limit)
        assert weights(found) <= limit
        for field in (0, 1):
            more = [rank + (f == field) for f, rank in enumerate(found)]
            assert rate == 1 or weights(more) > limit
    assert low_rank.ranks(np.array([1, 3, 5000]), 64, 64 * 2500)[:2] == [
        64,
        64,
    ]  # too small for two matrices to be smaller


def test_low_rank_serves_fields_of_several_values():
    """Such a field has several columns of ids, and a padded one repeats a feature."""
    table = LowRankTable(drawn(50, 8), [30, 4, 16], [3, 8, 2], torch.Generator().manual_seed(1))
    ids = torch.tensor([[3, 31, 30, 30], [29, 33, 49, 34]])
    torch.testing.assert_close(table.of_batch(ids), table.whole()[ids.flatten()])
    torch.testing.assert_close(
        table.of_batch(ids[:, [0, 1, 2]] * 0 + torch.tensor([3, 31, 40])), table.whole()[[3, 31, 40] * 2]
    )


def test_low_rank_is_a_product_for_each_field():
    generator = torch.Generator().manual_seed(1)
    table = LowRankTable(drawn(50, 8), [30, 4, 16], [3, 8, 2], generator)
    dense = table.stored().effective_weight()
    ranks = [int(torch.linalg.matrix_rank(own)) for own in dense.split([30, 4, 16])]
    assert ranks == [3, 4, 2]
    assert torch.equal(dense[30:34], drawn(50, 8).weight[30:34])
    assert table.stored_weights == (30 + 8) * 3 + 4 * 8 + (16 + 8) * 2
    wanted = torch.randn(30, 3, generator=generator) @ torch.randn(3, 8, generator=generator)
    u, s, v = torch.linalg.svd(wanted)
    with torch.no_grad():  # it can be any table of that rank
        table.left[0].copy_(u[:, :3] * s[:3])
        table.right[0].copy_(v[:3])
    torch.testing.assert_close(table.whole()[:30], wanted, atol=1e-5, rtol=1e-5)
