"""Tables, and the targets: one per study, and for DVC one per data set and stage."""

from nisbench.report.outputs import curves, outputs
from nisbench.steps import STAGES


def shown(study):
    """A study's outputs, with what Snakemake's HTML report shows of them, under which headings."""
    about = {f"{study.folder}/page.html": of_study("page", "the study's page")}
    for table in study.study.tables:
        about[f"{study.folder}/{table}.csv"] = of_study("table", table)
    pictures = ["recovery"] if "recovery" in study.study.tables else []
    for figure in [*study.study.figures, *pictures]:
        about[f"{study.folder}/{figure}.svg"] = of_study(figure, figure)
    for name, cells in curves(study).items():
        cell = cells[0]
        about[f"{study.folder}/{name}"] = {
            "caption": "../report/curves.rst",
            "category": study.title(cell.grid, model=cell.model),
            "subcategory": study.title(cell.grid, method=cell.method),
            "labels": {"data set": study.title(cell.grid, dataset=cell.dataset)},
        }
    marked = lambda path: report(path, **about[path]) if path in about else path
    return [marked(path) for path in outputs(study)]


def of_study(caption, what):
    return {
        "caption": f"../report/{caption}.rst",
        "category": " Study",
        "labels": {"what": what},
    }


for _study in PLAN.studies.values():

    rule:
        name:
            f"tables_{_study.name}"
        input:
            [made_by(cell.prune, *cell.prune.files) for cell in _study.cells],
            [made_by(cell.search, *cell.search.files) for cell in _study.cells],
            [made_by(block, "features") for block in _study.blocks.values()],
            [
                made_by(block.needs["split"], *block.needs["split"].files)
                for block in _study.blocks.values()
            ],
            [made_by(block.needs["prepare"], "instances") for block in _study.blocks.values()],
        output:
            shown(_study),
        log:
            f"logs/tables/{_study.name}.log",
        params:
            study=_study.name,
        message:
            f"assemble the tables of {_study.name}"
        shell:
            "nisbench tables {params.study} --log {log}"

    rule:
        name:
            _study.name
        input:
            outputs(_study),


for _dataset in PLAN.datasets:
    for _stage, _names in STAGES.items():

        rule:
            name:
                f"{_stage}_{_dataset}"
            input:
                [
                    path
                    for step in PLAN.of_dataset(_dataset, *_names)
                    for path in step.paths()
                ],
