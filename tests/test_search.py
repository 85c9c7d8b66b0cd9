"""The methods' selections against hand-made ones, and DNIS's step against a dense re-computation."""

import numpy as np
import pytest
import torch

from nisbench.evaluation.rating import RatingPrediction
from nisbench.models import recommender as recommenders
from nisbench.params.settings import DNIS, MDE, GridSearch, MDEPair, RandomSearch
from nisbench.search import dnis, grid, mde, random
from nisbench.search.proposal import Blocks, Proposal, prefix_selection

BLOCKS = Blocks(sizes=np.array([2, 2, 4]), mass=np.array([0.64, 0.32, 0.04]))


def dimensions(proposals):
    return [proposal.selection.sum(1).int().tolist() for proposal in proposals]


def is_prefix(selection):
    return torch.equal(selection, selection.sort(dim=1, descending=True).values)


def test_blocks_know_their_sizes_and_mass():
    blocks = Blocks.of(np.array([0, 1, 1, 0]), np.array([5, 1, 2, 2]))
    assert blocks.sizes.tolist() == [2, 2]
    assert blocks.mass.tolist() == [0.7, 0.3]


def test_grid_search_gives_every_block_the_same_dimension():
    settings = GridSearch(kind="grid", title="", dimensions=[2, 5])
    proposals = grid.propose(settings, BLOCKS, 8, seed=1)
    assert dimensions(proposals) == [[2, 2, 2], [5, 5, 5]]
    assert all(is_prefix(proposal.selection) for proposal in proposals)


def test_random_search_descends_within_its_bounds():
    settings = RandomSearch(kind="random", title="", trials=50, min_dimension=4)
    proposals = random.propose(settings, BLOCKS, 64, seed=1)
    stairs = np.array(dimensions(proposals))
    assert stairs.shape == (50, 3)
    assert (np.diff(stairs, axis=1) <= 0).all()
    assert stairs.min() >= 4
    assert stairs.max() < 64
    assert len(np.unique(stairs, axis=0)) > 40
    assert dimensions(random.propose(settings, BLOCKS, 64, seed=1)) == stairs.tolist()
    assert dimensions(random.propose(settings, BLOCKS, 64, seed=2)) != stairs.tolist()


def test_mde_by_hand():
    # a = 1/2: sqrt of the masses .64 .32 .04 = .8 .5657 .2, sum 1.5657; budget 8 x 8 features = 64 weights:
    # 32.70 / 2, 23.12 / 2, 8.175 / 4 -> 16, 11, 2
    assert mde.staircase(BLOCKS, 8, 0.5, low=1, k=64).tolist() == [16, 11, 2]
    # a = 1: 64 x mass / size = 20.48, 10.24, 0.64
    assert mde.staircase(BLOCKS, 8, 1.0, low=1, k=64).tolist() == [20, 10, 1]
    assert mde.staircase(BLOCKS, 8, 1.0, low=0, k=16).tolist() == [16, 10, 0]
    # a = 0: the budget shared equally among blocks: 64 / 3 / size
    assert mde.staircase(BLOCKS, 8, 0.0, low=1, k=64).tolist() == [10, 10, 5]


def test_mde_keeps_its_budget_and_proposes_every_pair():
    pairs = [MDEPair(base_dimension=b, temperature=t) for b in (8, 16) for t in (0.1, 0.5, 0.9)]
    settings = MDE(kind="mde", title="", min_dimension=0, settings=pairs)
    found = dimensions(mde.propose(settings, BLOCKS, 64, seed=1))
    assert len(found) == 6
    for pair, stair in zip(pairs, found, strict=True):
        assert stair @ BLOCKS.sizes <= pair.base_dimension * BLOCKS.sizes.sum()


def test_prefix_selection():
    assert prefix_selection(np.array([2, 0, 9]), 3).tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]


def test_equal_selections_are_the_same_trial():
    one, again, other = (Proposal("x", prefix_selection(np.array(stair), 4)) for stair in ([4, 2], [9, 2], [4, 1]))
    learned = Proposal("x", one.selection, lambda *_: None)
    assert one.same_as(again)
    assert not one.same_as(other)
    assert not one.same_as(learned)
    assert not learned.same_as(learned)


RATING = RatingPrediction()

# --- DNIS -----------------------------------------------------------------------------------------------------


@pytest.fixture
def soft(mf):
    """A recommender with a soft selection somewhere inside [0, 1]: 3 blocks of 10 features, K = 5."""
    block = torch.arange(30) * 3 // 30
    selection = torch.rand(3, 5, generator=torch.Generator().manual_seed(1))
    return recommenders.build(
        mf, block=block, selection=selection, soft=True, embedding_std=0.5, field_sizes=(15, 15), prior=3.0, seed=1
    )


def settings(**update):
    return DNIS(kind="dnis", title="", learning_rate=0.01, gradient_epsilon=1e-7).model_copy(update=update)


def test_equation_8():
    gradient = torch.tensor([[1.0, -3.0, 2.0], [1e-6, 0.0, -2e-6], [0.0, 0.0, 0.0]])
    found = dnis.normalised(gradient, 1e-7)
    expected = [[1 / (2 + 1e-7), -3 / (2 + 1e-7), 2 / (2 + 1e-7)], [1e-6 / 1.1e-6, 0, -2e-6 / 1.1e-6], [0, 0, 0]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_alpha_s_gradient_equals_a_dense_recomputation(soft, ratings):
    found = dnis.alpha_gradient(soft, RATING, ratings)
    alpha = soft.embedding.selection.double().requires_grad_()
    embeddings = soft.embedding.weight.detach().double() * alpha[soft.embedding.block.long()]
    user, item = (torch.nn.functional.one_hot(ids.long(), 30).double() @ embeddings for ids in ratings.ids.T)
    loss = ((soft.model.mean + (user * item).sum(1) - ratings.labels) ** 2).mean()
    loss.backward()
    torch.testing.assert_close(found.double(), alpha.grad, rtol=1e-5, atol=1e-8)


def test_alpha_s_gradient_equals_finite_differences(soft, ratings):
    found = dnis.alpha_gradient(soft, RATING, ratings)
    soft.double()
    step = 1e-6
    for place in [(0, 0), (1, 3), (2, 4)]:
        losses = []
        for sign in (1, -1):
            soft.embedding.selection[place] += sign * step
            losses.append(((soft(ratings) - ratings.labels) ** 2).mean().item())
            soft.embedding.selection[place] -= sign * step
        assert found[place].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-4)


def test_a_step_of_alpha_leaves_the_weights_alone_and_stays_within_0_and_1(soft, ratings):
    weights = {name: tensor.clone() for name, tensor in soft.named_parameters()}
    before = soft.embedding.selection.clone()
    learner = dnis.AlphaLearner(soft, RATING, settings(learning_rate=0.3))
    for _ in range(10):
        learner.step(soft, ratings)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in soft.named_parameters())
    assert all(parameter.grad is None for parameter in soft.parameters())
    alpha = soft.embedding.selection
    assert not torch.equal(alpha, before)
    assert alpha.min() == 0
    assert alpha.max() <= 1
    assert not alpha.requires_grad


def test_the_first_step_of_alpha_is_adam_s_on_the_normalised_gradient(soft, ratings):
    before = soft.embedding.selection.clone()
    gradient = dnis.normalised(dnis.alpha_gradient(soft, RATING, ratings), 1e-7)
    dnis.AlphaLearner(soft, RATING, settings()).step(soft, ratings)
    expected = (before - 0.01 * gradient / (gradient.abs() + 1e-8)).clamp(0, 1)
    torch.testing.assert_close(soft.embedding.selection, expected)


def test_dnis_starts_from_ones():
    (proposal,) = dnis.propose(settings(), BLOCKS, 7, seed=1)
    assert torch.equal(proposal.selection, torch.ones(3, 7))
    assert proposal.learner is not None
