"""What depends on a step's number alone, of `lazy_adam_static`: computed ahead, in double precision."""

import torch
from torch import Tensor

from nisbench.training.adam import BETA1, BETA2, first_scale
from nisbench.training.lazy_adam import MOMENTUM_HORIZON

DEGREE = 10
"""Of the polynomials. Their relative error is below 3e-6 from the first step on."""

POLYNOMIAL = slice(0, DEGREE + 1)
SCALE, DECAY1, DECAY2, SIZE, ROOT = range(DEGREE + 1, DEGREE + 6)
COLUMNS = DEGREE + 6
"""Of the schedule. Row i is of step s = i + those done when it was begun: the coefficients of F_s; u_1 of step s; beta1^i;
beta2^i; what step s itself multiplies its learning rate and the root of its second moment by."""


def scheduled(begun: int, start: int, end: int, device: torch.device) -> Tensor:
    """The rows `start` to `end` of a schedule that begins after so many steps."""
    i = torch.arange(start, end, dtype=torch.float64, device=device)
    s = i + begun
    j = torch.arange(1, MOMENTUM_HORIZON + 1, dtype=torch.float64, device=device)
    t = s[:, None] + j
    c = BETA1**j / (1 - BETA1**t)
    ratio = (BETA2**j / (1 - BETA2**t)).sqrt() / first_scale(s)[:, None]
    powers = torch.arange(DEGREE + 1, dtype=torch.float64)
    nodes = (1 - torch.cos(torch.pi * (powers + 0.5) / (DEGREE + 1))) / 2  # Chebyshev's
    to_coefficients = torch.linalg.inv(nodes[:, None] ** powers).T.to(device)
    sums = torch.stack([(c / (1 + (ratio - 1) * node)).sum(1) for node in nodes.tolist()], 1)
    size, root = 1 / (1 - BETA1**s), (1 / (1 - BETA2**s)).sqrt()  # infinite for step 0, which there is not
    columns = [sums @ to_coefficients, *(each[:, None] for each in (first_scale(s), BETA1**i, BETA2**i, size, root))]
    return torch.cat(columns, 1).float()
