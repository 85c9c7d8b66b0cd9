"""What can be asked for by name: a study, and, for DVC's stages, one stage of one data set."""

from nisbench.report.outputs import outputs

for _study in PLAN.studies.values():

    rule:
        name:
            _study.name
        input:
            outputs(_study),
        message:
            f"all of {_study.name} is made"


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
            message:
                f"all of {_stage}_{_dataset} is made"


rule unknown_target:
    input:
        no_such_target,
    output:
        "{target}",
    wildcard_constraints:
        target="[^/]+",
