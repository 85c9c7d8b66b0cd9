"""The whole pipeline. `snakemake --cores all STUDY` makes one study; without STUDY, the paper's grid.

A file that exists is right, and a file that is missing must be made: every path below data/ and results/runs/ holds the id of its
step (see docs/explanation/run-ids.md). The ids are resolved here, once, from params/ and the overlays that NISBENCH_PARAMS names.
"""

from snakemake.utils import min_version

min_version("9.10")


include: "workflow/rules/common.smk"
include: "workflow/rules/gpus.smk"
include: "workflow/rules/machine.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/prune.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/targets.smk"
include: "workflow/rules/hooks.smk"


report: "workflow/report/study.rst"


rule all:  # it must stand here: an included file cannot set the default target
    default_target: True
    input:
        lambda wildcards: REPORTS[PLAN.study("paper").name],
    message:
        "all of paper is made"
