"""Invariants of the methods since DNIS: what their formulas say, on numbers worked out by hand or by a plain loop."""

import math

import numpy as np
import pytest
import torch

from nisbench.data.instances import Instances
from nisbench.embedding.scheme import DimensionScheme
from nisbench.embedding.table import Rate, SelectedTable
from nisbench.embedding.thresholded import ThresholdedTable, soft_threshold
from nisbench.params.methods import Gradual
from nisbench.search import gradual, pep, sseds
from nisbench.search.trial_spec import TrialSpec
from nisbench.search.trial_store import TrialStore
from nisbench.search.trials import _train_alone
from nisbench.tensor_files import load_tensors
from nisbench.training.adam import Adam
from nisbench.training.trainer import Data, train
from tests.helpers.training import (
    CPU,
    PARAMS,
    context_of,
    prune_settings,
    run_pruning,
    run_search,
    search_settings,
    tiny_data,
)


@pytest.fixture
def data(planted, tmp_path):
    return tiny_data("rating", tmp_path, planted)


def context_for(data, method="network_pruning", method_update=None, **training):
    few = {"base_dimension": 8, "max_epochs": 2, "learning_rate": 0.02} | training
    settings = search_settings("rating", "mf", method, **few)
    if method_update:
        settings = settings.model_copy(update={"method": settings.method.model_copy(update=method_update)})
    return context_of(settings, data)


def trained(context, tmp_path, spec=None):
    """A trial of the search, the first unless another is given, and the weights that are stored of it."""
    spec = spec or context.specs()[0]
    store = TrialStore(tmp_path / "trials", CPU)
    trial = _train_alone(0, spec, context, store)
    return trial, store.load_weights(0)[0]


# --- PEP ------------------------------------------------------------------------------------------------------


def thresholded(weights, start, shape=(1, 1)):
    weight = torch.tensor(weights)
    drawn = SelectedTable(torch.zeros(len(weight)), torch.ones(1, weight.shape[1]), weight)
    return ThresholdedTable(drawn, shape, start, Rate(1e-3), by_block=False)


def test_pep_cuts_weights_at_the_sigmoid_of_the_threshold():
    table = thresholded([[0.5, -0.5, 0.1, -0.1]], -1.0, (1, 4))
    effective = soft_threshold(table.weight, table.limits())
    torch.testing.assert_close(effective.detach(), torch.tensor([[0.2310586, -0.2310586, 0.0, 0.0]]))
    effective.sum().backward()
    assert table.weight.grad.tolist() == [[1, 1, 0, 0]]
    torch.testing.assert_close(table.threshold.grad, torch.tensor([[-0.1966119, 0.1966119, 0.0, 0.0]]))


@pytest.mark.parametrize(("start", "steps", "end"), [(-150.0, 2000, -148.0135), (-15.0, 2000, -13.0533)])
def test_pep_s_clock_is_weight_decay(start, steps, end):
    """Adam turns any decay into steps of the learning rate; without decay, a threshold this low does not move at all."""
    for decay, expected in ((1e-5, end), (0.0, start)):
        threshold = torch.full((1,), start)
        adam = Adam({"s": threshold}, decay)
        for _ in range(steps):
            threshold.grad = torch.zeros(1)
            adam.step(1e-3)
        assert threshold.item() == pytest.approx(expected, abs=1e-3)


def test_pep_with_thresholds_that_do_not_move_trains_like_the_full_table(data, tmp_path):
    update = {"threshold_start": -150.0, "threshold_decay": 0.0, "l2": 0.0, "epochs": 2}
    _, plain = trained(context_for(data), tmp_path / "plain")
    _, found = trained(context_for(data, "pep", update), tmp_path / "pep")
    assert torch.equal(found["embedding.weight"], plain["embedding.weight"])
    assert torch.equal(found["first_order"], plain["first_order"])


@pytest.mark.parametrize("per", ["weight", "feature", "dimension", "block", "table"])
def test_pep_s_rows_are_those_of_its_whole_table(data, per):
    context = context_for(data, "pep", {"threshold_per": per})
    table = context.recommender(context.specs()[0]).embedding
    with torch.no_grad():
        table.threshold.uniform_(-4, 0)
    features = torch.tensor([3, 99, 41])
    torch.testing.assert_close(table.rows(features), table.stored().effective_weight()[features])
    few = Instances(
        torch.tensor([[3, 99]], dtype=torch.int32), torch.zeros(1)
    )  # fewer ids than features: only their rows
    assert torch.equal(table(few.ids).dense()[0], table.rows(few.ids[0]))


def test_pep_ranks_what_lives_longest_highest():
    table = thresholded([[0.5, 0.3, 0.01, 0.02]], -2.0)  # a limit of .119
    table.last_alive = torch.tensor([[40, 40, 20, 10]], dtype=torch.int32)

    class Holder:
        embedding = table

    pep.rank(Holder, None)
    assert table.importance.tolist() == [[4, 3, 2, 1]]


def test_pep_prunes_by_its_ranks_and_trains_from_the_initial_weights(data, tmp_path):
    settings = search_settings("rating", "mf", "pep", base_dimension=8, learning_rate=0.02)
    run = run_search(settings, data, tmp_path / "search")
    assert (run.trials[0].stopped, run.trials[0].epochs) == ("planned", 2)
    ranks = load_tensors(tmp_path / "search" / "weights.safetensors")[0]["embedding.importance"].numpy()
    assert sorted(ranks.ravel()) == list(range(1, 801))
    masks = []
    for rate in (2, 8):
        pruned = run_pruning(prune_settings(settings, rate), tmp_path / "search", data, tmp_path / str(rate))
        assert pruned.nonzeros == 800 // rate
        assert pruned.rounds[0].epochs > 0
        masks.append(ranks > 800 - 800 // rate)
    assert (masks[1] <= masks[0]).all()


def test_pep_ends_when_few_weights_are_left(data, tmp_path):
    fast = {"epochs": 9, "threshold_start": -3.0, "threshold_learning_rate": 0.1, "threshold_decay": 1.0}
    whole, _ = trained(context_for(data, "pep", fast | {"until": 1e-9}), tmp_path / "whole")
    short, found = trained(context_for(data, "pep", fast | {"until": 0.2}), tmp_path / "short")
    assert (whole.epochs, whole.stopped, short.stopped) == (9, "planned", "planned")
    assert 0 < short.epochs < 9
    assert short.losses == whole.losses[: short.epochs]
    last = found["embedding.importance"].flatten()
    assert sorted(last.tolist()) == list(range(1, 801))


# --- pruning while training -----------------------------------------------------------------------------------


def schedule(**own):
    shape = {
        "half_life_steps": 6897,
        "ramp_steps": 100,
        "every": 10,
        "warm_start_epochs": 0,
        "keep_mask": True,
        "patience": 3,
    }
    usual = {
        "kind": "gradual",
        "title": "",
        "importance": "effective",
        "rounds": 0,
        "schedule": "deeplight",
        "budget": 0.5,
    }
    return Gradual(**usual | shape | own)


def test_the_schedules_rise_from_nothing_to_the_target():
    deeplight = schedule()
    assert gradual.share(deeplight, 0) == 0
    assert gradual.share(deeplight, 6897) == pytest.approx(0.25)
    for step, of_target in ((10, 0.0010045), (1000, 0.0956), (10_000, 0.6340), (50_000, 0.99343)):  # .99 ** (t / 100)
        assert gradual.share(deeplight, step) / 0.5 == pytest.approx(of_target, rel=2e-3)
    cubic = schedule(schedule="cubic")
    assert [gradual.share(cubic, step) for step in (0, 50, 100, 1000)] == [0, pytest.approx(0.4375), 0.5, 0.5]


@pytest.mark.parametrize("method", ["deeplight", "deeplight_masked", "gradual"])
def test_the_result_has_exactly_the_budget_and_its_largest_weights(data, tmp_path, method):
    settings = search_settings("rating", "mf", method, base_dimension=8, learning_rate=0.02)
    settings = settings.model_copy(update={"method": settings.method.at(5)})
    run_search(settings, data, tmp_path / "search")
    tensors, _ = load_tensors(tmp_path / "search" / "weights.safetensors")
    weight, kept = tensors["embedding.weight"].abs(), tensors["embedding.selection"].bool()
    assert kept.sum() == 160
    assert weight[kept].min() >= weight[~kept].max()
    pruned = run_pruning(prune_settings(settings, 5), tmp_path / "search", data, tmp_path / "prune")
    assert pruned.nonzeros == 160


@pytest.mark.parametrize("method", ["deeplight", "gradual"])
def test_no_epoch_is_chosen_before_the_schedule_is_at_its_end(data, tmp_path, method):
    """However early the loss stops falling: a rate of 1 makes it rise from the first epoch on."""
    slow = {"half_life_steps": 40, "ramp_steps": 400, "patience": 1, "budget": 0.5}
    context = context_for(data, method, slow, max_epochs=100, learning_rate=1.0)
    trial, _ = trained(context, tmp_path)
    settings = context.settings.method
    steps = math.ceil(len(context.data.training) / context.settings.training.batch_size)
    ended = next(n for n in range(100) if gradual.share(settings, n * steps) >= 0.999 * 0.5)
    assert trial.best_epoch >= settings.warm_start_epochs + ended > 5
    assert trial.loss == min(trial.losses[settings.warm_start_epochs + ended - 1 :])


def test_pruning_nothing_while_training_is_plain_training(data, tmp_path):
    _, plain = trained(context_for(data), tmp_path / "plain")
    _, found = trained(context_for(data, "deeplight", {"budget": 1.0}), tmp_path / "pruned")
    assert torch.equal(found["embedding.weight"], plain["embedding.weight"])


@pytest.mark.parametrize(("keep_mask", "back"), [(True, False), (False, True)])
def test_only_without_a_mask_do_pruned_weights_grow_between_prunings(data, keep_mask, back):
    context = context_for(data)
    settings = schedule(keep_mask=keep_mask, half_life_steps=1, every=1000, budget=0.5)
    recommender = context.recommender(TrialSpec("", torch.ones(100, 8), lambda *_: None, block=torch.arange(100)))
    pruner = gradual.Pruner(settings)
    pruner.begin_epoch(recommender, 0.0)
    pruner.steps.fill_(1000)
    pruner.step(recommender, None, None)
    table = recommender.selected
    zero = (table.effective_weight() == 0).clone()
    assert zero.sum() == 400
    train(recommender, context.data, context.settings.training.model_copy(update={"max_epochs": 1}), seed=1)
    assert bool((table.effective_weight()[zero] != 0).any()) == back


# --- SSEDS ----------------------------------------------------------------------------------------------------


def test_saliency_is_the_gradient_by_a_factor_of_each_dimension_of_a_block(data):
    context = context_for(data)
    spec = TrialSpec("", torch.ones(4, 8), lambda *_: None)  # soft, so that there is a selection to differentiate by
    recommender = context.recommender(spec)
    found = sseds.saliency(recommender, context.data, "validation", seed=1, absolute=False)
    recommender.selected.selection.requires_grad_()
    held_out = context.data.validation
    context.data.task.loss(recommender(held_out), held_out.labels).backward()
    torch.testing.assert_close(found, recommender.selected.selection.grad.abs())


def test_saliency_goes_through_a_split_once(data, monkeypatch):
    context = context_for(data)
    recommender, seen = context.recommender(context.specs()[0]), []
    monkeypatch.setattr(sseds, "BATCH", 100)
    forward = recommender.forward
    monkeypatch.setattr(recommender, "forward", lambda batch: seen.append(len(batch)) or forward(batch))
    sseds.saliency(recommender, context.data, "validation", seed=1, absolute=True)
    assert sum(seen) == len(context.data.validation)
    assert max(seen) == 100


@pytest.mark.parametrize("rate", [2, 5])
def test_sseds_keeps_whole_dimensions_of_blocks_within_the_budget(data, tmp_path, rate):
    settings = search_settings("rating", "mf", "sseds", base_dimension=8, learning_rate=0.02)
    run_search(settings, data, tmp_path / "search")
    run_pruning(prune_settings(settings, rate), tmp_path / "search", data, tmp_path / "prune")
    tensors, _ = load_tensors(tmp_path / "search" / "weights.safetensors")
    ranks, block = tensors["embedding.importance"], tensors["embedding.block"].long()
    for number in range(4):
        assert (ranks[block == number] == ranks[block == number][0]).all()
    dense = DimensionScheme.load(tmp_path / "prune" / "scheme.safetensors").to_dense()
    kept = np.array([[(dense[block.numpy() == b, d] != 0).all() for d in range(8)] for b in range(4)])
    assert ((dense != 0) == kept[block.numpy()]).all()
    sizes = np.bincount(block.numpy())
    used = int(kept.sum(1) @ sizes)
    assert used == np.count_nonzero(dense) <= 800 // rate
    left_out = {int(ranks[block == b][0, d]): int(sizes[b]) for b in range(4) for d in range(8) if not kept[b, d]}
    assert used + left_out[max(left_out)] > 800 // rate  # the next would not fit


# --- AutoSrh and its kin --------------------------------------------------------------------------------------


def test_what_is_held_out_chooses_the_epoch_and_teaches_the_selection_nothing(data):
    context = context_for(data, "dnis_held_out")
    (spec,) = context.specs()
    parts = context.data_for(spec)
    n = len(context.data.validation)
    assert (len(parts.validation), len(parts.held_in)) == (n // 2, n - n // 2)
    rows = {tuple(row) for row in context.data.validation.ids.tolist()}
    of_parts = [{tuple(row) for row in part.ids.tolist()} for part in (parts.validation, parts.held_in)]
    assert of_parts[0] | of_parts[1] == rows

    def alphas(held_in):
        recommender = context.recommender(spec)
        optimizer = spec.selection_optimizer(recommender, context.data.task)
        whole = Data(parts.training, parts.validation, context.data.task, held_in)
        train(recommender, whole, context.training_of(spec), 1, selection_optimizer=optimizer)
        return recommender.selected.selection

    labels = parts.held_in.labels
    assert torch.equal(alphas(parts.held_in), alphas(parts.held_in))
    assert not torch.equal(alphas(parts.held_in), alphas(Instances(parts.held_in.ids, -labels)))


def test_a_result_is_chosen_by_what_its_selection_did_not_learn_from(data, tmp_path):
    """The search's validation loss is that of the pruned model at compression rate 1."""
    settings = search_settings("rating", "mf", "dnis_held_out", base_dimension=8, learning_rate=0.02)
    found = run_search(settings, data, tmp_path / "search")
    assert settings.method.chosen_on == 0.5
    for share, same in ((0.5, True), (0.0, False)):
        pruning = prune_settings(settings, 1).model_copy(update={"chosen_on": share})
        pruned = run_pruning(pruning, tmp_path / "search", data, tmp_path / str(share))
        assert (pruned.validation_loss == pytest.approx(found.best.validation_loss, rel=1e-6)) == same


def test_training_further_leaves_alpha_as_the_search_ended(data, tmp_path):
    first, searched = trained(context_for(data, "dnis_released"), tmp_path / "a")
    second, further = trained(context_for(data, "autosrh_dense"), tmp_path / "b")
    assert torch.equal(further["embedding.selection"], searched["embedding.selection"])
    assert not torch.equal(further["embedding.weight"], searched["embedding.weight"])
    assert second.losses[: len(first.losses)] == first.losses
    assert second.loss < first.loss < math.inf
    assert second.epochs > first.epochs


def test_candidates_of_some_positives_are_those_of_all(planted, tmp_path):
    paths = tiny_data("topk", tmp_path, planted)
    settings = search_settings("topk", "mf", "dnis_held_out", base_dimension=4)
    context = context_of(settings, paths)
    task, whole = context.data.task, context.data.validation
    some = torch.randperm(len(whole), generator=torch.Generator().manual_seed(1))[:20]
    pairs = task._pairs(whole)
    assert torch.equal(task._rows(pairs[some]), some)
    assert PARAMS.methods["dnis_held_out"].held_out == 0.5
