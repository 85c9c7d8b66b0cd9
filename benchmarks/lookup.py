"""Looking rows up in compressed tables, beside nn.Embedding: `python -m benchmarks.lookup JSON`.

All forms of a table are looked up in turn, on the same ids, many times over. What counts is the least time of each, and
the ratio of these: neighbours on the machine only ever add time.
"""

import json
import sys
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import nn

from nisbench.embedding.storage import Extent, row_slices
from nisbench.machine import device as held_device
from nisbench.machine import provenance
from nisbench.serving.compressed import CompressedEmbedding

RATES = (1, 2, 5, 10, 20)
IDS = 8192
TURN = 5
"""Batches that a form looks up before the next form's turn."""
MOST_FOR_ALL = 1_000_000
"""Of a larger table, only the smallest layout is timed: all of them at once would take several times its memory."""
FORMS = (
    ("auto", "float32"), ("csr", "float32"), ("mask", "float32"), ("auto", "float16"), ("auto", "int8"), ("auto", "int4"),
    ("dense", "float16"), ("dense", "int8"), ("dense", "int4"),
)  # fmt: skip
"""Layouts and precisions that are timed, in tables whose weights lie anywhere."""
PREFIX_FORMS = (("prefix", "float32"), ("prefix", "int8"))
"""Likewise, in tables whose rows are prefixes."""


def measured(case: dict[str, Any]) -> list[dict[str, Any]]:
    """A record per rate, shape of rows and form of the table: bytes, microseconds, and both beside nn.Embedding's."""
    rows, k, rounds = case["features"], case["k"], case["rounds"]
    records = []
    with held_device(case["device"], case["threads"]) as device, torch.no_grad():
        generator = np.random.default_rng(1)
        batches = [torch.from_numpy(generator.integers(0, rows, IDS)).to(device) for _ in range(rounds)]
        for rate in case["rates"]:
            for prefixes in (False, True) if rate > 1 else (False,):
                table = drawn(rows, k, rate, prefixes)
                extent = Extent.of(table)
                chosen: dict[tuple[str, str], CompressedEmbedding] = {}
                forms = (
                    PREFIX_FORMS
                    if prefixes
                    else FORMS
                    if case["every_layout"]
                    else (("auto", "float32"), ("auto", "int8"))
                )
                for layout, values in forms:
                    found = extent.smallest(values) if layout == "auto" else layout  # type: ignore[arg-type]
                    if (found, values) not in chosen and (rate > 1 or found == "dense"):
                        small = CompressedEmbedding.from_dense(table, found, values)  # type: ignore[arg-type]
                        chosen[found, values] = small.to(device)
                dense = nn.Embedding.from_pretrained(torch.from_numpy(table).to(device))  # type: ignore[no-untyped-call]
                least = times_of({None: dense, **chosen}, batches)
                records += [
                    {
                        "features": rows, "k": k, "cr": rate, "rows": "prefixes" if prefixes else "any",
                        "layout": layout, "values": values, "auto": layout == extent.smallest(values),  # type: ignore[arg-type]
                        "bytes": small.nbytes, "of_dense_bytes": small.nbytes / table.nbytes,
                        "microseconds": 1e6 * least[layout, values], "dense_microseconds": 1e6 * least[None],
                        "ratio": least[layout, values] / least[None], "rounds": rounds, "threads": case["threads"],
                        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"), "device": provenance(device).device,
                        "torch": torch.__version__,
                    }
                    for (layout, values), small in chosen.items()
                ]  # fmt: skip
    return records


def drawn(rows: int, k: int, rate: float, prefixes: bool) -> np.ndarray:
    """A table (rows, k) of which 1 / rate is not 0: the first columns of each row, as many as drawn, or any weights."""
    generator = np.random.default_rng(0)
    table: np.ndarray = torch.empty((rows, k)).numpy()  # memory of torch, as nn.Embedding has it
    for part in row_slices(rows, k):
        of_part = table[part]
        generator.standard_normal(out=of_part, dtype=np.float32)
        if rate == 1:
            continue
        if prefixes:
            lengths = np.minimum(k, generator.integers(0, round(2 * k / rate) + 1, len(of_part)))
            of_part[np.arange(k) >= lengths[:, None]] = 0
        else:
            of_part[generator.random(of_part.shape, dtype=np.float32) >= 1 / rate] = 0
    return table


def times_of(forms: dict[Any, nn.Module], batches: list[torch.Tensor]) -> dict[Any, float]:
    """The least seconds of each form's lookup of a batch.

    The forms take turns of `TURN` batches, so that what is in the caches at the end of a turn is the form's own.
    """
    least = dict.fromkeys(forms, float("inf"))
    for form in forms.values():
        form(batches[0])  # compiles what is compiled
    for first in range(0, len(batches), TURN):
        for name, form in forms.items():
            for ids in batches[first : first + TURN]:
                start = time.perf_counter()
                form(ids)
                if ids.is_cuda:
                    torch.cuda.synchronize()
                least[name] = min(least[name], time.perf_counter() - start)
    return least


if __name__ == "__main__":
    print(json.dumps(measured(json.loads(sys.argv[1]))))
