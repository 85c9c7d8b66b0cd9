"""What rules say of their inputs."""


def made_by(step, *files):
    """Files made by another step. Their times say nothing (`ancient`): the id in the path does."""
    return ancient([str(step.path(file)) for file in files])


def reads(name, **files):
    """The input function of a step's rule: which files it reads of which other step.

    Of a step whose own files are all there, it names only those that exist. Else a lost file upstream, once it is made
    again for some other step, would make Snakemake run this one again, whose result is right as it is.
    """

    def paths(wildcards):
        step = PLAN.step(wildcards.id, name)
        needed = [
            path
            for other, names in files.items()
            if other in step.needs  # generated data have no download
            for path in made_by(step.needs[other], *names)
        ]
        whole = all(Path(path).exists() for path in step.paths())
        return [path for path in needed if Path(path).exists()] if whole else needed

    return paths
