"""What can be asked for by name: a study, and, for DVC's stages, one stage of one data set."""

for _study in PLAN.studies.values():

    rule:
        name:
            _study.name
        input:
            REPORTS[_study.name],
        message:
            f"all of {_study.name} is made"


def stage_of(dataset, names):
    """The files of a data set's steps of these names, as a function for a rule's input."""
    return lambda wildcards: [
        path
        for step in PLAN.of_dataset(dataset, *names)
        for path in asked_for(step, *step.paths()[:-1])
    ]


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
