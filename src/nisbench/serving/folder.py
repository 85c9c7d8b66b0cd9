"""The files of an exported model, and how they are written.

``table.safetensors`` holds the compressed embeddings and ``network.safetensors`` all other weights. ``vocabulary.parquet``
has the row of the table for each field's tokens, ``model.json`` the rest, and ``README.md`` what a person wants to know.
`nisbench.serving.programs` adds ``model.onnx``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import pyarrow as pa

import nisbench
from nisbench import execution, records
from nisbench.data.click_log import UNKNOWN
from nisbench.data.parquet import Field, FieldKind, Scaling, fields_of, open_parquet, read_table, write_table
from nisbench.embedding.storage import Layout, Precision
from nisbench.errors import NisbenchError
from nisbench.files import write_json, write_text
from nisbench.logs import log
from nisbench.models.pruned import PrunedModel
from nisbench.params.models import Model
from nisbench.params.step_settings import PrepareSettings, SearchSettings
from nisbench.params.tasks import Metric
from nisbench.run_files import PruneRun, RunFile
from nisbench.serving import parts
from nisbench.serving.compressed import CompressedEmbedding
from nisbench.serving.table import StoredEmbedding
from nisbench.steps import Step
from nisbench.tensor_files import load_tensors, save_tensors

TABLE, NETWORK, VOCABULARY, DESCRIPTION, ONNX = (
    "table.safetensors", "network.safetensors", "vocabulary.parquet", "model.json", "model.onnx",
)  # fmt: skip
FIRST_ORDER = "first_order"
"""The tensor of a recommender, beside its table, that has a row for each feature."""


class ServedScaling(RunFile):
    """How raw numbers become the values that the model takes; see `parquet.Scaling`."""

    offset: float
    span: float
    missing: float | None
    buckets: bool


class ServedField(RunFile):
    """A field of the raw data."""

    name: str
    kind: str
    """One of `FIELD_KINDS`. What is of another kind was exported by a later version, and is not read."""
    first: int
    """The first of its rows in the table; they are consecutive."""
    count: int
    unknown: int | None
    """The row of tokens that are not in the vocabulary; None if they are an error."""
    scaling: ServedScaling | None = None
    """Of raw numbers; None = numbers must be scaled already."""
    most: int = 1
    """So many of an instance's tokens are used."""
    separator: str | None = None
    """What stands between them; None where they come as lists."""

    def of_instances(self) -> Field:
        """The field, as files of instances have it."""
        scaling = Scaling(**self.scaling.model_dump()) if self.scaling else None
        return Field(self.name, cast(FieldKind, self.kind), self.first, self.count, scaling, self.most, self.separator)


FIELD_KINDS: tuple[str, ...] = get_args(FieldKind)


class Description(RunFile):
    """``model.json``."""

    format: Literal[2]
    nisbench: str
    run: str
    """The id of the pruning that made the model."""
    task: str
    predicts_logits: bool
    model: dict[str, Any]
    fields: list[ServedField]
    metrics: dict[str, float]
    """On test, with the embeddings in the precision that they are stored in."""
    layout: Layout | Literal["composed", "quantised"]
    values: Precision | Literal["codes"]
    """``codes``: of a quantised table, whose rows differ in their bits."""
    bytes: int
    """Of the embeddings as they are stored, and of their projections, if any."""
    network_bytes: int
    """Of all other weights, those with one number per feature among them."""


def export(
    step: Step,
    folder: Path,
    layout: Layout | Literal["auto"] = "auto",
    values: Precision = "float32",
) -> Path:
    """Write the result of a pruning that is done into `folder`, over what an earlier export left there. Returns the folder.

    Raises `NisbenchError` if the folder holds other files.

    The table is stored in that layout and precision (`nisbench.embedding.storage`); ``auto`` is the layout of the fewest
    bytes. A table that is composed of fewer weights is then stored as these, in float32, and a quantised one in its bits.
    """
    run = records.pruning_result(step)
    if run.failed:
        raise NisbenchError(f"there is no model to export: {run.failed}")
    composed = load_tensors(step.path("model"))[1].get("stored_weights") is not None
    if composed and values != "float32":
        raise NisbenchError(
            f"a table that is composed of fewer weights, or trained in few bits, is not rounded to {values}: nobody has measured its "
            "quality then. Leave out --values"
        )
    if folder.exists() and not folder.is_dir():
        raise NisbenchError(f"{folder}: is a file; a model is exported into a folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / DESCRIPTION).exists():
        raise NisbenchError(
            f"{folder}: holds files but no {DESCRIPTION}, so no exported model; its files are left as they are. Name a new folder, such "
            f"as {folder / 'model'}, or empty this one"
        )
    split = step.needs["split"]
    prepare = split.needs["prepare"]
    for needed in (prepare, split):  # a result may have been copied here without its data
        execution.run_with_inputs(needed)
    searched = cast(SearchSettings, step.needs["search"].settings)
    model, task = searched.model, searched.task
    pruned = PrunedModel.load(step.path("scheme"), step.path("model"), model)
    test = split.path("test")
    described, vocabulary = fields_of(open_parquet(test).schema_arrow, test), read_table(prepare.path("vocabulary"))
    table: StoredEmbedding
    if composed and layout == "auto":
        table, order = parts.of_run(step, pruned)
    else:
        table, order = CompressedEmbedding.from_dense(pruned.embeddings, layout, values), np.arange(len(vocabulary))
        if composed:
            log.warning(
                "as %s, the table takes %d bytes; in its own form it takes %d", layout, table.nbytes, run.stored_bytes()
            )
    fields = [_served(field, vocabulary["token"], np.argsort(order)) for field in described]
    others = {name: tensor[order] if name == FIRST_ORDER else tensor for name, tensor in pruned.others.items()}
    projections = 4 * run.projection_weights
    description = Description(
        format=2,
        nisbench=nisbench.__version__,
        run=step.id,
        task=str(task.kind_name()),
        predicts_logits=task.predicts_logits,
        model=_all_of(model),
        fields=fields,
        metrics=run.metrics_at(values),
        layout=table.layout,
        values=table.values,
        bytes=table.nbytes + projections,
        network_bytes=sum(tensor.nbytes for tensor in others.values()) - projections,
    )
    save_tensors(folder / TABLE, table.state_dict(), table.extent())
    save_tensors(folder / NETWORK, others, pruned.about())
    rows = pa.array(np.arange(len(vocabulary), dtype=np.int32))
    write_table(folder / VOCABULARY, vocabulary.select(["field", "token"]).take(order).append_column("row", rows))
    write_text(folder / "README.md", _readme(step, run, description, task.metrics))
    write_json(folder / DESCRIPTION, description.model_dump(mode="json"))
    (folder / ONNX).unlink(missing_ok=True)  # of an earlier model
    return folder


def _served(field: Field, tokens: pa.ChunkedArray, row: np.ndarray) -> ServedField:
    """A field of instances in an exported folder, where feature i is the table's row ``row[i]``."""
    has_unknown = field.kind == "categorical" and tokens[field.first].as_py() == UNKNOWN
    return ServedField(
        name=field.name,
        kind=field.kind,
        first=field.first,
        count=field.count,
        unknown=int(row[field.first]) if has_unknown else None,
        scaling=ServedScaling(**vars(field.scaling)) if field.scaling else None,
        most=field.most,
        separator=field.separator,
    )


def _all_of(model: Model) -> dict[str, Any]:
    """A model's settings as they are read back, with what no id needs."""
    return model.model_dump(mode="json") | {"title": model.title}


def _readme(step: Step, run: PruneRun, description: Description, metrics: Sequence[Metric]) -> str:
    data = cast(PrepareSettings, step.needs["split"].needs["prepare"].settings).dataset
    method = cast(SearchSettings, step.needs["search"].settings).method
    unscaled = [field.name for field in description.fields if field.kind == "scalar" and field.scaling is None]
    quality = [f"| {metric.title} | {description.metrics[metric.name]:.5f} |" for metric in metrics]
    answer = "probabilities (`logits=True`: their logits)" if description.predicts_logits else "the model's predictions"
    fields = [f"| {field.name} | {_content(field)} | {_unknown(field)} |" for field in description.fields]
    note = (
        f"\nNumbers ({', '.join(unscaled)}) must be scaled already, as the data set's preparation scales them. "
        "Missing ones count as 0.\n"
        if unscaled
        else ""
    )
    name = description.model["title"] or description.model["kind"]
    example = ", ".join(f'"{field.name}": [...]' for field in description.fields[:2])
    more = ", ..." if len(description.fields) > 2 else ""
    lines = [
        f"# {name} on {data.title}, found by {method.title}",
        "",
        "```python",
        "import nisbench as nb",
        "",
        'model = nb.load_model("this/folder")',
        f"model.predict({{{example}{more}}})  # a data frame, an Arrow table or a dict",
        "```",
        "",
        f"`predict` returns {answer}.",
        "",
        f"| On {run.test_instances:,} test instances | |",
        "|---|---|",
        *quality,
        "",
        "| Embeddings | |",
        "|---|---|",
        f"| Features | {run.features.count:,}, of which {run.features.without_dimensions:,} have no dimension left |",
        f"| Weights | {run.nonzeros:,} of {run.weights:,} |",
        f"| Stored as | {description.layout}, {description.values} |",
        f"| Bytes | {description.bytes:,} |",
        f"| Bytes of the network, with first-order weights | {description.network_bytes:,} |",
        "",
        "| Column | Holds | Other tokens |",
        "|---|---|---|",
        *fields,
        note,
        f"Made by nisbench {description.nisbench}, run {description.run}.",
    ]
    return "\n".join(lines) + "\n"


def _content(field: ServedField) -> str:
    if field.kind == "scalar":
        return "number"
    if field.scaling:
        return f"number, in one of {field.count:,} buckets"
    if field.most == 1:
        return f"{field.count:,} tokens"
    between = "as a list" if field.separator is None else f"separated by `{field.separator}`"
    return f"up to {field.most} of {field.count:,} tokens, {between}"


def _unknown(field: ServedField) -> str:
    if field.kind == "scalar":
        if field.scaling is None:
            return ""
        return "missing: an error" if field.scaling.missing is None else f"missing: {field.scaling.missing:.6g}"
    return "are an error" if field.unknown is None else "count as unknown"
