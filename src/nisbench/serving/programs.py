"""A served model as a program that needs no Python of ours: for ``torch.export`` and for ONNX Runtime.

The table stays compressed in both: its tensors are the program's constants, and rows are decoded by ordinary operations
(gathers, shifts, a cumulative sum). What a program takes are row numbers of the table, not raw tokens: the vocabulary is
no part of it (`ServedModel.instances` makes the one of the other). It returns what `ServedModel.predict` does.
"""

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nisbench.data.instances import Instances
from nisbench.errors import NisbenchError
from nisbench.files import atomic_write
from nisbench.serving.folder import ONNX
from nisbench.serving.model import ServedModel, load_model

ONNX_PACKAGES = ("onnx", "onnxscript")
OPSET = 18


class Program(nn.Module):
    """Predictions (n,) for ids (n, M) int64, rows of the table, and where `ServedModel.has_values`, values (n, M) float32.

    A field of up to m tokens has m of the M columns; see `Instances`.
    """

    def __init__(self, served: ServedModel) -> None:
        super().__init__()
        self.recommender = served.recommender
        self.probabilities = served.description.predicts_logits
        widths = tuple(field.most for field in served.description.fields)
        self.columns = widths if max(widths) > 1 else None

    def forward(self, ids: Tensor, values: Tensor | None = None) -> Tensor:
        predictions: Tensor = self.recommender(Instances(ids, ids[:, 0].float(), values, self.columns))
        return predictions.sigmoid() if self.probabilities else predictions


def inputs_of(served: ServedModel, frame: Any) -> dict[str, Tensor]:
    """A program's inputs for raw columns."""
    batch = served.instances(frame)
    found = {"ids": batch.ids.long()}
    return found if batch.values is None else found | {"values": batch.values}


def exported(served: ServedModel) -> torch.export.ExportedProgram:
    """The model by ``torch.export``: any number of rows, on the device that it is on."""
    example, shapes = _example(served)
    with torch.no_grad():
        return torch.export.export(Program(served), (), example, dynamic_shapes=shapes)


def export_onnx(folder: Path) -> None:
    """Add ``model.onnx`` to an exported folder: the model for ONNX Runtime, weights included. At most 2 GB. Raises `NisbenchError` if the extra [onnx] is not installed."""
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise NisbenchError(f"{' and '.join(missing)}: not installed. Run: pip install 'nisbench[onnx]'")
    import onnx  # noqa: PLC0415 - an extra

    served = load_model(folder)
    example, _ = _example(served)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it names every package that it can do without
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            exported(served), (), kwargs=example, dynamo=True, opset_version=OPSET, verbose=False, optimize=True,
            input_names=list(example), output_names=["predictions"],
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    for part in (model.graph, *model.functions):  # remarks on each node: which line of which file here it comes from
        for item in (*part.node, *part.value_info, *getattr(part, "input", ()), *getattr(part, "output", ()), part):
            if hasattr(item, "metadata_props"):
                del item.metadata_props[:]
                item.doc_string = ""
    with atomic_write(folder / ONNX) as temporary:
        onnx.save(model, str(temporary))


def _example(served: ServedModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Inputs of three rows, and that their number may be any."""
    rows = torch.export.Dim("rows")
    first = [field.first for field in served.description.fields for _ in range(field.most)]
    found = {"ids": torch.tensor([first] * 3, device=served.device)}
    if served.has_values:
        found["values"] = torch.ones(found["ids"].shape, device=found["ids"].device)
    return found, {name: {0: rows} for name in found}
