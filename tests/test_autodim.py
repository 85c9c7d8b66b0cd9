"""Invariants of AutoDim: its temperature, its mixture, its normalisation, who trains what, and what is trained in the end."""

import math

import pytest
import torch

from nisbench.embedding.candidates import CandidateTable
from nisbench.embedding.table import SelectedTable
from nisbench.models.pruned import PrunedModel
from nisbench.search import autodim
from nisbench.tensor_files import load_tensors
from nisbench.training.train_step import DenseStep
from tests.helpers import training
from tests.helpers.training import PARAMS, run_search, search_settings, tiny_data

CANDIDATES = [2, 4, 8]


@pytest.fixture
def data(planted, tmp_path):
    return tiny_data("rating", tmp_path, planted)


def context_of(data, task="rating", model="mf", **update):
    settings = search_settings(task, model, "autodim", base_dimension=8, learning_rate=0.02)
    method = settings.method.model_copy(update={"candidates": CANDIDATES} | update)
    settings = settings.model_copy(update={"method": method})
    return training.context_of(settings, data)


def searched(context):
    """The mixture's recommender, and what chooses."""
    (spec,) = context.specs()
    recommender = context.recommender(spec)
    return recommender, spec.selection_optimizer(recommender, context.data.task)


def table_with(unit, candidates=CANDIDATES, widths=None, batch_norm=True, scaled=False):
    width = sum(widths or (candidates[-1],))
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(len(unit), width, generator=generator)
    drawn = SelectedTable(torch.zeros(len(unit)), torch.ones(1, width), weight, widths=widths)
    return CandidateTable(drawn, torch.tensor(unit), candidates, generator, batch_norm=batch_norm, scaled=scaled)


def test_the_temperature_falls_to_its_floor():
    settings = PARAMS.methods["autodim"].model_copy(update={"temperature_step": 5e-5, "temperature_floor": 0.01})
    found = [autodim.temperature(settings, step) for step in (0, 1000, 10_000, 19_800, 30_000)]
    assert found == pytest.approx([1, 0.95, 0.5, 0.01, 0.01])


def test_the_gumbel_maximum_is_a_draw_from_the_softmax():
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4])
    noise = autodim.gumbel((100_000, 4), torch.Generator().manual_seed(3))
    counts = torch.bincount((shares.log() + noise).argmax(1), minlength=4) / 100_000
    deviation = (shares * (1 - shares) / 100_000).sqrt()
    assert ((counts - shares).abs() < 4 * deviation).all()
    table = table_with([0] * 4)
    table.logits, table.noise, table.temperature = torch.zeros(100_000, 4), noise, torch.tensor(0.01)
    assert (table.shares().max(1).values > 0.99).float().mean() > 0.9
    table.temperature.fill_(1)
    torch.testing.assert_close(table.shares().sum(1), torch.ones(100_000))
    assert (table.shares() > 0).all()


@pytest.mark.parametrize("with_values", [False, True])
def test_candidates_of_a_unit_have_mean_0_and_variance_1_over_the_batch(with_values):
    unit = [0] * 5 + [1] * 30
    table = table_with(unit)
    ids = torch.randint(35, (400, 2), generator=torch.Generator().manual_seed(2))
    values = torch.rand(400, 2, generator=torch.Generator().manual_seed(4)) + 0.5 if with_values else None
    for number in range(3):
        table.logits.fill_(-1e9)
        table.logits[:, number] = 0
        found = table(ids, values).dense()
        for one in (0, 1):
            of_unit = found[torch.tensor(unit)[ids] == one]
            torch.testing.assert_close(of_unit.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
            torch.testing.assert_close(of_unit.var(0, unbiased=False), torch.ones(8), atol=1e-4, rtol=0)


def test_the_mixture_is_the_sum_of_normalised_projections():
    """The table mixes matrices. A plain loop that projects, normalises and adds has the same embeddings, of rows and tables alike."""
    unit = [0, 1, 0, 1, 0, 0]
    table = table_with(unit, [1, 2], widths=(2, 4), scaled=True)
    table.logits.copy_(torch.tensor([[0.3, -0.2], [0.1, 0.9]]))
    for ids in (torch.tensor([[0, 1], [2, 3], [4, 3], [5, 1]]), torch.tensor([[0, 1], [2, 3]])):
        found, p = table(ids).dense(), table.shares()
        for one in (0, 1):
            rows = ids.flatten()[torch.tensor(unit)[ids.flatten()] == one]
            columns = 0
            for part, multiple in enumerate((1, 2)):
                vectors = table.weight[rows][:, columns : columns + 2 * multiple]
                small = vectors[:, :multiple] @ table.projections[part][one, 0, :multiple]
                candidates = [(x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-10).sqrt() for x in (small, vectors)]
                expected = sum(share * x for share, x in zip(p[one], candidates, strict=True)) * table.scale
                mine = found.view(-1, 6)[torch.tensor(unit)[ids.flatten()] == one][:, columns : columns + 2 * multiple]
                torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-4)
                columns += 2 * multiple


def test_evaluation_uses_running_moments(data):
    context = context_of(data)
    recommender, _ = searched(context)
    table, batch = recommender.embedding, context.data.training
    for _ in range(100):
        recommender(batch)
    kept = table.mean0.clone()
    alone = torch.cat([recommender.predict(batch[torch.tensor([i])]) for i in range(20)])
    torch.testing.assert_close(alone, recommender.predict(batch)[:20])
    torch.testing.assert_close(alone, recommender(batch)[:20].detach(), atol=1e-3, rtol=1e-3)
    table.mean0.copy_(kept)
    recommender.predict(batch)
    assert torch.equal(table.mean0, kept)
    assert recommender.training


def test_each_split_trains_its_own(data):
    context = context_of(data, every=1)
    recommender, optimizer = searched(context)
    table, task = recommender.embedding, context.data.task
    stepper = DenseStep(recommender, task, context.settings.training)
    optimizer.begin_epoch(recommender, 0.1)
    logits = table.logits.clone()
    stepper.step(context.data.training[:64], 0.1)
    assert torch.equal(table.logits, logits)
    weights = {name: parameter.clone() for name, parameter in recommender.named_parameters()}
    optimizer.step(recommender, context.data.validation[:64], context.data.training[:64])
    assert not torch.equal(table.logits, logits)
    for name, parameter in recommender.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    assert "embedding.logits" not in weights


def test_alpha_learns_every_few_steps_and_noise_is_new_at_each(data):
    context = context_of(data, every=3)
    recommender, optimizer = searched(context)
    table = recommender.embedding
    optimizer.begin_epoch(recommender, 0.1)
    seen, noises = [], [table.noise.clone()]
    for _ in range(6):
        before = table.logits.clone()
        optimizer.step(recommender, context.data.validation[:64], context.data.training[:64])
        seen.append(not torch.equal(table.logits, before))
        noises.append(table.noise.clone())
    assert seen == [False, False, True, False, False, True]
    assert all(not torch.equal(a, b) for i, a in enumerate(noises) for b in noises[:i])
    again, other = searched(context)
    other.begin_epoch(again, 0.1)
    assert torch.equal(again.embedding.noise, noises[0])


def test_a_single_candidate_without_normalisation_is_the_plain_table(data):
    context = context_of(data, candidates=[8], batch_norm=False, learned_scale=False)
    mixture, _ = searched(context)
    settings = context.settings.model_copy(update={"method": PARAMS.methods["full_table"]})
    plain = training.context_of(settings, data)
    batch = context.data.training[:200]
    recommender = plain.recommender(plain.specs()[0])
    torch.testing.assert_close(mixture(batch), recommender(batch))


@pytest.mark.parametrize(("per", "units"), [("field", 2), ("block", 4)])
def test_the_likeliest_candidates_are_trained_anew_with_projections_that_count(data, tmp_path, per, units):
    context = context_of(data, per=per)
    (spec,) = context.specs()
    run = run_search(context.settings, data, tmp_path / "search")
    mixture, chosen = run.trials
    assert (mixture.stopped, mixture.epochs) == ("planned", 3)  # one of them with equal shares
    assert run.best_trial == 1
    dimensions = [int(d) for d in chosen.name.removeprefix("dimensions ").split("-")]
    assert len(dimensions) == units
    assert set(dimensions) <= set(CANDIDATES)
    sizes = torch.bincount(spec.block)
    assert run.weights == int(torch.tensor(dimensions) @ sizes)
    tensors, about = load_tensors(tmp_path / "search" / "weights.safetensors")
    model = PrunedModel.of_search(tensors, about, context.settings.model, context.field_sizes)
    assert model.nonzeros == run.weights
    assert model.projection_weights == sum(8 * d for d in dimensions if d < 8)


def test_what_is_stored_of_the_mixture_is_its_largest_candidates():
    table = table_with([0, 1, 0], [1, 2], widths=(2, 4))
    table.logits.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    stored = table.stored()
    assert stored.selection.tolist() == [[1] * 6, [1, 0, 1, 1, 0, 0]]
    assert stored.block.tolist() == [0, 1, 0]


def test_a_unit_that_a_batch_lacks_harms_nobody():
    table = table_with([0, 0, 1])
    found = table(torch.tensor([[0, 1], [1, 0], [0, 0]])).dense()
    found.sum().backward()
    assert found.isfinite().all()
    assert table.weight.grad.isfinite().all()
    assert torch.equal(table.mean0[1], torch.zeros(3, 8))
    assert math.isclose(float(table.variance0[1].min()), 1)


def test_numbers_are_normalised_with_their_features(planted, tmp_path):
    """A scalar field has one feature: only its numbers vary over a batch."""
    paths = tiny_data("ctr", tmp_path, planted)
    context = context_of(paths, "ctr", "fm")
    recommender, _ = searched(context)
    batch = context.data.training[:256]
    assert batch.values is not None
    assert len(batch.ids[:, 0].unique()) == 1
    with torch.no_grad():
        found = recommender.embedding(batch.ids, batch.values).dense()[:, 0] / recommender.embedding.scale
    assert found.var(0).min() > 0.1  # a third of each of three candidates of variance 1
    torch.testing.assert_close(found.mean(0), torch.zeros(8), atol=1e-4, rtol=0)
