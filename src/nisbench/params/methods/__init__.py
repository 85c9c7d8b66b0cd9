"""Search methods: which trials they propose, and how their results are pruned. One settings class per kind."""

from typing import Annotated

from pydantic import SerializeAsAny

from nisbench.params.kinds import chosen_by_tag
from nisbench.params.methods.base import (
    Budgeted,
    Importance,
    Method,
    PaperName,
    Rewind,
    Role,
    Rounded,
    rounded_entry,
)  # fmt: skip
from nisbench.params.methods.baselines import TPE, Hashing, Laws, LowRank, QuotientRemainder, TunedAtBudget, Uniform
from nisbench.params.methods.controls import NoEmbeddings, Oracle, UniformTuned
from nisbench.params.methods.modern import PEP, SSEDS, AutoDim, Gradual, OptEmbed
from nisbench.params.methods.paper import (
    DNIS,
    MDE,
    NIS,
    FullTable,
    GridSearch,
    MDEPair,
    MDEProjected,
    ProjectedSetting,
    RandomSearch,
)  # fmt: skip
from nisbench.params.methods.precision import MPE, Quantised

AnyMethod = Annotated[SerializeAsAny[Method], chosen_by_tag(Method)]

__all__ = [
    "DNIS",
    "MDE",
    "MPE",
    "NIS",
    "PEP",
    "SSEDS",
    "TPE",
    "AnyMethod",
    "AutoDim",
    "Budgeted",
    "FullTable",
    "Gradual",
    "GridSearch",
    "Hashing",
    "Importance",
    "Laws",
    "LowRank",
    "MDEPair",
    "MDEProjected",
    "Method",
    "NoEmbeddings",
    "OptEmbed",
    "Oracle",
    "PaperName",
    "ProjectedSetting",
    "Quantised",
    "QuotientRemainder",
    "RandomSearch",
    "Rewind",
    "Role",
    "Rounded",
    "TunedAtBudget",
    "Uniform",
    "UniformTuned",
    "rounded_entry",
]  # fmt: skip
