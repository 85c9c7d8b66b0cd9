"""Lazy Adam against torch's dense Adam, in double precision."""

import pytest
import torch

from nisbench.training import lazy_adam, lazy_adam_torch
from nisbench.training.lazy_adam import POLY_SWITCH_STEP, LazyAdam

N, WIDTH = 500, 4


@pytest.fixture(params=["compiled", "operations"], autouse=True)
def kernels(request, monkeypatch):
    """Both ways of working on rows: compiled for a CPU, and in operations of torch, as on a GPU."""
    if request.param == "operations":
        monkeypatch.setattr(lazy_adam, "kernels_for", lambda _device: lazy_adam_torch)


def run(steps, scale, seed=1, sync_at=(), resume_at=None):
    """Both optimizers on the same gradients, of skewed accesses: the tables' weights, and how far those read were apart at most."""
    generator = torch.Generator().manual_seed(seed)
    start = [torch.randn(N, WIDTH, generator=generator), torch.randn(N, generator=generator)]
    dense = [table.double().requires_grad_() for table in start]
    adam = torch.optim.Adam(dense, 1e-2)
    mine = [table.clone() for table in start]
    lazy = LazyAdam(mine, 1e-2)
    probability = (1.0 + torch.arange(N)) ** -1.2
    apart = 0.0
    for number in range(1, steps + 1):
        rows = torch.multinomial(probability, 20, generator=generator)
        found = lazy.read(rows)
        for table, leaf in zip(dense, found, strict=True):
            apart = max(apart, (table.detach()[rows].view_as(leaf) - leaf).abs().max().item())
            leaf.grad = torch.randn(leaf.shape, generator=generator) * scale
            table.grad = torch.zeros_like(table)
            table.grad[rows] = leaf.grad.double().view_as(table.grad[rows])
        lazy.step()
        adam.step()
        if number in sync_at:
            lazy.catch_up_all()
        if number == resume_at:
            lazy.catch_up_all()
            again = LazyAdam(mine, 1e-2)
            again.load_state([{key: tensor.clone() for key, tensor in of.items()} for of in lazy.state()])
            lazy = again
    lazy.catch_up_all()
    return mine, [table.detach() for table in dense], apart


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 1e-7, 3e-8])  # gradients far above epsilon, and near it
def test_thousands_of_steps_equal_dense_adam(scale):
    mine, dense, apart = run(3000, scale, sync_at=(1000, 2000))
    assert apart < 2e-5  # learning rate 1e-2: weights have moved by up to 2
    for ours, theirs in zip(mine, dense, strict=True):
        assert (ours - theirs).abs().max() < 2e-5
        assert (theirs - theirs.mean()).abs().max() > 1


@pytest.mark.parametrize("steps", [1, 2, 3, 10, POLY_SWITCH_STEP - 1, POLY_SWITCH_STEP, POLY_SWITCH_STEP + 1, 400])
def test_the_first_steps_equal_dense_adam(steps):
    mine, dense, apart = run(steps, 1.0)
    assert apart < 1e-5
    assert max((ours - theirs).abs().max().item() for ours, theirs in zip(mine, dense, strict=True)) < 1e-5


def test_rows_without_a_gradient_do_move():
    table = torch.zeros(3, 2)
    adam = LazyAdam([table], 0.1)
    (leaf,) = adam.read(torch.tensor([1]))
    leaf.grad = torch.ones(1, 2)
    adam.step()
    moved = table[1, 0].item()
    for _ in range(5):
        (leaf,) = adam.read(torch.tensor([0]))
        leaf.grad = torch.zeros(1, 2)
        adam.step()
    assert table[1, 0].item() == moved  # pending
    adam.catch_up(torch.tensor([1]))
    assert table[1, 0].item() < 2 * moved  # caught up
    assert table[2].tolist() == [0, 0]


def test_a_saved_state_goes_on_alike():
    once, _, _ = run(300, 1.0, sync_at=(150,))
    twice, _, _ = run(300, 1.0, resume_at=150)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
