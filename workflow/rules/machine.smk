"""What this machine's jobs share: its memory, of which each job says how much it takes (`mem_mb`).

Without such a total, Snakemake would start as many jobs as there are cores, whatever they take. A job that says more than the total
runs alone. `--resources mem_mb=...`, or a profile, may set another total. A cluster's jobs run on its nodes, whose memory its own
scheduler knows.
"""

from nisbench import memory

if workflow.resource_settings.nodes is None:
    if "mem_mb" not in workflow.global_resources:
        workflow.global_resources["mem_mb"] = memory.limit(None) // 10**6
