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

from nisbench import records
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
MACHINE = {
    "device": "CPU",
    "threads": 2,
    "python": "3",
    "system": "Linux",
    "packages": {"torch": "2", "nisbench": "0"},
    "time": "2026-01-02T03:04:05Z",
}
SMALL = """
studies:
  small:
    title: Small
    grids:
      rating:
        datasets: [movielens_20m]
        models: [mf]
        methods: {grid_search: [1], random_search: [1], mde: [1], dnis: [1, 2], network_pruning: [2]}
    seeds: [1, 2, 3]
    tables: [table2]
    figures: [figure3a, figure3b, figure3c, pareto]
"""
THREE_SEEDS = "studies: {paper: {seeds: [1, 2, 3]}}"


def noise(cell):
    """The same for all methods at a seed, and a little of each method's own."""
    own = {"mde": 0.001, "dnis": -0.001, "nis_me": 0.001, "network_pruning": 0.0005}.get(cell.method, 0.0)
    return 0.01 * (cell.seed - 1) + own * (cell.seed % 2) * cell.compression_rate


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
            for part in block.needs["split"].files:
                count = {"train": 2, "validation": 1, "test": 0}[part]
                parquet.write_table(Path(block.needs["split"].path(part)), pa.table({"label": [1.0] * count}))
            features = {"frequency": pa.array([100, 10, 5, 1, 0]), "block": pa.array([0, 0, 1, 1, 1])}
            parquet.write_table(Path(block.path("features")), pa.table(features))
        for cell in found.cells:
            search = cell.search
            hours = (1 if cell.method == "dnis" else 2) + noise(cell)
            trial = {"name": "only", "validation_loss": 0.4, "best_epoch": 2, "losses": [0.5, 0.4], "at_once": 1,
                     "seconds": 3600.0 * hours, "peak_memory_mib": 500.0, "weights": 100, "failed": None}  # fmt: skip
            Path(search.folder).mkdir(parents=True, exist_ok=True)
            save_file({"embedding.selection": torch.tensor([[1.0, 1.0, 0.8], [0.5, 0.0, 0.1], [0.4, 0.0, 0.0]])},
                      search.path("weights"))  # fmt: skip
            write(search, {"trials": [trial], "best_trial": 0, "weights": 100, "failed": None,
                           "seconds": 3600.0 * hours, "peak_memory_mib": 500.0, "machine": MACHINE})  # fmt: skip
            k = cell.settings.training.base_dimension
            mse = MSE.get(cell.method, 0.6) + 0.15 * (cell.compression_rate - 1) + 0.1 * (64 - k) / 64 + noise(cell)
            metrics = {
                "rating": {"mse": mse},
                "ctr": {"auc": 1 - mse / 20, "logloss": mse},
                "topk": {
                    prefix + name: 0.1 * cell.compression_rate + noise(cell)
                    for prefix in ("", "full_")
                    for name in topk.NAMES
                },
            }[cell.settings.task.kind]
            sizes = [3, 2, 1, 1, 3]
            dense = np.array([[1.0] * size + [0.0] * (3 - size) for size in sizes], dtype=np.float32)
            DimensionScheme.from_dense(dense).save(Path(cell.prune.path("scheme")))
            write(cell.prune, {"metrics": metrics, "weights": 100, "nonzeros": int(100 / cell.compression_rate),
                               "size_mib": 12.0, "projection_weights": 0, "rounds": [], "threshold": 0.1,
                               "coo_bytes": 1, "csr_bytes": 1, "features": {"count": 5}, "test_instances": 9,
                               "seconds": 1.0, "machine": MACHINE, "failed": None})  # fmt: skip
        return found

    return fake


def write(step, run):
    """A step's result and its record, as if it had been run just now."""
    Path(step.path("run")).write_text(json.dumps(run))
    records.write(step)


def rows(markdown):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if "|" in line]


# --- tables ---------------------------------------------------------------------------------------------------


def part_of(sheet, heading):
    """The rows of the part with this heading, by name; a row of the paper is that of the row above it."""
    found, last = {}, ""
    for name, *row in next(part.rows for part in sheet.parts if part.heading == heading):
        last, key = (last, (last, "paper")) if name == "*paper*" else (name, name)
        found[key] = row
    return found


def test_table_2_shows_ours_and_the_paper_s_below(study):
    found = study()
    sheet = tables.table2(found, summary(found))
    assert [part.heading for part in sheet.parts] == [f"{m}, MovieLens-20M" for m in ("MF", "MLP", "NeuMF")]
    assert sheet.parts[0].heads == ["Search method", "#Params", "Params (M)", "Time cost", "Memory", "MSE"]
    body = part_of(sheet, "MF, MovieLens-20M")
    assert body["Grid Search"] == ["100", "12", "2 h 00 min", "500 MiB", "0.7000"]
    assert body["Grid Search", "paper"] == ["-", "33", "16 h 00 min", "-", "0.6220"]
    assert body["DNIS (CR = 2.5)"] == ["40", "12", "59 min 56 s", "500 MiB", "0.7225"]
    assert part_of(sheet, "NeuMF, MovieLens-20M")["DNIS (CR = 2.5)", "paper"] == [
        "-",
        "32",
        "1 h 00 min",
        "-",
        "0.6213",
    ]
    assert "**" not in sheet.markdown()
    assert "K = 128" not in sheet.markdown()  # what is varied is for figures


def test_several_seeds_give_mean_and_deviation_and_marks_where_the_best_is_told_apart(study):
    found = study(THREE_SEEDS)
    sheet = tables.table2(found, summary(found))
    body = part_of(sheet, "MF, MovieLens-20M")
    assert body["DNIS (unpruned)"][-1] == "**0.5093 ± 0.0100**"
    assert [name for name, row in body.items() if "**" in row[-1]] == ["DNIS (unpruned)"]
    data = sheet.data[(sheet.data["model"] == "mf") & (sheet.data["metric"] == "mse")].set_index(["method", "cr"])
    assert set(data["seeds"]) == {3}
    assert data.loc[("dnis", 1), "p"] == 1
    assert (data.drop(("dnis", 1))["p"] < 0.05).all()


def test_table_3_knows_which_way_each_quality_is_better(study):
    found = study(THREE_SEEDS)
    sheet = tables.table3(found, summary(found))
    assert sheet.parts[0].heads[-2:] == ["AUC", "Logloss"]
    body = part_of(sheet, "FM, Criteo")
    assert body["DNIS (unpruned)"][-2:] == ["**0.9745 ± 0.0005**", "**0.5093 ± 0.0100**"]
    assert body["DNIS (unpruned)", "paper"][-2:] == ["0.8004", "0.4510"]
    assert [row for row in body if "CR" in row] == ["DNIS (CR = 20)", "DNIS (CR = 30)"]
    assert "MovieLens" not in sheet.markdown()


def test_table_4_has_a_part_per_grid_and_way_of_ranking(study):
    found = study()
    sheet = tables.table4(found, summary(found))
    assert [part.heading for part in sheet.parts] == [
        f"NeuMF, MovieLens-1M, implicit feedback, K = {k}: each test item among {what}"
        for k in (16, 32)
        for what in ("99 sampled items (uniform)", "all items")
    ]
    sampled, full = (part_of(sheet, part.heading) for part in sheet.parts[:2])
    assert sheet.parts[0].heads == [
        "Search method", "#Params", "Time cost", "Memory", "R@1", "R@5", "R@10", "MRR@5", "MRR@10", "NDCG@5", "NDCG@10",
    ]  # fmt: skip
    assert sampled["NIS-SE, half"][::3] == ["100", "10.00", "10.00", "10.00"]
    assert sampled["NIS-SE, half", "paper"][::3] == ["390,000", "9.32", "18.22", "28.63"]
    assert sampled["DNIS (CR = 4)", "paper"][3] == "11.15"
    assert [row for row in full if "paper" in row] == []  # the paper has no such figures
    assert list(full) == [row for row in sampled if "paper" not in row]


def test_models_may_be_pruned_at_different_rates(study):
    grids = "{a: {datasets: [movielens_20m], models: [mf], methods: {dnis: [1, 2]}}, b: {datasets: [movielens_20m], models: [mlp], methods: {dnis: [1, 4]}}}"
    found = study(f"studies: {{x: {{title: X, grids: {grids}, seeds: [1], tables: [table2]}}}}", name="x")
    sheet = tables.table2(found, summary(found))
    assert [[row[0] for row in part.rows if row[0] != "*paper*"] for part in sheet.parts] == [
        ["DNIS (unpruned)", f"DNIS (CR = {rate})"] for rate in (2, 4)
    ]


def test_table_1_counts_the_files_and_shows_the_paper_s_counts(study):
    found = study()
    first, second = tables.table1(found, summary(found)).parts[0].rows[:2]
    assert first == ["MovieLens-20M", "3", "2", "5", "2", "1", "0"]
    assert second == ["*paper*", "20,000,263", "2", "165,771", "-", "-", "-"]


def test_latex_escapes_what_means_something_and_says_how_to_read_it(study):
    found = study(THREE_SEEDS)
    text = tables.table2(found, summary(found)).latex("paper-table2", "At 5 % **and** *more*.")
    assert text.count("\\begin{table}") == text.count("\\end{table}") == 3
    assert "\\caption{rating prediction. MF, MovieLens-20M}" in text
    assert "\\textbf{0.5093 $\\pm$ 0.0100}" in text
    assert "\\emph{paper} & - & 33 &" in text
    assert "\\label{tab:paper-table2-1}" in text
    assert "\\#Params" in text
    assert text.count("At 5 \\% \\textbf{and} \\emph{more}.") == 1
    assert "±" not in text
    assert "*" not in text


# --- significance ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows_of_seeds", "expected"),
    [
        ([[1.0, 1.3, 1.1], [1.1, 1.2, 1.3], [5.0, 5.1, 5.21]], [True, True, False]),  # the second differs by chance
        ([[1.0, 1.1, 1.3], [1.1, 0.9, 1.5], [0.9, 1.6, 1.2]], [False, False, False]),  # nothing is told apart
        ([[1.0, 1.31, 1.1], [5.0, 5.2, 5.1], [5.0, 5.2, 5.1]], [True, False, False]),
        ([[1.0, 1.1, 1.3], [1.0, 1.1, 1.3], [5.0, 5.1, 5.31]], [True, True, False]),  # equal to the best
        ([[1.0, 1.1, 1.3], [2.0, 2.1, 2.31], [9.0, 1.2, 20.0]], [True, False, False]),  # far worse, and not surely so
    ],
)
def test_what_is_marked_is_better_than_all_that_is_told_apart_from_the_best(rows_of_seeds, expected):
    values = pd.DataFrame(rows_of_seeds)
    for sign, better in ((1, "lower"), (-1, "higher")):
        p = significance.against_best(sign * values, better)
        assert list(significance.marked(sign * values.mean(axis=1), p, better)) == expected


def test_one_seed_tells_nothing():
    values = pd.DataFrame([[1.0], [2.0]])
    p = significance.against_best(values, "lower")
    assert p.isna().all()
    assert not significance.marked(values.mean(axis=1), p, "lower").any()


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


def test_two_grids_that_vary_the_same_are_two_panels(study):
    grid = "{datasets: [movielens_20m], models: [mf], methods: {dnis: [1]}, vary: {training.base_dimension: [64, 8]}"
    grids = f"{{plain: {grid}}}, l2: {grid}, title: with L2, overrides: {{training: {{l2: 0.1}}}}}}}}"
    found = study(
        f"studies: {{x: {{title: X, grids: {grids}, seeds: [1, 2, 3], tables: [], figures: [figure2a]}}}}", name="x"
    )
    data, _, _ = figures.figure2a(found, summary(found))
    assert list(zip(data["grid"], data["K"], strict=True)) == [("plain", 8), ("l2", 8), ("plain", 64), ("l2", 64)]
    assert set(data["count"]) == {3}
    places = {each.where for each in claims.findings(found, summary(found)) if "base dimension" in each.claim}
    assert places == {"MF, MovieLens-20M, K = 64", "MF, MovieLens-20M, with L2, K = 64"}


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
    fm = data[(data["model"] == "fm") & (data["grid"] == "")]
    assert set(fm["cr"]) == {20.0}


def test_figure_3c_is_over_the_share_of_weights_that_is_0(study):
    found = study()
    data, _, _ = figures.figure3c(found, summary(found))
    assert set(data["model"]) == {"fm"}
    assert set(data["metric"]) == {"auc", "logloss"}
    dnis = data[(data["series"] == "DNIS") & (data["metric"] == "auc")]
    assert list(dnis["pruned"]) == pytest.approx([0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99], abs=0.01)


def test_the_pareto_front_is_what_nothing_beats_in_both(study):
    found = study()
    data, _, _ = figures.pareto(found, summary(found))
    mf = data[data["model"] == "mf"]
    front = mf[mf["front"] & (mf["k"] == 64)]
    assert list(zip(front["series"], front["cr"], strict=True)) == [("DNIS", 2.0), ("DNIS", 2.5)]
    assert list(mf[mf["front"] & (mf["cr"] == 1)]["k"]) == [1024]  # in these made-up runs as small as the others
    topk = data[(data["model"] == "neumf_topk") & data["front"]]
    assert set(topk["cr"]) == {4.0}  # in these made-up runs the smallest is the best
    assert not data.duplicated(["dataset", "model", "series", "k", "cr"]).any()


# --- claims ---------------------------------------------------------------------------------------------------


def verdicts(found):
    return {(each.claim, each.where, each.of): each for each in claims.findings(found, summary(found))}


def test_claims_are_judged_by_the_study_s_own_figures(study):
    told = verdicts(study(THREE_SEEDS))
    mf = "MF, MovieLens-20M"
    first = told["Unpruned, DNIS beats the best of Grid Search, Random Search and MDE", mf, "DNIS"]
    assert first.verdict == "holds"
    assert (first.measured, first.against) == ("MSE 0.5093", "0.6100: Random Search")
    assert 0 < first.p < 0.05
    assert told["Pruned at CR = 2, DNIS still beats the best of them", mf, "DNIS (CR = 2)"].verdict == "contradicted"
    assert told["DNIS's whole search takes less time than the fastest of theirs", mf, "DNIS"].verdict == "holds"
    assert told["The larger the base dimension K, the better DNIS predicts", f"{mf}, K = 1024", "K = 1024"].p == 0.25
    same = told["The more feature blocks L, the better DNIS predicts", f"{mf}, L = 40", "L = 40"]
    assert (same.p, same.verdict) == (1, "inconclusive")
    topk_place = "NeuMF, MovieLens-1M, implicit feedback, K = 16"
    nis = told["Within the same budget of weights, NIS-ME beats NIS-SE", topk_place, "NIS-ME, a quarter"]
    assert nis.verdict == "inconclusive"
    smaller = told["Within the same budget of weights, DNIS beats NIS-ME", topk_place, "DNIS (CR = 4)"]
    assert smaller.measured.endswith("25 weights")
    rarer = next(each for key, each in told.items() if key[:2] == ("Blocks of rarer features end with a smaller α", mf))
    assert rarer.verdict == "holds"
    assert rarer.of == "rank correlation with frequency 1.00, 1.00, 1.00"


def test_auc_is_better_when_it_is_higher(study):
    found = study("studies: {criteo: {seeds: [1, 2, 3]}}", name="criteo")
    told = [each for each in claims.findings(found, summary(found)) if "Unpruned, DNIS beats" in each.claim]
    assert {each.measured.split()[0]: each.verdict for each in told} == {"AUC": "holds", "Logloss": "holds"}


def test_one_seed_only_points_somewhere(study):
    told = verdicts(study())
    place = "MF, MovieLens-20M"
    assert (
        told["Pruned at CR = 2, DNIS still beats the best of them", place, "DNIS (CR = 2)"].verdict
        == "against it (one seed)"
    )
    assert {each.verdict for each in told.values()} <= {"for it (one seed)", "against it (one seed)", "inconclusive"}


def test_controls_and_variants_are_not_taken_for_the_paper_s_methods(study):
    grid = "{datasets: [movielens_20m], models: [mf], methods: {shuffled_blocks: [1, 2], random_mask: [2], dnis: [1, 2], network_pruning: [2], bias_only: [1]}}"
    figures_wanted = "[figure3a, figure3b, figure3c, pareto]"
    found = study(
        f"studies: {{x: {{title: X, grids: {{g: {grid}}}, seeds: [1], tables: [], figures: {figures_wanted}}}}}",
        name="x",
    )
    told = claims.findings(found, summary(found))
    assert {each.of.split(" (")[0] for each in told if not each.of.startswith("rank")} == {"DNIS"}
    assert {each.against.split(": ")[1] for each in told if "At every pruning rate" in each.claim} == {
        "Network pruning, one shot (CR = 2)"
    }
    data, _, _ = figures.figure3c(found, summary(found))
    assert set(data["series"]) == {"DNIS", "Network pruning, one shot"}


def test_the_paper_s_own_figures_bear_out_its_claims(study):
    """Each claim, where the paper prints what it is about, holds of what it prints."""
    found = study()
    results = summary(found)
    printed = results[results["paper_value"].notna()].assign(value=lambda table: table["paper_value"])
    told = claims.findings(found, pd.concat([printed, results[results["paper_value"].isna()]]))
    about = [each for each in told if "beats the best of" in each.claim and "Not in the paper" not in each.claim]
    assert len(about) == (3 + 2 * 3) + (3 + 2 * 2 * 3)
    assert {each.verdict for each in about} == {"for it (one seed)"}


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
    assert page.trials_of({"trials": [{"at_once": 2, "failed": None}, {"at_once": 1, "failed": "nan"}]}) == (
        "2, up to 2 at once, 1 failed"
    )


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


def test_runs_that_failed_are_marked_and_the_rest_is_compared(study):
    """One seed of MDE failed, DNIS at every seed, and one trial of a Grid Search that stands."""
    found = study(SMALL, "small")
    nothing = {"metrics": {}, "weights": 0, "nonzeros": 0, "size_mib": 0.0, "failed": "the loss is nan at step 3"}
    for cell in found.cells:
        search = json.loads(Path(cell.search.path("run")).read_text())
        if cell.method == "dnis" or (cell.method, cell.seed) == ("mde", 2):
            search |= {"best_trial": None, "failed": nothing["failed"]}
            search["trials"][0] |= {"validation_loss": None, "failed": nothing["failed"], "losses": []}
            write(cell.search, search)
            write(cell.prune, json.loads(Path(cell.prune.path("run")).read_text()) | nothing)
        elif cell.method == "grid_search" and not search["trials"][1:]:
            search["trials"].append(search["trials"][0] | {"name": "wide", "validation_loss": None, "failed": "inf"})
            write(cell.search, search)
    assembly.run(found)
    body = part_of(tables.table2(found, summary(found)), "MF, MovieLens-20M")
    assert body["DNIS (unpruned)"][-1] == "failed"
    assert body["DNIS (unpruned)"][0] == "failed"
    assert body["MDE"][-1].endswith(" (1 of 3 failed)")
    assert "failed" not in body["Random Search"][-1]
    assert [name for name, row in body.items() if "**" in row[-1]] == ["Grid Search", "Random Search"]
    text = Path("results/small/README.md").read_text()
    assert "* MovieLens-20M, MF, MDE, seed 2: the loss is nan at step 3" in text
    assert "mf-grid_search-seed1: 1 of 2 trials, the others stand: wide: inf" in text
    told = pd.read_csv("results/small/claims.csv")
    assert not told["of"].str.startswith("DNIS").any()
    assert "dnis" not in json.loads(Path("results/small/metrics.json").read_text())["movielens_20m"]["mf"]


def test_a_missing_or_broken_run_is_named(study):
    step = study().cells[0].prune
    path = Path(step.path("run"))
    path.write_text("{")
    with pytest.raises(NisbenchError, match=rf"run.json is damaged .* nisbench verify --remove {step.id}"):
        read_run(step)
    records.write(step)
    with pytest.raises(NisbenchError, match="not readable as JSON"):
        read_run(step)
    path.unlink()
    with pytest.raises(NisbenchError, match=r"run.json is missing, but it was written"):
        read_run(step)
    Path(step.record).unlink()
    with pytest.raises(NisbenchError, match=f"step.json is missing. Make it with: nisbench prune {step.id}"):
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
