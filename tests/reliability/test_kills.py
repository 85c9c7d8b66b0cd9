"""The short form of `python -m tests.reliability.kills`: one run killed several times, and the order of its jobs another."""

import random

import pytest

from tests.reliability.fingerprint import fingerprint
from tests.reliability.kills import Kill, disturb, finish, run_undisturbed
from tests.reliability.project import make_project

pytestmark = pytest.mark.pipeline

KILLS = [
    ("download", "all"),
    ("split", "snakemake"),
    ("search", "all"),
    ("search", "snakemake"),
    ("prune", "job"),
    ("tables", "all"),
]


def test_killed_again_and_again_on_two_cores_it_ends_with_the_results_of_an_undisturbed_run_on_one(tmp_path):
    undisturbed, killed = (make_project(tmp_path / name, short=True) for name in ("undisturbed", "killed"))
    usual = run_undisturbed(undisturbed.root, "snakemake", "--cores", "1", "demo")
    chance = random.Random(1)  # noqa: S311
    for number, (phase, kind) in enumerate(KILLS, start=1):
        kill = Kill(number, phase, kind)
        assert disturb(killed.root, kill, chance, usual, []), kill
    finish(killed.root, kill, fingerprint(undisturbed.root))
    assert kill.ok, f"{kill.line()}\n{killed.said.read_text()}"


def test_a_fingerprint_shows_a_figure_that_differs_but_no_time(tmp_path):
    table = "| Search method | Cost | MSE |\n|:--|--:|--:|\n| DNIS | {0} | {1} |\n\nCost is a multiple of {0} core-seconds.\n"
    texts = {
        "table.md": table,
        "table.tex": r"\toprule\nSearch method & Cost & MSE \\\n\midrule\nDNIS & {} & {} \\".replace(r"\n", "\n"),
        "page.html": "<table><thead>\n<tr>\n<th>Search method</th>\n<th>Cost</th><th>MSE</th>\n</tr></thead>\n<tbody>"
        "<tr><td>DNIS</td>\n<td>{}</td><td>{}</td></tr></tbody></table>",
        "summary.csv": "method,metric,value,measured_alone\ndnis,core_seconds,{0},{0}\ndnis,mse,{1},{0}\n",
        "run.json": '{{"seconds": "{0}", "other_load": "{0}", "machine": {{"packages": {{}}, "time": "{0}"}}, "losses": ["{1}"]}}',
        "README.md": "8 searches with 9 trials. The searches took {} in all, added up over those that ran side by side, on 2026-01-01.\n"
        + table.format("1 s", "{}"),
    }

    def of(time: str, loss: str) -> dict[str, str]:
        for name, text in texts.items():
            (tmp_path / name).write_text(text.format(time, loss))
        return fingerprint(tmp_path)

    first = of("1.0 s", "0.25")
    assert of("1 min 05 s", "0.25") == first
    other = of("1.0 s", "0.26")
    assert all(other[name] != first[name] for name in texts)
