"""nisbench: a benchmark suite for neural input search.

>>> import nisbench as nb
>>> data = nb.load_dataset("planted_ratings", users=200, items=100, instances=20000)
>>> found = nb.search(nb.DNIS(), nb.MF(), data, nb.Training(base_dimension=16), seed=1)
>>> small = found.prune(compression_rate=2.5)
>>> small.export("small/")
>>> nb.load_model("small/").predict({"user": [3, 5], "item": [7, 7]})

`nisbench.api` says what each of these does. Every method, model, task and data format of ``params/``, and of your
plug-ins, is here under the name of its settings class.
"""

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

# GNU OpenMP's threads spin while they wait for each other. If anything else wants a core, the spinning thread keeps
# it from the thread it waits for, and training slows down a hundredfold. A short spin costs little on free cores.
# This is read when torch is imported, so it is set here. Your own setting of OpenMP's waiting is kept.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "5000"

if TYPE_CHECKING:
    from nisbench.api import (
        CTR,
        DNIS,
        FM,
        MDE,
        MF,
        MLP,
        MPE,
        NIS,
        PEP,
        SSEDS,
        TPE,
        AutoDim,
        Criteo,
        CriteoX1,
        DataTable,
        DeepFM,
        FullTable,
        Gradual,
        GridSearch,
        Hashing,
        Laws,
        LowRank,
        MDEProjected,
        MovieLens,
        NeuMF,
        NoEmbeddings,
        OptEmbed,
        Oracle,
        PlantedCTR,
        PlantedRatings,
        PlantedTopK,
        PreparedDataset,
        PruneResult,
        Quantised,
        QuotientRemainder,
        RandomSearch,
        Rating,
        SearchResult,
        TopK,
        Training,
        Uniform,
        UniformTuned,
        WideDeep,
        load_dataset,
        results,
        search,
        settings,
    )
    from nisbench.errors import NisbenchError
    from nisbench.serving import ServedModel, load_model

__version__ = "0.2.0"

__all__ = [
    "CTR",
    "DNIS",
    "FM",
    "MDE",
    "MF",
    "MLP",
    "MPE",
    "NIS",
    "PEP",
    "SSEDS",
    "TPE",
    "AutoDim",
    "Criteo",
    "CriteoX1",
    "DataTable",
    "DeepFM",
    "FullTable",
    "Gradual",
    "GridSearch",
    "Hashing",
    "Laws",
    "LowRank",
    "MDEProjected",
    "MovieLens",
    "NeuMF",
    "NisbenchError",
    "NoEmbeddings",
    "OptEmbed",
    "Oracle",
    "PlantedCTR",
    "PlantedRatings",
    "PlantedTopK",
    "PreparedDataset",
    "PruneResult",
    "Quantised",
    "QuotientRemainder",
    "RandomSearch",
    "Rating",
    "SearchResult",
    "ServedModel",
    "TopK",
    "Training",
    "Uniform",
    "UniformTuned",
    "WideDeep",
    "__version__",
    "load_dataset",
    "load_model",
    "results",
    "search",
    "settings",
]


def __getattr__(name: str) -> Any:
    """What is in `__all__`, and settings of plug-ins: imported when first used, to keep ``import nisbench`` quick."""
    if (
        name in __all__ or name[0].isupper()
    ):  # other names are submodules that Python looks for here before it imports them
        from nisbench import api  # noqa: PLC0415

        if hasattr(api, name):
            return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """The type of this module: its ``search`` is the function, although a subpackage has the same name."""

    @property
    def search(self) -> Any:
        from nisbench import api  # noqa: PLC0415

        return api.search

    @search.setter
    def search(self, subpackage: ModuleType) -> None:
        """Python binds a subpackage here when it imports one. ``from nisbench.search import ...`` does without."""


sys.modules[__name__].__class__ = _Package
