"""Tables from made-up runs, so that what they must say is known."""

import json
from pathlib import Path

import pandas as pd
import pytest

from nisbench.data import parquet
from nisbench.errors import NisbenchError
from nisbench.evaluation import topk
from nisbench.params.loading import load
from nisbench.report import listing, tables
from nisbench.report.results import read_run, summary
from nisbench.studies import plan
from tests.conftest import ROOT

MSE = {"grid_search": 0.7, "random_search": 0.6, "mde": 0.65, "dnis": 0.5}
MACHINE = {"device": "CPU", "threads": 2, "packages": {"torch": "2"}}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The plan of the paper's study, its every run faked in the working directory; MSE rises by 0.15 per CR."""

    def fake(overlay="{}"):
        (tmp_path / "over.yaml").write_text(overlay)
        found = plan(ROOT, load(ROOT, [tmp_path / "over.yaml"])).study("paper")
        monkeypatch.chdir(tmp_path)
        for cell in found.cells:
            search = cell.prune.needs["search"]
            trial = {"name": "only", "validation_loss": 0.4, "losses": [0.5, 0.4], "at_once": 1}
            write(search, {"id": search.id, "trials": [trial], "best_trial": 0, "seconds": 7200.0,
                           "peak_memory_mib": 500.0, "machine": MACHINE})  # fmt: skip
            mse = MSE.get(cell.method, 0.6) + 0.15 * (cell.compression_rate - 1) + 0.01 * (cell.seed - 1)
            metrics = {
                "rating": {"mse": mse},
                "ctr": {"auc": 1 - mse / 20, "logloss": mse},
                "topk": {prefix + name: 0.1 * cell.compression_rate for prefix in ("", "full_") for name in topk.NAMES},
            }[cell.settings.task.kind]
            write(cell.prune, {"id": cell.prune.id, "metrics": metrics, "weights": 100,
                               "nonzeros": int(100 / cell.compression_rate), "size_mib": 12.0,
                               "projection_weights": 0, "rounds": []})  # fmt: skip
        for block in found.blocks:
            path = Path(block.needs["prepare"].path("instances"))
            parquet.write(path, [1, 2, 3], {"user": [0, 1, 1], "movie": [2, 3, 2]},
                          parquet.fields_in_a_row({"user": "categorical", "movie": "categorical"}, [2, 3]))  # fmt: skip
            parquet.write_table(Path(block.path("features")), parquet.pq.read_table(path, columns=["label"]))
        return found

    def write(step, run):
        path = Path(step.path("run"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(run))

    return fake


def rows(markdown):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if "|" in line]


def test_table_2_shows_ours_beside_the_paper_s_and_marks_the_best_two(study):
    found = study()
    text, _ = tables.table2(found, summary(found))
    body = {row[0]: row[1:] for row in rows(text.split("## Runs", maxsplit=1)[0])}
    assert body["Search method"][:6] == ["MF: Params (M)", "paper", "MF: Time cost", "paper", "MF: MSE", "paper"]
    assert body["Search method"][6::6] == ["MLP: Params (M)", "NeuMF: Params (M)"]
    assert body["Grid Search"][:6] == ["12", "33", "2 h 00 min", "16 h 00 min", "0.7000", "0.6220"]
    assert body["DNIS (unpruned)"][4:6] == ["**0.5000**", "0.6096"]
    assert body["Random Search"][4] == "<u>0.6000</u>"
    assert body["DNIS (CR = 2.5)"][:6] == ["12", "17", "2 h 00 min", "1 h 00 min", "0.7250", "0.6167"]
    assert body["DNIS (CR = 2.5)"][12:] == ["12", "32", "2 h 00 min", "1 h 00 min", "0.7250", "0.6213"]
    assert text.count("**0.") == text.count("<u>0.") == 3
    assert "One seed" in text
    assert "Criteo" not in text


def test_table_3_has_two_qualities_and_knows_which_way_each_is_better(study):
    found = study()
    text, _ = tables.table3(found, summary(found))
    body = {row[0]: row[1:] for row in rows(text.split("## Runs", maxsplit=1)[0])}
    assert body["Search method"][:8:2] == ["FM: Params (M)", "FM: Time cost", "FM: AUC", "FM: Logloss"]
    assert body["DNIS (unpruned)"][4:8] == ["**0.9750**", "0.8004", "**0.5000**", "0.4510"]
    assert body["Random Search"][4:8] == ["<u>0.9700</u>", "0.7997", "<u>0.6000</u>", "0.4518"]
    assert [row for row in body if "CR" in row] == ["DNIS (CR = 20)", "DNIS (CR = 30)"]
    assert "MovieLens" not in text


def test_table_4_has_a_table_per_grid_and_way_of_ranking_with_the_paper_s_row_below(study):
    found = study()
    text, _ = tables.table4(found, summary(found))
    headings = [line.strip("# ") for line in text.splitlines() if line.startswith("##")]
    assert headings[:4] == [
        "MovieLens-1M, implicit feedback, K = 16",
        "Each test item among 99 sampled items (uniform)",
        "Each test item among all items",
        "MovieLens-1M, implicit feedback, K = 32",
    ]
    sampled = rows(text.split("###")[1])
    assert sampled[0] == [
        "Search method",
        "#Params",
        "R@1",
        "R@5",
        "R@10",
        "MRR@5",
        "MRR@10",
        "NDCG@5",
        "NDCG@10",
        "Time cost",
    ]
    assert sampled[2][:3] == ["NIS-SE, half", "100", "10.00"]
    assert sampled[3][:3] == ["*paper*", "390,000", "9.32"]
    assert sampled[10][:3] == ["DNIS (CR = 2)", "50", "<u>20.00</u>"]
    assert sampled[11] == ["*paper*", "390,000", "11.39", "35.79", "51.74", "19.82", "21.93", "23.77", "28.90", "-"]
    assert sampled[12][:3] == ["DNIS (CR = 4)", "25", "**40.00**"]
    full = rows(text.split("###")[2])
    assert [row[0] for row in full[2:]] == [row[0] for row in sampled[2::2]]  # the paper has no such figures


def test_what_is_printed_alike_is_marked_alike(study):
    found = study()
    results = summary(found)
    mse = (results["metric"] == "mse") & (results["model"] == "mf")
    results.loc[mse & (results["method"] == "dnis"), "value"] = [0.50001, 0.50004, 0.8]
    results.loc[mse & (results["method"] == "mde"), "value"] = 0.60004
    text, _ = tables.table2(found, results)
    body = {row[0]: row[1:] for row in rows(text.split("## Runs", maxsplit=1)[0])}
    assert body["DNIS (unpruned)"][4] == body["DNIS (CR = 2)"][4] == "**0.5000**"
    assert body["Random Search"][4] == body["MDE"][4] == "<u>0.6000</u>"


def test_several_seeds_give_mean_and_deviation(study):
    found = study("studies: {paper: {seeds: [1, 2, 3]}}")
    text, table = tables.table2(found, summary(found))
    body = {row[0]: row[1:] for row in rows(text)}
    assert body["DNIS (unpruned)"][4] == "**0.5100 ± 0.0100**"
    assert "over 3 seeds" in text
    assert set(table["seeds"]) == {3}


def test_table_1_counts_the_files_and_shows_the_paper_s_counts(study):
    found = study()
    text, _ = tables.table1(found, summary(found))
    assert rows(text)[2] == ["MovieLens-20M", "3", "20,000,263", "2", "2", "5", "165,771"]


def test_all_files_are_written_and_the_old_manifest_goes(study):
    found = study()
    stale = Path("results/paper/runs-000000000000.json")
    stale.parent.mkdir(parents=True)
    stale.touch()
    tables.run(found)
    assert {str(path) for path in Path("results/paper").iterdir()} == set(found.outputs())
    manifest = json.loads(Path(found.manifest).read_text())
    assert [run["id"] for run in manifest["prunings"]] == [cell.prune.id for cell in found.cells]
    results = pd.read_csv("results/paper/summary.csv")
    assert (
        results.query("metric == 'mse' and model == 'mf' and method == 'dnis' and cr == 2")["paper_value"].item()
        == 0.6126
    )
    metrics = json.loads(Path("results/paper/metrics.json").read_text())
    assert metrics["movielens_20m"]["mf"]["mde"] == {"cr1": {"mse": 0.65, "nonzeros": 100.0, "params_mib": 12.0}}


def test_a_missing_or_broken_run_is_named(study):
    step = study().cells[0].prune
    path = Path(step.path("run"))
    path.write_text("{")
    with pytest.raises(NisbenchError, match="not readable as JSON"):
        read_run(step)
    path.unlink()
    with pytest.raises(NisbenchError, match="prune movielens_20m mf-grid_search-seed1-cr1 was not run"):
        read_run(step)


def test_the_ids_that_dvc_depends_on_change_with_their_stage_only(config, tmp_path):
    (tmp_path / "over.yaml").write_text("methods: {dnis: {learning_rate: 0.5}}")
    listing.write(plan(ROOT, config), tmp_path / "a")
    listing.write(plan(ROOT, load(ROOT, [tmp_path / "over.yaml"])), tmp_path / "b")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.json"))
    differing = {str(f) for f in files if (tmp_path / "a" / f).read_text() != (tmp_path / "b" / f).read_text()}
    sets = [
        "planted_ratings",
        "planted_ctr",
        "planted_topk",
        "movielens_1m",
        "movielens_1m_topk",
        "movielens_20m",
        "criteo",
    ]
    assert differing == {f"{stage}/{name}.json" for stage in ("search", "prune") for name in sets} | {
        f"report/{name}.json" for name in ("demo", "movielens_1m", "controls", "criteo", "paper", "recovery")
    }
