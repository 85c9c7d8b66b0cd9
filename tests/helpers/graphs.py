"""A graph of operations on a CPU, as a CUDA graph is one: recorded, then replayed on the same tensors, without Python."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from nisbench.training import step_loop

WAITS = {
    "_local_scalar_dense", "nonzero", "unique", "_unique", "_unique2", "unique_dim", "unique_consecutive", "masked_select", "equal",
    "bincount", "is_nonzero", "item",
}  # fmt: skip
"""Operations for whose results, or for whose results' shapes, the host waits on a GPU."""


class Recorder(TorchDispatchMode):
    """Records operations, with the tensors that they read and made. Raises `RuntimeError` as a GPU does if one makes the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.overloadpacket.__name__ in WAITS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {operation}")
        kwargs = kwargs or {}
        made = operation(*args, **kwargs)
        aliases = any(each.alias_info is not None for each in operation._schema.returns)
        self.calls.append((operation, args, kwargs, made, aliases))
        return made

    def replay(self) -> None:
        """Do the operations again, and put what they make where it was put when they were recorded."""
        with torch.no_grad():
            for operation, args, kwargs, made, aliases in self.calls:
                again = operation(*args, **kwargs)
                if not aliases:
                    for old, new in zip(tree_flatten(made)[0], tree_flatten(again)[0], strict=True):
                        if isinstance(old, torch.Tensor):
                            old.copy_(new)


def record(work: Callable[[], None]) -> Callable[[], None]:
    """As `step_loop.capture`, but the work is done: the first call of what is returned does nothing."""
    recorder = Recorder()
    with recorder:
        work()
    done = iter([True])
    return lambda: None if next(done, False) else recorder.replay()


@contextmanager
def captured_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], None]]]:
    """Steps on a CPU are captured and replayed; what is given is a list of the captures."""
    captures = []

    def capture(work):
        captures.append(record(work))
        return captures[-1]

    with monkeypatch.context() as patch:
        patch.setattr(step_loop, "can_capture", lambda _device: True)
        patch.setattr(step_loop, "capture", capture)
        yield captures
