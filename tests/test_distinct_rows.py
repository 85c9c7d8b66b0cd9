"""Distinct rows in tensors of fixed shapes, and the sums over their occurrences."""

import pytest
import torch

from nisbench.embedding import distinct_rows
from nisbench.embedding.autograd import rows_of
from nisbench.embedding.batch import Embeddings
from nisbench.embedding.distinct_rows import DistinctRows
from tests.helpers.kernels import interpreted


@pytest.fixture(params=["operations", "kernels"])
def sums(request, monkeypatch):
    """Both ways of summing: in operations of torch, and as kernels, interpreted."""
    if request.param == "kernels":
        kernels = interpreted("nisbench.embedding.distinct_rows_triton")
        monkeypatch.setattr(distinct_rows, "triton_kernels", lambda _device: kernels)


def skewed(instances, fields, features, seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids = (torch.rand(instances, fields, generator=generator) ** 4 * features).int()
    ids[:, 0] = 0  # as a scalar field's
    return ids


@pytest.mark.parametrize("most", [7, 30, 10_000])
@pytest.mark.parametrize("shape", [(1, 1), (50, 3), (64, 2)])
def test_rows_are_torch_s_unique_ones(shape, most):
    ids = skewed(*shape, features=min(most, 25))
    found = DistinctRows.of(ids, most)
    rows, at, counts = torch.unique(ids, return_inverse=True, return_counts=True)
    count = int(found.count)
    assert len(found) == min(most, ids.numel())
    assert torch.equal(found.rows[:count], rows.long())
    assert (found.rows[count:] == rows[0]).all()
    assert torch.equal(found.at, at)
    assert torch.equal(found.starts.diff()[:count], counts)
    assert (found.starts[count:] == ids.numel()).all()
    for k in range(count):
        occurrences = found.order[found.starts[k] : found.starts[k + 1]]
        assert (ids.flatten()[occurrences] == rows[k]).all()
        assert (occurrences.diff() > 0).all()  # in their order


@pytest.mark.usefixtures("sums")
@pytest.mark.parametrize("width", [1, 5, 64, 200])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_those_of_dense_tables(width, weighted):
    ids, generator = skewed(90, 3, 60), torch.Generator().manual_seed(2)
    values = torch.rand(90, 3, generator=generator) if weighted else None
    weight = torch.randn(60, width, generator=generator)
    by_row, of_sums = (torch.randn(shape, generator=generator) for shape in ((90, 3, width), (90, width)))

    def gradient(table, numbers):
        embeddings = Embeddings(numbers, values, table)
        summed, _ = embeddings.sums()
        return (embeddings.dense() * by_row).sum() + (summed * of_sums).sum()

    dense = weight.double().requires_grad_()
    gathered = dense[ids.long()] if values is None else dense[ids.long()] * values[..., None]
    ((gathered * by_row).sum() + (gathered.sum(1) * of_sums).sum()).backward()

    distinct = DistinctRows.of(ids, 60)
    leaf = weight[distinct.rows].requires_grad_()
    gradient(leaf, distinct.at).backward()
    count = int(distinct.count)
    torch.testing.assert_close(leaf.grad[:count], dense.grad[distinct.rows[:count]].float(), rtol=1e-5, atol=1e-5)
    assert (leaf.grad[count:] == 0).all()


def test_rows_are_gathered_by_their_numbers():
    ids = skewed(20, 2, 9)
    distinct = DistinctRows.of(ids, 9)
    table = torch.randn(9, 4)
    assert torch.equal(rows_of(table[distinct.rows], distinct.at), table[ids.long()])
