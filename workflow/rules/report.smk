"""Tables, and the targets: one per study, and for DVC one per data set and stage."""

from nisbench.runs import STAGES

for _study in PLAN.studies.values():

    rule:
        name:
            f"tables_{_study.name}"
        input:
            [made_by(cell.prune, "run") for cell in _study.cells],
            [made_by(cell.prune.needs["search"], "run") for cell in _study.cells],
            [made_by(block, "features") for block in _study.blocks],
            [made_by(block.needs["prepare"], "instances") for block in _study.blocks],
        output:
            _study.outputs(),
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
            _study.outputs(),


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
