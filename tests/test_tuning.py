"""Grids that tune a method: which cells they have, and that validation alone chooses among them."""

from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from nisbench.commands import cells as cells_command
from nisbench.commands.cells import Filter
from nisbench.errors import NisbenchError
from nisbench.params.loading import load
from nisbench.report import build, claims
from nisbench.report.results import chosen, summary
from nisbench.studies import plan, plan_study
from tests.helpers.fake_runs import pretend

ROOT = Path(__file__).parents[1]
TUNED = """
studies:
  tuned:
    title: Tuned
    grids:
      rating:
        datasets: [planted_ratings]
        models: [mf]
        methods: {{global_mean: [1], dnis: [1, 2], lottery_ticket: [2], uniform: [2, 4]}}
        tune: {tune}
    seeds: [1, 2]
    tables: [table2, area]
    figures: [pareto]
"""
TUNE = (
    "{dnis: {training.l2: [0.0, 1.0e-5], learning_rate: [0.01, 0.1]}, lottery_ticket: {training.l2: [1.0e-5, 2.0e-5]}}"
)


@pytest.fixture
def study(tmp_path, monkeypatch):
    def planned(tune=TUNE):
        (tmp_path / "over.yaml").write_text(TUNED.format(tune=tune))
        config = load(ROOT, [tmp_path / "over.yaml"])
        monkeypatch.chdir(tmp_path)
        return plan_study("tuned", config)

    return planned


def test_every_combination_is_a_search_and_a_pruning_of_its_own(study):
    found = study()
    of_dnis = [cell for cell in found.cells if cell.method == "dnis"]
    assert len(of_dnis) == 4 * 2 * 2
    assert len({cell.search.id for cell in of_dnis}) == 4 * 2
    assert {(cell.settings.training.l2, cell.settings.method.learning_rate) for cell in of_dnis} == set(
        product([0.0, 1e-5], [0.01, 0.1])
    )
    assert all(
        dict(cell.tuned)
        == {"training.l2": cell.settings.training.l2, "learning_rate": cell.settings.method.learning_rate}
        for cell in of_dnis
    )
    retrained = [cell for cell in found.cells if cell.method == "lottery_ticket"]
    assert {cell.prune.settings.training.l2 for cell in retrained} == {1e-5, 2e-5}


def test_a_variant_with_the_usual_values_is_the_run_that_is_not_tuned(study):
    usual = {cell.prune.id for cell in study("{dnis: {training.l2: [0.0]}}").cells if cell.method == "dnis"}
    tuned = {cell.prune.id for cell in study().cells if cell.method == "dnis"}
    assert len(usual) == 4
    assert usual < tuned


def test_validation_chooses_at_each_rate_and_seed_whatever_the_test_says(study):
    found = study()
    for cell in found.cells:
        values = dict(cell.tuned)
        wanted = (
            values.get("training.l2") == (1e-5 if cell.seed == 1 else 0.0) and values.get("learning_rate", 0.1) == 0.1
        )
        pretend(cell.prune, validation_loss=0.2 if wanted else 0.3, mse=0.9 if wanted else 0.1)
    best = chosen(found)
    assert len(best.cells) == len({cell.key for cell in found.cells})
    for cell in best.cells:
        if cell.method == "dnis":
            assert dict(cell.tuned) == {"training.l2": 1e-5 if cell.seed == 1 else 0.0, "learning_rate": 0.1}
    results = summary(best)
    dnis = results[(results["method"] == "dnis") & (results["metric"] == "mse")]
    assert set(dnis["value"]) == {0.9}
    assert set(dnis["tuned"]) == {"training.l2=1e-05, learning_rate=0.1", "training.l2=0.0, learning_rate=0.1"}
    assert set(dnis["validation_loss"]) == {0.2}


def test_a_failed_variant_is_not_chosen_and_a_loss_that_is_missing_is_an_error(study):
    found = study("{dnis: {training.l2: [0.0, 1.0e-5]}}")
    for cell in found.cells:
        if dict(cell.tuned).get("training.l2") == 0:
            pretend(cell.prune)  # it failed
        else:
            pretend(cell.prune, validation_loss=0.9, mse=0.5)
    assert {dict(cell.tuned)["training.l2"] for cell in chosen(found).cells if cell.tuned} == {1e-5}
    pretend(next(cell for cell in found.cells if cell.tuned).prune, mse=0.5)
    with pytest.raises(NisbenchError, match="validation_loss is missing"):
        chosen(found)


def test_the_report_is_of_the_chosen_and_its_cost_is_of_all(study, monkeypatch):
    found = study()
    monkeypatch.setattr(claims, "findings", lambda *_: [])  # those about DNIS read its weights, and here are none
    for cell in found.cells:
        pretend(
            cell.prune,
            validation_loss=0.2 + 0.1 * sum(value for _, value in cell.tuned),
            mse=0.5 if cell.method == "dnis" else 0.6,
        )
    build.run(found)
    assert len(pd.read_csv("results/tuned/summary.csv").query("method == 'dnis' and metric == 'mse'")) == 2 * 2
    area = pd.read_csv("results/tuned/area.csv").set_index("method")
    assert area.loc["dnis", "trials"] == 4 * 2 * 2  # variants, seeds, and the trials that each made-up search has
    assert "DNIS (`training.l2`, `learning_rate`)" in Path("results/tuned/area.md").read_text()
    described = cells_command.described(found, [cell.prune for cell in found.cells if cell.method == "dnis"][:1])
    assert next(iter(described.values())).endswith("training.l2=0.0, learning_rate=0.01")
    assert len(cells_command.named(chosen(found), "mf/dnis@2", Filter(seed=1))) == 1


@pytest.mark.parametrize(
    ("tune", "said"),
    [
        ("{dnsi: {learning_rate: [0.1]}}", "unknown method of this grid 'dnsi'; did you mean 'dnis'"),
        (
            "{dnis: {learning_rat: [0.1]}}",
            "dnis.learning_rat: is neither a key of the method nor one of training; did you mean 'learning_rate'",
        ),
        ("{dnis: {training.l3: [0.1]}}", "did you mean 'training.l2'"),
        ("{dnis: {learning_rate: [0.1, -1.0]}}", "dnis.learning_rate.1: -1.0: input should be greater than 0"),
        ("{dnis: {learning_rate: [0.1, 0.1]}}", "0.1 is listed twice"),
        ("{lottery_ticket: {rounds: [0]}}", "lottery_ticket.rounds.0: 0: rewind needs rounds of at least 1"),
        ("{dnis: {kind: [mde]}}", "is neither a key"),
    ],
)
def test_what_cannot_be_tuned_is_named(study, tune, said):
    with pytest.raises(NisbenchError) as error:
        study(tune)
    assert said in str(error.value)
    assert "over.yaml:10" in str(error.value)


def test_a_key_that_changes_nothing_is_refused(tmp_path):
    (tmp_path / "over.yaml").write_text(TUNED.format(tune="{uniform: {training.fused_trials: [1, 2]}}"))
    with pytest.raises(NisbenchError, match=r"tune\.uniform: training\.fused_trials changes nothing for mf"):
        plan(ROOT, load(ROOT, [tmp_path / "over.yaml"]))
