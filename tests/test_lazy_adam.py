"""Lazy Adam against torch's dense Adam, in double precision."""

import pytest
import torch

from nisbench.embedding.distinct_rows import DistinctRows
from nisbench.training import lazy_adam_static
from nisbench.training.lazy_adam import POLY_SWITCH_STEP, LazyAdam
from nisbench.training.lazy_adam_static import LONGEST, StaticLazyAdam
from tests.helpers.kernels import interpreted

N, WIDTH = 500, 4


class Static(StaticLazyAdam):
    """`StaticLazyAdam`, used like `LazyAdam`."""

    def __init__(self, tables, learning_rate):
        super().__init__(tables)
        self.learning_rate = learning_rate

    def read(self, rows):
        # Each row occurs several times, and there is room for more.
        self.distinct = DistinctRows.of(rows.repeat(3).view(3, -1), len(self.synced))
        order = rows.argsort()
        assert torch.equal(self.distinct.rows[: len(rows)], rows[order])
        self.reserve(1, self.learning_rate)
        self.leaves = super().read(self.distinct, self.learning_rate)
        self.order = order.argsort()
        self.given = [leaf.detach()[self.order].requires_grad_() for leaf in self.leaves]
        return self.given

    def step(self):
        for leaf, given in zip(self.leaves, self.given, strict=True):
            leaf.grad = torch.full_like(leaf, torch.nan)  # in the padding, as nobody promises anything else
            leaf.grad[self.order] = given.grad
        super().step(self.distinct, self.leaves, self.learning_rate)

    def catch_up(self, rows, _rate=None):
        super().catch_up(DistinctRows.of(rows[:, None], len(self.synced)), self.learning_rate)

    def catch_up_all(self, _rate=None):
        super().catch_up_all(self.learning_rate)


@pytest.fixture(params=["compiled", "static"], autouse=True)
def kind(request, monkeypatch):
    """Both: on rows of a CPU, compiled, and in tensors of fixed shapes, as on a GPU."""
    if request.param == "static":
        monkeypatch.setattr("tests.test_lazy_adam.LazyAdam", Static)


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


def test_a_schedule_begins_again_before_it_ends(monkeypatch):
    once, _, _ = run(30, 1.0)
    monkeypatch.setattr(lazy_adam_static, "LONGEST", 7)
    again, dense, _ = run(30, 1.0)
    for ours, other, theirs in zip(again, once, dense, strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=2e-6)
        assert (ours - theirs).abs().max() < 1e-5


def test_steps_that_were_not_announced_are_no_numbers():
    table = torch.zeros(3, 2)
    adam = StaticLazyAdam([table])
    distinct = DistinctRows.of(torch.tensor([[0, 1]]), 3)
    for _ in range(lazy_adam_static.FILLED_AT_ONCE + 1):
        adam.now += 1
    (leaf,) = adam.read(distinct, 0.1)
    assert leaf.isnan().all()
    assert lazy_adam_static.FILLED_AT_ONCE < LONGEST


def state_of(seed, width, steps):
    """A table after some steps, its rows read at different ones."""
    generator = torch.Generator().manual_seed(seed)
    adam = StaticLazyAdam([torch.randn(N, width, generator=generator)])
    adam.reserve(steps + 1, 0.01)
    adam.now.fill_(steps)
    adam.synced.copy_(torch.randint(0, steps + 1, (N,), generator=generator))
    _, m, v = adam.tables[0]
    v.copy_(torch.rand(v.shape, generator=generator) * 10.0 ** -torch.randint(0, 20, v.shape, generator=generator))
    m.copy_(torch.randn(v.shape, generator=generator) * v.sqrt())
    return adam, generator


@pytest.mark.parametrize("kind", ["static"], indirect=True)
@pytest.mark.parametrize(("width", "steps"), [(4, 1), (1, 130), (5, 3000), (64, 9000)])
def test_the_kernels_do_what_operations_of_torch_do(width, steps):
    """Interpreted; `tests/test_gpu.py` compiles them. Operations of torch are held against dense Adam above."""
    kernels = interpreted("nisbench.training.lazy_adam_triton")
    ends = []
    for module in (lazy_adam_static.kernels_for(torch.device("cpu")), kernels):
        adam, generator = state_of(steps, width, steps)
        adam.kernels = module
        ids = torch.randint(0, N, (20, 3), generator=generator)
        distinct = DistinctRows.of(ids, N)
        (leaf,) = adam.read(distinct, 0.01)
        leaf.grad = torch.randn(leaf.shape, generator=generator)
        read = leaf.detach().clone()
        adam.step(distinct, [leaf], 0.01)
        adam.catch_up(DistinctRows.of(torch.randint(0, N, (9, 2), generator=generator), N), 0.01)
        synced = adam.synced.clone()
        adam.catch_up_all(0.01)
        ends.append([read, synced, *adam.tables[0]])
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=3e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["static"], indirect=True)
def test_the_kernels_equal_dense_adam(monkeypatch):
    kernels = interpreted("nisbench.training.lazy_adam_triton")
    monkeypatch.setattr(lazy_adam_static, "kernels_for", lambda _device: kernels)
    mine, dense, apart = run(150, 1.0, sync_at=(70,))
    assert apart < 1e-5
    assert max((ours - theirs).abs().max().item() for ours, theirs in zip(mine, dense, strict=True)) < 1e-5
