"""Invariants of OptEmbed: its surrogate gradient, its random dimensions, its thresholds, and an evolution within a budget."""

import math
import time
from itertools import pairwise

import numpy as np
import pytest
import torch

from nisbench.data.instances import Instances
from nisbench.embedding.supernet import KeepAbove, SupernetTable, surrogate
from nisbench.embedding.table import Rate, SelectedTable
from nisbench.search import optembed
from nisbench.search.trial_store import TrialStore
from nisbench.search.trials import _train_alone
from nisbench.tasks.rating import RatingPrediction
from nisbench.tensor_files import load_tensors
from nisbench.training.train_step import DenseStep
from tests.helpers import training
from tests.helpers.training import (
    CPU,
    PARAMS,
    interrupted_after,
    prune_settings,
    run_pruning,
    run_search,
    search_settings,
    tiny_data,
)

SETTINGS = PARAMS.methods["optembed"]
UNIFORM = torch.full((8,), 1 / 8, dtype=torch.float64)


@pytest.fixture
def data(planted, tmp_path):
    return tiny_data("rating", tmp_path, planted)


def context_of(data, method="optembed", **update):
    settings = search_settings("rating", "mf", method, base_dimension=8, learning_rate=0.02)
    settings = settings.model_copy(update={"method": settings.method.model_copy(update=update)})
    return training.context_of(settings, data)


def supernet(weight, unit, law=UNIFORM, start=0.0, rate=0.1, penalty=0.0, widths=None):
    drawn = SelectedTable(torch.zeros(len(weight)), torch.ones(1, weight.shape[1]), weight, widths=widths)
    generator = torch.Generator().manual_seed(1)
    sgd = Rate(rate, optimizer="sgd")
    return SupernetTable(drawn, torch.tensor(unit), law, generator, start=start, rate=sgd, penalty=penalty)


def trained(context, folder):
    (spec,) = context.specs()
    store = TrialStore(folder, CPU)
    return _train_alone(0, spec, context, store), store.load_weights(0)[0]


# --- the supernet ---------------------------------------------------------------------------------------------


def test_the_step_s_gradient_is_a_long_tailed_surrogate():
    points = torch.tensor([-1.5, -1, -0.7, -0.4, -0.1, 0, 0.1, 0.25, 0.4, 1, 1.01], requires_grad=True)
    expected = torch.tensor([0, 0.4, 0.4, 0.4, 1.6, 2, 1.6, 1, 0.4, 0.4, 0])
    torch.testing.assert_close(surrogate(points.detach()), expected)
    kept = KeepAbove.apply(points)
    assert kept.tolist() == [0] * 6 + [1] * 5
    kept.sum().backward()
    torch.testing.assert_close(points.grad, expected)


def test_rows_below_their_unit_s_threshold_are_left_out_and_may_come_back():
    table = supernet(torch.tensor([[0.1, -0.1], [0.2, 0.3], [0.1, 0.1]]), [0, 0, 1], UNIFORM[:2], start=0.25)
    with torch.no_grad():
        table.threshold[1] = 0.1
    table.eval()
    ids = torch.tensor([[0, 2], [1, 2], [1, 2]])
    found = table(ids).dense()
    torch.testing.assert_close(found[:, :, 0].detach(), torch.tensor([[0, 0.1], [0.2, 0.1], [0.2, 0.1]]))
    assert table.kept().tolist() == [False, True, True]
    found[0, 0].sum().backward()
    excess = 0.2 - 0.25  # the mask's gradient is what the row would have contributed, here .1 - .1
    assert table.weight.grad[0].tolist() == [0, 0]
    table.zero_grad()
    table(ids).dense()[0, 0, 0].backward()
    slope = 2 - 4 * abs(excess)
    torch.testing.assert_close(table.weight.grad[0], 0.1 * slope * torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(table.threshold.grad, torch.tensor([-0.1 * slope, 0]))


def test_thresholds_descend_by_plain_steps_and_the_penalty_raises_them(data):
    context = context_of(data, threshold_penalty=0.5, threshold_learning_rate=0.1)
    recommender = context.recommender(context.specs()[0])
    table = recommender.embedding
    with torch.no_grad():
        table.weight.mul_(100)  # far above thresholds: the loss has no gradient there
    stepper = DenseStep(recommender, context.data.task, context.settings.training.model_copy(update={"l2": 0.1}))
    expected = 0.0
    for _ in range(3):
        stepper.step(context.data.training[:64], 0.01)
        expected += 0.1 * 0.5 * math.exp(-expected)
        assert table.threshold.tolist() == pytest.approx([expected, expected])


def test_no_random_dimensions_and_no_thresholds_train_like_the_full_table(data, tmp_path, monkeypatch):
    last = torch.zeros(8, dtype=torch.float64)
    last[-1] = 1
    monkeypatch.setattr(optembed, "law", lambda *_: last)
    _, plain = trained(context_of(data, "full_table"), tmp_path / "plain")
    update = {"threshold_start": -1.0, "threshold_penalty": 0.0, "l2": 0.0}
    _, found = trained(context_of(data, **update), tmp_path / "supernet")
    assert torch.equal(found["embedding.weight"], plain["embedding.weight"])
    assert torch.equal(found["first_order"], plain["first_order"])
    assert found["embedding.selection"].all()


def test_random_dimensions_follow_their_law():
    table = supernet(torch.ones(2, 8), [0, 1])
    counts = torch.bincount(table.drawn((100_000,)), minlength=9)[1:] / 100_000
    assert len(counts) == 8
    assert ((counts - 1 / 8).abs() < 4 * math.sqrt(7 / 64 / 100_000)).all()


def test_random_dimensions_are_each_feature_s_in_each_instance():
    table = supernet(torch.ones(3, 8), [0, 0, 0])
    for ids in (torch.zeros(500, 2, dtype=torch.int32), torch.tensor([[2]])):
        sizes = table(ids).dense().sum(2)
        assert torch.equal(table(ids).dense().cumsum(2).clamp(max=1), torch.ones(*ids.shape, 8))  # prefixes
        if len(ids) > 1:
            assert set(sizes.flatten().tolist()) == set(range(1, 9))
            assert not torch.equal(sizes[:, 0], sizes[:, 1])
    table.eval()
    assert (table(ids).dense() == 1).all()


def test_prefixes_are_nested_in_each_of_the_model_s_embeddings():
    table = supernet(torch.ones(1, 12), [0], UNIFORM[:4], widths=(4, 8))
    masks = [table.prefixes(torch.tensor(d)) for d in range(5)]
    assert all((a <= b).all() for a, b in pairwise(masks))
    assert masks[1].tolist() == [1, 0, 0, 0, 1, 1] + [0] * 6
    assert [int(mask.sum()) for mask in masks] == [0, 3, 6, 9, 12]


@pytest.mark.parametrize(
    ("law", "budget", "mean", "largest"),
    [
        ("uniform", 0.1, 32.5, 64),
        ("capped", 0.8, 32.5, 64),
        ("capped", 0.1, 6.5, 12),
        ("capped", 0.02, 1.5, 2),
        ("capped", 0.001, 1, 1),
        ("exponential", 0.1, 6.4, 64),
        ("exponential", 0.9, 32.5, 64),
    ],
)
def test_laws_of_dimensions(law, budget, mean, largest):
    settings = SETTINGS.model_copy(update={"law": law, "budget": budget})
    found = optembed.law(settings, 64)
    assert float(found.sum()) == pytest.approx(1)
    assert float(found @ torch.arange(1, 65, dtype=torch.float64)) == pytest.approx(mean, rel=1e-6)
    assert int(found.nonzero().max()) + 1 == largest


def test_a_few_rows_are_those_of_the_whole_table(data):
    context = context_of(data)
    table = context.recommender(context.specs()[0]).embedding.eval()
    with torch.no_grad():
        table.threshold.fill_(float(table.weight.abs().sum(1).median()))
    table.dimensions.copy_(torch.tensor([3, 5]))
    features, whole = torch.tensor([3, 99, 41]), table.stored().effective_weight()
    assert 40 < int(table.kept().sum()) < 60
    torch.testing.assert_close(table.rows(features), whole[features])
    few = Instances(torch.tensor([[3, 99]], dtype=torch.int32), torch.zeros(1))
    torch.testing.assert_close(table(few.ids).dense()[0], whole[[3, 99]])
    many = context.data.training[:200]
    torch.testing.assert_close(table(many.ids).dense(), whole[many.ids.long()])


# --- evolution ------------------------------------------------------------------------------------------------


def evolved(budget=1e9, sizes=None, **update):
    """Each generation of an evolution towards dimensions of 3, the candidates whose fitness was asked for, and those it was fitted to."""
    settings = SETTINGS.model_copy(update={"generations": 8} | update)
    generator, asked = np.random.default_rng(1), []
    sizes = np.ones(6, dtype=int) if sizes is None else sizes

    def fitness(candidate):
        asked.append(candidate)
        return float(sum((d - 3) ** 2 for d in candidate))

    generations = list(
        optembed.evolve(
            settings,
            lambda: tuple(generator.integers(1, 9, size=len(sizes)).tolist()),
            lambda candidate: optembed.within(candidate, sizes, budget, generator),
            fitness,
            generator,
        )
    )
    return generations, asked


def test_evolution_finds_better_candidates_and_loses_none_of_the_best():
    generations, _ = evolved()
    assert len(generations) == 9
    best = [ranked[0][0] for ranked in generations]
    assert best == sorted(best, reverse=True)
    assert best[-1] < best[0] / 2
    for before, after in pairwise(generations):
        assert set(before[:2]) <= set(after)
    for ranked in generations:
        assert ranked == sorted(ranked)
        assert all(loss == sum((d - 3) ** 2 for d in candidate) for loss, candidate in ranked)


def test_each_distinct_candidate_is_measured_once():
    generations, asked = evolved()
    assert len(asked) == len(set(asked))
    assert set(asked) == {candidate for ranked in generations for _, candidate in ranked}
    assert len(asked) <= SETTINGS.population + 8 * (SETTINGS.population - SETTINGS.keep)


@pytest.mark.parametrize("budget", [3, 40, 100, 2000])
def test_each_candidate_is_within_the_budget(budget):
    sizes = np.array([1, 2, 50, 4, 10, 0])
    generations, _ = evolved(budget, sizes)
    for ranked in generations:
        for _, candidate in ranked:
            assert np.array(candidate) @ sizes <= budget
            if budget >= sizes.sum():
                assert min(candidate) >= 1


def test_a_candidate_within_the_budget_stays_and_others_keep_their_proportions():
    generator, sizes = np.random.default_rng(1), np.array([10, 10])
    assert optembed.within((8, 2), sizes, 100, generator) == (8, 2)
    assert optembed.within((8, 4), sizes, 60, generator) == (4, 2)
    assert optembed.within((8, 1), sizes, 20, generator) == (1, 1)
    assert sorted(optembed.within((8, 1), sizes, 10, generator)) == [0, 1]
    assert optembed.within((8, 1), sizes, 9, generator) == (0, 0)


def test_a_child_s_genes_are_its_parents():
    generator = np.random.default_rng(1)
    cuts = set()
    for _ in range(200):
        child = optembed.crossed((1, 2, 3, 4), (5, 6, 7, 8), generator)
        cuts.add(sum(gene < 5 for gene in child))
        assert child == (1, 2, 3, 4)[: (cut := sum(gene < 5 for gene in child))] + (5, 6, 7, 8)[cut:]
    assert cuts == {1, 2, 3}
    assert optembed.crossed((1,), (2,), generator) == (1,)


def test_mutation_leaves_the_parent_and_replaces_at_least_one_gene():
    generator, parent = np.random.default_rng(1), (1,) * 10
    counts = []
    for _ in range(2000):
        child = optembed.mutated(parent, (2,) * 10, 0.1, generator)
        counts.append(sum(gene == 2 for gene in child))
    assert parent == (1,) * 10
    assert min(counts) == 1
    assert np.mean(counts) == pytest.approx(1 + 0.9, abs=0.1)  # one, and each of the nine others with .1


# --- the search -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [2, 5, 20])
@pytest.mark.parametrize("method", ["optembed", "optembed_blocks"])
def test_the_result_is_within_the_budget_and_trained_anew(data, tmp_path, method, rate):
    settings = search_settings("rating", "mf", method, base_dimension=8, learning_rate=0.02)
    settings = settings.model_copy(update={"method": settings.method.at(rate)})
    run = run_search(settings, data, tmp_path / "search")
    assert len(run.trials) == 2
    assert run.best_trial == 1
    tensors, _ = load_tensors(tmp_path / "search" / "weights.safetensors")
    selection = tensors["embedding.selection"]
    assert 0 < run.weights == int(selection.sum()) <= 800 // rate
    assert (selection.diff(dim=1) <= 0).all()  # prefixes
    features = training.context_of(settings, data).features
    unit = features.field if method == "optembed" else features.block
    for one in np.unique(unit):
        sizes = set(selection.sum(1)[torch.tensor(unit == one)].tolist())
        assert len(sizes - {0.0}) <= 1  # a unit's rows have its dimension, or are gone
    pruned = run_pruning(prune_settings(settings, rate), tmp_path / "search", data, tmp_path / "prune")
    assert pruned.nonzeros == run.weights


def test_rows_below_thresholds_stay_away(data, tmp_path):
    context = context_of(data, threshold_start=1.0, threshold_penalty=0.0)
    run = run_search(context.settings, data, tmp_path / "search")
    tensors, _ = load_tensors(tmp_path / "search" / "weights.safetensors")
    gone = (tensors["embedding.selection"] == 0).all(1)
    assert 0 < int(gone.sum()) < 100
    assert f"{100 - int(gone.sum())} of 100 rows" in run.trials[1].name


def test_evolution_measures_candidates_on_all_of_validation(data, tmp_path, monkeypatch):
    context, seen = context_of(data), []
    validate = RatingPrediction.validation_loss

    def counted(task, recommender, instances):
        if isinstance(recommender.embedding, SupernetTable):
            seen.append((len(instances), tuple(recommender.embedding.dimensions.tolist())))
        return validate(task, recommender, instances)

    monkeypatch.setattr(RatingPrediction, "validation_loss", counted)
    trial, stored = trained(context, tmp_path)
    assert {count for count, _ in seen} == {len(context.data.validation)}
    of_training, candidates = seen[: trial.epochs], seen[trial.epochs :]
    assert {dimensions for _, dimensions in of_training} == {(8, 8)}
    assert len(candidates) == len(set(candidates)) <= 4 + 2 * 3
    assert trial.losses[trial.best_epoch - 1] == trial.loss
    chosen = tuple(int(stored["embedding.selection"][row].sum()) for row in (0, 99))
    assert chosen in {dimensions for _, dimensions in candidates}


def test_evolution_counts_as_time_of_the_search(data, tmp_path, monkeypatch):
    clock, late, evolve = time.perf_counter, [0.0], optembed.evolve

    def slow(*arguments):
        late[0] += 1000
        return evolve(*arguments)

    monkeypatch.setattr(time, "perf_counter", lambda: clock() + late[0])
    monkeypatch.setattr(optembed, "evolve", slow)
    trial, _ = trained(context_of(data), tmp_path)
    assert 1000 < trial.seconds < 1100


@pytest.mark.parametrize("after", [1, 2, 5, 8])
def test_a_kill_at_any_time_changes_nothing(data, tmp_path, monkeypatch, after):
    """In the supernet's training, in evolution, and in the training after it."""
    context = context_of(data)
    run_search(context.settings, data, tmp_path / "whole")
    with interrupted_after(after, RatingPrediction, monkeypatch):
        run_search(context.settings, data, tmp_path / "killed")
    run_search(context.settings, data, tmp_path / "killed")
    whole, resumed = (load_tensors(tmp_path / name / "weights.safetensors")[0] for name in ("whole", "killed"))
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
