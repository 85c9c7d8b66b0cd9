"""Estimates of what a study will take."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nisbench.commands import plan as studies
from nisbench.cost import estimate, remaining, shapes, steps
from nisbench.cost.estimate import Part, Timing, Trials, interpolated
from nisbench.cost.steps import Cost
from nisbench.params.loading import load
from nisbench.steps import prune_step
from nisbench.studies import plan, plan_study
from tests.helpers.paths import ROOT, SMALL
from tests.helpers.training import search_settings

CPU = torch.device("cpu")


@pytest.fixture
def demo(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return plan(SMALL, small).study("demo")


class Said(list):
    """What an estimate says that it times."""

    def __call__(self, text, number, count):
        self.append(text)
        assert 0 < number <= count


def test_a_study_s_searches_are_timed_once(demo, monkeypatch):
    said = Said()
    found, unknown = estimate.of_study(demo, lambda _step: False, CPU, said)
    assert unknown == []
    assert {(row.dataset, row.method, row.trials) for row in found} == {
        ("planted_ratings", "grid_search", 3), ("planted_ratings", "mde", 2), ("planted_ratings", "uniform_tuned", 4),
        ("planted_ratings", "dnis", 1), ("planted_ratings", "network_pruning", 1), ("planted_ratings", "full_table", 1),
        ("planted_ctr", "grid_search", 3), ("planted_ctr", "dnis", 1),
        ("planted_topk", "nis_se", 2), ("planted_topk", "nis_me", 2), ("planted_topk", "dnis", 1),
    }  # fmt: skip
    assert all(row.seconds > 0 and row.memory_bytes > 0 and row.assumed for row in found)
    assert len(said) == len(set(said))
    monkeypatch.setattr(Timing, "cost", None)  # what was measured is kept
    assert estimate.of_study(demo, lambda _step: False, CPU, said)[0] == found


def test_an_interrupted_estimate_keeps_what_it_measured(demo, monkeypatch):
    measured = []

    def cost(timing, _device):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(timing.key)
        return Cost(1.0, 1.0, 1.0)

    monkeypatch.setattr(Timing, "cost", cost)
    with pytest.raises(KeyboardInterrupt):
        estimate.of_study(demo, lambda _step: False, CPU, Said())
    said = Said()
    monkeypatch.setattr(Timing, "cost", lambda *_: Cost(1.0, 1.0, 1.0))
    estimate.of_study(demo, lambda _step: False, CPU, said)
    assert len(json.loads(estimate.KEPT.read_text())) == len(said) + 3


def test_measurements_of_an_older_form_are_made_again(demo, monkeypatch):
    monkeypatch.setattr(Timing, "cost", lambda *_: Cost(1.0, 1.0, 1.0))
    estimate.KEPT.parent.mkdir()
    for old in ('{"a": [{"step": 1}]}', "[1]", "{", '{"a": {"step": 1}}'):
        estimate.KEPT.write_text(old)
        assert estimate.of_study(demo, lambda _step: False, CPU, Said())[0]


def test_searches_of_the_same_model_share_plain_steps(small):
    """Grid Search and MDE of a model whose trials train alone ask for the same widths."""
    study = plan(SMALL, small).study("movielens_1m")
    of = {cell.method: cell for cell in study.cells if cell.model == "mlp"}
    shape = estimate.shape_of(study, of["mde"])
    keys = {
        name: {timing.key for timing in Trials.of(shape, of[name].settings, CPU).timings}
        for name in ("mde", "network_pruning", "dnis")
    }
    assert keys["network_pruning"] <= keys["mde"]
    assert not keys["dnis"] & keys["mde"]


@pytest.mark.parametrize("width", [1, 4, 8, 16, 40, 64, 200, 256, 1024])
def test_a_cost_between_two_widths_is_on_the_line_through_them(width, small):
    cell = plan(SMALL, small).study("demo").cells[0]
    widths, shares = interpolated(width)
    shape = shapes.of_ratings(6, 4, 10)
    timings = tuple(Timing(shape, cell.settings, (each,)) for each in widths)
    costs = {t.key: Cost(3.0 + 2.0 * w, 1.0, 5.0) for t, w in zip(timings, widths, strict=True)}
    cost = Part(1, timings, shares).cost(costs)
    assert (cost.step, cost.epoch, cost.prediction) == pytest.approx((3.0 + 2.0 * width, 1.0, 5.0))


def test_no_cost_is_extrapolated_to_nothing(small):
    cell = plan(SMALL, small).study("demo").cells[0]
    timings = tuple(Timing(shapes.of_ratings(6, 4, 10), cell.settings, (width,)) for width in (4, 16))
    costs = {timings[0].key: Cost(1.0, 1.0, 1.0), timings[1].key: Cost(100.0, 1.0, 1.0)}
    assert Part(1, timings, interpolated(1)[1]).cost(costs).step == 1 / 8


def test_a_large_table_is_timed_on_fewer_rows_where_a_step_reads_rows_only(small, monkeypatch):
    monkeypatch.setattr(shapes, "FEATURES", 500)
    monkeypatch.setattr(shapes, "LARGE", 1)
    monkeypatch.setattr("nisbench.training.train_step.LARGE", 1)
    shape = shapes.of_ratings(600, 400, 5000)
    settings = plan(SMALL, small).study("demo").cells[0].settings
    training = settings.training.model_copy(update={"batch_size": 50, "base_dimension": 4})
    built = []
    monkeypatch.setattr(
        steps, "cost", lambda timed: built.append(timed.recommender.embedding.features) or Cost(1, 2, 3)
    )
    for l2 in (0.0, 1e-3):  # under a penalty, every step goes through the whole table
        changed = settings.model_copy(update={"training": training.model_copy(update={"l2": l2})})
        found = Timing(shape, changed, (4,)).cost(CPU)
        assert found == Cost(1, 4 if not l2 else 2, 3)
    assert built == [500, 1000]


def test_generated_instances_have_the_shape_asked_for():
    shape = shapes.of_clicks(2, 5, 1000, 80)
    assert shape.features == 1002
    data = shapes.generate(shape, 500, CPU)
    first = torch.tensor([0, *shape.field_sizes]).cumsum(0)
    assert ((data.ids >= first[:-1]) & (data.ids < first[1:])).all()
    assert (data.values[:, 2:] == 1).all()
    ratings = shapes.generate(shapes.of_ratings(6040, 3706, 100), 4096, CPU)
    users, items = (len(column.unique()) for column in ratings.ids.unbind(1))
    assert (users, items) == pytest.approx((2350, 1655), rel=0.05)  # as in a batch of MovieLens-1M's


def test_a_search_that_begins_says_what_is_left(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = plan(Path(), small)
    demo = whole.study("demo")
    searches = list({cell.search.id: cell.search for cell in demo.cells}.values())
    assert list(remaining.lines(whole, searches[0])) == []
    remaining.write("demo", {searches[0].id: 90.0, searches[1].id: 30.0, "0" * 12: 1000.0})
    remaining.write("gone", {searches[0].id: 5.0})
    (line,) = remaining.lines(whole, searches[0])
    assert "about 1 min 30 s" in line
    assert "the 2 searches of demo" in line
    assert "2 min 00 s" in line
    for path in map(Path, searches[1].paths()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert "the 1 searches of demo" in next(remaining.lines(whole, searches[0]))
    remaining.ESTIMATES.write_text("[]")
    assert list(remaining.lines(whole, searches[0])) == []


def test_a_data_set_of_unknown_shape_is_named(small, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Timing, "cost", lambda *_: Cost(1.0, 1.0, 1.0))
    study = plan(SMALL, small).study("criteo")
    assert estimate.of_study(study, lambda _step: False, CPU, Said()) == ([], ["criteo"])


def test_peak_memory_is_the_process_s_own():
    held_here = b"x" * (400 << 20)  # by the process that starts the other, which is smaller
    code = "import torch; from nisbench.machine import peak_memory_mib; print(peak_memory_mib(torch.device('cpu')))"

    def peak(statement: str) -> float:
        done = subprocess.run([sys.executable, "-c", statement + code], check=True, stdout=subprocess.PIPE, text=True)
        return float(done.stdout)

    small, held = peak(""), peak("held = b'x' * (100 << 20); ")
    del held_here
    assert held - small == pytest.approx(100, abs=20)


@pytest.mark.parametrize(
    ("method", "count"),
    [
        ("uniform", 2), ("laws", 3), ("tpe", 3), ("hashing", 2), ("quotient_remainder", 2), ("low_rank", 2), ("pep", 1), ("mpe", 1), ("quantised", 2),
        ("sseds", 1), ("deeplight", 1), ("lottery_ticket", 1), ("autosrh_dense", 1), ("nis_se", 2), ("grid_search", 3),
    ],
)  # fmt: skip
def test_trials_of_every_kind_are_counted_and_timed(method, count):
    if method == "tpe":
        pytest.importorskip("optuna")
    settings = search_settings("rating", "mf", method)
    settings = settings.model_copy(update={"method": settings.method.at(2)})
    assert estimate.trials_of(settings) == count
    trials = Trials.of(shapes.of_ratings(60, 40, 1000), settings, CPU, rounds=bool(settings.method.rounds))
    assert trials.count == count
    assert (trials.retrained is not None) == (method in {"pep", "sseds", "lottery_ticket"})
    assert [part.epochs for part in trials.parts] == [2 if method == "pep" else None] * len(trials.parts)
    assert trials.share_left == (0.5 if method in {"uniform", "laws", "tpe"} else 1)
    cost = list(trials.timings)[-1].cost(CPU)
    assert cost.step > 0


def test_epochs_that_a_method_fixes_and_rounds_are_counted_as_they_are(small, monkeypatch, tmp_path):
    """No others than these: a search of 8 epochs and 5 rounds of the usual 20 (assumed) at two rates, of which one is 1."""
    monkeypatch.chdir(tmp_path)
    study = plan(SMALL, small).study("demo")
    cell = next(cell for cell in study.cells if cell.method == "network_pruning")
    rounds = study.method_of(cell).model_copy(update={"rounds": 5, "rewind": "initial"})
    pruned = [
        replace(cell, compression_rate=rate, prune=prune_step(cell.search, rounds, rate)) for rate in (1.0, 4.0, 4.0)
    ]
    study = replace(study, cells=tuple(pruned))
    shape = estimate.shape_of(study, cell)
    timing = Timing(shape, cell.settings, (4,))
    part = Part(1, (timing,), (1.0,), epochs=8)
    trials = Trials(1, (part,), replace(part, epochs=None))
    training = cell.settings.training
    batches = -(-shape.instances // training.batch_size)
    epochs = estimate.Epochs(study, lambda _step: False)
    found = estimate.of_search(study, cell, shape, trials, {timing.key: Cost(1.0, 0.0, 0.0)}, epochs, CPU)
    usual = min(training.max_epochs, estimate.ASSUMED_EPOCHS)
    assert found.seconds == batches * (8 + 5 * usual)
    assert (found.epochs, found.assumed) == (8, False)


def test_studies_are_listed_without_a_method_s_optional_package(monkeypatch, tmp_path):
    overlay = tmp_path / "over.yaml"
    overlay.write_text("studies: {demo: {grids: {rating: {methods: {tpe: [2]}}}}}")
    monkeypatch.setitem(sys.modules, "optuna", None)
    listed = studies.about(plan_study("demo", load(ROOT, [overlay])))
    assert listed["trials"] is None
    assert listed["searches"] > 0
