"""The selected table against a dense computation, and the dimension scheme."""

import numpy as np
import pytest
import torch

from nisbench.embedding.autograd import ProductByField, SumOfRows
from nisbench.embedding.scheme import DimensionScheme
from nisbench.embedding.table import SelectedTable, used_columns, xavier_std
from nisbench.errors import NisbenchError


def selected(block, selection, **options):
    weight = torch.randn(len(block), selection.shape[1], generator=torch.Generator().manual_seed(0))
    return SelectedTable(block, selection, weight, **options)


def test_forward_is_the_row_times_its_block_s_selection():
    block = torch.tensor([0, 0, 1, 1, 2])
    selection = torch.rand(3, 4)
    table = selected(block, selection)
    ids = torch.tensor([[0, 2], [4, 3], [1, 2]], dtype=torch.int32)
    values = torch.tensor([[1.0, 2.0], [0.5, 1.0], [1.0, -3.0]])
    one_hot = torch.nn.functional.one_hot(ids.long(), 5).float()
    dense = one_hot @ (table.weight * selection[block])
    torch.testing.assert_close(table(ids).dense(), dense)
    torch.testing.assert_close(table(ids, values).dense(), dense * values[..., None])
    torch.testing.assert_close(table.effective_weight(), table.weight * selection[block])


@pytest.mark.parametrize("rows", [6, 100])  # fewer than the batch has ids, and more
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_are_those_of_dense_embeddings_and_so_are_their_gradients(rows, weighted):
    generator = torch.Generator().manual_seed(1)
    block, selection = torch.arange(rows) % 3, torch.rand(3, 4, generator=generator)
    ids = torch.randint(rows, (7, 5), generator=generator, dtype=torch.int32)
    values = torch.rand(7, 5, generator=generator) if weighted else None
    table = selected(block, selection, soft=True)
    table.selection.requires_grad_()

    def with_gradients(summed, squares):
        loss = (summed.sin() * torch.arange(4)).sum() + (squares.sin() * torch.arange(7)).sum()
        return summed, squares, *torch.autograd.grad(loss, [table.weight, table.selection])

    dense = table(ids, values).dense()
    expected = with_gradients(dense.sum(1), dense.square().sum((1, 2)))
    for found, wanted in zip(with_gradients(*table(ids, values).sums()), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("width", [3, 9])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_layer_computed_per_row_is_the_layer_on_gathered_embeddings(width, weighted):
    generator = torch.Generator().manual_seed(1)
    sizes = (1, 4, 2)
    ids = torch.stack([torch.randint(n, (10,), generator=generator) for n in sizes], 1) + torch.tensor([0, 1, 5])
    values = torch.rand(10, 3, generator=generator) if weighted else None
    table = selected(torch.tensor([0, 0, 1, 1, 1, 2, 2]), torch.rand(3, width, generator=generator), soft=True)
    table.selection.requires_grad_()
    weight = torch.randn(5, 3 * width, generator=generator, requires_grad=True)
    bias = torch.randn(5, generator=generator, requires_grad=True)

    def with_gradients(out):
        return out, *torch.autograd.grad(out.sin().sum(), [weight, bias, table.weight, table.selection])

    dense = table(ids.int(), values).dense()
    expected = with_gradients(torch.nn.functional.linear(dense.flatten(1), weight, bias))
    for found, wanted in zip(
        with_gradients(table(ids.int(), values).linear(weight, bias, sizes)), expected, strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_sums_and_products_of_rows_have_gradients_of_gradients():
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    ids, starts, weights = torch.tensor([0, 2, 1, 1, 0, 2]), torch.tensor([0, 3]), drawn(6).detach()
    assert torch.autograd.gradgradcheck(lambda table: SumOfRows.apply(ids, starts, weights, table).sin(), drawn(4, 3))
    rows, matrices = drawn(5, 2), drawn(2, 2, 3)
    assert torch.autograd.gradcheck(lambda *given: ProductByField.apply(*given, [4, 1]), (rows, matrices))
    assert torch.autograd.gradgradcheck(lambda *given: ProductByField.apply(*given, [4, 1]).sin(), (rows, matrices))


def test_few_and_many_ids_are_scaled_alike():
    """A small table is scaled as a whole, a large one where it is read: the same values and gradients."""
    block, selection = torch.tensor([0, 1, 1, 2, 2, 2]), torch.rand(3, 4).requires_grad_()
    ids = torch.tensor([[0, 5], [4, 5]], dtype=torch.int32)
    gradients = []
    for repeats in (1, 2):  # 4 ids for 6 rows, and 8
        table = selected(block, selection.detach())
        table.selection.requires_grad_()
        out = table(ids.repeat(repeats, 1)).dense()[:2]
        gradients.append((out, *torch.autograd.grad(out.square().sum(), [table.weight, table.selection])))
    for few, many in zip(*gradients, strict=True):
        torch.testing.assert_close(few, many)


@pytest.mark.parametrize("selective", [False, True])
def test_rows_of_some_features_stand_in_for_the_whole_table(selective):
    generator = torch.Generator().manual_seed(1)
    selection = torch.rand(3, 4, generator=generator) if selective else torch.ones(3, 4)
    table = selected(torch.arange(9) % 3, selection)
    ids, values = torch.tensor([[1, 7], [7, 4], [8, 1]]), torch.rand(3, 2, generator=generator)
    features, at = torch.unique(ids, return_inverse=True)
    torch.testing.assert_close(table.rows(features), table.effective_weight()[features])
    scales = table.scales(features)
    assert (scales is not None) == selective
    found = table(at, values, table.weight[features], scales).dense()
    torch.testing.assert_close(found, table(ids, values).dense())


def test_used_columns():
    selection = torch.zeros(2, 8)
    selection[0, [1, 3]] = 1
    selection[1, 5] = 0.1
    assert used_columns(selection).tolist() == [1, 3, 5]
    assert used_columns(torch.zeros(2, 8)).tolist() == [0]


def test_weights_of_dimensions_that_do_not_exist_are_not_learned():
    selection = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    table = selected(torch.tensor([0, 1]), selection)
    table(torch.tensor([[0, 1]], dtype=torch.int32)).dense().sum().backward()
    assert table.weight.grad.tolist() == [[1, 1], [1, 0]]


def test_xavier():
    table = torch.empty(900, 100)
    torch.nn.init.xavier_normal_(table, generator=torch.Generator().manual_seed(0))
    assert table.std().item() == pytest.approx(xavier_std(900, 100), rel=0.01)


def test_a_scheme_survives_saving(tmp_path):
    generator = np.random.default_rng(0)
    dense = generator.normal(size=(20, 300)).astype(np.float32) * (generator.random((20, 300)) < 0.2)
    dense[3] = 0
    scheme = DimensionScheme.from_dense(dense)
    scheme.save(tmp_path / "scheme")
    loaded = DimensionScheme.load(tmp_path / "scheme")
    assert np.array_equal(loaded.to_dense(), dense)
    assert loaded.sizes().tolist() == np.count_nonzero(dense, axis=1).tolist()
    first = slice(loaded.offsets[0], loaded.offsets[1])
    assert loaded.dimensions[first].tolist() == np.flatnonzero(dense[0]).tolist()


def test_a_scheme_of_very_many_dimensions():
    dense = np.zeros((2, 70_000), dtype=np.float32)
    dense[1, [5, 66_000]] = 1
    assert np.array_equal(DimensionScheme.from_dense(dense).to_dense(), dense)


def test_a_damaged_scheme_is_named(tmp_path):
    DimensionScheme.from_dense(np.eye(3, dtype=np.float32)).save(tmp_path / "scheme")
    (tmp_path / "scheme").write_bytes((tmp_path / "scheme").read_bytes()[:-5])
    with pytest.raises(NisbenchError, match="scheme: not a readable"):
        DimensionScheme.load(tmp_path / "scheme")
