"""What rules say of their inputs."""


def made_by(step, *files):
    """Files made by another step. Their times say nothing (`ancient`): the id in the path does."""
    return ancient([*(str(step.path(file)) for file in files), str(step.record)])


def archive_of(wildcards):
    """The archive a data set is prepared from; generated ones have none."""
    needs = PLAN.step(wildcards.id, "prepare").needs
    return made_by(needs["download"], "archive") if "download" in needs else []
