"""What rules say of their inputs."""

from nisbench.records import done


def made_by(step, *files):
    """Files made by another step. Their times say nothing (`ancient`): the id in the path does."""
    return ancient([*(str(step.path(file)) for file in files), str(step.record)])


def read_by(name, **needed):
    """What steps of that name read, for their rule's input. Of each step that they need, if any, the files named.

    A step that is done reads nothing. Otherwise Snakemake, where it must make anew what such a step once read, would
    delete the step's files and do it again, with all its trials.
    """

    def files(wildcards):
        step = PLAN.step(wildcards.id, name)
        if not planned_anew() and done(step):
            return []
        return [
            path
            for need, names in needed.items()
            if need in step.needs
            for path in made_by(step.needs[need], *names)
        ]

    return files


def planned_anew():
    """Whether what is done does not count: rules are forced, or nothing is run at all, as for a report or a graph."""
    asked = workflow.dag_settings
    return workflow.execution_settings is None or bool(
        asked.forceall or asked.forcerun or asked.forcetargets
    )
