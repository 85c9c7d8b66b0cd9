"""Instances in memory and in files that are mapped into it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nisbench import memory
from nisbench.data import instances, parquet
from nisbench.data.instances import CompactInstances, Room
from nisbench.data.parquet import Field
from nisbench.errors import NisbenchError
from nisbench.training import order as order_module
from nisbench.training.order import BLOCK, BLOCKS_AT_ONCE, epoch_order, shuffled
from tests.helpers.training import CPU, run_pruning, run_search, search_settings, tiny_data
from tests.helpers.training import prune_settings as pruning_of

FIELDS = [
    Field("number", "scalar", 0),
    Field("user", "categorical", 1, 5),
    Field("tags", "categorical", 6, 4, most=3),
    Field("price", "scalar", 10),
    Field("item", "categorical", 11, 7),
]
ROWS = 1000


@pytest.fixture
def file(tmp_path):
    """Instances with fields of every kind, and what they are: ids and values as they have always been."""
    generator = np.random.default_rng(1)
    ids, values = np.zeros((ROWS, 7), np.int32), np.ones((ROWS, 7), np.float32)
    columns = {"label": generator.random(ROWS, dtype=np.float32)}
    for at, field in zip((0, 1, 2, 5, 6), FIELDS, strict=True):
        if field.kind == "scalar":
            columns[field.name] = values[:, at] = generator.normal(size=ROWS).astype(np.float32)
            ids[:, at] = field.first
        elif field.most == 1:
            columns[field.name] = ids[:, at] = field.first + generator.integers(field.count, size=ROWS)
        else:
            lists = [field.first + generator.permutation(field.count)[: 1 + generator.integers(3)] for _ in range(ROWS)]
            ids[:, at : at + 3], values[:, at : at + 3] = field.first, 0
            for row, tokens in enumerate(lists):
                ids[row, at : at + len(tokens)], values[row, at : at + len(tokens)] = tokens, 1 / len(tokens)
            columns[field.name] = [tokens.astype(np.int32) for tokens in lists]
    path = tmp_path / "train.parquet"
    schema = parquet.schema(FIELDS)
    pq.write_table(pa.table([columns[name] for name in schema.names], schema=schema), path, row_group_size=300)
    return path, torch.from_numpy(ids), torch.from_numpy(values), torch.from_numpy(columns["label"])


@pytest.mark.parametrize("mapped", [False, True])
def test_ids_and_values_are_made_from_what_differs_between_instances(mapped, file, tmp_path, monkeypatch):
    monkeypatch.setattr(instances, "ROWS_AT_ONCE", 128)
    path, ids, values, labels = file
    found = instances.read(path, CPU, tmp_path / "train.npy" if mapped else None)
    assert isinstance(found, CompactInstances)
    assert found.cells.shape == (ROWS, 8)  # seven columns of ids, and how many tags there are
    index = torch.randperm(ROWS)[:100]
    some, chosen = found[index], found.subset(index)[torch.arange(50, dtype=torch.int32)]
    for one, rows in [(some, index), (chosen, index[:50]), (found[5:9], slice(5, 9)), (found, slice(None))]:
        assert torch.equal(one.ids, ids[rows])
        assert torch.equal(one.values, values[rows])
        assert torch.equal(one.labels, labels[rows])
        assert one.columns == (1, 1, 3, 1, 1)
    assert (found.id_columns, len(found.subset(index))) == (7, 100)


def test_criteo_takes_160_bytes_an_instance():
    kinds = {**dict.fromkeys((f"I{i}" for i in range(13)), "scalar"), **dict.fromkeys((f"C{i}" for i in range(26)), "categorical")}  # fmt: skip
    assert instances.Layout(tuple(parquet.fields_in_a_row(kinds, [1] * 39))).bytes == 160


def test_a_mapped_file_is_used_again_if_it_is_whole(file, tmp_path):
    path, ids, _, labels = file
    mapped = tmp_path / "train.npy"
    instances.read(path, CPU, mapped)
    made, content = mapped.stat().st_mtime_ns, mapped.read_bytes()
    found = instances.read(path, CPU, mapped)
    assert torch.equal(found.ids, ids)
    assert torch.equal(found.labels, labels)
    assert mapped.stat().st_mtime_ns == made
    del found
    for damage in (b"", b"damaged", content[:-1]):
        mapped.write_bytes(damage)
        assert torch.equal(instances.read(path, CPU, mapped).ids, ids)
        assert mapped.read_bytes() == content


def test_data_that_no_memory_holds_ask_for_blocks(file, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "total", lambda: 20_000)
    with pytest.raises(NisbenchError, match=r"train\.parquet: .*Set training\.order: blocks"):
        instances.read_all([file[0]], CPU, Room(None, 0, tmp_path, "shuffled"))
    assert list(tmp_path.glob("*.npy")) == []
    (found,) = instances.read_all([file[0]], CPU, Room(None, 0, tmp_path, "blocks"))
    assert torch.equal(found.ids, file[1])
    assert (tmp_path / "train.npy").exists()


@pytest.mark.parametrize("task", ["ctr", "rating"])
@pytest.mark.parametrize("order", ["shuffled", "blocks"])
def test_a_memory_limit_changes_no_result(task, order, planted, tmp_path):
    data = tiny_data(task, tmp_path, planted)
    found = []
    for limit in (None, 1e-6):
        folder = tmp_path / str(limit)
        settings = search_settings(
            task, "fm" if task == "ctr" else "mf", "dnis", order=order, memory_limit=limit, recalibrate=True
        )
        run = run_search(settings, data, folder)
        assert (folder / "train.npy").exists() == (limit is not None)
        pruned = run_pruning(pruning_of(settings, 4), folder, data, tmp_path / f"{limit}-pruned")
        found.append(([trial.losses for trial in run.trials], pruned.metrics, pruned.offset))
    assert found[0] == found[1]


# --- order ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, BLOCK - 1, BLOCK * BLOCKS_AT_ONCE, BLOCK * BLOCKS_AT_ONCE * 2 + 17])
def test_an_order_by_blocks_goes_once_through_all_and_then_again(n):
    length = 2 * n + n // 3
    order = epoch_order("blocks", n, length, (1, 0), "training_batches", CPU)
    taken = torch.cat([order[start : start + 10_007] for start in range(0, length, 10_007)])
    assert len(taken) == length
    for start in (0, n):
        assert torch.equal(taken[start : start + n].sort().values, torch.arange(n))
    assert torch.equal(order[n // 2 : n // 2 + 5], taken[n // 2 : n // 2 + 5])  # as when a trial is resumed
    if n > BLOCK:
        assert not torch.equal(taken[:n], taken[n : 2 * n])


def test_an_order_by_blocks_depends_on_seed_and_epoch_alone():
    orders = [
        epoch_order("blocks", 9999, 9999, seeds, "training_batches", CPU)[:]
        for seeds in [(1, 0), (1, 0), (1, 1), (2, 0)]
    ]
    assert [torch.equal(orders[0], other) for other in orders[1:]] == [True, False, False]


def test_batches_by_blocks_are_from_few_places():
    n = BLOCK * BLOCKS_AT_ONCE * 3
    order = epoch_order("blocks", n, n, (1, 0), "training_batches", CPU)
    blocks = order[: BLOCK * BLOCKS_AT_ONCE].div(BLOCK, rounding_mode="floor").unique()
    assert len(blocks) == BLOCKS_AT_ONCE
    assert (blocks.diff() > 1).any()
    assert (
        len(shuffled(n, n, (1, 0), "training_batches", CPU)[: 10 * BLOCK].div(BLOCK, rounding_mode="floor").unique())
        > 100
    )


def test_a_search_by_blocks_learns_as_well(planted, tmp_path, monkeypatch):
    monkeypatch.setattr(order_module, "BLOCK", 16)
    monkeypatch.setattr(order_module, "BLOCKS_AT_ONCE", 8)  # groups of 128 of the 2,400 instances, and batches of 256
    data = tiny_data("rating", tmp_path, planted)
    losses = {}
    for order in ("shuffled", "blocks"):
        settings = search_settings("rating", "mf", "dnis", order=order, max_epochs=8)
        losses[order] = run_search(settings, data, tmp_path / order).best.loss
    assert losses["blocks"] == pytest.approx(losses["shuffled"], rel=0.05)
    assert losses["blocks"] != losses["shuffled"]
