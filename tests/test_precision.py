"""Invariants of MPE and of quantisation-aware training: rounding and its gradients, what is stored, and widths within a budget."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from nisbench.embedding.quantised import Codes, MixedPrecisionTable, QuantisedTable, Storage, lowered
from nisbench.embedding.table import SelectedTable
from nisbench.errors import NisbenchError
from nisbench.params.loading import load
from nisbench.search import mpe, quantised
from nisbench.search.trial_store import TrialStore
from nisbench.search.trials import _train_alone
from nisbench.tasks.rating import RatingPrediction
from nisbench.tensor_files import load_tensors
from nisbench.training.train_step import DenseStep
from tests.helpers import training
from tests.helpers.paths import ROOT
from tests.helpers.training import (
    CPU,
    interrupted_after,
    prune_settings,
    run_pruning,
    run_search,
    search_settings,
    tiny_data,
)

WIDTHS = [0, 1, 2, 3, 4, 5, 6]


@pytest.fixture
def data(planted, tmp_path):
    return tiny_data("rating", tmp_path, planted)


def settings_of(method, rate=1.0, training=None, **update):
    few = {"base_dimension": 8, "learning_rate": 0.02} | (training or {})
    settings = search_settings("rating", "mf", method, **few)
    return settings.model_copy(update={"method": settings.method.at(rate).model_copy(update=update)})


def context_of(data, *arguments, **update):
    return training.context_of(settings_of(*arguments, **update), data)


def drawn(features, width, seed=1):
    weight = torch.empty(features, width).normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
    return SelectedTable(torch.zeros(features), torch.ones(1, width), weight)


def mixed(features=200, width=8, groups=5, rate=0.1, widths=WIDTHS, limit=None, seed=1):
    group = torch.arange(features) * groups // features
    return MixedPrecisionTable(
        drawn(features, width, seed),
        group[torch.randperm(features, generator=torch.Generator().manual_seed(seed))],
        widths,
        0.01,
        relative_frequency=torch.linspace(2, 0.1, groups),
        temperature=0.5,
        rate=rate,
        penalty=1e-3,
        penalty_rate=0.1,
        limit=features * width if limit is None else limit,
    )


def with_widths(table, chosen):
    """The table, as if it had settled at these numbers of widths, with steps and offsets that differ."""
    generator = torch.Generator().manual_seed(3)
    table.settled = True
    with torch.no_grad():
        table.chosen.copy_(torch.tensor(chosen))
        table.log_step.add_(torch.randn(len(table.log_step), generator=generator) / 4)
        table.offset.normal_(0, 0.02, generator=generator)
    return table


# --- rounding -------------------------------------------------------------------------------------------------


def test_a_weight_is_the_nearest_code_times_the_step_plus_the_offset_and_gradients_pass_straight_through():
    table = QuantisedTable(drawn(1, 6), torch.zeros(1, dtype=torch.long), [3], 0.01)
    with torch.no_grad():
        table.weight.copy_(torch.tensor([[-1.4, -0.3, 0.1, 0.24, 0.9, 1.5]]))
        table.log_step.fill_(math.log(0.25))
        table.offset.fill_(0.1)
    found = table.embeddings(None)
    # over the step, less the offset: -6, -1.6, 0, .56, 3.2 and 5.6; codes lie between -4 and 3
    torch.testing.assert_close(found, 0.1 + 0.25 * torch.tensor([[-4.0, -2, 0, 1, 3, 3]]))
    found.backward(torch.tensor([[1.0, 2, 3, 4, 5, 6]]))
    assert table.weight.grad.tolist() == [[0, 2, 3, 4, 0, 0]]
    assert table.offset.grad.tolist() == pytest.approx([1, 0, 0, 0, 5, 6], abs=1e-5)
    by_step = 1 * -4 + 2 * (-2 + 1.6) + 3 * 0 + 4 * (1 - 0.56) + 5 * 3 + 6 * 3
    assert table.log_step.grad.tolist() == pytest.approx([by_step * 0.25], rel=1e-5)


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_of_b_bits_have_2_to_the_b_values(bits):
    found = Codes.apply(torch.linspace(-300, 300, 10_001), bits)
    assert sorted(set(found.tolist())) == list(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))


def test_a_column_has_at_most_2_to_the_b_values_in_a_group_of_b_bits():
    table = with_widths(mixed(features=2000), [6, 4, 2, 1, 0])
    with torch.no_grad():
        table.log_step.sub_(1.5)  # so that few codes stay unused
    dense = table.stored().weight.detach()
    for group, bits in enumerate([6, 4, 2, 1, 0]):
        own = dense[table.group == group]
        counts = [len(column.unique()) for column in own.T]
        assert max(counts) <= 2**bits
        assert bits == 0 or max(counts) > 2 ** (bits - 1)
        codes = ((own - table.offset) / table.log_step[bits].exp()).round()
        assert bits == 0 or all(len(row.unique()) <= 2**bits for row in codes)
        assert own.any() == (bits > 0)


def test_a_few_rows_are_those_of_the_whole_table():
    for table in (with_widths(mixed(), [6, 3, 2, 1, 0]), mixed()):
        whole = table.embeddings(None)
        ids = torch.tensor([[3, 199], [41, 60], [3, 80]], dtype=torch.int32)
        for few in (ids, ids.repeat(40, 1)):  # fewer ids than features, and more
            torch.testing.assert_close(table(few).dense(), whole[few.long()])
            torch.testing.assert_close(table(few, torch.full(few.shape, 2.0)).dense(), 2 * whole[few.long()])
        torch.testing.assert_close(table.rows(ids.flatten()), whole[ids.flatten().long()])


# --- what is stored -------------------------------------------------------------------------------------------


def packed(table):
    """All that is needed to look a row up, as arrays of bits, made without the table's own idea of its size."""
    widths, group = np.array(table.storage.widths), table.group.numpy()
    of_row = table.bits.numpy()[group]
    steps, offset = table.log_step.detach().exp(), table.offset.detach()
    codes, starts = [], []
    for row, bits in enumerate(of_row):
        if row % 64 == 0:
            starts.append(sum(map(len, codes)))
        if bits:
            step = steps[list(widths).index(bits)]
            own = ((table.weight.detach()[row] - offset) / step).clamp(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
            unsigned = own.round().long().numpy() + 2 ** (bits - 1)
            codes.append((unsigned[:, None] >> np.arange(bits) & 1).astype(np.uint8).ravel())
    each = max(1, int(np.ceil(np.log2(len(widths)))))
    numbers = np.searchsorted(widths, of_row)
    return {
        "codes": np.concatenate(codes),
        "widths": (numbers[:, None] >> np.arange(each) & 1).astype(np.uint8),
        "starts": np.array(starts, dtype=np.uint64),
        "steps": steps[(torch.tensor(widths) > 0)].numpy(),
        "offset": offset.numpy(),
    }


def looked_up(row, parts, widths, columns):
    each = parts["widths"].shape[1]
    before = [sum(int(bit) << i for i, bit in enumerate(parts["widths"][r])) for r in range(row // 64 * 64, row + 1)]
    assert each == 3
    bits = [widths[number] for number in before]
    start, own = int(parts["starts"][row // 64]) + columns * sum(bits[:-1]), bits[-1]
    if not own:
        return np.zeros(columns, dtype=np.float32)
    field = parts["codes"][start : start + columns * own].reshape(columns, own).astype(np.int64)
    codes = (field << np.arange(own)).sum(1) - 2 ** (own - 1)
    step = parts["steps"][[bits for bits in widths if bits].index(own)]
    return codes.astype(np.float32) * step + parts["offset"]


def test_the_size_is_what_it_takes_to_look_up_each_row():
    table = with_widths(mixed(features=150, groups=5), [6, 4, 3, 1, 0])
    parts, dense = packed(table), table.stored().weight.detach().numpy()
    bits = sum(part.size * {"u": 1, "f": 32}[part.dtype.kind] for name, part in parts.items() if name != "starts")
    bits += 64 * parts["starts"].size
    assert bits == table.storage.overhead + 8 * int(table.bits @ table.sizes)
    assert table.stored_weights == math.ceil(bits / 32)
    for row in range(150):
        np.testing.assert_array_equal(looked_up(row, parts, WIDTHS, 8), dense[row])


def test_one_width_for_all_rows_takes_no_index():
    assert Storage(100, 8, (4,)).weights(100 * 8 * 4) == 100 + 8 + 1
    assert Storage(100, 8, (32,)).weights(100 * 8 * 32) == 800
    assert Storage(100, 8, (0,)).weights(0) == 1
    assert Storage(100, 8, (0, 32)).overhead == 100 + 2 * 64
    assert Storage(128, 8, (0, 3, 4)).overhead == 32 * (2 + 8) + 2 * 128 + 2 * 64


# --- widths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "count"), [(100, 8), (128, 128), (5, 128), (1000, 7)])
def test_groups_are_of_equal_size_by_falling_frequency(n, count):
    frequency = np.random.default_rng(1).integers(0, 50, n)
    group = mpe.groups(frequency, count)
    sizes = np.bincount(group)
    assert len(sizes) == min(n, count)
    assert sizes.max() - sizes.min() <= 1
    by_group = [frequency[group == g] for g in range(len(sizes))]
    assert all(a.min() >= b.max() for a, b in pairwise(by_group))
    relative = mpe.relative_frequency(frequency, group)
    assert relative.min() == 1
    np.testing.assert_allclose(relative, [max(own.sum(), 1) / max(by_group[-1].sum(), 1) for own in by_group])


def test_probabilities_add_up_to_1_and_the_mixture_is_the_mean_of_all_widths():
    table = mixed()
    with torch.no_grad():
        table.logits.normal_(generator=torch.Generator().manual_seed(2))
    p = table.probabilities()
    torch.testing.assert_close(p.sum(1), torch.ones(5))
    mean = table.embeddings(None)
    table.settled, expected = True, torch.zeros_like(mean)
    for number in range(len(WIDTHS)):
        table.chosen.fill_(number)
        expected = expected + p[table.group.long(), number, None] * table.embeddings(None)
    torch.testing.assert_close(mean, expected)


def test_the_penalty_s_gradients_are_those_of_its_formula():
    table = mixed(limit=400)
    with torch.no_grad():
        table.logits.normal_(generator=torch.Generator().manual_seed(2))
    table.penalty().backward()
    p, bits = table.probabilities().detach(), torch.tensor(WIDTHS).float()
    expected = p @ bits
    by_logits = 1e-3 / table.relative_frequency[:, None] * p * (bits - expected[:, None]) / table.temperature
    torch.testing.assert_close(table.logits.grad, by_logits)
    room = 32 * 400 - table.storage.overhead
    over = 8 * float(expected @ table.sizes.float()) / room
    assert float(table.log_penalty.grad) == pytest.approx(-math.log(over), rel=1e-4)
    table.settled = True
    assert table.penalty() is None


@pytest.mark.parametrize(("rate", "rises"), [(2, False), (20, True)])
def test_lambda_rises_over_the_budget_and_falls_below_it(data, rate, rises):
    context = context_of(data, "mpe", rate, learning_rate=1e-9, penalty_learning_rate=0.5)
    recommender = context.recommender(context.specs()[0])
    table = recommender.embedding
    stepper = DenseStep(recommender, context.data.task, context.settings.training)
    for _ in range(3):  # logits stay, so that all widths are equally likely: 3 bits are expected
        stepper.step(context.data.training[:64], 0.01)
    over = 3 * 800 / table.room
    assert (over > 1) == rises
    assert float(table.log_penalty.detach()) == pytest.approx(
        math.log(context.settings.method.penalty) + 3 * 0.5 * math.log(over), rel=1e-3
    )


def test_the_chosen_width_is_the_largest_that_is_likely():
    table = mixed(groups=2, features=20)
    p = torch.full((2, 7), 1e-9)
    p[0, 2], p[0, 4], p[0, 6] = 0.85, 0.08, 0.07  # 1 / 14 is .0714
    p[1, 1] = 1
    with torch.no_grad():
        table.logits.copy_(p.log() * table.temperature)
    table.eval()
    table.embeddings(None)
    assert table.bits.tolist() == [4, 1]


def test_widths_are_lowered_from_the_last_group_on_until_they_fit():
    assert lowered([3, 3, 3], [10, 10, 10], [0, 1, 2, 4], 120) == [3, 3, 3]
    assert lowered([3, 3, 3], [10, 10, 10], [0, 1, 2, 4], 119) == [3, 3, 2]
    assert lowered([3, 3, 3], [10, 10, 10], [0, 1, 2, 4], 60) == [2, 2, 2]
    assert lowered([3, 3, 3], [10, 10, 10], [0, 1, 2, 4], 59) == [2, 2, 1]
    assert lowered([1, 3, 0], [10, 10, 10], [0, 1, 2, 4], 11) == [0, 1, 0]
    assert lowered([3, 1, 2], [5, 4, 3], [0, 1, 2, 4], 0) == [0, 0, 0]


# --- training -------------------------------------------------------------------------------------------------


def losses(context, folder):
    store = TrialStore(folder, CPU)
    return _train_alone(0, context.specs()[0], context, store).losses, store.load_weights(0)[0]


def test_weights_of_32_bits_train_like_the_full_table(data, tmp_path):
    plain, weights = losses(context_of(data, "full_table", training={"learning_rate": 0.01}), tmp_path / "plain")
    found, tensors = losses(context_of(data, "quantised", bits=32), tmp_path / "quantised")  # its trials set the rate
    assert found == plain
    assert torch.equal(tensors["embedding.weight"], weights["embedding.weight"])
    assert torch.equal(tensors["first_order"], weights["first_order"])
    searched, _ = losses(context_of(data, "mpe", training={"learning_rate": 0.01}, widths=[32]), tmp_path / "mpe")
    assert searched[:2] == plain[:2]  # then weights begin again, and the rest goes on


def test_what_follows_the_search_begins_with_the_initial_weights_and_keeps_the_rest(data):
    context = context_of(data, "mpe", 4)
    (spec,) = context.specs()
    recommender = context.recommender(spec)
    table, before = recommender.embedding, recommender.embedding.weight.detach().clone()
    stepper = DenseStep(recommender, context.data.task, context.settings.training)
    for start in range(0, 640, 64):
        stepper.step(context.data.training[start : start + 64], 0.01)
    kept = [recommender.first_order, table.log_step, table.offset]
    trained = [one.detach().clone() for one in kept]
    assert not torch.equal(table.weight, before)
    spec.selection_optimizer(recommender, context.data.task)
    assert torch.equal(table.weight, before)
    assert all(map(torch.equal, kept, trained))
    chosen, logits = table.chosen.clone(), table.logits.detach().clone()
    stepper = DenseStep(recommender, context.data.task, context.settings.training)
    for start in range(0, 640, 64):
        stepper.step(context.data.training[start : start + 64], 0.01)
    assert torch.equal(table.chosen, chosen)
    assert torch.equal(table.logits, logits)
    assert not torch.equal(table.log_step, trained[1])


@pytest.mark.parametrize("method", ["mpe", "quantised", "quantised_8"])
@pytest.mark.parametrize("rate", [1, 2, 5, 10, 20])
def test_the_recorded_bytes_are_those_of_the_widths_and_within_the_budget(data, tmp_path, method, rate):
    settings = settings_of(method, rate, training={"max_epochs": 2})
    run = run_search(settings, data, tmp_path / "search")
    pruned = run_pruning(prune_settings(settings, rate), tmp_path / "search", data, tmp_path / "prune")
    tensors, about = load_tensors(tmp_path / "search" / "weights.safetensors")
    assert pruned.nonzeros == about["stored_weights"] == run.best.weights
    assert pruned.bytes == {"dense": {"float32": 4 * pruned.nonzeros}}
    assert pruned.stored_bytes() <= 3200 / rate
    distinct = [len(column.unique()) for column in tensors["embedding.weight"].T]
    assert max(distinct) <= {"mpe": 2**6 + 1, "quantised": 2**4, "quantised_8": 2**8}[method]


def test_a_budget_below_what_the_index_takes_is_an_error():
    assert mixed(features=64, width=8, limit=23).room == 32 * 23 - (32 * (6 + 8) + 64 * 3 + 64)
    with pytest.raises(
        NisbenchError, match="needs at least 92 bytes on this data set, but its budget is 88; leave out"
    ):
        mixed(features=64, width=8, limit=22)


@pytest.mark.parametrize("budget", [1.0, 0.5, 0.21, 0.05, 0.02])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantised_dimensions_are_as_many_as_fit(budget, bits):
    found = quantised.dimension(9746, 64, bits, budget)
    size = [32 * (1 + d) + 9746 * d * bits for d in (found, found + 1)]
    assert size[0] <= 32 * 9746 * 64 * budget
    assert found == 64 or size[1] > 32 * 9746 * 64 * budget
    assert quantised.dimension(9746, 64, bits, 1.0) == 64
    with pytest.raises(NisbenchError, match=rf"one dimension of {bits} bits takes [\d,]+ bytes, but .* leave out"):
        quantised.dimension(9746, 64, bits, 0.99 * bits / 64 / 32)


@pytest.mark.parametrize(
    ("overlay", "error"),
    [
        (
            "studies: {demo: {grids: {rating: {methods: {METHOD: [2]}, quantise: [null, int8]}}}}",
            r"rating\.quantise: the method METHOD stores .*put it into a grid without `quantise`",
        ),
        (
            "{methods: {METHOD: {quantise: int8}}, studies: {demo: {grids: {rating: {methods: {METHOD: [2]}}}}}}",
            r"methods\.METHOD\.quantise: .*stores .*leave this out",
        ),
    ],
)
@pytest.mark.parametrize("method", ["quantised", "mpe", "hashing", "quotient_remainder", "low_rank"])
def test_what_is_stored_in_a_form_of_its_own_is_not_rounded(method, overlay, error, tmp_path):
    (tmp_path / "over.yaml").write_text(overlay.replace("METHOD", method))
    with pytest.raises(NisbenchError, match=error.replace("METHOD", method)):
        load(ROOT, [tmp_path / "over.yaml"])


def test_a_rate_that_leaves_no_dimension_is_found_before_anything_runs(tmp_path):
    overlay = tmp_path / "over.yaml"
    overlay.write_text("studies: {demo: {grids: {rating: {methods: {quantised: [2, 1000]}}}}}")
    with pytest.raises(
        NisbenchError, match=r"quantised\.1: .*less than 4 bits.* leave out compression rates above 128"
    ):
        load(ROOT, [overlay])


def test_frequent_features_get_more_bits_than_rare_ones(data):
    """On planted ratings, whose frequent features have more dimensions. What is expected falls to about the budget."""
    update = {"groups": 8, "learning_rate": 0.01, "temperature": 0.1, "penalty_learning_rate": 0.05}
    context = context_of(data, "mpe", 16, **update)
    recommender = context.recommender(context.specs()[0])
    table, training = recommender.embedding, context.data.training
    stepper = DenseStep(recommender, context.data.task, context.settings.training)
    for _ in range(30):
        for start in range(0, len(training), 256):
            stepper.step(training[start : start + 256], 0.02)
    expected = table.probabilities().detach() @ table.widths.float()
    assert expected[:2].min() > expected[-4:].max() + 0.5
    assert 8 * float(expected @ table.sizes.float()) < 1.3 * table.room  # from 3.3 times as much
    table.settle()
    assert table.bits[:2].min() > table.bits[-4:].max()


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_search_that_is_killed_in_either_phase_has_the_same_widths_and_weights(data, tmp_path, monkeypatch, after):
    context = context_of(data, "mpe", 8)
    whole, expected = losses(context, tmp_path / "whole")
    assert len(whole) == 5
    with interrupted_after(after, RatingPrediction, monkeypatch):
        losses(context, tmp_path / "killed")
    again, found = losses(context, tmp_path / "killed")
    assert again == whole
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
