"""As many jobs that train are run at once as this machine has GPUs: each takes one (`nisbench.machine`).

Without such a total, Snakemake would start as many as there are cores, and most would wait for a GPU with their data in memory.
`--resources gpu=...`, or a profile, may set another total. A cluster's own scheduler gives GPUs to its jobs.
"""

from importlib.metadata import version

from nisbench import gpus

if workflow.resource_settings.nodes is None and "gpu" not in workflow.global_resources:
    _uses_gpus = PLAN.config.params.training.device != "cpu" and not version(
        "torch"
    ).endswith("+cpu")
    if _uses_gpus and (_count := len(gpus.visible())):
        workflow.global_resources["gpu"] = _count
