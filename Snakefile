"""The whole pipeline. `snakemake --cores all` makes the paper's grid; `snakemake --cores all STUDY` one study.

What exists is right and what is missing must be made: every path below data/ and results/runs/ holds its step's id (see
docs/architecture.md). The ids are resolved here, once, from params/ and the overlays that NISBENCH_PARAMS names.
"""

import os
import sys
from pathlib import Path
from shlex import quote

from snakemake.utils import min_version

from nisbench.errors import NisbenchError
from nisbench.params.loading import OVERLAYS_VARIABLE
from nisbench.params.kinds import VARIABLE as PLUGINS_VARIABLE
from nisbench.report.outputs import outputs
from nisbench.steps import ID_LENGTH
from nisbench.studies import plan

min_version("9.10")

if config:
    sys.exit(
        f"nisbench: --config and --configfile are not used ({', '.join(config)}): Snakemake, DVC and the command line "
        f"read the same parameters.\nPut the values into a YAML file of the same keys as params/, and name it: "
        f"{OVERLAYS_VARIABLE}=FILE snakemake ..."
    )

# `nisbench` is beside this Python, whether or not the environment is activated.
shell.prefix(f'export PATH={quote(str(Path(sys.executable).parent))}:"$PATH"; ')

try:
    PLAN = plan(Path())
except NisbenchError as error:
    sys.exit(f"nisbench: {error}")

for _variable in {OVERLAYS_VARIABLE, PLUGINS_VARIABLE} & os.environ.keys():

    envvars:
        _variable,


report: "workflow/report/study.rst"


wildcard_constraints:
    dataset="[a-z][a-z0-9_-]*",
    id=f"[0-9a-f]{{{ID_LENGTH}}}",


include: "workflow/rules/lock.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        lambda wildcards: outputs(PLAN.study("paper")),
