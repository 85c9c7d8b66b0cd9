"""How fast other libraries train on the generated data: `python -m benchmarks.libraries LIBRARY MODEL SHAPE` prints JSON.

Each trains with its own fit and its own data loader, on the CPU, as its users would. Set so that the models are ours:
Adam at 1e-3, the hidden layers, MSE for ratings and BCE for clicks, and no L2, dropout, batch norm or validation.
MF is an FM over its two fields.
"""

# ruff: noqa: PLC0415 - only the library that is asked for is imported

import argparse
import contextlib
import importlib.metadata
import json
import logging
import sys
import tempfile
import time
import unittest.mock
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.cases import SHAPES, layer_widths, models_of
from nisbench.cost.shapes import Shape, generate
from nisbench.data.instances import Instances

Epoch = Callable[[], Any]
"""Trains for one epoch."""


def columns(shape: Shape, data: Instances) -> dict[str, np.ndarray]:
    """The fields by name: values of the scalar ones, and ids that start at 0 within each categorical one."""
    named: dict[str, np.ndarray] = {}
    first, values = 0, data.values  # noqa: PD011 - no pandas
    for field, size in enumerate(shape.field_sizes):
        scalar = field < shape.scalar_fields
        column = data.ids[:, field] - first if values is None or not scalar else values[:, field]
        named[f"field_{field}"] = column.numpy().copy()
        first += size
    return named


def deepctr_torch(model: str, shape: Shape, data: Instances, k: int, batch_size: int) -> Epoch:
    """DeepCTR-Torch: DeepFM (without its layers for FM) or WDL (without its wide part for the MLP), `fit` on arrays.

    It has no embeddings for scalar fields: their values go into the wide part and the layers as they are, and not into
    the FM, so that it has less to do with Criteo than ours.
    """
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import WDL, DeepFM

    fields: list[Any] = [
        DenseFeat(f"field_{field}") if field < shape.scalar_fields else SparseFeat(f"field_{field}", size, k)
        for field, size in enumerate(shape.field_sizes)
    ]
    net = (WDL if model in ("mlp", "wide_deep") else DeepFM)(
        [] if model == "mlp" else fields,
        fields,
        dnn_hidden_units=tuple(layer_widths(model, shape, k)[1:]),
        l2_reg_linear=0,
        l2_reg_embedding=0,
        task="binary" if shape.scalar_fields else "regression",
    )
    net.compile("adam", "binary_crossentropy" if shape.scalar_fields else "mse")
    x, y = columns(shape, data), data.labels.numpy()
    return lambda: net.fit(x, y, batch_size, epochs=1, verbose=0)


def recbole(model: str, shape: Shape, data: Instances, k: int, batch_size: int) -> Epoch:
    """RecBole: FM, WideDeep, DeepFM or NeuMF (one half of it for the MLP), TrainDataLoader and `Trainer.fit`, unsaved.

    Its data set is given the generated instances and all features of the shape; read from a file, it would have only
    those that occur. Its pointwise models have a loss for clicks alone, which is replaced for ratings.
    """
    # RecBole sets np.float and the like from names that NumPy 2 has no more.
    for name, of in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        setattr(np, name, getattr(np, name, of))
    from recbole.config import Config
    from recbole.data.dataloader import TrainDataLoader
    from recbole.data.dataset import Dataset
    from recbole.trainer import Trainer
    from recbole.utils import FeatureSource, FeatureType, get_model

    named = columns(shape, data)
    scalar = list(named)[: shape.scalar_fields]
    categorical = dict(zip(list(named)[shape.scalar_fields :], shape.field_sizes[shape.scalar_fields :], strict=True))
    user, item = (None, None) if shape.scalar_fields else categorical

    class Generated(Dataset):  # type: ignore[misc]
        """The generated instances."""

        def _load_data(self, *_: str) -> None:
            numbered = {name: column + 1 if name in categorical else column for name, column in named.items()}
            self.inter_feat = pd.DataFrame({**numbered, "label": data.labels.numpy()})
            self.user_feat = self.item_feat = None
            for name in self.inter_feat:
                self.field2type[name] = FeatureType.TOKEN if name in categorical else FeatureType.FLOAT
                self.field2source[name] = FeatureSource.INTERACTION
                self.field2seqlen[name], self.field2bucketnum[name] = 1, 2

        def _remap_ID_all(self) -> None:  # noqa: N802 - overridden
            self.field2id_token = {name: np.arange(1 + size) for name, size in categorical.items()}  # 0 is padding

    settings = {
        "USER_ID_FIELD": user,
        "ITEM_ID_FIELD": item,
        "LABEL_FIELD": "label",
        "numerical_features": scalar,
        "load_col": None,
        "train_neg_sample_args": None,
        "eval_args": {"split": {"RS": [1.0, 0.0, 0.0]}, "group_by": None, "order": "RO", "mode": "labeled"},
        "metrics": ["AUC"],
        "valid_metric": "AUC",
        "use_gpu": False,
        "train_batch_size": batch_size,
        "epochs": 1,
        "embedding_size": k,
        "mf_embedding_size": k,
        "mlp_embedding_size": k,
        "mf_train": model == "neumf",
        "mlp_hidden_size": layer_widths(model, shape, k)[1:],
        "dropout_prob": 0.0,
    }
    names = {"mf": "FM", "fm": "FM", "mlp": "NeuMF", "neumf": "NeuMF", "wide_deep": "WideDeep", "deepfm": "DeepFM"}
    with unittest.mock.patch.object(sys, "argv", sys.argv[:1]):  # Config would read the command line
        config = Config(names[model], "generated", config_dict=settings)
    train = Generated(config).build()[0]
    net = get_model(names[model])(config, train)
    if not shape.scalar_fields:
        net.loss = nn.MSELoss()
    trainer, batches = Trainer(config, net), TrainDataLoader(config, train, None, shuffle=True)
    return lambda: trainer.fit(batches, verbose=False, saved=False, show_progress=False)


def fuxictr(model: str, shape: Shape, data: Instances, k: int, batch_size: int) -> Epoch:
    """FuxiCTR: its embeddings, FM, LR and MLP put together, its data loader of an .npz file, and `fit`.

    Its package has these layers but not the models, which lie beside it in its repository. `fit` clips gradients; what
    it does last, loading the best model, is left out. The loader works in this process.
    """
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders import RankDataLoader
    from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, LogisticRegression, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    class Net(BaseModel):  # type: ignore[misc]
        """One of the models."""

        def __init__(self, feature_map: FeatureMap) -> None:
            task = "binary_classification" if shape.scalar_fields else "regression"
            super().__init__(feature_map, task=task, eval_steps=sys.maxsize, verbose=0, model_root="", metrics=[])
            self.embedding = FeatureEmbedding(feature_map, k)
            self.fm = FactorizationMachine(feature_map) if model in ("mf", "fm", "deepfm") else None
            self.wide = LogisticRegression(feature_map) if model == "wide_deep" else None
            hidden = layer_widths(model, shape, k)[1:]
            self.deep = MLP_Block(feature_map.sum_emb_out_dim(), hidden, output_dim=1) if hidden else None
            self.compile("adam", "binary_cross_entropy" if shape.scalar_fields else "mse_loss", 1e-3)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            fields = self.get_inputs(inputs)
            embedded = self.embedding(fields)
            parts = []
            if self.fm is not None:
                parts.append(self.fm(fields, embedded))
            if self.wide is not None:
                parts.append(self.wide(fields))
            if self.deep is not None:
                parts.append(self.deep(embedded.flatten(1)))
            return {"y_pred": self.output_activation(sum(parts[1:], parts[0]))}

        def load_weights(self, checkpoint: str) -> None:
            """There is none without validation."""

    feature_map = FeatureMap("generated", "")
    for field, size in enumerate(shape.field_sizes):
        categorical = {"type": "categorical", "vocab_size": size}
        feature_map.features[f"field_{field}"] = {"type": "numeric"} if field < shape.scalar_fields else categorical
    feature_map.labels, feature_map.num_fields, feature_map.default_emb_dim = ["label"], len(shape.field_sizes), k
    feature_map.set_column_index()
    arrays: dict[str, Any] = {**columns(shape, data), "label": data.labels.numpy()}
    np.savez("train.npz", **arrays)
    batches, _ = RankDataLoader(feature_map, "train", "train.npz", batch_size=batch_size, shuffle=True, num_workers=0)
    net = Net(feature_map)
    return lambda: net.fit(batches, epochs=1)


LIBRARIES = {"deepctr-torch": deepctr_torch, "recbole": recbole, "fuxictr": fuxictr}

WITHOUT = {("deepctr-torch", "neumf"), ("fuxictr", "neumf")}
"""Models that a library lacks."""


def rate(library: str, model: str, shape_name: str, k: int, batch_size: int, steps: int, threads: int) -> float:
    """Instances per second in an epoch of so many steps, after one to warm up."""
    torch.set_num_threads(threads)
    shape = SHAPES[shape_name]
    data = generate(shape, steps * batch_size, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # for what they write
        epoch = LIBRARIES[library](model, shape, data, k, batch_size)
        epoch()
        started = time.perf_counter()
        epoch()
        return len(data) / (time.perf_counter() - started)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("model", choices=sorted({model for shape in SHAPES.values() for model in models_of(shape)}))
    parser.add_argument("shape", choices=SHAPES)
    for option, default in {"k": 64, "batch-size": 4096, "steps": 16, "threads": 2}.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    given = parser.parse_args()
    if given.model not in models_of(SHAPES[given.shape]) or (given.library, given.model) in WITHOUT:
        parser.error(f"{given.library} has no {given.model} for {given.shape}")
    logging.disable()
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        speed = rate(given.library, given.model, given.shape, given.k, given.batch_size, given.steps, given.threads)
    about = {"library": given.library, "version": importlib.metadata.version(given.library)}
    print(json.dumps({**about, "model": given.model, "shape": given.shape, "instances_per_second": round(speed)}))


if __name__ == "__main__":
    main()
