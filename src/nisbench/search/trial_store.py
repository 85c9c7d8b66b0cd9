"""What a running search keeps on disk: finished trials, and the weights that may still be needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from nisbench.errors import NisbenchError
from nisbench.files import read_json, write_json
from nisbench.logs import log
from nisbench.models.recommender import IMPORTANCE, TABLE, Recommender
from nisbench.run_files import Trial
from nisbench.search.trial_spec import TrialSpec
from nisbench.tensor_files import is_readable, load_tensors, save_tensors

_RESULTS = TypeAdapter(dict[int, Trial | None])


class TrialStore:
    """A folder of trials, by their indices. It is deleted once the search is recorded as done."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device

    def weights_file(self, index: int) -> Path:
        return self.folder / f"{index}.safetensors"

    def checkpoint(self, index: int, phase: str) -> Path:
        """The state of a trial, or of several that are fused, to resume from on the same kind of device."""
        return self.folder / f"{index}.{self.device.type}-{phase}.safetensors"

    def save_results(self, results: Mapping[int, Trial | None]) -> None:
        """Save the results of trials that were trained together; None = it failed there, and is to be trained alone."""
        form = {index: trial and trial.model_dump(mode="json") for index, trial in results.items()}
        write_json(self.folder / f"{min(results)}.json", form)

    def results(self) -> dict[int, Trial | None]:
        """Saved results by trial index; None = failed in a fused run, to be retrained alone."""
        known: dict[int, Trial | None] = {}
        for path in sorted(self.folder.glob("*.json"), key=lambda path: path.stem):
            known |= {index: trial or known.get(index) for index, trial in self._read(path).items()}
        return known

    def result(self, index: int, specs: Sequence[TrialSpec]) -> Trial | None:
        """A finished trial, unless its weights may be needed and are gone, or not readable."""
        finished = {i: trial for i, trial in self.results().items() if trial}
        if index not in finished:
            return None
        candidates = [i for i in finished if i >= len(specs) or not specs[i].then]
        best = min(candidates, key=lambda i: (finished[i].loss, i), default=None)
        needed = (index == best or specs[index].then) and not finished[index].failed
        return None if needed and not is_readable(self.weights_file(index)) else finished[index]

    def save_weights(self, index: int, recommender: Recommender) -> None:
        """Save a trained recommender: its table as it is stored in the end, and all else."""
        state = {name: tensor for name, tensor in recommender.state_dict().items() if not name.startswith(TABLE)}
        table, projection = recommender.embedding, recommender.projection
        state |= {TABLE + name: tensor for name, tensor in table.stored().state_dict().items()}
        if table.importance is not None:
            state[IMPORTANCE] = table.importance
        about = {
            "widths": recommender.widths,
            "projection": projection and [projection.dimensions, projection.common],
            "columns": recommender.columns,
            "stored_weights": table.stored_weights,
            "quantiser": table.quantiser,
        }
        save_tensors(self.weights_file(index), state, about)

    def load_weights(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return load_tensors(self.weights_file(index))

    def delete_weights(self, index: int) -> None:
        self.weights_file(index).unlink(missing_ok=True)

    @staticmethod
    def _read(path: Path) -> dict[int, Trial | None]:
        try:
            return _RESULTS.validate_python({int(key): value for key, value in read_json(path).items()})
        except (NisbenchError, ValidationError, ValueError, AttributeError):
            log.warning("%s is damaged: its trials are trained again", path)
            return {}
