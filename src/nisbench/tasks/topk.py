"""Top-k recommendation from implicit feedback: how high the item that a user takes next stands among others.

Instances are positives, whatever their label: a user and an item it took. An epoch of training goes through all of them and, for
each, some sampled items that the user did not take in train (He et al. 2017, section 3.4). To evaluate, each positive is ranked
among items that the user has taken in none of the splits that the task knows: a sample that is drawn once, and all items. Ranking
against a sample is what the paper reports and overstates quality (Krichene & Rendle 2020); tables show both.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nisbench.data import instances
from nisbench.data.instances import Instances
from nisbench.data.parquet import Field, InstancesFile, open_instances
from nisbench.errors import NisbenchError
from nisbench.models.recommender import Recommender
from nisbench.params.tasks import CUTOFFS, FULL, RANKED, TopK
from nisbench.tasks.task import LearningSplit, Task

PAIRS_AT_ONCE = 1 << 22


class TopKRecommendation(Task):
    """Predictions are logits of a user taking an item. Validation chooses by NDCG@10 among sampled candidates."""

    def __init__(self, settings: TopK, splits: Mapping[str, Path], device: torch.device) -> None:
        self.users, self.items = users_and_items(open_instances(splits["train"]))
        self.settings = settings
        taken = {split: self._pairs(instances.read(file, device)) for split, file in splits.items()}
        self.in_train = Taken(taken["train"], self.users.count, self.items.count)
        self.in_any = Taken(torch.cat(list(taken.values())), self.users.count, self.items.count)
        self.evaluated = list(taken.values())[-1]
        weights = torch.ones(self.items.count, device=device)
        if settings.sampling == "popularity":
            weights = torch.bincount(taken["train"][:, 1], minlength=self.items.count).float()
        self.candidates = self._candidates(weights)

    def prior(self, _training: Instances) -> float:
        return -float(torch.tensor(self.settings.negatives).log())

    def examples(self, split: LearningSplit, data: Instances, seed: int) -> Instances:
        """The positives `data` and, for each, sampled items that its user did not take: in train, to train on; at all, to validate on."""
        users = self._pairs(data)[:, 0].repeat_interleave(self.settings.negatives)
        generator = torch.Generator().manual_seed(seed)
        items = (self.in_train if split == "train" else self.in_any).others(users, generator)
        return Instances(
            torch.cat([data.ids, self._ids(users, items)]),
            torch.cat([torch.ones_like(data.labels), data.labels.new_zeros(len(items))]),
        )

    def losses(self, predictions: Tensor, labels: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(predictions, labels, reduction="none")

    def validation_loss(self, recommender: Recommender, data: Instances) -> float:
        return 1 - self._among_candidates(recommender, data)["ndcg@10"]

    def evaluate(self, recommender: Recommender, data: Instances) -> dict[str, float]:
        full = self._among_all(recommender, data)
        return self._among_candidates(recommender, data) | {FULL + name: value for name, value in full.items()}

    # --- ranking ----------------------------------------------------------------------------------------------

    def _among_candidates(self, recommender: Recommender, data: Instances) -> dict[str, float]:
        assert len(data) == len(self.candidates)
        users, positive = torch.split(self._pairs(data), 1, 1)
        # Scored in one go: equal embeddings must come to equal scores.
        items = torch.cat([positive, self.candidates], 1)
        positive, others = self._scores(recommender, users.expand_as(items), items).tensor_split([1], 1)
        if not (positive.isfinite().all() and others.isfinite().all()):
            return dict.fromkeys(RANKED, float("nan"))
        return metrics(*_standing(positive, others))

    def _among_all(self, recommender: Recommender, data: Instances) -> dict[str, float]:
        better, equal = [], []
        every = torch.arange(self.items.count, device=data.ids.device)
        for users, items in self._chunks(self._pairs(data)):
            shape = len(users), self.items.count
            scores = self._scores(recommender, users[:, None].expand(shape), every.expand(shape))
            positive = scores.gather(1, items[:, None])
            higher, same = _standing(positive, scores, self.in_any.mask(users))
            better.append(higher)
            equal.append(same)
        return metrics(torch.cat(better), torch.cat(equal))

    def _candidates(self, weights: Tensor) -> Tensor:
        """(n, candidates) different items for each positive to evaluate, none that its user has, in proportion to `weights`."""
        generator = torch.Generator().manual_seed(self.settings.seed)
        drawn = []
        for users, _ in self._chunks(self.evaluated):
            exponential = torch.empty(len(users), self.items.count).exponential_(generator=generator)
            # The first to arrive, of independent arrivals at these rates, are a weighted sample without replacement.
            arrival = exponential.to(weights.device) / weights
            arrival.masked_fill_(self.in_any.mask(users), torch.inf)
            times, items = arrival.topk(min(self.settings.candidates, self.items.count), largest=False)
            if items.shape[1] < self.settings.candidates or times.isinf().any():
                raise NisbenchError(
                    f"some users have fewer than {self.settings.candidates} items to be told from, of {self.items.count} in "
                    "all; lower the task's `candidates`"
                )
            drawn.append(items)
        return torch.cat(drawn)

    def _chunks(self, pairs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Users and items (n,) of so many positives at once that all their pairs with every item fit into memory."""
        for chunk in torch.split(pairs, max(1, PAIRS_AT_ONCE // self.items.count)):
            yield chunk[:, 0], chunk[:, 1]

    def _scores(self, recommender: Recommender, users: Tensor, items: Tensor) -> Tensor:
        """Logits of users with items, both of the same shape."""
        ids = self._ids(users.flatten(), items.flatten())
        return recommender.predict(Instances(ids, ids.new_empty(len(ids)))).view(items.shape)

    # --- ids and places in the catalogue ----------------------------------------------------------------------

    def _pairs(self, data: Instances) -> Tensor:
        """(n, 2) int64: the number of each instance's user among users, and of its item among items."""
        return data.ids.long() - torch.tensor([self.users.first, self.items.first], device=data.ids.device)

    def _ids(self, users: Tensor, items: Tensor) -> Tensor:
        return torch.stack([users + self.users.first, items + self.items.first], 1).int()


def users_and_items(file: InstancesFile) -> list[Field]:
    """The two fields of a file of instances."""
    if len(file.fields) != 2 or any(field.kind == "scalar" for field in file.fields):
        raise NisbenchError(f"{file.path}: top-k recommendation needs two categorical fields: users, and then items")
    return file.fields


def check(settings: TopK, splits: Mapping[str, Path]) -> None:
    """Raise `NisbenchError` if a user has no item to sample, or one of validation or test too few candidates."""
    files = {name: open_instances(path) for name, path in splits.items()}
    users, items = users_and_items(files["train"])
    pairs = {
        name: np.stack(
            [file.column(users.name) - users.first, file.column(items.name) - items.first], 1, dtype=np.int64
        )
        for name, file in files.items()
    }
    drawn = np.ones(items.count, dtype=bool)
    if settings.sampling == "popularity":
        drawn = np.bincount(pairs["train"][:, 1], minlength=items.count) > 0
    for number, name in enumerate(splits):
        known = np.concatenate([pairs[split] for split in list(splits)[: number + 1]])
        keys = np.unique(known[:, 0] * items.count + known[:, 1])
        if np.bincount(keys // items.count).max() == items.count:
            raise NisbenchError(
                f"{splits[name]}: a user took all {items.count:,} items: there are none left to tell them from"
            )
        taken = np.bincount(keys[drawn[keys % items.count]] // items.count, minlength=users.count)
        left = int(drawn.sum() - taken[pairs[name][:, 0]].max())
        if name != "train" and left < settings.candidates:
            raise NisbenchError(
                f"{splits[name]}: a user of {name} has {left} items to be told from, of {drawn.sum():,} in all; the task's "
                f"`candidates` asks for {settings.candidates}. Lower it, or use data of more items"
            )


class Taken:
    """Which items each user took."""

    def __init__(self, pairs: Tensor, users: int, items: int) -> None:
        """`pairs` are (n, 2) numbers of users and items."""
        keys = torch.unique(pairs[:, 0] * items + pairs[:, 1])
        user, self.item = keys // items, keys % items
        self.items = items
        self.count = torch.bincount(user, minlength=users)
        self.first = self.count.cumsum(0) - self.count
        if (self.count == items).any():
            raise NisbenchError(f"a user took all {items} items: there are none left to tell them from")
        # The place of each taken item among its user's items that are not taken: as many lie below it.
        place = self.item - (torch.arange(len(keys), device=keys.device) - self.first[user])
        self.places = user * (items + 1) + place

    def others(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """(n,) items, each drawn uniformly from those that the user in `users` (n,) did not take; no draw is rejected."""
        free = self.items - self.count[users]
        uniform = torch.rand(len(users), generator=generator, dtype=torch.float64).to(users.device)
        place = (uniform * free).long().minimum(free - 1)
        # A place among the items not taken, and all the taken ones below it: the item's number.
        below = torch.searchsorted(self.places, users * (self.items + 1) + place, right=True) - self.first[users]
        return place + below

    def mask(self, users: Tensor) -> Tensor:
        """(n, items) bool: what each of `users` (n,) took."""
        count = self.count[users]
        row = torch.arange(len(users), device=users.device).repeat_interleave(count)
        within = torch.arange(len(row), device=users.device) - (count.cumsum(0) - count)[row]
        mask = torch.zeros(len(users), self.items, dtype=torch.bool, device=users.device)
        mask[row, self.item[self.first[users][row] + within]] = True
        return mask


def _standing(positive: Tensor, others: Tensor, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How many of `others` (n, items) score better than `positive` (n, 1), and how many the same: two of (n,).

    What is no number counts as better, so that a model that has come to nothing ranks last.
    """
    better, equal = ~(others <= positive), others == positive
    if excluded is not None:
        better, equal = better & ~excluded, equal & ~excluded
    return better.sum(1), equal.sum(1)


def metrics(better: Tensor, equal: Tensor) -> dict[str, float]:
    """Means over positives of which so many others score `better`, and so many `equal` to it: both (n,) int64.

    With a single relevant item at rank r, Recall@k is 1, MRR@k is 1 / r and NDCG@k is 1 / log2(1 + r), each where r <= k. Among
    equals any order is as likely as any other: the metrics are expectations over it, so a model that scores all items alike
    gains nothing from it.
    """
    ranks = torch.arange(1, max(k for cutoffs in CUTOFFS.values() for k in cutoffs) + 1, device=better.device).double()
    gains = {"recall": torch.ones_like(ranks), "mrr": 1 / ranks, "ndcg": 1 / (1 + ranks).log2()}
    found = {}
    for name, cutoffs in CUTOFFS.items():
        summed = functional.pad(gains[name].cumsum(0), (1, 0))
        for k in cutoffs:
            reached = summed[(better + equal + 1).clamp(max=k)] - summed[better.clamp(max=k)]
            found[f"{name}@{k}"] = (reached / (equal + 1)).mean().item()
    return found


def build(settings: TopK, splits: Mapping[str, Path], device: torch.device) -> Task:
    return TopKRecommendation(settings, splits, device)
