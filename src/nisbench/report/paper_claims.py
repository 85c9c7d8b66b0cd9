"""What becomes of the paper's claims on real data: one line per claim, from all committed reports."""

import pandas as pd

from nisbench.params.kinds import kinds
from nisbench.report import verdicts
from nisbench.report.formatting import Link
from nisbench.report.reports import Report

TITLE = "The paper's claims on real data"

CLAIMS = {
    "Unpruned, DNIS beats the best of Grid Search, Random Search and MDE": "Tables 2, 3",
    "Pruned, DNIS still beats the best of them": "Tables 2, 3",
    "Random Search and MDE, with mixed dimensions, beat Grid Search": "Section 3.2",
    "Of the models, MF predicts ratings best, and DeepFM clicks": "Tables 2, 3",
    "Within the same budget of weights, NIS-ME beats NIS-SE": "Table 4",
    "Within the same budget of weights, DNIS beats NIS-ME": "Table 4",
    "The larger the base dimension K, the better DNIS predicts": "Figure 2a",
    "The more feature blocks L, the better DNIS predicts": "Figure 2b",
    "Blocks of rarer features end with a smaller α": "Figure 3a",
    "Frequent features keep more dimensions": "Figure 3b",
    "At every pruning rate, DNIS beats network pruning": "Figure 3c",
}
"""The paper's claims that comparisons of `nisbench.report.claims` decide, in its order, and where it makes them."""

NAMED_BY_STUDY = {
    r"Pruned at CR = \S+, DNIS still beats": "Pruned, DNIS still beats",
    r"Of the models, .+ predicts best": "Of the models, MF predicts ratings best, and DeepFM clicks",
    r" \(CR = \S+\)$": "",
}
"""What a study's claim has of its own, and what stands here instead."""

ABOUT = (
    "A cell is of the study of real data with the most seeds, and of these the one with the most comparisons; its link leads there. An empty "
    "cell: no committed study checks that. Two claims have no line. DNIS's search is said to take less time by a factor of 2 to more than 10: see the tables' cost, on which no verdict is given. "
    "Clicks are said to stand higher compression rates than ratings: no study compares the two."
)


def table(found: list[Report]) -> pd.DataFrame:
    """A row per claim: where the paper makes it, and a column per model. Generated data are left out. Empty if nothing is judged."""
    cells: dict[tuple[str, str], tuple[tuple[int, int], Link]] = {}
    for report in found:
        if _generated(report):
            continue
        every = pd.read_csv(report.folder / "claims.csv", keep_default_na=False)
        every["claim"] = every["claim"].replace(NAMED_BY_STUDY, regex=True)
        for key, of_model in every[every["claim"].isin(CLAIMS)].groupby(["claim", "model"], sort=False):
            claim, model = map(str, key)
            rank = (len(report.about["study"]["seeds"]), len(of_model))
            link = Link(verdicts.cell(list(of_model["verdict"])), f"{report.folder.name}/README.md")
            if (claim, model) not in cells or rank > cells[claim, model][0]:
                cells[claim, model] = (rank, link)
    models = list(dict.fromkeys(model for _, model in cells))
    rows = {
        claim: {"In the paper": where, **{model: cells[claim, model][1] for model in models if (claim, model) in cells}}
        for claim, where in (CLAIMS if cells else {}).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis("Claim")


def _generated(report: Report) -> bool:
    known = kinds("datasets")
    formats = [dataset["format"] for dataset in report.about["datasets"].values()]
    return any(getattr(known.get(of), "planted", False) for of in formats)
