"""Each study's tables, figures and page, and what Snakemake's HTML report shows of them."""

from nisbench.report.outputs import curves, is_current, outputs

REPORTS = {name: outputs(study) for name, study in PLAN.studies.items()}
"""The files of each study's report. The manifest, of a name that is found by reading the others, is looked for once."""


def shown(study):
    """A study's outputs, with the headings under which Snakemake's HTML report shows some of them."""
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
            "category": plain(study.title(cell.grid, model=cell.model)),
            "subcategory": plain(study.title(cell.grid, method=cell.method)),
            "labels": {"data set": plain(study.title(cell.grid, dataset=cell.dataset))},
        }
    # A line that begins with `report` would be a directive.
    marked = lambda path: report(path, **about[path]) if path in about else path
    return [marked(path) for path in REPORTS[study.name]]


def plain(title):
    """A title without what Snakemake would take for a wildcard or for HTML."""
    return title.translate(str.maketrans("{}<>", "()()"))


def of_study(caption, what):
    return {
        "caption": f"../report/{caption}.rst",
        "category": " Study",
        "labels": {"what": what},
    }


def read_by_report(study):
    """What a study's report is made from, as a function for a rule's input."""

    def inputs(wildcards):
        check_settings()
        if not is_current(study):
            will_write(study.folder, Path("logs"))
        read = {}
        for block in study.blocks.values():
            split, prepare = block.needs["split"], block.needs["prepare"]
            read |= {block: ["features"], split: split.files, prepare: ["instances"]}
        for cell in study.cells:
            read |= {step: step.files for step in (cell.search, cell.prune)}
        return [path for step, files in read.items() for path in made_by(step, *files)]

    return inputs


for _study in PLAN.studies.values():

    rule:
        name:
            f"tables_{_study.name}"
        input:
            read_by_report(_study),
        output:
            shown(_study),
        log:
            f"logs/tables/{_study.name}.log",
        resources:
            mem_mb=lambda wildcards, attempt: 2000 * attempt,
            runtime=60,
        params:
            study=_study.name,
        message:
            f"make the tables, figures and page of {_study.name}"
        shell:
            "nisbench tables {params.study} --log {log}"
