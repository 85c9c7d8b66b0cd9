"""torch's Adam, and plain gradient descent, on named parameters."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.adam import adam

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # torch's defaults


def first_scale(s: Tensor) -> Tensor:
    """sqrt(beta2 / (1 - beta2^(s + 1))): what step s + 1, without a gradient, multiplies a second moment's root by."""
    return (BETA2 / (1 - BETA2 ** (s + 1))).sqrt()


class Adam:
    """torch's fused Adam without the overhead of torch's class, which is a tenth of a step of MF."""

    def __init__(self, parameters: Mapping[str, Tensor], l2: float = 0.0) -> None:
        self.parameters, self.l2 = dict(parameters), l2
        self.moments = {
            name: {
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
                "step": torch.zeros((), device=parameter.device),
            }
            for name, parameter in self.parameters.items()
        }

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """The next step, for the parameters that have a gradient."""
        weights, gradients, first, second, steps = [], [], [], [], []
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                moments = self.moments[name]
                weights.append(parameter)
                gradients.append(parameter.grad)
                first.append(moments["exp_avg"])
                second.append(moments["exp_avg_sq"])
                steps.append(moments["step"])
        if weights:
            adam(
                weights, gradients, first, second, [], steps, fused=True, amsgrad=False, beta1=BETA1, beta2=BETA2,
                lr=learning_rate, weight_decay=self.l2, eps=EPSILON, maximize=False,
            )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        return {f"{name}.{key}": tensor for name, of in self.moments.items() for key, tensor in of.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


class SGD:
    """Gradient descent without momentum, used like `Adam`. It has no state."""

    def __init__(self, parameters: Mapping[str, Tensor], l2: float = 0.0) -> None:
        self.parameters, self.l2 = dict(parameters), l2

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """The next step, for the parameters that have a gradient."""
        for parameter in self.parameters.values():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad + self.l2 * parameter, alpha=learning_rate)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """There is nothing to load."""
