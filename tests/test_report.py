"""Reports from made-up runs, so that what they must say is known."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats

from nisbench.data import parquet
from nisbench.embedding import DimensionScheme
from nisbench.errors import NisbenchError
from nisbench.evaluation import topk
from nisbench.params.loading import load
from nisbench.report import assembly, claims, figures, learned, listing, page, significance, tables
from nisbench.report.results import metrics, read_run, summary
from nisbench.studies import plan
from tests.conftest import ROOT

MSE = {"grid_search": 0.7, "random_search": 0.6, "mde": 0.65, "dnis": 0.5, "network_pruning": 0.55}
MACHINE = {"device": "CPU", "threads": 2, "packages": {"torch": "2"}, "time": "2026-01-02T03:04:05Z"}
THREE_SEEDS = "studies: {paper: {seeds: [1, 2, 3]}}"


def noise(cell):
    """The same for all methods at a seed, and a little of each method's own."""
    own = {"mde": 0.001, "dnis": -0.001}.get(cell.method, 0.0)
    return 0.01 * (cell.seed - 1) + own * (cell.seed % 2)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The plan of a study, its every run faked in the working directory; MSE rises by 0.15 per CR."""

    def fake(overlay="{}", name="paper"):
        (tmp_path / "over.yaml").write_text(overlay)
        found = plan(ROOT, load(ROOT, [tmp_path / "over.yaml"])).study(name)
        monkeypatch.chdir(tmp_path)
        for block in found.blocks:
            path = Path(block.needs["prepare"].path("instances"))
            parquet.write(path, [1, 2, 3], {"user": [0, 1, 1], "movie": [2, 3, 2]},
                          parquet.fields_in_a_row({"user": "categorical", "movie": "categorical"}, [2, 3]))  # fmt: skip
            features = {"frequency": pa.array([100, 10, 5, 1, 0]), "block": pa.array([0, 0, 1, 1, 1])}
            parquet.write_table(Path(block.path("features")), pa.table(features))
        for cell in found.cells:
            search = cell.search
            trial = {"name": "only", "validation_loss": 0.4, "best_epoch": 2, "losses": [0.5, 0.4], "at_once": 1}
            hours = 1 if cell.method == "dnis" else 2
            write(search, {"id": search.id, "trials": [trial], "best_trial": 0, "seconds": 3600.0 * hours,
                           "peak_memory_mib": 500.0, "machine": MACHINE})  # fmt: skip
            save_file({"embedding.selection": torch.tensor([[1.0, 1.0, 0.8], [0.5, 0.0, 0.1], [0.4, 0.0, 0.0]])},
                      search.path("weights"))  # fmt: skip
            k = cell.settings.training.base_dimension
            mse = MSE.get(cell.method, 0.6) + 0.15 * (cell.compression_rate - 1) + 0.1 * (64 - k) / 64 + noise(cell)
            metrics = {
                "rating": {"mse": mse},
                "ctr": {"auc": 1 - mse / 20, "logloss": mse},
                "topk": {prefix + name: 0.1 * cell.compression_rate for prefix in ("", "full_") for name in topk.NAMES},
            }[cell.settings.task.kind]
            write(cell.prune, {"id": cell.prune.id, "metrics": metrics, "weights": 100,
                               "nonzeros": int(100 / cell.compression_rate), "size_mib": 12.0,
                               "projection_weights": 0, "rounds": []})  # fmt: skip
            sizes = [3, 2, 1, 1, 3]
            dense = np.array([[1.0] * size + [0.0] * (3 - size) for size in sizes], dtype=np.float32)
            DimensionScheme.from_dense(dense).save(Path(cell.prune.path("scheme")))
        return found

    def write(step, run):
        path = Path(step.path("run"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(run))

    return fake


def rows(markdown):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if "|" in line]


# --- tables ---------------------------------------------------------------------------------------------------


def test_table_2_shows_ours_with_the_paper_s_in_brackets(study):
    found = study()
    text = tables.table2(found, summary(found)).markdown()
    body = {row[0]: row[1:] for row in rows(text)}
    assert body["Search method"][:4] == ["MF: Params (M)", "MF: Time cost", "MF: Memory", "MF: MSE"]
    assert body["Search method"][4::4] == ["MLP: Params (M)", "NeuMF: Params (M)"]
    assert body["Grid Search"][:4] == ["12 [33]", "2 h 00 min [16 h 00 min]", "500 MiB", "0.7000 [0.6220]"]
    assert body["DNIS (CR = 2.5)"][:4] == ["12 [17]", "1 h 00 min [1 h 00 min]", "500 MiB", "0.7240 [0.6167]"]
    assert body["DNIS (CR = 2.5)"][8:] == ["12 [32]", "1 h 00 min [1 h 00 min]", "500 MiB", "0.7240 [0.6213]"]
    assert "**" not in text.split("MSE on the test")[0]
    assert "One seed" in text
    assert "Criteo" not in text
    assert "K = 128" not in text  # what is varied is for figures


def test_several_seeds_give_mean_and_deviation_and_marks_where_the_best_is_told_apart(study):
    found = study(THREE_SEEDS)
    sheet = tables.table2(found, summary(found))
    body = {row[0]: row[1:] for row in rows(sheet.markdown())}
    assert body["DNIS (unpruned)"][3] == "**0.5093 ± 0.0100** [0.6096]"
    assert [name for name, row in body.items() if "**" in row[3]] == ["DNIS (unpruned)"]
    assert "over 3 seeds" in sheet.notes[0]
    data = sheet.data[(sheet.data["model"] == "mf") & (sheet.data["metric"] == "mse")].set_index(["method", "cr"])
    assert set(data["seeds"]) == {3}
    assert data.loc[("dnis", 1), "p"] == 1
    assert (data.drop(("dnis", 1))["p"] < 0.05).all()
    assert not data.drop(("dnis", 1))["best"].any()


def test_table_3_knows_which_way_each_quality_is_better(study):
    found = study(THREE_SEEDS)
    text = tables.table3(found, summary(found)).markdown()
    body = {row[0]: row[1:] for row in rows(text.split("## ")[1])}
    assert body["Search method"][:5] == ["FM: Params (M)", "FM: Time cost", "FM: Memory", "FM: AUC", "FM: Logloss"]
    assert body["DNIS (unpruned)"][3:5] == ["**0.9745 ± 0.0005** [0.8004]", "**0.5093 ± 0.0100** [0.4510]"]
    assert [row for row in body if "CR" in row] == ["DNIS (CR = 20)", "DNIS (CR = 30)"]
    assert "MovieLens" not in text


def test_table_4_has_a_part_per_grid_and_way_of_ranking(study):
    found = study()
    sheet = tables.table4(found, summary(found))
    assert [part.heading for part in sheet.parts] == [
        f"MovieLens-1M, implicit feedback, K = {k}: each test item among {what}"
        for k in (16, 32)
        for what in ("99 sampled items (uniform)", "all items")
    ]
    sampled = {row[0]: row[1:] for row in sheet.parts[0].rows}
    assert [name for _, name in sheet.parts[0].heads] == [
        "Search method", "#Params", "R@1", "R@5", "R@10", "MRR@5", "MRR@10", "NDCG@5", "NDCG@10", "Time cost", "Memory",
    ]  # fmt: skip
    assert sampled["NIS-SE, half"][:2] == ["100 [390,000]", "10.00 [9.32]"]
    assert sampled["DNIS (CR = 4)"][:2] == ["25 [195,000]", "40.00 [11.15]"]
    full = {row[0]: row[1:] for row in sheet.parts[1].rows}
    assert list(full) == list(sampled)
    assert full["DNIS (CR = 4)"][1] == "40.00"  # the paper has no such figures


def test_table_1_counts_the_files_and_shows_the_paper_s_counts(study):
    found = study()
    text = tables.table1(found, summary(found)).markdown()
    assert rows(text)[2] == ["MovieLens-20M", "3", "20,000,263", "2", "2", "5", "165,771"]


def test_latex_groups_columns_by_model_and_escapes_what_means_something(study):
    found = study(THREE_SEEDS)
    text = tables.table2(found, summary(found)).latex("paper-table2")
    assert text.count("\\begin{table}") == text.count("\\end{table}") == 1
    assert "\\multicolumn{4}{c}{NeuMF}" in text
    assert "\\textbf{0.5093 $\\pm$ 0.0100} [0.6096]" in text
    assert "\\label{tab:paper-table2}" in text
    topk_text = tables.table4(found, summary(found)).latex("t")
    assert "\\#Params" in topk_text
    assert "±" not in text + topk_text
    assert "**" not in text + topk_text
    assert re.search(r"(?<!\\)[%&#]", re.sub(r"^%.*$| & |{%$", "", text, flags=re.MULTILINE)) is None


# --- significance ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([[1.1, 1.2, 1.3], [5.0, 5.1, 5.21]], [True, True, False]),  # the second differs by chance, the third does not
        ([[1.1, 0.9, 1.5], [0.9, 1.6, 1.2]], [False, False, False]),  # nothing is told apart: nothing is marked
        ([[5.0, 5.2, 5.1], [5.0, 5.2, 5.1]], [True, False, False]),
        ([[1.0, 1.1, 1.3], [5.0, 5.1, 5.3]], [True, True, False]),  # equal, and different by the same at all seeds
    ],
)
def test_what_is_not_told_apart_from_the_best_is_marked_alike(others, expected):
    first = [1.0, 1.3, 1.1] if others[0][0] == 1.1 else [1.0, 1.1, 1.3]
    if others[0] == [5.0, 5.2, 5.1]:
        first = [1.0, 1.31, 1.1]
    values = pd.DataFrame([first, *others])
    assert list(significance.marked(significance.against_best(values, "lower"))) == expected
    assert list(significance.marked(significance.against_best(-values, "higher"))) == expected


def test_one_seed_tells_nothing():
    values = pd.DataFrame([[1.0], [2.0]])
    p = significance.against_best(values, "lower")
    assert p.isna().all()
    assert not significance.marked(p).any()


def test_p_values_are_scipy_s_adjusted_for_their_number():
    generator = np.random.default_rng(0)
    values = pd.DataFrame(generator.normal(size=(4, 5)) + np.arange(4)[:, None])
    p = significance.against_best(values, "lower")
    raw = [stats.ttest_rel(values.loc[0], values.loc[i]).pvalue for i in (1, 2, 3)]
    assert np.allclose(p[1:], stats.false_discovery_control(raw))
    assert p[0] == 1


# --- figures --------------------------------------------------------------------------------------------------


def test_figure_2_shows_the_values_that_a_grid_varies(study):
    found = study(THREE_SEEDS)
    data, _, caption = figures.figure2a(found, summary(found))
    assert list(data["K"]) == [8, 16, 32, 64, 128, 256, 512, 1024]
    assert data["mean"].is_monotonic_decreasing
    assert set(data["count"]) == {3}
    assert "3 seeds" in caption
    data, _, _ = figures.figure2b(found, summary(found))
    assert list(data["L"]) == [1, 2, 3, 5, 10, 20, 40]


def test_figure_3a_is_of_the_selection_by_block_and_3b_of_sizes_by_frequency(study):
    found = study()
    data, _, _ = learned.figure3a(found, summary(found))
    mf = data[(data["model"] == "mf") & (data["grid"] == "")]
    assert list(mf["block"]) == [1, 2, 3]
    assert list(mf["median"]) == pytest.approx([1.0, 0.1, 0.0])
    assert list(mf["zeros"]) == pytest.approx([0, 1 / 3, 2 / 3])
    data, _, _ = learned.figure3b(found, summary(found))
    mf = data[(data["model"] == "mf") & (data["grid"] == "")]
    assert set(mf["cr"]) == {2.0}
    assert mf["features"].sum() == 4  # the fifth does not occur in train
    assert not (mf["frequency_from"] < 1).any()
    fm = data[(data["model"] == "fm") & (data["grid"] == "")]
    assert set(fm["cr"]) == {20.0}


def test_figure_3c_is_over_the_pruned_share(study):
    found = study()
    data, _, _ = figures.figure3c(found, summary(found))
    assert set(data["model"]) == {"fm"}
    assert set(data["metric"]) == {"auc", "logloss"}
    dnis = data[(data["method"] == "dnis") & (data["metric"] == "auc")]
    assert list(dnis["pruned"]) == pytest.approx([0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99], abs=1e-4)


def test_the_pareto_front_is_what_nothing_beats_in_both(study):
    found = study()
    data, _, _ = figures.pareto(found, summary(found))
    mf = data[data["model"] == "mf"]
    front = mf[mf["front"]]
    assert list(zip(front["series"], front["cr"], strict=True)) == [("DNIS", 1.0), ("DNIS", 2.0), ("DNIS", 2.5)]
    topk = data[(data["model"] == "neumf_topk") & data["front"]]
    assert set(topk["cr"]) == {4.0}  # in these made-up runs the smallest is the best
    assert not data.duplicated(["dataset", "model", "series", "cr"]).any()


# --- claims ---------------------------------------------------------------------------------------------------


def verdicts(found):
    return {(each.claim, each.place): each for each in claims.findings(found, summary(found))}


def test_claims_are_judged_by_the_study_s_own_figures(study):
    told = verdicts(study(THREE_SEEDS))
    mf = "MF, MovieLens-20M"
    first = told["DNIS, unpruned, predicts better than Grid Search, Random Search and MDE", mf]
    assert first.verdict == "holds"
    assert first.measured.startswith("MSE 0.5093 (p = ")
    assert first.measured.endswith("against 0.6100 of Random Search, the best of them")
    assert told["Pruned, DNIS still does", mf].verdict == "does not hold"
    assert told["DNIS's whole search takes less time than any of theirs", mf].verdict == "holds"
    assert told["A larger base dimension K predicts better", mf].verdict == "holds"
    assert told["More feature blocks L predict better", mf].verdict == "not told apart from noise"
    same = told["NIS-ME does better than NIS-SE", "NeuMF, MovieLens-1M, implicit feedback, K = 16"]
    assert same.verdict == "not told apart from noise"
    smaller = told["DNIS does better than NIS-ME at the same size", "NeuMF, MovieLens-1M, implicit feedback, K = 16"]
    assert smaller.verdict == "holds"
    assert told["Frequent features keep more dimensions", mf].measured.startswith("3.0 dimensions for the most")


def test_one_seed_only_points_somewhere(study):
    told = verdicts(study())
    assert told["Pruned, DNIS still does", "MF, MovieLens-20M"].verdict == "points the other way (one seed)"


def test_verdicts_that_differ_by_compression_rate_say_where():
    assert (
        claims.joint({2: "holds", 5: "does not hold", 10: "does not hold"})
        == "holds at CR = 2; does not hold at CR = 5, 10"
    )
    assert claims.joint({2: "holds", 5: "holds"}) == "holds"


# --- all together ---------------------------------------------------------------------------------------------


def test_all_files_are_written_and_old_ones_go(study):
    found = study(name="movielens_1m")
    folder = Path("results/movielens_1m")
    for old in ("runs-000000000000.json", "table3.tex", "recovery.svg", "curves/other.svg"):
        (folder / old).parent.mkdir(parents=True, exist_ok=True)
        (folder / old).touch()
    assembly.run(found)
    assert {str(path) for path in folder.rglob("*") if path.is_file()} == set(found.outputs())
    manifest = json.loads(Path(found.manifest).read_text())
    assert [run["id"] for run in manifest["prunings"]] == [cell.prune.id for cell in found.cells]
    text = (folder / "README.md").read_text()
    for part in (*found.study.tables, *found.study.figures):
        assert (f"({part}.png)" in text) == (part in found.study.figures)
    assert "2026-01-02" in text
    assert text.count("\n## Table") == len(found.study.tables)
    linked = re.findall(r"\]\(([\w./]+)\)", text)
    assert {name for name in linked if not name.startswith("..")} <= {path.name for path in folder.iterdir()}
    html = (folder / "page.html").read_text()
    assert html.count('src="data:image/svg+xml;base64,') == len(found.study.figures)
    assert 'src="figure' not in html
    assert page.trials_of({"trials": [{"at_once": 2}, {"at_once": 1}]}) == "2, up to 2 at once"


def test_the_same_runs_give_the_same_bytes(study):
    found = study(name="movielens_1m")
    folder = Path("results/movielens_1m")
    assembly.run(found)
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assembly.run(found)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first


def test_summary_has_the_paper_s_figures_and_metrics_no_times(study):
    found = study()
    results = summary(found)
    chosen = "grid == '' and metric == 'mse' and model == 'mf' and method == 'dnis' and cr == 2"
    assert results.query(chosen)["paper_value"].item() == 0.6126
    nested = metrics(results)
    assert nested["movielens_20m"]["mf"]["mde"] == {"cr1": {"mse": 0.651, "nonzeros": 100.0, "params_mib": 12.0}}


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
