"""Each study's tables, figures and page, and what Snakemake's HTML report shows of them."""

from nisbench.report.outputs import curves, is_current, outputs


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
    return [marked(path) for path in outputs(study)]


def plain(title):
    """A title without what Snakemake would take for a wildcard or for HTML."""
    return title.translate(str.maketrans("{}<>", "()()"))


def of_study(caption, what):
    return {
        "caption": f"../report/{caption}.rst",
        "category": " Study",
        "labels": {"what": what},
    }


def pruned(study):
    """What prunings have made for a study's report, as a function for a rule's input."""

    def paths(wildcards):
        check_settings()
        if not is_current(study):
            will_write(study.folder, Path("logs"))
        return [
            path
            for cell in study.cells
            for path in made_by(cell.prune, *cell.prune.files)
        ]

    return paths


for _study in PLAN.studies.values():

    rule:
        name:
            f"tables_{_study.name}"
        input:
            prunings=pruned(_study),
            searches=[made_by(cell.search, *cell.search.files) for cell in _study.cells],
            features=[made_by(block, "features") for block in _study.blocks.values()],
            splits=[
                made_by(block.needs["split"], *block.needs["split"].files)
                for block in _study.blocks.values()
            ],
            instances=[
                made_by(block.needs["prepare"], "instances")
                for block in _study.blocks.values()
            ],
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
