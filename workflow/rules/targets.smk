"""What can be asked for by name: a study, and, for DVC's stages, one stage of one data set."""

for _study in PLAN.studies.values():

    rule:
        name:
            _study.name
        input:
            REPORTS[_study.name],
        message:
            f"all of {_study.name} is made"


for _dataset in PLAN.datasets:
    for _stage, _names in STAGES.items():

        rule:
            name:
                f"{_stage}_{_dataset}"
            input:
                stage_of(_dataset, _names),
            message:
                f"all of {_stage}_{_dataset} is made"


rule unknown_target:
    input:
        no_such_target,
    output:
        "{target}",
    wildcard_constraints:
        target="[^/]+",
