"""The same models as a textbook has them: a DataLoader, nn.Embedding, torch's dense Adam, a loss that is asked for at every step."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.shapes import Shape
from nisbench.data.instances import Instances


def layers(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLUs between, and an output."""
    stack: list[nn.Module] = []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        stack += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*stack, nn.Linear(widths[-1], 1))


class Textbook(nn.Module):
    """MF, MLP, NeuMF, FM, Wide&Deep or DeepFM, with the hidden layers of params/models.yaml."""

    def __init__(self, name: str, shape: Shape, k: int) -> None:
        super().__init__()
        self.name = name
        n, m = shape.features, len(shape.field_sizes)
        self.embedding = nn.Embedding(n, k)
        if name in ("mf", "fm", "wide_deep", "deepfm"):
            self.first_order = nn.Embedding(n, 1)
        if name == "mlp":
            self.deep = layers(m * k, 2 * k, k)
        if name == "neumf":
            self.embedding_of_mlp = nn.Embedding(n, k)
            self.hidden = layers(m * k, 128, 64)[:-1]
            self.output = nn.Linear(k + 64, 1)
        if name in ("wide_deep", "deepfm"):
            self.deep = layers(m * k, 400, 400, 400)
        for table in (module for module in self.modules() if isinstance(module, nn.Embedding)):
            nn.init.normal_(table.weight, std=0.01)

    def forward(self, ids: Tensor, values: Tensor) -> Tensor:
        """(B, M) ids and values -> (B,)."""
        each = self.embedding(ids) * values[..., None]
        if self.name == "mlp":
            return self.deep(each.flatten(1))[:, 0]
        if self.name == "neumf":
            mlp = self.hidden((self.embedding_of_mlp(ids) * values[..., None]).flatten(1))
            return self.output(torch.cat([each[:, 0] * each[:, 1], mlp], 1))[:, 0]
        prediction = (self.first_order(ids)[..., 0] * values).sum(1)
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
    values = torch.ones(data.ids.shape) if data.values is None else data.values
    loader = DataLoader(TensorDataset(data.ids.long(), values, data.labels), batch_size, shuffle=True)
    while True:
        for batch in loader:
            ids, values_of_batch, labels = (tensor.to(device) for tensor in batch)
            loss = loss_of(model(ids, values_of_batch), labels)
            adam.zero_grad()
            loss.backward()
            adam.step()
            loss.item()
            yield len(labels)
