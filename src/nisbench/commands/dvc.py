"""`nisbench dvc`: DVC's pipeline, written from the plan.

Coarse stages around Snakemake: DVC versions what they make, Snakemake knows which jobs that takes. A stage per data set's folder and
kind of work, and a report per study. Written out one by one, since a report depends on as many data sets as its study has.
"""

from pathlib import Path
from typing import Any

import yaml

from nisbench.files import write_text
from nisbench.params.loading import load
from nisbench.params.tree import read_yaml
from nisbench.report.outputs import item_files
from nisbench.studies import Plan, plan

FILE = Path("dvc.yaml")
HEAD = """\
# Written by `nisbench dvc` from params/. Do not edit: run it again when a study or a data set is new.
#
# `plan` resolves params/, the files that NISBENCH_PARAMS names, and the code into the ids that each stage depends on. It takes a second
# and runs every time, because DVC sees neither the environment nor which code a run uses. A stage is skipped when its ids are those
# of dvc.lock. Outputs are persistent: DVC must not delete runs that Snakemake will find to be right.
"""
DRAWN = {
    "figure2a.csv": {"x": "K", "y": "mean"},
    "figure2b.csv": {"x": "L", "y": "mean"},
    "figure3c.csv": {"x": "cr", "y": "mean"},
    "pareto.csv": {"x": "weights", "y": "mean"},
    "recovery_dimensions.csv": {"x": "planted", "y": "median"},
}
"""Files of reports that DVC draws, and their columns: a frame per data set, model and metric, a mark per revision."""
TEMPLATE = "workflow/plots/cells.json"


def run(root: Path, check: bool) -> int:
    """Write ``dvc.yaml``, or with `check` only compare it; 1 if it is out of date and stays so."""
    path, content = root / FILE, text(root)
    current = path.exists() and path.read_text(encoding="utf-8") == content
    if check:
        print(f"{FILE} is up to date." if current else f"{FILE} is out of date. Run: nisbench dvc")
        return int(not current)
    if not current:
        write_text(path, content)
    print(f"{FILE} {'was up to date' if current else 'is written'}.")
    return 0


def text(root: Path) -> str:
    """The content of ``dvc.yaml`` for the project at `root`. Overlays belong to one run and the file to all, so they do not count."""
    whole = plan(root, load(root, overlays=[]))
    found = {
        "stages": {
            "plan": {
                "desc": "Resolve the parameters and the code into the ids of all steps",
                "cmd": "nisbench plan --write results/plan",
                "always_changed": True,
                "outs": ["results/plan"],
            },
            **_stages_of_datasets(whole),
            **_reports(whole, root),
        },
        "metrics": [str(study.folder / "metrics.json") for study in whole.studies.values()],
        "plots": [
            {str(study.folder / file): DRAWN[file] | {"template": TEMPLATE}}
            for study in whole.studies.values()
            for item in (*study.study.tables, *study.study.figures)
            for file in item_files(item)
            if file in DRAWN
        ],
    }
    if not found["plots"]:
        del found["plots"]
    return HEAD + yaml.dump(found, Dumper=_Plain, sort_keys=False, default_flow_style=None, width=130)


def _stages_of_datasets(plan: Plan) -> dict[str, Any]:
    stages = {}
    for label in plan.datasets:
        entries = [f"datasets.{name}" for name, dataset in plan.config.params.datasets.items() if dataset.slug == label]
        stages[f"data_{label}"] = {
            "desc": f"Download, prepare, split and block {label}",
            "cmd": f"snakemake --cores all data_{label}",
            "deps": [f"results/plan/data/{label}.json"],
            "params": [{"params/datasets.yaml": entries}],
            "outs": [{f"data/{label}": {"persist": True}}],
        }
        if not plan.of_dataset(label, "search"):  # no study uses it
            continue
        stages[f"search_{label}"] = {
            "desc": f"Run every search that a study asks for on {label}",
            "cmd": f"snakemake --cores all search_{label}",
            "deps": [f"results/plan/search/{label}.json", f"data/{label}"],
            "params": [{f"params/{section}.yaml": [section]} for section in ("models", "methods", "training")],
            "outs": [{f"results/runs/{label}/search": {"persist": True}}],
        }
        stages[f"prune_{label}"] = {
            "desc": f"Prune what was found on {label} and measure it on test",
            "cmd": f"snakemake --cores all prune_{label}",
            "deps": [f"results/plan/prune/{label}.json", f"results/runs/{label}/search"],
            "outs": [{f"results/runs/{label}/prune": {"persist": True}}],
        }
    return stages


def _reports(plan: Plan, root: Path) -> dict[str, Any]:
    ignored = root / ".gitignore"
    untracked = ignored.read_text(encoding="utf-8").splitlines() if ignored.exists() else []
    files = {
        study: file.relative_to(root)
        for file in [*(root / "params").glob("*.yaml"), *(root / "params" / "studies").glob("*.yaml")]
        for study in read_yaml(file).values.get("studies", ())
    }
    stages = {}
    for name, study in plan.studies.items():
        labels = dict.fromkeys(cell.prune.dataset for cell in study.cells)
        # What is in git cannot be in DVC's cache as well.
        kept = {"persist": True} if f"/{study.folder}/" in untracked else {"cache": False, "persist": True}
        stages[f"report_{name}"] = {
            "desc": f"Make the tables, figures and page of {name}",
            "cmd": f"snakemake --cores all {name}",
            "deps": [f"results/plan/report/{name}.json", *(f"results/runs/{label}/prune" for label in labels)],
            "params": [{str(files[name]): [f"studies.{name}"]}],
            "outs": [{str(study.folder): kept}],
        }
    return stages


class _Plain(yaml.SafeDumper):
    """Writes repeated values again instead of naming them."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True
