"""Compressed tables in every layout and precision; exported folders, alone and as programs; the example server."""

import copy
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

import nisbench as nb
from nisbench import api
from nisbench.data import instances
from nisbench.embedding import storage
from nisbench.embedding.storage import LAYOUTS, PRECISIONS, Extent
from nisbench.serving import CompressedEmbedding, parts
from nisbench.serving.quantised import QuantisedEmbedding
from nisbench.tensor_files import load_tensors, save_tensors
from tests.helpers.paths import ROOT

SHORT = {"base_dimension": 8, "max_epochs": 2, "device": "cpu"}
TASKS = {
    "rating": ("planted_ratings", {"users": 60, "items": 40, "instances": 2000, "rank": 4, "levels": 3}),
    "ctr": (
        "planted_ctr",
        {"instances": 2000, "scalar_fields": 2, "categorical_fields": [20, 10, 5], "rank": 4, "levels": 3},
    ),
    "topk": ("planted_topk", {"users": 80, "items": 50, "instances": 1600, "rank": 4, "levels": 3}),
}
FORMS = list(itertools.product(LAYOUTS, PRECISIONS))
SHAPES = [(1, 1), (5, 3), (200, 8), (150, 13), (130, 64), (70, 100), (66, 300)]


def table_of(rows, columns, density, prefixes=False):
    generator = np.random.default_rng(rows)
    table = generator.normal(size=(rows, columns)).astype(np.float32)
    kept = generator.random((rows, columns)) < density
    if prefixes:
        kept = np.arange(columns) < kept.sum(1)[:, None]
    return np.where(kept, table, np.float32(0))


# --- compressed tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "values"), FORMS)
def test_a_table_comes_back_from_every_layout_and_precision(layout, values):
    for (rows, columns), density in itertools.product(SHAPES, (0, 0.05, 0.4, 1)):
        table = table_of(rows, columns, density)
        small = CompressedEmbedding.from_dense(torch.from_numpy(table), layout, values)
        expected = storage.rounded(table, values, np.empty_like(table))
        ids = torch.from_numpy(np.random.default_rng(0).integers(0, rows, (4, 9)))
        np.testing.assert_array_equal(small(ids).numpy(), expected[ids.numpy()])
        np.testing.assert_array_equal(small(ids.int()).numpy(), expected[ids.numpy()])
        np.testing.assert_array_equal(small._gathered(ids.flatten()).view(4, 9, columns).numpy(), expected[ids.numpy()])
        assert small.nbytes == Extent.of(table).bytes(layout, values)
        assert len(small(torch.zeros(0, dtype=torch.long))) == 0


@pytest.mark.parametrize(("values", "error"), [("float32", 0), ("float16", 2**-11), ("int8", 0.5), ("int4", 0.5)])
def test_rounding_is_within_half_a_step_and_zeros_stay(values, error):
    table = table_of(50, 16, 0.5) * np.float32(3)
    found = storage.rounded(table, values, np.empty_like(table))
    assert (found[table == 0] == 0).all()
    if values in storage.LARGEST_CODE:  # a scale is rounded up by at most 1 in 128
        step = np.abs(table).max(1, keepdims=True) / storage.LARGEST_CODE[values] * (1 + 2**-7)
        assert (np.abs(found - table) <= error * step * (1 + 1e-6)).all()
    else:
        assert (np.abs(found - table) <= error * np.abs(table)).all()


def test_extreme_weights_are_kept_as_well_as_the_precision_can():
    table = np.array([[1e-30, 0], [3e38, -3e38], [1e-7, 6e-8], [65504, 1]], dtype=np.float32)
    for layout, values in FORMS:
        small = CompressedEmbedding.from_dense(table, layout, values)(torch.arange(4)).numpy()
        assert np.isfinite(small).all()
        np.testing.assert_array_equal(small, storage.rounded(table, values, np.empty_like(table)))


def test_auto_takes_the_fewest_bytes():
    for (rows, columns), density, prefixes in itertools.product(SHAPES, (0, 0.05, 0.2, 0.5, 1), (False, True)):
        table = table_of(rows, columns, density, prefixes)
        for values in PRECISIONS:
            least = min(CompressedEmbedding.from_dense(table, layout, values).nbytes for layout in LAYOUTS)
            assert CompressedEmbedding.from_dense(table, values=values).nbytes == least
    chosen = {density: CompressedEmbedding.from_dense(table_of(5000, 64, density)).layout for density in (1, 0.3, 0.05)}
    assert chosen == {1: "dense", 0.3: "mask", 0.05: "csr"}
    assert CompressedEmbedding.from_dense(table_of(5000, 64, 0.3, prefixes=True)).layout == "prefix"


@pytest.mark.parametrize(("layout", "values"), FORMS)
def test_a_state_is_loaded_and_a_copy_stands_alone(layout, values):
    table, ids = table_of(130, 20, 0.4), torch.arange(130)
    small = CompressedEmbedding.from_dense(table, layout, values)
    expected = small(ids)
    empty = CompressedEmbedding(**small.extent())
    empty.load_state_dict(small.state_dict())
    assert torch.equal(empty(ids), expected)
    copied = copy.deepcopy(small)
    small.weights.zero_()
    assert torch.equal(copied(ids), expected)
    assert not small(ids).any()
    assert not small.requires_grad_().training or not list(small.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("layout", "values"), FORMS)
def test_a_gpu_decodes_the_same(layout, values):
    small = CompressedEmbedding.from_dense(table_of(130, 20, 0.4), layout, values)
    ids = torch.arange(130)
    expected = small(ids)
    assert torch.equal(small.cuda()(ids.cuda()).cpu(), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_that_are_no_row_s_are_an_error(layout):
    small = CompressedEmbedding.from_dense(table_of(5, 8, 0.5), layout)
    for wrong in (5, -1):
        with pytest.raises(IndexError):
            small(torch.tensor([0, wrong]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CompressedEmbedding.from_dense(np.array([[np.nan]])), "not finite"),
        (lambda: CompressedEmbedding.from_dense(np.zeros(3)), r"rows and columns \(N, K\), not the shape \(3,\)"),
        (lambda: CompressedEmbedding.from_dense(np.zeros((1, 1)), "coo"), "layout must be one of auto, dense"),
        (lambda: CompressedEmbedding.from_dense(np.zeros((1, 1)), values="int2"), "values must be one of float32"),
        (lambda: CompressedEmbedding.from_dense(np.zeros((1, 70000)), "csr"), "65,536 at most"),
    ],
)
def test_what_cannot_be_compressed_is_one_clear_error(make, message):
    with pytest.raises(nb.NisbenchError, match=message):
        make()


@pytest.mark.parametrize("layout", ["prefix", "csr", "mask"])
def test_a_state_that_would_be_read_out_of_bounds_is_refused(layout):
    small = CompressedEmbedding.from_dense(table_of(130, 20, 0.4), layout)
    for name, tensor in small.state_dict().items():
        if name == "weights":
            continue
        broken = small.state_dict() | {name: torch.full_like(tensor, 119)}
        with pytest.raises(nb.NisbenchError, match="do not fit together"):
            CompressedEmbedding(**small.extent()).load_state_dict(broken)


# --- folders --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _outside_a_checkout(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(api.HOME_VARIABLE, str(home))


def pruned(task, model=None, rate=2, method=None):
    """Trained by whichever test is the first to ask."""
    name, changes = TASKS[task]
    models = {"rating": nb.MF, "ctr": lambda: nb.DeepFM(hidden=[8]), "topk": nb.MF}
    chosen = nb.TopK(candidates=19) if task == "topk" else None
    data = nb.load_dataset(name, **changes, **({"task": chosen} if chosen else {}))
    return nb.search(method or nb.DNIS(), model or models[task](), data, nb.Training(**SHORT)).prune(rate)


def raw(small, split="test"):
    """A split's columns as the source has them."""
    data = small.search.data
    frame, tokens = getattr(data, split), data.features["token"].to_numpy()
    fields = [name for name in frame if name != "label"]
    return pd.DataFrame(
        {name: tokens[frame[name]] if frame[name].dtype.kind == "i" else frame[name] for name in fields}
    )


@pytest.mark.parametrize("values", PRECISIONS)
def test_every_precision_serves_the_quality_that_was_recorded(values):
    small = pruned("rating")
    served = nb.load_model(small.export("small", values=values))
    error = served.predict(raw(small)).astype(float) - small.search.data.test["label"]
    assert np.square(error).mean() == pytest.approx(small.run.metrics_at(values)["mse"], rel=1e-6)
    assert served.metrics == small.run.metrics_at(values)
    assert served.bytes == small.run.stored_bytes(values) == served.table.nbytes
    about = served.description
    assert (about.layout, about.values) == (served.table.layout, values)
    readme = Path("small/README.md").read_text()
    assert f"{served.bytes:,}" in readme
    assert f"{served.metrics['mse']:.5f}" in readme
    assert {path.suffix for path in Path("small").iterdir()} == {".safetensors", ".parquet", ".json", ".md"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_predicts_the_same(layout):
    small = pruned("ctr")
    expected = nb.load_model(small.export("a", layout="dense")).predict(raw(small))
    served = nb.load_model(small.export("b", layout=layout))
    np.testing.assert_array_equal(served.predict(raw(small)), expected)
    assert served.table.layout == layout


def test_tokens_have_embeddings():
    small = pruned("ctr")
    served = nb.load_model(small.export("small"))
    features = small.search.data.features
    of_field = features[features["field"] == "C1"]
    dense = small.scheme.to_dense()
    np.testing.assert_array_equal(served.lookup("C1", of_field["token"]), dense[of_field.index])
    np.testing.assert_array_equal(served.lookup("C1", ["never seen"]), dense[of_field.index[:1]])
    with pytest.raises(nb.NisbenchError, match="there is no field 'C9'; did you mean"):
        served.lookup("C9", ["1"])
    with pytest.raises(nb.NisbenchError, match="'I1' holds numbers"):
        served.lookup("I1", [0.5])
    with pytest.raises(nb.NisbenchError, match="there is no 'nobody' in the vocabulary"):
        nb.load_model(pruned("rating").export("ratings")).lookup("user", ["nobody"])


def test_projected_embeddings_are_looked_up_as_the_model_sees_them():
    projected = nb.MDEProjected(settings=[{"base_dimension": 4, "temperature": 0.3, "budget": None}])
    small = pruned("rating", method=projected)
    served = nb.load_model(small.export("small"))
    users = served.lookup("user", raw(small)["user"])
    items = served.lookup("item", raw(small)["item"])
    assert users.shape == (200, 4)
    bare = small.recommender()
    first = bare.first_order.detach().numpy()[small.search.data.test[["user", "item"]]].sum(1)
    expected = bare.model.mean.item() + (users * items).sum(1) + first
    np.testing.assert_allclose(served.predict(raw(small)), expected, atol=1e-5)


def test_a_recalibrated_model_is_served_with_its_offset():
    name, changes = TASKS["rating"]
    data = nb.load_dataset(name, **changes)
    small = nb.search(nb.DNIS(), nb.MF(), data, nb.Training(**SHORT, recalibrate=True)).prune(8)
    assert small.run.offset
    served = nb.load_model(small.export("small"))
    mean = served.predict(raw(small, "validation")).astype(float).mean()
    assert mean == pytest.approx(data.validation["label"].mean(), abs=1e-5)
    error = served.predict(raw(small)).astype(float) - data.test["label"]
    assert np.square(error).mean() == pytest.approx(small.metrics["mse"], rel=1e-6)


def test_a_field_of_a_later_version_and_a_damaged_table_are_refused():
    folder = pruned("rating").export("small", layout="csr")
    about = json.loads((folder / "model.json").read_text())
    fields = [about["fields"][0] | {"kind": "tree"}, about["fields"][1]]
    (folder / "model.json").write_text(json.dumps(about | {"fields": fields}))
    with pytest.raises(nb.NisbenchError, match=r"the field 'user' is of the kind 'tree'.*it reads categorical, scalar"):
        nb.load_model(folder)
    (folder / "model.json").write_text(json.dumps(about))
    tensors, extent = load_tensors(folder / "table.safetensors")
    for broken, of_extent in (
        (tensors | {"columns": tensors["columns"] + 100}, extent),
        ({name: tensor for name, tensor in tensors.items() if name != "starts"}, extent),
        (tensors, extent | {"rows": 10**12}),
        (tensors, extent | {"layout": "tree"}),
        (tensors, {}),
    ):
        save_tensors(folder / "table.safetensors", broken, of_extent)
        with pytest.raises(nb.NisbenchError, match=r"table\.safetensors: not a compressed table"):
            nb.load_model(folder)


ALONE = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"snakemake", "dvc", "matplotlib", "seaborn", "sklearn", "onnx", "onnxruntime", "fastapi"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
import numpy as np, pyarrow.parquet as pq
import nisbench as nb

folder, test = sys.argv[1:]
table = pq.read_table(test)
model = nb.load_model(folder)
predictions = model.predict(table).astype(float)
np.save(test + ".npy", predictions)
print(json.dumps(model.metrics))
"""


@pytest.mark.parametrize("task", list(TASKS))
def test_a_folder_alone_gives_the_test_figures_that_were_recorded(task, tmp_path):
    """In a process of its own, outside a checkout, that can import nothing but what the bare package needs."""
    small = pruned(task)
    small.export("small")
    frame, labels = raw(small), small.search.data.test["label"].to_numpy()
    if task == "topk":  # every test user with every item
        data = small.search.data
        items = data.features[data.features["field"] == "item"]["token"].to_numpy()
        frame = pd.DataFrame({"user": np.repeat(frame["user"], len(items)), "item": np.tile(items, len(frame))})
    frame.to_parquet("test.parquet")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NISBENCH", "XDG"))}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, "small", "test.parquet"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    predictions = np.load("test.parquet.npy")
    assert json.loads(done.stdout) == small.metrics
    if task == "rating":
        assert np.square(predictions - labels).mean() == pytest.approx(small.metrics["mse"], rel=1e-6)
    elif task == "ctr":
        from sklearn.metrics import log_loss, roc_auc_score  # noqa: PLC0415 - slow to import

        assert roc_auc_score(labels, predictions) == pytest.approx(small.metrics["auc"], abs=1e-6)
        assert log_loss(labels, predictions) == pytest.approx(small.metrics["logloss"], rel=1e-5)
    else:
        assert full_recall(small, predictions, 10) == pytest.approx(small.metrics["full_recall@10"], abs=1e-9)


def full_recall(small, scores, k):
    """Recall@k of each user's test item among all items that the user has not taken, ties counting in part."""
    data = small.search.data
    users, items = (data.features["field"] == name for name in ("user", "item"))
    first = int(np.flatnonzero(items)[0])
    taken = pd.concat([data.train, data.validation, data.test])
    scores, found = scores.reshape(-1, int(items.sum())), []
    for row, (user, item) in enumerate(data.test[["user", "item"]].to_numpy()):
        own = taken.loc[taken["user"] == user, "item"].to_numpy() - first
        others = np.delete(scores[row], own)
        better, equal = (others > scores[row, item - first]).sum(), (others == scores[row, item - first]).sum()
        found.append(np.clip((k - better) / (equal + 1), 0, 1))
    assert users.sum() == len(data.test)
    return np.mean(found)


# --- composed tables ------------------------------------------------------------------------------------------

COMPOSED = {
    "hashing": lambda: nb.Hashing(**TUNED),
    "product": lambda: nb.QuotientRemainder(**TUNED, combine="product"),
    "sum": lambda: nb.QuotientRemainder(**TUNED, combine="sum", order="frequency"),
    "matrices": lambda: nb.LowRank(**TUNED),
}
TUNED = {"l2": [0.0], "learning_rate": [0.01], "budget": 0.65}


def composed(task, name):
    return pruned(task, method=COMPOSED[name](), rate=1)


@pytest.mark.parametrize("name", list(COMPOSED))
@pytest.mark.parametrize("task", ["rating", "ctr"])
def test_a_composed_table_is_stored_as_its_parts(task, name):
    small = composed(task, name)
    served = nb.load_model(small.export("small"))
    dense = nb.load_model(small.export("dense", layout="dense"))
    assert served.bytes == served.table.nbytes == 4 * small.run.nonzeros == small.run.stored_bytes()
    assert served.bytes < 0.7 * dense.bytes
    tensors, _ = load_tensors(Path("small/table.safetensors"))
    assert sum(tensor.nbytes for tensor in tensors.values()) == served.bytes
    frame = raw(small)
    np.testing.assert_allclose(served.predict(frame), dense.predict(frame), rtol=0, atol=1e-6)
    expected = small.recommender().predict(
        instances.read(small.search.data.step.needs["split"].path("test"), torch.device("cpu"))
    )
    np.testing.assert_allclose(dense.predict(frame, logits=task == "ctr"), expected, rtol=0, atol=1e-6)
    features = small.search.data.features
    for field in {"rating": ("user", "item"), "ctr": ("C1", "C3")}[task]:
        tokens = features[features["field"] == field]["token"]
        np.testing.assert_allclose(served.lookup(field, tokens), dense.lookup(field, tokens), rtol=0, atol=1e-6)
    assert (served.description.layout, served.metrics) == ("composed", small.metrics)
    with pytest.raises(IndexError, match="out of range"):
        served.table(torch.tensor([served.table.rows]))


QUANTISED = {
    "one_width": lambda: nb.Quantised(**TUNED | {"budget": 0.3}, bits=3, step_learning_rate=1e-3),
    "several": lambda: nb.MPE(**MIXED, widths=[0, 2, 3, 32]),
}
MIXED = {
    "budget": 0.3, "groups": 6, "temperature": 1e-3, "learning_rate": 3e-3, "step_learning_rate": 1e-3,
    "penalty": 1e-6, "penalty_learning_rate": 0.2, "search_epochs": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", list(QUANTISED))
@pytest.mark.parametrize("task", ["rating", "ctr", "topk"])
def test_a_quantised_table_is_stored_in_its_bits(task, name):
    small = pruned(task, method=QUANTISED[name](), rate=1)
    served = nb.load_model(small.export("small"))
    dense = nb.load_model(small.export("dense", layout="dense"))
    assert (served.description.layout, served.description.values) == ("quantised", "codes")
    assert served.bytes == served.table.nbytes == Path("small/table.safetensors").stat().st_size - header("small")
    assert served.bytes <= small.run.stored_bytes() + 8 * len(served.table.first)  # each run of rows begins with a byte
    assert served.bytes < 0.4 * dense.bytes
    frame = raw(small)
    np.testing.assert_allclose(served.predict(frame), dense.predict(frame), rtol=0, atol=1e-6)
    every = torch.arange(served.table.rows)
    np.testing.assert_array_equal(served.table(every).numpy(), served.table._gathered(every).numpy())
    with pytest.raises(IndexError, match="out of range"):
        served.table(torch.tensor([served.table.rows]))


def header(folder):
    """The bytes of a file of tensors that are none of the tensors'."""
    with Path(folder, "table.safetensors").open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


@pytest.mark.parametrize("widths", [[4], [8], [1], [32], [0], [0, 1, 2, 3, 4, 5, 6, 7, 8, 32], [3, 0, 2]])
def test_a_quantised_table_comes_back_bit_for_bit(widths):
    generator = np.random.default_rng(0)
    for columns, sizes in itertools.product((1, 3, 8, 13, 64, 100), ([37, 20, 1], [5], [20_000])):
        steps = np.exp(generator.normal(size=len(widths))).astype(np.float32)
        offset = generator.normal(size=columns).astype(np.float32)
        which = generator.integers(0, len(widths), sum(sizes))
        bits = np.array(widths)[which][:, None]
        most = 2.0 ** np.clip(bits - 1, 0, 7)
        codes = np.floor(generator.uniform(-most, most, (sum(sizes), columns))).astype(np.float32)
        exact = generator.normal(size=codes.shape).astype(np.float32)
        table = np.where(bits == 32, exact, (codes * steps[which][:, None] + offset) * (bits > 0))
        found = QuantisedEmbedding.from_dense(table, sizes, widths, steps.tolist(), offset.tolist(), room=0.0)
        assert found is not None
        small, order = found
        field = np.repeat(np.arange(len(sizes)), sizes)
        assert (field[order] == field).all()  # a field's rows stay together
        ids = torch.from_numpy(generator.integers(0, len(table), (4, 50)))
        np.testing.assert_array_equal(small(ids).numpy(), table[order][ids.numpy()])
        np.testing.assert_array_equal(small(ids.int()).numpy(), table[order][ids.numpy()])
        gathered = small._gathered(ids.flatten()).view(4, 50, columns).numpy()
        np.testing.assert_array_equal(gathered, table[order][ids.numpy()])
        again = QuantisedEmbedding(**json.loads(json.dumps(small.extent())))
        again.load_state_dict(small.state_dict())
        np.testing.assert_array_equal(again(ids).numpy(), small(ids).numpy())
        assert len(small(torch.zeros(0, dtype=torch.long))) == 0


def test_a_quantised_table_that_was_changed_or_damaged_is_refused():
    table = np.array([[1.0, 3.0], [2.0, 4.0]], dtype=np.float32)
    assert QuantisedEmbedding.from_dense(table, [2], [4], [1.0], [0.0, 0.0], room=1e-6)
    assert QuantisedEmbedding.from_dense(table + np.float32(0.3), [2], [4], [1.0], [0.0, 0.0], room=1e-6) is None
    folder = pruned("rating", method=QUANTISED["several"](), rate=1).export("small")
    tensors, extent = load_tensors(folder / "table.safetensors")
    for broken, of_extent in (
        (tensors | {"codes": tensors["codes"][1:].clone()}, extent),
        (tensors | {"codes": tensors["codes"].short()}, extent),
        (tensors | {"steps": tensors["steps"] * torch.nan}, extent),
        (tensors, extent | {"widths": [0, 2, 3, 9]}),
        (tensors, extent | {"counts": [[1, 2], [3]]}),
        (tensors, extent | {"counts": [[10**12, 0, 0, 0]]}),
        (tensors, extent | {"counts": [[2**63, 0, 0, 0]]}),
        (tensors, extent | {"counts": [[1.5, 0, 0, 0]]}),
        (tensors, extent | {"counts": []}),
        (tensors, extent | {"width": 2**70}),
        (tensors, extent | {"widths": [0, 2.0, 3, 32]}),
        (
            {"codes": torch.zeros(5, dtype=torch.uint8), "unrounded": torch.zeros(0, 1)}
            | {"steps": torch.ones(2), "offset": torch.zeros(1)},  # numbers whose sums wrap around to small ones
            {
                "width": 1,
                "widths": [4, 8],
                "counts": [[1, 6917529027641081856], [4611686018427387904, 2], [2, 0], [0, 6917529027641081856]],
            },
        ),
    ):
        save_tensors(folder / "table.safetensors", broken, of_extent)
        with pytest.raises(nb.NisbenchError, match=r"table\.safetensors: not a compressed table"):
            nb.load_model(folder)


def test_unknown_tokens_of_a_composed_table():
    small = composed("ctr", "hashing")
    served, dense = (nb.load_model(small.export(layout, layout=layout)) for layout in ("auto", "dense"))
    frame = raw(small).assign(C1="never seen", C2=None)
    np.testing.assert_allclose(served.predict(frame), dense.predict(frame), rtol=0, atol=1e-6)


def test_a_composed_table_of_other_precisions_or_structure_is_refused(monkeypatch):
    small = composed("rating", "hashing")
    with pytest.raises(nb.NisbenchError, match="is not rounded to int8"):
        small.export("small", values="int8")
    monkeypatch.setattr(parts, "taken_apart", lambda *_: None)
    with pytest.raises(
        nb.NisbenchError, match="cannot be stored; choose another layout, such as --layout dense, for all 800"
    ):
        small.export("small")


def test_a_damaged_composed_table_is_refused():
    folder = composed("rating", "matrices").export("small")
    tensors, extent = load_tensors(folder / "table.safetensors")
    for broken, of_extent in (
        (tensors, extent | {"terms": [0, 1]}),
        (tensors, extent | {"sizes": [10**12, 1]}),
        (tensors, extent | {"composition": "tree"}),
        (dict(list(tensors.items())[1:]), extent),
    ):
        save_tensors(folder / "table.safetensors", broken, of_extent)
        with pytest.raises(nb.NisbenchError, match=r"table\.safetensors: not a compressed table"):
            nb.load_model(folder)


# --- programs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "layout", "values"),
    [("rating", "prefix", "float16"), ("rating", "dense", "int4"), ("ctr", "mask", "float32"), ("ctr", "csr", "int8")],
)
def test_torch_export_predicts_the_same_for_any_number_of_rows(task, layout, values):
    from nisbench.serving import programs  # noqa: PLC0415

    small = pruned(task)
    served = nb.load_model(small.export("small", layout=layout, values=values))
    program = programs.exported(served).module()
    for count in (1, 100):
        frame = raw(small).head(count)
        found = program(**programs.inputs_of(served, frame)).detach().numpy()
        np.testing.assert_allclose(found, served.predict(frame), atol=1e-6)


PROJECTED = {"projected": lambda: nb.MDEProjected(settings=[{"base_dimension": 4, "temperature": 0.3, "budget": None}])}


@pytest.mark.parametrize("name", [*COMPOSED, *QUANTISED, *PROJECTED])
def test_torch_export_of_a_table_of_parts_or_codes_predicts_the_same(name):
    from nisbench.serving import programs  # noqa: PLC0415

    small = pruned("ctr", method=(COMPOSED | QUANTISED | PROJECTED)[name](), rate=1)
    served = nb.load_model(small.export("small"))
    program = programs.exported(served).module()
    found = program(**programs.inputs_of(served, raw(small))).detach().numpy()
    np.testing.assert_allclose(found, served.predict(raw(small)), atol=1e-6)


@pytest.mark.parametrize("name", ["several", "projected"])
def test_torch_export_of_a_model_with_two_embeddings_per_feature_predicts_the_same(name):
    from nisbench.serving import programs  # noqa: PLC0415

    small = pruned(
        "rating", model=nb.NeuMF(mlp_dimension=2, hidden=[8]), method=(QUANTISED | PROJECTED)[name](), rate=1
    )
    served = nb.load_model(small.export("small"))
    program = programs.exported(served).module()
    found = program(**programs.inputs_of(served, raw(small))).detach().numpy()
    np.testing.assert_allclose(found, served.predict(raw(small)), atol=1e-6)


needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")), reason="needs [onnx]"
)


@needs_onnx
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("task", "layout", "values"), [("rating", "prefix", "float16"), ("ctr", "mask", "float32"), ("ctr", "csr", "int4")]
)
def test_onnx_runtime_predicts_the_same_from_a_compressed_table(task, layout, values):
    import onnx  # noqa: PLC0415
    import onnxruntime  # noqa: PLC0415

    from nisbench.serving import programs  # noqa: PLC0415

    small = pruned(task)
    served = nb.load_model(small.export("small", layout=layout, values=values, onnx=True))
    session = onnxruntime.InferenceSession("small/model.onnx")
    inputs = {name: tensor.numpy() for name, tensor in programs.inputs_of(served, raw(small)).items()}
    (found,) = session.run(None, inputs)
    np.testing.assert_allclose(found, served.predict(raw(small)), atol=1e-5)
    constants = [onnx.numpy_helper.to_array(one) for one in onnx.load("small/model.onnx").graph.initializer]
    sizes = [one.nbytes for one in constants]
    for tensor in served.table.buffers():
        sizes.remove(tensor.nbytes)  # each is there, as it is stored
    assert (served.table.rows, served.table.width) not in [one.shape for one in constants]
    assert str(ROOT).encode() not in Path("small/model.onnx").read_bytes()
    small.export("small")
    assert not Path("small/model.onnx").exists()


@needs_onnx
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["product", "matrices", "several", "projected"])
def test_onnx_runtime_predicts_the_same_from_a_table_of_parts_or_codes(name):
    import onnxruntime  # noqa: PLC0415

    from nisbench.serving import programs  # noqa: PLC0415

    small = pruned("ctr", method=(COMPOSED | QUANTISED | PROJECTED)[name](), rate=1)
    served = nb.load_model(small.export("small", onnx=True))
    inputs = {key: tensor.numpy() for key, tensor in programs.inputs_of(served, raw(small)).items()}
    (found,) = onnxruntime.InferenceSession("small/model.onnx").run(None, inputs)
    np.testing.assert_allclose(found, served.predict(raw(small)), atol=1e-5)


def test_a_program_for_onnx_needs_packages_and_says_so(monkeypatch):
    from nisbench.serving import programs  # noqa: PLC0415

    monkeypatch.setattr(programs, "find_spec", lambda _name: None)
    with pytest.raises(
        nb.NisbenchError, match=r"onnx and onnxscript: not installed. Run: pip install 'nisbench\[onnx\]'"
    ):
        pruned("rating").export("small", onnx=True)


# --- the example server ---------------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("fastapi") is None, reason="needs fastapi")
@pytest.mark.filterwarnings("ignore")
def test_the_example_server_answers(monkeypatch):
    from fastapi.testclient import TestClient  # noqa: PLC0415

    small = pruned("rating")
    folder = small.export("small")
    monkeypatch.setenv("MODEL", str(folder))
    source = ROOT / "docs" / "examples" / "server.py"
    assert len(source.read_text().splitlines()) <= 25
    spec = importlib.util.spec_from_file_location("example_server", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    client = TestClient(module.app)
    frame = raw(small).head(3)
    answer = client.post("/predict", json=frame.to_dict("list"))
    np.testing.assert_allclose(answer.json()["predictions"], nb.load_model(folder).predict(frame), rtol=1e-6)
    wrong = client.post("/predict", json={"user": ["nobody"], "item": ["1"]})
    assert wrong.status_code == 422
    assert "there is no 'nobody' in the vocabulary" in wrong.json()["detail"]
    assert client.get("/").json()["fields"] == ["user", "item"]


def test_tensors_of_a_folder_hold_nothing_but_weights():
    folder = pruned("ctr").export("small")
    for name in ("table", "network"):
        with safe_open(folder / f"{name}.safetensors", framework="pt") as file:
            assert str(ROOT) not in json.dumps(file.metadata())
