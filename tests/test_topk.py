"""Top-k: sampling that never hits what a user has, ranking against a reference written out, and the planted feedback."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from nisbench.data import instances, planted_topk, split
from nisbench.data.instances import Instances
from nisbench.errors import NisbenchError
from nisbench.models import recommender as recommenders
from nisbench.params.tasks import FULL, RANKED
from nisbench.tasks import topk
from nisbench.tasks.topk import Taken, TopKRecommendation, metrics

CPU = torch.device("cpu")
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def feedback(small, tmp_path_factory):
    """Planted feedback of 40 users and 30 items: the paths of its splits, and its settings."""
    folder = tmp_path_factory.mktemp("topk")
    settings = small.params.datasets["planted_topk"].model_copy(update={"users": 40, "items": 30, "instances": 400})
    planted_topk.prepare(settings, None, folder / "i", folder / "v")
    paths = {name: folder / name for name in SPLITS}
    split.run(settings.split, folder / "i", paths)
    return paths, settings


@pytest.fixture
def task_of(feedback, small):
    def build(splits=SPLITS, **update):
        settings = small.params.tasks["topk"].model_copy(update={"candidates": 9, **update})
        return TopKRecommendation(settings, {name: feedback[0][name] for name in splits}, CPU)

    return build


def taken_in(paths, splits):
    """The set of (user, item) ids in these splits."""
    return {tuple(row) for name in splits for row in instances.read(paths[name], CPU).ids.tolist()}


class Scores:
    """A recommender of given scores, (users, items)."""

    def __init__(self, scores):
        self.scores = scores

    def predict(self, data):
        ids = data.ids.long()
        return self.scores[ids[:, 0], ids[:, 1] - len(self.scores)]


# --- what is drawn --------------------------------------------------------------------------------------------


def test_others_are_uniform_over_what_a_user_did_not_take():
    pairs = torch.tensor([[0, 0], [0, 1], [0, 5], [2, 3], [2, 3]])
    users = torch.tensor([0, 1, 2]).repeat(30_000)
    drawn = Taken(pairs, 4, 6).others(users, torch.Generator().manual_seed(1))
    for user, free in enumerate(([2, 3, 4], [0, 1, 2, 3, 4, 5], [0, 1, 2, 4, 5])):
        counts = torch.bincount(drawn[users == user], minlength=6)
        assert counts.nonzero()[:, 0].tolist() == free
        assert (counts[free] / 30_000 - 1 / len(free)).abs().max() < 0.015  # 5 standard deviations


def test_a_user_who_took_everything_is_told():
    with pytest.raises(NisbenchError, match="took all 2 items"):
        Taken(torch.tensor([[0, 0], [0, 1], [1, 1]]), 2, 2)


def test_a_rating_of_any_height_is_a_positive(task_of):
    data = Instances(torch.tensor([[0, 41], [1, 42]], dtype=torch.int32), torch.tensor([0.5, 5.0]))
    for name in ("train", "validation"):
        assert task_of().examples(name, data, 1).labels.tolist() == [1.0, 1.0] + [0.0] * 8


def test_equal_items_are_equals_whatever_the_model(feedback, small):
    """Nothing of an item's score may depend on where in a batch it is: without item embeddings all are the same."""
    paths, _ = feedback
    task = TopKRecommendation(small.params.tasks["topk"].model_copy(update={"candidates": 9}), paths, CPU)
    test = instances.read(paths["test"], CPU)
    for name, k in (("neumf_topk", 5), ("mlp", 24), ("mf", 7)):
        built = recommenders.build(
            small.params.models[name], block=torch.zeros(70), selection=torch.ones(1, k), embedding_std=0.5,
            field_sizes=(40, 30), prior=0.0, seed=1,
        )  # fmt: skip
        built.embedding.weight.data[40:] = 0
        found = task.evaluate(built, test)
        assert found["recall@1"] == pytest.approx(1 / 10, abs=0.02)
        assert found["recall@5"] == pytest.approx(5 / 10, abs=0.02)


def test_training_sees_every_positive_and_new_negatives_each_epoch(feedback, task_of):
    paths, _ = feedback
    task = task_of(("train", "validation"))
    for name, known in (("train", ["train"]), ("validation", ["train", "validation"])):
        data = instances.read(paths[name], CPU)
        first, again, other = (task.examples(name, data, seed) for seed in (1, 1, 2))
        assert len(first) == 5 * len(data)
        assert torch.equal(first.ids, again.ids)
        assert not torch.equal(first.ids, other.ids)
        assert torch.equal(first.ids[: len(data)], data.ids)
        assert first.labels.tolist() == [1.0] * len(data) + [0.0] * 4 * len(data)
        negatives = first.ids[len(data) :]
        assert torch.equal(negatives[:, 0], data.ids[:, 0].repeat_interleave(4))
        assert not taken_in(paths, known) & {tuple(row) for row in negatives.tolist()}
    # what is held out is a negative like any other: to leave it out would give it away
    train = instances.read(paths["train"], CPU)
    sampled = {
        tuple(row) for seed in range(30) for row in task.examples("train", train, seed).ids[len(train) :].tolist()
    }
    assert sampled & taken_in(paths, ["validation"])
    assert sampled & taken_in(paths, ["test"])


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_candidates_are_different_items_that_the_user_has_nowhere(feedback, task_of, sampling):
    paths, _ = feedback
    task = task_of(sampling=sampling)
    assert torch.equal(task.candidates, task_of(sampling=sampling).candidates)
    assert not torch.equal(task.candidates, task_of(sampling=sampling, seed=2).candidates)
    test = instances.read(paths["test"], CPU)
    known = taken_in(paths, SPLITS)
    for (user, _), items in zip(test.ids.tolist(), task.candidates.tolist(), strict=True):
        assert len(set(items)) == 9
        assert not known & {(user, 40 + item) for item in items}


def test_candidates_go_by_frequency_in_train_where_asked(feedback, task_of):
    paths, _ = feedback
    train = instances.read(paths["train"], CPU)
    frequency = torch.bincount(train.ids[:, 1].long() - 40, minlength=30).float()
    drawn = {
        sampling: torch.bincount(
            torch.cat([task_of(sampling=sampling, seed=seed, candidates=2).candidates for seed in range(40)]).flatten(),
            minlength=30,
        ).float()
        for sampling in ("uniform", "popularity")
    }
    correlation = {name: torch.corrcoef(torch.stack([frequency, counts]))[0, 1] for name, counts in drawn.items()}
    assert correlation["popularity"] > 0.3 > correlation["uniform"]  # the most frequent are often had already
    assert drawn["popularity"][frequency == 0].sum() == 0


def test_too_few_items_for_the_candidates_is_told(task_of):
    for candidates in (29, 31):
        with pytest.raises(NisbenchError, match=f"fewer than {candidates} items.*lower the task's `candidates`"):
            task_of(candidates=candidates)


# --- how it is ranked -----------------------------------------------------------------------------------------


def reference(scores, users, positives, others):
    """The metrics by sorting lists, for scores without ties."""
    found = {name: [] for name in RANKED}
    for user, positive, rest in zip(users, positives, others, strict=True):
        ranked = sorted([positive, *rest], key=lambda item: -scores[user][item])
        for k in (1, 5, 10):
            hit = positive in ranked[:k]
            rank = ranked.index(positive) + 1
            found[f"recall@{k}"].append(float(hit))
            if k > 1:
                found[f"mrr@{k}"].append(1 / rank if hit else 0.0)
                found[f"ndcg@{k}"].append(math.log(2) / math.log(1 + rank) if hit else 0.0)
    return {name: np.mean(values) for name, values in found.items()}


def test_both_ways_of_ranking_equal_a_reference(feedback, task_of, monkeypatch):
    paths, _ = feedback
    monkeypatch.setattr(topk, "PAIRS_AT_ONCE", 100)  # in several chunks
    task, test = task_of(), instances.read(paths["test"], CPU)
    scores = torch.randn(40, 30, generator=torch.Generator().manual_seed(3))
    users, positives = test.ids[:, 0].tolist(), (test.ids[:, 1] - 40).tolist()
    known = taken_in(paths, SPLITS)
    strangers = [[item for item in range(30) if (user, 40 + item) not in known] for user in users]
    sampled = reference(scores.tolist(), users, positives, task.candidates.tolist())
    full = reference(scores.tolist(), users, positives, strangers)
    expected = sampled | {FULL + name: value for name, value in full.items()}
    found = task.evaluate(Scores(scores), test)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-12)
    assert task.validation_loss(Scores(scores), test) == 1 - found["ndcg@10"]


def test_among_equals_any_order_is_as_likely_as_any_other():
    found = metrics(torch.tensor([0, 3]), torch.tensor([4, 0]))  # ranks 1 to 5, and 4
    assert found["recall@1"] == pytest.approx((1 / 5 + 0) / 2)
    assert found["recall@5"] == 1
    assert found["mrr@5"] == pytest.approx(((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5 + 1 / 4) / 2)
    assert metrics(torch.tensor([0]), torch.tensor([99]))["recall@10"] == pytest.approx(10 / 100)


def test_a_model_that_scores_nothing_but_nan_is_not_the_best(feedback, task_of):
    test = instances.read(feedback[0]["test"], CPU)
    assert math.isnan(task_of().validation_loss(Scores(torch.full((40, 30), torch.nan)), test))


def test_a_constant_prediction_is_the_share_of_positives(task_of):
    data = Instances(torch.zeros(1, 2, dtype=torch.int32), torch.ones(1))
    assert torch.sigmoid(torch.tensor(task_of(negatives=4).prior(data))).item() == pytest.approx(1 / 5)


# --- planted feedback -----------------------------------------------------------------------------------------


def test_planted_feedback_is_what_its_settings_say(feedback, tmp_path):
    paths, settings = feedback
    planted_topk.prepare(settings, None, tmp_path / "i", tmp_path / "v")
    rows = pq.read_table(tmp_path / "i").to_pandas()
    assert len(rows) == 400
    assert not rows.duplicated(["user", "item"]).any()
    per_user = rows.groupby("user").size()
    assert len(per_user) == 40
    assert per_user.min() >= 3
    assert per_user.max() <= 15
    assert (
        rows.sort_values(["user", "time"]).groupby("user")["time"].apply(list) == per_user.map(lambda n: list(range(n)))
    ).all()
    assert {name: len(instances.read(path, CPU)) for name, path in paths.items()} == {
        "train": 320,
        "validation": 40,
        "test": 40,
    }
    assert pq.read_table(tmp_path / "v").column_names == ["field", "token", "planted_dimension"]


@pytest.mark.parametrize("instances_asked", [60, 1000])
def test_more_or_fewer_instances_than_users_can_have_is_told(feedback, tmp_path, instances_asked):
    settings = feedback[1].model_copy(update={"instances": instances_asked})
    with pytest.raises(NisbenchError, match=r"40 users can have from 120 to 600 instances.*not"):
        planted_topk.prepare(settings, None, tmp_path / "i", tmp_path / "v")


def test_users_take_what_the_truth_says_they_like(feedback, tmp_path):
    """Of two users, each takes items of high true odds: the signal is there to be found, whatever the order in time."""
    _, settings = feedback
    strong = settings.model_copy(update={"signal": 50.0, "zipf_exponent": 0.0})
    planted_topk.prepare(strong, None, tmp_path / "i", tmp_path / "v")
    generator = np.random.default_rng(strong.seed)
    users, items = (planted_topk.planted.field(size, strong, generator) for size in (strong.users, strong.items))
    affinity = users.embeddings @ items.embeddings.T
    rows = pq.read_table(tmp_path / "i").to_pandas()
    chosen = affinity[rows["user"], rows["item"] - strong.users]
    assert chosen.mean() > np.median(affinity) + affinity.std() / 2
    last = rows.loc[rows.groupby("user")["time"].idxmax()]
    assert affinity[last["user"], last["item"] - strong.users].mean() == pytest.approx(
        chosen.mean(), abs=affinity.std() / 2
    )
