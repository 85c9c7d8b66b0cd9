"""The same models as a textbook has them: a DataLoader, nn.Embedding, torch's dense Adam, a loss that is asked for at every step."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.cases import layer_widths
from nisbench.cost.shapes import Shape
from nisbench.data.instances import Instances


def layers(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLUs between, and an output."""
    stack: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        stack += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*stack, nn.Linear(widths[-1], 1))


class Textbook(nn.Module):
    """MF, MLP, NeuMF, FM, Wide&Deep or DeepFM, with the hidden layers of params/models.yaml."""

    def __init__(self, name: str, shape: Shape, k: int) -> None:
        super().__init__()
        self.name = name
        n = shape.features
        self.embedding = nn.Embedding(n, k)
        if name in ("mf", "fm", "wide_deep", "deepfm"):
            self.first_order = nn.Embedding(n, 1)
        widths = layer_widths(name, shape, k)
        if name == "neumf":
            self.embedding_of_mlp = nn.Embedding(n, k)
            self.hidden = layers(*widths)[:-1]
            self.output = nn.Linear(k + widths[-1], 1)
        elif widths:
            self.deep = layers(*widths)
        for table in (module for module in self.modules() if isinstance(module, nn.Embedding)):
            nn.init.normal_(table.weight, std=0.01)

    def forward(self, ids: Tensor, values: Tensor | None = None) -> Tensor:
        """(B, M) ids, and values where there are any -> (B,)."""

        def scaled(rows: Tensor) -> Tensor:
            return rows if values is None else rows * values[..., None]

        each = scaled(self.embedding(ids))
        if self.name == "mlp":
            deep: Tensor = self.deep(each.flatten(1))
            return deep[:, 0]
        if self.name == "neumf":
            mlp = self.hidden(scaled(self.embedding_of_mlp(ids)).flatten(1))
            rating: Tensor = self.output(torch.cat([each[:, 0] * each[:, 1], mlp], 1))
            return rating[:, 0]
        prediction = scaled(self.first_order(ids)).sum((1, 2))
        if self.name == "mf":
            return prediction + (each[:, 0] * each[:, 1]).sum(1)
        if self.name in ("fm", "deepfm"):
            prediction = prediction + 0.5 * (each.sum(1).square() - each.square().sum(1)).sum(1)
        if self.name in ("wide_deep", "deepfm"):
            prediction = prediction + self.deep(each.flatten(1))[:, 0]
        return prediction


def steps(name: str, shape: Shape, data: Instances, k: int, batch_size: int, device: torch.device) -> Iterator[int]:
    """Train for ever: after each step, the number of its instances."""
    model = Textbook(name, shape, k).to(device)
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    loss_of = functional.binary_cross_entropy_with_logits if shape.scalar_fields else functional.mse_loss
    inputs = [data.ids.long()] if data.values is None else [data.ids.long(), data.values]
    loader = DataLoader(TensorDataset(data.labels, *inputs), batch_size, shuffle=True)
    while True:
        for batch in loader:
            labels, *inputs_of_batch = (tensor.to(device) for tensor in batch)
            loss = loss_of(model(*inputs_of_batch), labels)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            loss.item()
            yield len(labels)


def compiled_steps(
    name: str, shape: Shape, data: Instances, k: int, batch_size: int, device: torch.device
) -> Iterator[int]:
    """The same compiled by torch, with the data on the device and no loss asked for: after each step, the number of its instances."""
    model = Textbook(name, shape, k).to(device)
    adam = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    loss_of = functional.binary_cross_entropy_with_logits if shape.scalar_fields else functional.mse_loss
    compiled = torch.compile(lambda ids, values, labels: loss_of(model(ids, values), labels))
    while True:
        order = torch.randperm(len(data), device=device)
        for start in range(0, len(data), batch_size):
            batch = data[order[start : start + batch_size]]
            adam.zero_grad()
            compiled(batch.ids, batch.values, batch.labels).backward()  # type: ignore[no-untyped-call]
            adam.step()
            yield len(batch)
