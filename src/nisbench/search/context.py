"""What all trials of a search have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nisbench import memory
from nisbench.data import instances
from nisbench.data.instances import Room
from nisbench.data.parquet import open_instances, read_features, same_fields
from nisbench.errors import NisbenchError
from nisbench.models import recommender as recommenders
from nisbench.models.recommender import Recommender
from nisbench.params.step_settings import SearchSettings
from nisbench.params.training import Training
from nisbench.search.trial_spec import FeatureStats, TrialSpec
from nisbench.seeds import derived
from nisbench.tasks import task as tasks
from nisbench.training.trainer import Data


@dataclass(frozen=True)
class SearchContext:
    """A search's settings and data, in memory."""

    settings: SearchSettings
    data: Data
    field_sizes: tuple[int, ...]
    features: FeatureStats
    device: torch.device

    @classmethod
    def read(
        cls,
        settings: SearchSettings,
        splits: Mapping[str, Path],
        features_file: Path,
        device: torch.device,
        folder: Path | None = None,
    ) -> "SearchContext":
        """Load the files of train and validation, and of the features. Raises `NisbenchError` if they do not fit together.

        Instances that do not fit into memory are put into files in `folder`, if one is given.
        """
        train = open_instances(splits["train"])
        features, sizes = read_features(features_file, train), same_fields(splits)
        if settings.model.user_and_item and len(sizes) != 2:
            raise NisbenchError(
                f"{splits['train']}: the model {settings.model.title} needs a user and an item and no other field, but there are "
                f"{len(sizes)} fields"
            )
        planted = features["planted_dimension"].to_numpy() if "planted_dimension" in features.column_names else None
        block, frequency = features["block"].to_numpy(), features["frequency"].to_numpy()
        task = tasks.build(settings.task, splits, device)
        used, room = settings.training, None
        if folder:
            columns = used.base_dimension * sum(settings.model.embedding_multiples)
            room = Room(used.memory_limit, memory.of_training(sum(sizes), columns), folder, used.order)
        training, validation = instances.read_all([splits["train"], splits["validation"]], device, room)
        stats = FeatureStats.of(block, frequency, sizes, planted)
        return cls(settings, Data(training, validation, task), sizes, stats, device)

    def specs(self) -> list[TrialSpec]:
        """The trials that the method proposes."""
        settings = self.settings
        k, seed = settings.training.base_dimension, derived(settings.seed, "method")
        what = f"a selection of {len(self.features)} blocks by {k} dimensions"
        memory.require(4 * len(self.features) * k, what, "training.base_dimension or blocks.count")
        specs: list[TrialSpec] = settings.method.module().propose(settings.method, self.features, k, seed)
        return specs

    def data_for(self, spec: TrialSpec) -> Data:
        """What a trial is trained and validated on."""
        if not spec.held_out:
            return self.data
        n = len(self.data.validation)
        chosen_on, learned_from = (part.to(self.device) for part in divided(n, spec.held_out, self.settings.seed))
        validation = self.data.validation
        return replace(self.data, validation=validation.subset(chosen_on), held_in=validation.subset(learned_from))

    def recommender(self, spec: TrialSpec) -> Recommender:
        """A new recommender, as the trial begins with it. Raises `NisbenchError` if its table cannot fit into memory."""
        copies = 4 if self.device.type == "cpu" else 1  # weights, their gradients and Adam's two moments
        memory.require(
            4 * copies * self.selected_weights(spec), f"the table of {spec.name!r}", "training.base_dimension"
        )
        prior = self.data.task.prior(self.data.training)
        return recommenders.build(
            self.settings.model,
            block=self._block(spec),
            selection=spec.selection,
            soft=spec.selection_optimizer is not None,
            table=spec.table,
            projected=spec.projected,
            embedding_std=self.settings.training.embedding_std,
            field_sizes=self.field_sizes,
            prior=prior,
            seed=self.settings.seed,
            start=recommenders.start_of(self.settings.model, self.settings.task, prior),
        ).to(self.device)

    def training_of(self, spec: TrialSpec) -> Training:
        """The settings that a trial is trained with: the search's, and those that its spec sets itself."""
        own = {"l2": spec.l2, "learning_rate": spec.learning_rate, "patience": spec.patience}
        own |= {"max_epochs": spec.epochs, "patience": spec.epochs} if spec.epochs else {}
        return self.settings.training.model_copy(
            update={name: value for name, value in own.items() if value is not None}
        )

    def weights_of(self, spec: TrialSpec, recommender: Recommender) -> int:
        """The number of embedding weights that a trial's selection leaves, or that its table stores."""
        stored = recommender.embedding.stored_weights
        return self.selected_weights(spec) if stored is None else stored

    def selected_weights(self, spec: TrialSpec) -> int:
        dimensions = spec.selection.ne(0).sum(1) * sum(self.settings.model.embedding_multiples)
        return int(dimensions[self._block(spec).long()].sum())

    def _block(self, spec: TrialSpec) -> Tensor:
        return torch.tensor(self.features.block) if spec.block is None else spec.block


def divided(count: int, chosen_on: float, seed: int) -> tuple[Tensor, Tensor]:
    """Which of so many validation instances choose, and which are learned from, where a search keeps both apart."""
    order = torch.from_numpy(np.random.default_rng(derived(seed, "held_out")).permutation(count))
    first, second = order.tensor_split([round(chosen_on * count)])
    return first, second
