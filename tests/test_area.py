"""One number per method, and the claims that compare at equal size: against sums made by hand."""

from pathlib import Path

import numpy as np
import pytest

from nisbench.errors import NisbenchError
from nisbench.params.loading import load
from nisbench.report import area, claims, comparisons, later_claims, storage, takeaways
from nisbench.report.results import summary
from nisbench.studies import plan_study
from tests.helpers.fake_runs import pretend

ROOT = Path(__file__).parents[1]
STUDY = """
studies:
  sizes:
    title: Sizes
    grids:
      rating:
        datasets: [planted_ratings]
        models: [mf]
        methods: {global_mean: [1], full_table: [1], uniform: [2, 4], dnis: [2, 4], hashing: [2], random_search: [2, 4], mde: [4]}
    overrides: {training: {base_dimension: 6}, methods: {random_search: {min_dimension: 1}, mde: {settings: [{base_dimension: 4, temperature: 0.1}]}}}
    seeds: [1, 2]
    tables: [area]
"""
# 100 features of 6 weights: the full table has 2,400 bytes, and results have 1,200 at CR 2 and 600 at CR 4.
MSE = {
    ("global_mean", 1): 1.0,
    ("full_table", 1): 0.5,
    ("uniform", 2): 0.6,
    ("uniform", 4): 0.8,
    ("dnis", 2): 0.55,
    ("dnis", 4): 0.9,
    ("hashing", 2): 0.7,
    ("random_search", 2): 0.7,
    ("random_search", 4): 0.8,
    ("mde", 4): 0.9,
}


@pytest.fixture
def study(tmp_path, monkeypatch):
    (tmp_path / "over.yaml").write_text(STUDY)
    config = load(ROOT, [tmp_path / "over.yaml"])
    monkeypatch.chdir(tmp_path)
    found = plan_study("sizes", config)
    for cell in found.cells:
        # A harder split at seed 2: everything is twice as large.
        pretend(cell.prune, mse=MSE[cell.method, cell.compression_rate] * cell.seed)
    return found


def test_areas_are_those_of_lines_between_scaled_results(study):
    sheet = area.sheet(study, summary(study), study)
    rows = sheet.data.set_index("method")
    # Quality is 0 at an MSE of 1 and 1 at .5, at each seed in its own terms; sizes run from 600 to 1,200 bytes.
    assert rows["area"].to_dict() == pytest.approx({"uniform": 0.6, "dnis": 0.55, "random_search": 0.5})
    assert rows["width"].to_numpy() == pytest.approx(0, abs=1e-9)
    assert rows.loc["uniform", ["at_2", "at_4"]].tolist() == pytest.approx([0.8, 0.4])
    assert rows.loc["uniform", ["smallest", "largest"]].tolist() == [600, 1200]
    table = sheet.tables[0]
    assert [row[0] for row in table.rows] == ["Uniform at budget", "DNIS", "Random Search"]
    assert table.heading.endswith(": MSE")
    assert table.rows[0][1] == "**60.0 ± 0.0**"
    assert (rows["trials"] == 2 * 2 * np.array([2, 1, 1])).all()  # a search at each budget, or one for both
    assert table.legend.startswith("Sizes from 600 to 1,200 bytes.")


def test_the_page_s_first_lines_have_the_areas_of_the_reference_of_the_best_other_and_of_dnis(study):
    data = area.sheet(study, summary(study), study).data
    (line,) = takeaways.takeaways([], areas=data)
    assert line.endswith(
        " MF, Planted ratings: best reference: *Uniform at budget* 60.0 ± 0.0, n = 2, "
        "best of the others: *DNIS* 55.0 ± 0.0, n = 2."
    )
    (line,) = takeaways.takeaways([], areas=data.assign(area=[0.6, 0.5, 0.55]))
    assert "best of the others: *Random Search* 55.0 ± 0.0, n = 2, DNIS: *DNIS* 50.0" in line


def scale(smallest, largest):
    return area.Scale(smallest, largest, 0.0, ("", 1), ("", 1))


@pytest.mark.parametrize(
    ("sizes", "quality", "expected"),
    [
        ([100, 400], [0.5, 1.0], 0.75),
        ([400, 100], [1.0, 0.5], 0.75),  # in any order
        ([100, 200, 400], [0.0, 1.0, 1.0], 0.75),
        ([50, 800], [0.0, 1.0], 0.5),  # beyond both ends
        ([100, 200], [1.0, 0.5], 0.625),  # above the largest it stays
        ([200, 400], [1.0, 1.0], 0.5),  # below the smallest there is nothing
        ([800, 900], [1.0, 1.0], 0.0),
        ([200, 200, 400], [0.5, 1.5, 1.0], 0.5),  # results of one size
        ([0, 400], [0.0, 1.0], 1 - np.log(2) / np.log(400)),
    ],
)
def test_an_area_is_the_mean_over_the_logarithm_of_sizes(sizes, quality, expected):
    assert area.area(np.array(sizes), np.array(quality), scale(100.0, 400.0)) == pytest.approx(expected)


def test_worse_than_the_mean_is_no_worse_than_nothing(tmp_path, monkeypatch):
    """And a method of large results at the highest rate does not decide at which sizes all others are compared."""
    (tmp_path / "over.yaml").write_text(STUDY.replace("dnis: [2, 4]", "dnis: [2, 40]"))
    config = load(ROOT, [tmp_path / "over.yaml"])
    monkeypatch.chdir(tmp_path)
    found = plan_study("sizes", config)
    for cell in found.cells:
        mse = 3.0 if cell.compression_rate == 40 else MSE[cell.method, cell.compression_rate]
        pretend(cell.prune, mse=mse * cell.seed)
    results = summary(found)
    results.loc[results["cr"] == 40, "bytes"] = 900.0
    rows = area.sheet(found, results, found).data.set_index("method")
    assert rows.loc["dnis", "smallest"] == pytest.approx(2 * 2400 / 40)
    # From 0 at 900 bytes to .9 at 1,200.
    assert rows.loc["dnis", "area"] == pytest.approx(0.45 * np.log(1200 / 900) / np.log(1200 / 120))


def test_pruned_at_random_a_method_is_a_control():
    methods = load(ROOT, []).params.methods
    assert methods["random_mask"].shown_role == "control"
    assert methods["network_pruning"].shown_role == methods["network_pruning"].role == "method"


def test_a_result_that_is_missing_makes_no_area():
    assert np.isnan(area.area(np.array([100, 400]), np.array([np.nan, 1.0]), scale(100.0, 400.0)))
    assert np.isnan(area.quality_at(np.array([200, 400]), np.array([0.5, 1.0]), 100.0))
    assert area.quality_at(np.array([100, 400]), np.array([0.5, 1.0]), 200.0) == pytest.approx(0.75)


def test_methods_are_held_against_the_uniform_dimension_of_their_size(study):
    results = comparisons.Results(study, summary(study))
    told = {(one.claim, one.of): one for claim in later_claims.claims() for one in claim(results)}
    claim = "At its size, {} beats one dimension for all, tuned"
    verdicts = {
        key: (one.verdict, one.measured, one.against) for key, one in told.items() if key[0].startswith("At its size")
    }
    assert verdicts == {
        (claim.format("Random Search"), "Random Search (CR = 2)"): (
            "undecided",
            "MSE 1.0500",
            "0.9000: Uniform at budget at 1,200 bytes",
        ),
        (claim.format("Random Search"), "Random Search (CR = 4)"): (
            "undecided",
            "MSE 1.2000",
            "1.2000: Uniform at budget at 600 bytes",
        ),
        (claim.format("MDE"), "MDE (CR = 4)"): ("undecided", "MSE 1.3500", "1.2000: Uniform at budget at 600 bytes"),
        (claim.format("Hashing"), "Hashing (CR = 2)"): (
            "undecided",
            "MSE 1.0500",
            "0.9000: Uniform at budget at 1,200 bytes",
        ),
        (claim.format("DNIS"), "DNIS (CR = 2)"): (
            "undecided",
            "MSE 0.8250",
            "0.9000: Uniform at budget at 1,200 bytes",
        ),
        (claim.format("DNIS"), "DNIS (CR = 4)"): (
            "undecided",
            "MSE 1.3500",
            "1.2000: Uniform at budget at 600 bytes",
        ),
    }
    mde = told["Zhao et al. 2021: random search beats MDE", "Random Search (CR = 4)"]
    assert (mde.measured, mde.against) == ("MSE 1.2000, 150 weights", "1.3500, 150 weights: MDE (CR = 4)")


def test_storage_has_a_row_per_layout_and_the_quality_of_each_precision(study):
    table = storage.sheet(study).tables[0]
    assert table.heads == ["Search method", "Layout", "float32", "float16", "int8", "int4"]
    start = next(i for i, row in enumerate(table.rows) if row[0] == "DNIS (CR = 4)")
    assert table.rows[start : start + 3] == [
        ["DNIS (CR = 4)", "dense", "2,400", "2,400", "2,400", "2,400"],
        ["", "csr", "**600**", "**300**", "**150**", "**75**"],
        ["", "MSE", "1.3500", "2.7000", "2.7000", "2.7000"],
    ]
    assert not any("Global mean" in row[0] for row in table.rows)


def test_a_study_without_a_global_mean_has_no_areas(tmp_path):
    (tmp_path / "over.yaml").write_text(STUDY.replace("global_mean: [1], ", ""))
    with pytest.raises(NisbenchError, match="area needs a grid with a method without embeddings"):
        load(ROOT, [tmp_path / "over.yaml"])


def test_the_same_result_twice_is_for_no_one_and_a_rounded_reference_is_no_second_one(tmp_path, monkeypatch):
    grid = "{datasets: [planted_ratings], models: [mf], methods: {uniform: [1]}, quantise: [int8]}"
    text = STUDY.replace("uniform: [2, 4], dnis: [2, 4]", "uniform: [1, 2], dnis: [1, 2]").replace(
        "[1, 2]\n    tables", "[1]\n    tables"
    )
    (tmp_path / "over.yaml").write_text(text.replace("    overrides:", f"      rounded: {grid}\n    overrides:", 1))
    config = load(ROOT, [tmp_path / "over.yaml"])
    monkeypatch.chdir(tmp_path)
    found = plan_study("sizes", config)
    for cell in found.cells:
        pretend(cell.prune, mse=MSE.get((cell.method, cell.compression_rate), 0.5))
    results = comparisons.Results(found, summary(found))
    (full,) = [one for one in later_claims.beats_uniform(results) if "Full table beats" in one.claim]
    assert (full.against, full.verdict) == ("0.5000: Uniform at budget at 2,400 bytes", "undecided")
    assert [one.against for one in claims.tuned_uniform(results)] == ["0.5000: Uniform at budget"]
