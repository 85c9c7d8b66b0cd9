"""The benchmarks time what they say, and keep what they found."""

import csv
import json
import math
import os
import sys
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from typer.testing import CliRunner

from benchmarks import __main__ as main
from benchmarks import card, case, cases, fullsize, limits, lookup, scale, textbook
from nisbench.cost import shapes
from nisbench.data.instances import Instances
from nisbench.errors import NisbenchError
from nisbench.models import recommender as recommenders
from tests.helpers.archives import zipped
from tests.helpers.paths import ROOT

SMALL = {
    "ratings": shapes.of_ratings(60, 40, 1000),
    "clicks": shapes.of_clicks(2, 3, 100, 1000),
}
CASE = {"k": 16, "batch_size": 32, "threads": 1, "device": "cpu", "rounds": 2, "bandwidth": 1e10, "peak": 1e11}


@pytest.mark.parametrize(("shape", "model"), [("ratings", "mf"), ("ratings", "neumf"), ("clicks", "deepfm")])
def test_a_case_is_timed_in_every_mode(shape, model, monkeypatch):
    monkeypatch.chdir(ROOT)
    for module in (cases, case):
        monkeypatch.setattr(module, "SHAPES", SMALL)
    monkeypatch.setattr(case, "STEPS", dict.fromkeys(SMALL, 2))
    monkeypatch.setattr(case, "memory", lambda *_: 1.0)  # in a process of its own, which knows no small shapes
    found = case.measured(CASE | {"shape": shape, "model": model, "modes": list(cases.MODES)})
    assert [record["mode"] for record in found] == list(cases.MODES)
    for record in found:
        assert record["instances_per_second"] > 0
        assert record["ratio"] > 0
        assert record["of_limit"] > 0
    assert found[0]["of_plain"] == 1
    assert (found[-1]["fused_of_alone"] is not None) == (model == "mf")  # other models' trials are trained one by one
    assert (found[0]["of_products"] is None) == (model == "mf")


def test_trials_that_do_not_fit_into_memory_are_left_out(monkeypatch):
    monkeypatch.chdir(ROOT)
    for module in (cases, case):
        monkeypatch.setattr(module, "SHAPES", SMALL)
    monkeypatch.setattr(case, "STEPS", dict.fromkeys(SMALL, 1))
    monkeypatch.setattr(case, "memory", lambda *_: 1.0)
    monkeypatch.setattr(
        case.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1 << 20, "total": 1 << 34})
    )
    found = case.measured(CASE | {"shape": "ratings", "model": "mf", "modes": ["plain", "grid_search"], "k": 64})
    assert [record["mode"] for record in found] == ["plain"]


def test_the_textbook_s_factorisation_is_ours(monkeypatch):
    monkeypatch.chdir(ROOT)
    book = textbook.Textbook("mf", SMALL["ratings"], 16)
    settings = cases.settings_of("mf", "plain", 16, 32)
    ours = recommenders.build(
        settings.model, block=torch.zeros(100), selection=torch.ones(1, 16), embedding_std=0.1, field_sizes=(60, 40),
        prior=0.0, seed=1,
    )  # fmt: skip
    ids = shapes.generate(SMALL["ratings"], 50, torch.device("cpu")).ids
    with torch.no_grad():
        book.embedding.weight.copy_(ours.embedding.weight)
        book.first_order.weight.normal_()
        ours.first_order.copy_(book.first_order.weight[:, 0])
        torch.testing.assert_close(book(ids.long()), ours(Instances(ids, torch.zeros(50))))


def test_the_limit_counts_bytes_and_operations():
    data = Instances(torch.tensor([[0, 60], [0, 61], [1, 60], [2, 62]]), torch.zeros(4))
    slow_memory = limits.Machine(bandwidth=1.0, peak=math.inf)
    # batches of two instances read 3 and 4 different rows: weights and two moments, read and written, 4 bytes each
    assert limits.seconds(slow_memory, "mf", SMALL["ratings"], data, 16, 2, "plain") == 3.5 * 16 * 4 * 6
    slow_arithmetic = limits.Machine(bandwidth=math.inf, peak=1.0)
    products = 2 * 2 * (32 * 32 + 32 * 16)  # two embeddings of 16, then layers of 32 and 16, for two instances
    assert limits.seconds(slow_arithmetic, "mlp", SMALL["ratings"], data, 16, 2, "plain") == 3 * products
    assert limits.seconds(slow_arithmetic, "mlp", SMALL["ratings"], data, 16, 2, "dnis") == 5 * products


def test_a_curve_s_point_says_what_it_costs(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(scale, "STEPS", 2)
    found = scale.measured(CASE | {"model": "mf", "features": 1000, "k": 16})
    assert 0 < found["rows"] <= 64
    assert found["step_ms"] > 0
    assert found["table_mib"] == 1000 * 16 * 4 / 2**20


@pytest.fixture
def small_cards(monkeypatch):
    monkeypatch.chdir(ROOT)
    shapes_of = {"movielens_20m": shapes.of_ratings(3000, 1000, 1000), "criteo": shapes.of_clicks(2, 3, 3000, 1000)}
    monkeypatch.setattr(card, "SHAPES", shapes_of)
    monkeypatch.setattr(card, "COMPARED_BATCH", 64)
    monkeypatch.setattr("nisbench.training.train_step.LARGE", 0)
    monkeypatch.setattr(card.limits, "measure", lambda _device: limits.Machine(1e10, 1e11))
    return card.Work("cpu", 1, 16, 64, steps=3, rounds=1, compiled=False, study=None)


@pytest.mark.slow
def test_a_card_s_report_has_every_case(small_cards, tmp_path):
    found = card.measured(small_cards, tmp_path / "card.json", lambda _line: None)
    assert json.loads((tmp_path / "card.json").read_text()) == found
    cases_of = [(record["shape"], record["model"], record["mode"]) for record in found["records"]]
    assert cases_of == [(*each, mode) for each in card.CASES for mode in ("plain", "dnis")]
    for record in found["records"]:
        assert record["instances_per_second"] > 0
        assert record["of_limit"] > 0
        assert record["ratio"] == record["instances_per_second"] / record["textbook"]
        assert record["captured"] is False
    assert all(each["equal"] for each in found["equality"])
    assert len(found["equality"]) == 6
    table = card.shown(found)
    assert "in all cases" in table
    assert table.count("| criteo") == 4
    assert "left out" not in table


def test_what_a_card_s_report_has_no_time_for_is_left_out(small_cards, tmp_path, monkeypatch):
    monkeypatch.setattr(card, "CASES", card.CASES[:1])
    work = replace(small_cards, minutes=0.0, study="paper")
    monkeypatch.setattr(
        card.subprocess, "run", lambda *_, timeout, **__: pytest.fail("there was no time") if timeout > 1 else late()
    )

    def late():
        raise card.subprocess.TimeoutExpired("nisbench", 1)

    found = card.measured(work, tmp_path / "card.json", lambda _line: None)
    assert found["study"] is None
    assert [each.split(":")[0] for each in found["left_out"]] == ["textbook", "the projection of paper"]


@pytest.mark.usefixtures("small_cards")
def test_a_card_s_steps_that_differ_are_seen(monkeypatch):
    case_ = ("movielens_20m", "mf", "plain", 16, torch.device("cpu"))
    assert card.compared(*case_)["losses"] == 0
    runs = iter([0.0, 1e-3])
    losses = card.TimedTraining.steps

    def wrong(training):
        count = losses(training)
        training.loop.losses[0] += next(runs)
        return count

    monkeypatch.setattr(card.TimedTraining, "steps", wrong)
    assert not card.compared(*case_)["equal"]


def test_a_card_s_report_does_a_real_search(small_cards, tmp_path, monkeypatch):
    """On an archive in MovieLens-1M's layout."""
    generator = np.random.default_rng(1)
    pairs = generator.permutation(40 * 30)[:600]
    lines = "".join(f"{1 + p // 30}::{1 + p % 30}::{generator.integers(1, 6)}::{p}\n" for p in pairs)
    archive = zipped(tmp_path / "ml-1m.zip", {"ml-1m/ratings.dat": lines})
    whole = card.load(ROOT, overlays=[])
    dataset = whole.params.datasets["movielens_1m"].model_copy(update={"md5": None})
    few = whole.params.training.model_copy(update={"max_epochs": 2, "batch_size": 64, "base_dimension": 4})
    params = whole.params.model_copy(
        update={"datasets": {**whole.params.datasets, "movielens_1m": dataset}, "training": few}
    )
    monkeypatch.setattr(card, "load", lambda *_, **__: replace(whole, params=params))
    found = card.real_search(archive, small_cards.device)
    assert found["epochs"] == 2
    assert 0 < found["validation_loss"] < 10


def test_lookups_are_timed_in_all_layouts(monkeypatch):
    monkeypatch.chdir(ROOT)
    case = {"features": 500, "k": 16, "rounds": 2, "rates": [1, 5], "device": "cpu", "threads": 1, "every_layout": True}
    found = lookup.measured(case)
    assert {record["layout"] for record in found} == {"dense", "prefix", "csr", "mask"}
    assert {record["values"] for record in found} == {"float32", "float16", "int8", "int4"}
    for record in found:
        assert record["ratio"] == record["microseconds"] / record["dense_microseconds"] > 0
        assert record["of_dense_bytes"] == record["bytes"] / (500 * 16 * 4)
    for key in {(record["cr"], record["rows"], record["values"]) for record in found if record["rows"] == "any"}:
        group = [record for record in found if (record["cr"], record["rows"], record["values"]) == key]
        assert min(group, key=lambda record: record["bytes"])["auto"]
    kept = lookup.drawn(4000, 16, 5, prefixes=True) != 0
    assert kept.mean() == pytest.approx(0.2, abs=0.03)
    assert (np.diff(kept.astype(int), axis=1) <= 0).all()


def test_the_ledger_grows_and_other_columns_begin_a_new_one(tmp_path):
    path = tmp_path / "scale.csv"
    main.keep(path, [{"a": 1, "b": 2}])
    main.keep(path, [{"a": 3, "b": 4}])
    assert list(csv.DictReader(path.read_text().splitlines())) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    main.keep(path, [{"a": 5}])
    assert path.read_text() == "a\n5\n"
    assert "3,4" in path.with_suffix(".old.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "dfm"], "--model: there is no 'dfm'; did you mean 'fm'?"),
        (["--shape", "foo"], "there is: criteo, movielens_1m, movielens_20m"),
        (["--mode", "grid"], "did you mean 'grid_search'?"),
        (["--shape", "criteo", "--model", "mf"], "--model mf is not for criteo; it is for movielens_1m, movielens_20m"),
        (["--k", "20"], "must be a multiple of 16"),
        (["--curve", "--model", "foo"], "there is no 'foo'"),
    ],
)
def test_a_wrong_name_is_one_message_before_anything_is_measured(monkeypatch, arguments, says):
    monkeypatch.setattr(limits, "measure", None)
    monkeypatch.setattr(main, "run", None)
    found = CliRunner().invoke(main.app, arguments)
    assert isinstance(found.exception, NisbenchError)
    assert says in str(found.exception)


def test_a_model_is_timed_in_the_shapes_that_it_is_for(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(limits, "measure", lambda _device: limits.Machine(1e9, 1e9))
    monkeypatch.setattr(main, "run", lambda _module, of: asked.append((of["shape"], of["model"])) or [])
    assert CliRunner().invoke(main.app, ["--model", "mf", "--model", "fm"]).exit_code == 0
    assert asked == [("movielens_1m", "mf"), ("movielens_20m", "mf"), ("criteo", "fm")]


def test_a_case_that_fails_is_one_message(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(NisbenchError, match=r"-m benchmarks\.nowhere failed \(status 1\)"):
        main.run("benchmarks.nowhere", {})


# --- full size ------------------------------------------------------------------------------------------------


def test_generated_lines_have_criteo_s_numbers_of_tokens():
    fields = fullsize.frequencies()
    for field, tokens in zip(fields, fullsize.TOKENS, strict=True):
        assert field.tokens(1) == pytest.approx(tokens, rel=0.01)
    assert sum(field.tokens(fullsize.MIN_COUNT) for field in fields) + 39 == pytest.approx(fullsize.KEPT, rel=0.01)
    found, rows = fullsize.lines(20_000, 0), 20_000
    assert (found.num_rows, found.num_columns) == (rows, 40)
    for field, column in zip(fields, found.columns[14:], strict=True):
        ranks = field.drawn(rows, np.random.default_rng(1))
        assert pc.count_distinct(column).as_py() == pytest.approx(len(np.unique(ranks)), rel=0.2, abs=3)
    assert found.equals(fullsize.lines(rows, 0))
    assert not found.equals(fullsize.lines(rows, 1))
    assert 0.1 < found["label"].to_numpy().mean() < 0.5


def test_different_ranks_are_different_tokens():
    ranks = np.concatenate([np.arange(100_000), np.random.default_rng(1).integers(1 << 31, size=1000)])
    tokens = fullsize.hexadecimal(ranks, 3, ranks == 7)
    assert tokens.null_count == 1
    assert pc.count_distinct(tokens).as_py() == len(np.unique(ranks)) - 1
    assert set(pc.utf8_length(tokens).unique().to_pylist()) == {8, None}


def test_what_a_process_takes_is_of_itself(tmp_path):
    held = np.ones(1 << 26)  # which is not the other process's
    code = f"x = bytearray({32 << 20}); raise SystemExit({int(held[0])})"
    taken = fullsize.measure(tmp_path, [sys.executable, "-S", "-c", code], os.environ | {"PYTHONPATH": ""})
    assert taken["exit_status"] == 1
    assert 32 < taken["peak_mib"] < 100
    assert 0 < taken["cpu_seconds"] < taken["seconds"] + 1
