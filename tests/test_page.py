"""The page of a study: what it says first, where its cells lead, and what a browser makes of it."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nisbench.params.loading import load
from nisbench.report import build, index, leaderboard, paper_claims, runs, takeaways, verdicts
from nisbench.report.comparisons import FAILS, HOLDS, ONE_SEED, UNDECIDED, Finding, Results
from nisbench.report.formatting import Link
from nisbench.report.reports import reports
from nisbench.report.results import summary
from nisbench.studies import plan_study
from tests.helpers.fake_runs import pretend
from tests.helpers.paths import ROOT

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)> [me](javascript:alert(1)) </textarea> {{a}} |"
STUDY = """
studies:
  sizes:
    title: Sizes
    grids:
      rating:
        datasets: [planted_ratings]
        models: [mf, mlp]
        methods: {global_mean: [1], full_table: [1], uniform: [2, 4], hashing: [2], random_search: [2, 4], mde: [4]}
    overrides: {training: {base_dimension: 6}, methods: {random_search: {min_dimension: 1}, mde: {settings: [{base_dimension: 4, temperature: 0.1}]}}}
    seeds: [1, 2, 3]
    tables: [table2, area]
    figures: [pareto]
reference: {results: {planted_ratings: {6: {mf: {random_search: {2: {mse: 0.6}}}}}}}
"""
MSE = {
    ("global_mean", 1): 1.0,
    ("full_table", 1): 0.5,
    ("uniform", 2): 0.6,
    ("uniform", 4): 0.8,
    ("hashing", 2): 0.7,
    ("random_search", 2): 0.55,
    ("random_search", 4): 0.8,
    ("mde", 4): 0.9,
}


def sizes(folder, overlay=STUDY):
    """The plan of a study whose every run is made up, in the working directory. Seeds differ by 0.1, and hashing by noise."""
    Path(folder, "over.yaml").write_text(overlay)
    found = plan_study("sizes", load(ROOT, [Path(folder, "over.yaml")]))
    for cell in found.cells:
        noise = 0.01 * (cell.seed == 2) * (cell.method != "full_table")
        mse = MSE[cell.method, cell.compression_rate] + 0.1 * cell.seed + noise
        pretend(cell.prune, mse=mse + (cell.model == "mlp"))
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The plan of a study of hostile titles, and the folder of its report."""
    root = tmp_path_factory.mktemp("report")
    titles = {"title": HOSTILE}
    overlay = STUDY.replace("title: Sizes", f"title: {json.dumps(HOSTILE)}")
    overlay += f"\nmodels: {{mlp: {json.dumps(titles)}}}\nmethods: {{hashing: {json.dumps(titles)}}}\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        found = sizes(root, overlay)
        build.run(found)
        yield found, root / found.folder


# --- what is said first ---------------------------------------------------------------------------------------


def finding(claim="A claim", verdict=HOLDS, **own):
    usual = {"where": "MF, Data", "of": "DNIS", "measured": "MSE 0.5", "against": "0.6: MDE", "p": 0.01, "model": "MF"}
    usual |= {"metric": "mse", "difference": -0.1, "low": -0.15, "high": -0.05, "n": 3}
    return Finding(claim=claim, verdict=verdict, **usual | own)


def test_a_takeaway_counts_all_comparisons_and_quotes_the_first_with_effect_interval_and_n():
    undecided = finding(verdict=UNDECIDED, difference=0.002, low=-0.01, high=0.014)
    against = finding(verdict=FAILS, difference=0.2, low=0.1, high=0.3)
    found = [undecided, finding(), finding(difference=-9.0), against]
    (line,) = takeaways.takeaways(found)
    assert line.startswith("**A claim:** of 4 comparisons, 2 for it, 1 against it, 1 undecided. ")
    assert "MSE 0.1000 lower (better), 95 % interval 0.0500 to 0.1500, n = 3; " in line
    assert line.endswith("MSE 0.2000 higher (worse), 95 % interval 0.1000 to 0.3000, n = 3.")
    (line,) = takeaways.takeaways([undecided])
    assert line.endswith("MSE 0.0020 higher (worse), 95 % interval -0.0100 to 0.0140, n = 3.")


def test_takeaways_are_at_most_five_in_an_order_that_knows_no_result():
    names = [
        "Z",
        "The more feature blocks L, x",
        "At every pruning rate, DNIS beats x",
        "Unpruned, DNIS beats the best of x",
        "A",
        "B",
    ]
    for verdict in (HOLDS, FAILS):
        lines = takeaways.takeaways([finding(claim=name, verdict=verdict) for name in names])
        assert [line.split(":**")[0].strip("*") for line in lines] == [names[3], names[2], names[1], "Z", "A"]


def test_one_seed_is_said_to_point_one_way():
    alone = finding(verdict=ONE_SEED[HOLDS], low=np.nan, high=np.nan, n=1)
    (line,) = takeaways.takeaways([alone])
    assert "of 1 comparison, 1 for it with one seed." in line
    assert line.endswith("MSE 0.1000 lower (better), one seed.")


@pytest.mark.parametrize(
    ("of_cell", "text"),
    [
        ([HOLDS], "✓ holds: 1 of 1"),
        ([HOLDS, HOLDS, UNDECIDED], "✓ holds: 2 of 3"),
        ([HOLDS, UNDECIDED], "○ undecided: 1 for, of 2"),
        ([FAILS, UNDECIDED], "○ undecided: 1 against, of 2"),
        ([FAILS, FAILS], "✗ contradicted: 2 of 2"),
        ([HOLDS, FAILS, FAILS], "± mixed: 1 for, 2 against, of 3"),
        ([UNDECIDED], "○ undecided"),
        ([ONE_SEED[HOLDS], ONE_SEED[FAILS]], "○ undecided, one seed: 1 for, 1 against"),
    ],
)
def test_a_cell_of_the_matrix_says_holds_only_where_most_do_and_none_contradicts(of_cell, text):
    assert verdicts.cell(of_cell) == text


# --- what is behind a cell ------------------------------------------------------------------------------------


def test_the_leaderboard_holds_each_result_against_the_best_and_the_uniform_dimension_of_its_bytes(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    found = sizes(tmp_path)
    board = leaderboard.leaderboard(found, summary(found))
    rows = board[board["model"] == "mf"].set_index(["method", "cr"])
    assert rows["from_best"].idxmax() == ("full_table", 1)
    assert rows.loc[("full_table", 1), "from_best"] == 0
    # At 1,200 bytes uniform has 0.6, at 600 bytes 0.8. The full table's 2,400 bytes are beyond what was measured.
    assert rows.loc[("random_search", 2), "from_uniform"].item() == pytest.approx(0.05)
    assert rows.loc[("mde", 4), "from_uniform"].item() == pytest.approx(-0.1)
    assert np.isnan(rows.loc[("full_table", 1), "from_uniform"])
    assert set(rows.index[rows["front"]]) == {("full_table", 1), ("random_search", 2), ("uniform", 4)}
    assert rows["share"].to_dict()[("uniform", 4)] == 0.25
    assert list(rows["n"].unique()) == [3]
    assert all(len(of_row.split()) == 3 for of_row in rows["runs"])
    best, half = takeaways.takeaways([], Results(found, summary(found)))
    assert best.startswith(
        "**Best quality, of any size:** Full table (MF, Planted ratings): MSE 0.7000, 95 % interval 0.4516 to 0.9484, n = 3; "
    )
    assert (
        "Random Search (CR = 2) (MF, Planted ratings), 50 % of the bytes: MSE 0.0533 worse than the best of any size, 95 %"
        in half
    )


def test_every_run_has_a_line_with_its_settings_machine_versions_and_curve(report):
    found, folder = report
    text = (folder / "runs.json").read_text()
    content, lines = json.loads(text), runs.lines_of(folder)
    cell = next(cell for cell in found.cells if cell.method == "random_search" and cell.seed == 2)
    assert f'"{cell.prune.id}": {{"search":"{cell.search.id}"' in text.splitlines()[lines[cell.prune.id] - 1]
    search = content["searches"][cell.search.id]
    assert search["losses"] == [0.5, 0.3, 0.25]
    assert search["trials"][search["chosen"]] == ["8 dimensions", 0.25, 3, 3, "max_epochs"]
    machine = content["machines"][search["machine"]]
    assert {"device", "threads", "cores", "python", "packages"} <= machine.keys()
    assert set(content["searches"]) | set(content["prunings"]) == set(lines)
    assert '"metrics"' not in text  # which summary.csv has


def test_settings_are_differences_from_the_study_s():
    base = {"training": {"l2": 0.0, "patience": 3}, "method": {"kind": "x", "list": [1, 2]}}
    assert runs.differences(base, base) == {}
    other = {"training": {"l2": 0.1, "patience": 3}, "method": {"kind": "x", "list": [1], "new": None}}
    assert runs.differences(base, other) == {"training.l2": 0.1, "method.list": [1], "method.new": None}


def test_rows_of_tables_lead_to_the_lines_of_their_runs(report):
    found, folder = report
    lines = (folder / "runs.json").read_text().splitlines()
    links = re.findall(r"\]\(runs\.json#L(\d+)-L(\d+)\)", (folder / "table2.md").read_text())
    assert len(links) == len({cell.key[:5] for cell in found.cells})
    ids = {cell.prune.id for cell in found.cells}
    for first, last in links:
        assert {line.split('"')[1] for line in lines[int(first) - 1 : int(last)]} <= ids


def test_comparisons_lead_to_the_run_that_they_are_of(report):
    _, folder = report
    lines, claims = runs.lines_of(folder), pd.read_csv(folder / "claims.csv")
    of_hashing = claims[claims["of"].str.endswith("(CR = 2)") & (claims["model"] != "MF")]
    assert len(of_hashing)
    text = (folder / "README.md").read_text()
    for run in of_hashing["run_id"]:
        assert f"](runs.json#L{lines[run]})" in text


def test_cells_of_figures_do_not_wrap_and_what_explains_them_stands_before(report):
    _, folder = report
    text = (folder / "table2.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert rows
    for cell in "|".join(rows).split("|"):
        assert " " not in cell.strip() or len(cell.strip()) > 60
    assert text.index("*Kept* is the true share") < text.index("| Search")


# --- the page -------------------------------------------------------------------------------------------------


def test_only_the_scripts_that_the_policy_names_run_and_texts_stay_texts(report):
    _, folder = report
    html = (folder / "page.html").read_text()
    scripts = re.findall(r'<script type="module">(.*?)</script>', html, re.DOTALL)
    assert len(scripts) == 3
    hashes = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert set(re.findall(r"'sha256-([^']*)'", policy)) == hashes
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]
    visible = re.sub(r"<(script|style)\b[^>]*>.*?</\1>", "", html, flags=re.DOTALL)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in visible
    assert not re.search(r"<(script|img src=(?!\"data:)|a href=\"javascript)|src=\"https?:", visible)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1]
    assert "<" not in data
    assert json.loads(data)["study"]["title"] == HOSTILE


def test_a_page_is_made_again_from_what_is_in_git(report, tmp_path):
    _, folder = report
    shutil.copytree(
        folder, tmp_path / "results" / "sizes", ignore=shutil.ignore_patterns("page.html", "curves", "runs-*.json")
    )
    (tmp_path / "results" / "old").mkdir()
    (tmp_path / "results" / "old" / "summary.csv").touch()  # of an older version
    written = index.publish(tmp_path / "results", tmp_path / "site")
    assert [path.name for path in written] == ["page.html", "index.html", "README.md"]
    assert (tmp_path / "site/sizes/page.html").read_bytes() == (folder / "page.html").read_bytes()
    assert (tmp_path / "site/index.html").read_bytes() == (folder.parent / "index.html").read_bytes()
    assert (tmp_path / "site/sizes/summary.csv").exists()


def test_the_index_has_every_study_its_first_lines_and_an_area_per_method(report):
    _, folder = report
    html = (folder.parent / "index.html").read_text()
    assert 'href="sizes/page.html"' in html
    assert "Best quality, of any size" in html
    assert "One number per method" in html
    assert "<td>Uniform at budget</td>" in html
    assert not re.search(r"<(script|img)|href=\"javascript", html)
    assert "script-src 'none'" in html


def a_report(folder, title, verdicts_of):
    """The files of a study's report that the index reads, with these verdicts (claim, model, verdict)."""
    folder.mkdir()
    about = {name: {} for name in ("datasets", "models", "methods", "searches", "prunings", "grids")}
    (folder / "runs.json").write_text(json.dumps(about | {"study": {"title": title, "seeds": [1, 2]}}))
    pd.DataFrame(verdicts_of, columns=["claim", "model", "verdict"]).to_csv(folder / "claims.csv", index=False)
    (folder / "README.md").write_text(f"# {title}\n\n## In short\n\n* First of {title}.\n\n## More\n\n* Not this.\n")


def test_the_overview_has_the_claims_that_several_studies_check(tmp_path):
    a_report(tmp_path / "a", "A", [("Larger is better", "NA", "holds")] * 2 + [("Only here", "NA", "holds")])
    a_report(
        tmp_path / "b", "B|b", [("Larger is better", "MF", "contradicted"), ("Larger is better", "FM", "undecided")]
    )
    a_report(tmp_path / "c", "A", [("Larger is better", "NA", "contradicted")])
    a_report(tmp_path / "demo", "Demo", [("Larger is better", "NA", "holds")])
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "summary.csv").touch()
    table = index.claims_of_all(reports(tmp_path))
    assert table.index.tolist() == ["Larger is better"]
    assert table.iloc[0].to_dict() == {
        "NA: A (a)": "✓ holds: 2 of 2",
        "MF: B|b": "✗ contradicted: 1 of 1",
        "FM: B|b": "○ undecided",
        "NA: A (c)": "✗ contradicted: 1 of 1",
        "NA: Demo": "✓ holds: 1 of 1",
    }
    text = index.overview(tmp_path)
    assert "[A](a/README.md)" in text
    assert "* First of A." in text
    assert "Not this" not in text
    assert "B\\|b" in text  # a bar of a title does not end a cell
    assert "Demo" not in text  # it is not in git
    assert "only listed: [old](old)" in text


MIXED = "Random Search and MDE, with mixed dimensions, beat Grid Search"


def test_the_paper_s_claims_are_judged_by_the_study_of_real_data_with_the_most_seeds_and_comparisons(tmp_path):
    def verdicts_of(*found, rate=2, model="MF"):
        return [(f"Pruned at CR = {rate}, DNIS still beats the best of them", model, verdict) for verdict in found]

    a_report(tmp_path / "small", "Small", verdicts_of("contradicted"))
    a_report(tmp_path / "large", "Large", verdicts_of("holds") + verdicts_of("holds", rate=2.5))
    a_report(tmp_path / "other", "Other", [("Of the models, DeepFM predicts best", "DeepFM", "contradicted")])
    a_report(tmp_path / "one_seed", "One seed", [*verdicts_of(*["contradicted"] * 9), (MIXED, "MF", "holds")])
    a_report(tmp_path / "planted", "Planted", verdicts_of(*["contradicted"] * 9) + verdicts_of("holds", model="NeuMF"))
    for study, key, value in (
        ("one_seed", "study", {"title": "One seed", "seeds": [1]}),
        ("planted", "datasets", {"generated": {"format": "planted_ratings"}}),
        ("large", "datasets", {"real": {"format": "movielens"}, "unknown": {"format": "of a plug-in"}}),
    ):
        about = json.loads((tmp_path / study / "runs.json").read_text())
        (tmp_path / study / "runs.json").write_text(json.dumps(about | {key: value}))
    table = paper_claims.table(reports(tmp_path))
    assert table.columns.tolist() == ["In the paper", "MF", "DeepFM"]
    pruned = table.loc["Pruned, DNIS still beats the best of them"]
    assert pruned["MF"] == Link("✓ holds: 2 of 2", "large/README.md")
    assert table.loc[MIXED].tolist() == ["Section 3.2", Link("✓ holds: 1 of 1", "one_seed/README.md"), ""]
    assert table.index.tolist() == list(paper_claims.CLAIMS)  # those that nothing checks are not hidden
    (model,) = [claim for claim in table.index if claim.startswith("Of the models")]
    assert table.loc[model, "DeepFM"].text == "✗ contradicted: 1 of 1"
    assert "[✓ holds: 2 of 2](large/README.md)" in index.overview(tmp_path).replace("\N{NO-BREAK SPACE}", " ")
    index.write_index(tmp_path)
    assert (
        '<td class="holds"><a href="large/page.html">✓ holds: 2 of 2</a></td>' in (tmp_path / "index.html").read_text()
    )


def test_the_paper_s_claims_are_all_that_are_not_said_to_be_somebody_else_s():
    for report in reports(ROOT / "results"):
        claims = pd.read_csv(report.folder / "claims.csv")["claim"].replace(paper_claims.NAMED_BY_STUDY, regex=True)
        others = {claim for claim in claims if claim not in paper_claims.CLAIMS}
        assert [
            claim for claim in others if not re.match(r"Not in the paper: |At its size, |\w+ et al\. \d+: ", claim)
        ] == []


def test_the_overview_in_git_is_that_of_the_reports_in_git(tmp_path):
    listed = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=False)
    files = [Path(name) for name in listed.stdout.splitlines()]
    if not files:
        pytest.skip("this is no checkout with git")
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, tmp_path / file)
    committed = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    assert index.overview(tmp_path / "results") == committed, "Run: nisbench pages"


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="there is no pdflatex")
@pytest.mark.slow
def test_latex_compiles(report, tmp_path):
    _, folder = report
    tables = "\n".join(f"\\input{{{folder / name}}}" for name in ("table2.tex", "area.tex"))
    Path(tmp_path, "all.tex").write_text(
        f"\\documentclass{{article}}\\usepackage{{booktabs, graphicx}}\\begin{{document}}{tables}\\end{{document}}"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=tmp_path, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


# --- in a browser ---------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("there is no Chromium (on Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=[(390, "light"), (1280, "light"), (1280, "dark")], ids=str)
def opened(request, browser, report):
    """The page in a window of that width, and the errors that its console shows. Nothing is asked of a network."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    errors = []
    page.on("console", lambda message: errors.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda one: None if one.url.startswith(("file:", "data:")) else errors.append(one.url))
    page.on("dialog", lambda dialog: errors.append(f"dialog: {dialog.message}"))
    page.goto((report[1] / "page.html").as_uri())
    page.wait_for_selector("html[data-ready]", state="attached", timeout=60_000)
    page.wait_for_selector("#front svg", timeout=60_000)
    yield page, errors
    page.close()


def first_results(page):
    """The first three, or fewer."""
    return [text.strip() for text in page.locator("#board tbody tr td:first-child").all_inner_texts()[:3]]


def shows_first(page, *expected):
    """Whether these are the first rows, once the page has sorted and filtered: on a busy machine that takes a while."""
    end = time.monotonic() + 30
    while set(first_results(page)) != set(expected) and time.monotonic() < end:
        page.wait_for_timeout(50)
    return set(first_results(page)) == set(expected)


@pytest.mark.slow
def test_a_column_sorts_a_filter_filters_and_a_cell_leads_to_its_card(opened, report):
    page, errors = opened
    found, _ = report
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert shows_first(page, "Full table", "Random Search (CR = 2)", "Uniform at budget (CR = 2)")
    assert first_results(page)[0] == "Full table"
    page.locator("#board thead th").nth(3).click()  # bytes
    assert shows_first(page, "Uniform at budget (CR = 4)", "Random Search (CR = 4)", "MDE (CR = 4)")
    page.fill("#find", "MDE")
    assert shows_first(page, "MDE (CR = 4)")
    page.fill("#find", "")
    page.select_option("#pick-model", "mlp")
    assert "<script>" in page.locator("#pick-model option:checked").inner_text()
    page.fill("#bytes", "0")
    assert "Uniform at budget (CR = 4)" in page.locator("#advice").inner_text()
    page.locator("#board a", has_text="Random Search (CR = 2)").click()
    page.wait_for_selector("#card[open] #curve svg", timeout=60_000)
    cell = next(
        one for one in found.cells if (one.method, one.model, one.compression_rate) == ("random_search", "mlp", 2)
    )
    card = page.locator("#card").inner_text()
    assert cell.prune.id in card
    assert "CPU: Abacus" in card
    assert f"snakemake --cores all {cell.prune.folder}/run.json" in card
    page.keyboard.press("Escape")
    page.wait_for_selector("#card:not([open])", state="attached")
    page.locator("td.left a[href^='#run-']:visible").first.click()  # of a table as in the paper
    page.wait_for_selector("#card[open]")
    assert errors == []


@pytest.mark.slow
def test_the_paper_s_numbers_stand_beside_ours_and_print_opens_what_is_folded(opened):
    page, errors = opened
    page.select_option("#pick-model", "mf")
    page.wait_for_selector("#paper svg", timeout=60_000)
    assert "Random Search" in page.locator("#paper").inner_text()
    page.emulate_media(media="print", color_scheme="light")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.locator("#choice").is_hidden()
    assert errors == []
