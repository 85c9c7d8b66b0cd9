"""Files that are readable and wrong: a value, a column or a tensor is another, or is gone."""

import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save_file

ODD = [
    None, True, False, 0, -1, 1, 7, 2**31, 2**53, 2**63, 10**30, 0.5, -0.0, 1e-300, 1e300, -1e300, 1e30, "", "x", "nan", "\x1b[31m",
    "<b>", [], {}, [0], [-1], [[]], {"a": 1}, [10**12], "x" * 5000,
]  # fmt: skip


def mutate(path: Path, rng: random.Random) -> str:
    """Change a file. Returns what was done, for a test's message."""
    kind = {".json": _mutate_json_file, ".parquet": _mutate_table, ".safetensors": _mutate_tensors}[path.suffix]
    if rng.random() < 0.1:
        return _mutate_bytes(path, rng)
    if rng.random() < 0.02:
        path.unlink()
        make = rng.choice([os.mkfifo, os.mkdir])
        make(path)
        return make.__name__
    return kind(path, rng)


def _mutate_bytes(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        if rng.random() < 0.3:
            del data[at : at + rng.choice([1, 8, 1000])]
        elif data[at:]:
            data[at] = rng.randrange(256)
        data = data or bytearray(b"x")
    path.write_bytes(data)
    return "bytes"


# --- JSON -----------------------------------------------------------------------------------------------------


def mutated_json(value: Any, rng: random.Random) -> tuple[Any, str]:
    """A copy of which one value, however deep, is another, is gone, or is there twice; and what was done."""
    value = copy.deepcopy(value)
    if not isinstance(value, dict | list) or not value:
        return rng.choice(ODD), "all of it"
    place, trail = value, list[Any]()
    while True:
        key = rng.choice(sorted(place, key=str) if isinstance(place, dict) else range(len(place)))
        trail.append(key)
        if not (isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8):
            break
        place = place[key]
    kind, old = rng.choice(["odd", "odd", "cut", "scale", "more"]), place[key]
    if kind == "cut":
        del place[key]
    elif kind == "more":
        place.append(old) if isinstance(place, list) else place.update({f"{key}2": old})
    elif kind == "scale" and isinstance(old, int | float):
        place[key] = old * rng.choice([-1, 2, 10**6]) + rng.choice([0, 1, -1])
    else:
        place[key] = rng.choice(ODD)
    return value, f"{kind} {trail}"


def _mutate_json_file(path: Path, rng: random.Random) -> str:
    value, what = mutated_json(json.loads(path.read_text()), rng)
    path.write_text(json.dumps(value))
    return what


# --- tensors --------------------------------------------------------------------------------------------------


def _mutate_tensors(path: Path, rng: random.Random) -> str:
    with safe_open(path, framework="pt") as file:
        about, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if rng.random() < 0.25:
        value, what = mutated_json(json.loads(about.get("nisbench", "{}")), rng)
        about = {"nisbench": json.dumps(value)}
        what = f"about: {what}"
    else:
        name = rng.choice(sorted(tensors))
        kind = rng.choice(sorted(TENSOR_CHANGES))
        changed = TENSOR_CHANGES[kind](tensors.pop(name), rng)
        what = f"{kind} {name}"
        if kind == "rename":
            tensors[f"{name}2"] = changed
        elif changed is not None:
            tensors[name] = changed.contiguous().clone()
    save_file(tensors, path, metadata=about)
    return what


def _with(tensor: torch.Tensor, rng: random.Random, value: float) -> torch.Tensor:
    """The tensor with another value somewhere, if its type can hold it."""
    changed = tensor.clone().flatten()
    if len(changed):
        changed[rng.randrange(len(changed))] = value
    return changed.view(tensor.shape)


def _odd_number(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    floats = [float("nan"), float("inf"), -float("inf"), 3e38, -1.0, 0.0]
    whole = [-1, 0, 1, 7, 100, torch.iinfo(tensor.dtype).max] if not tensor.is_floating_point() else []
    return _with(tensor, rng, rng.choice(whole or floats))


TENSOR_CHANGES: dict[str, Callable[[torch.Tensor, random.Random], torch.Tensor | None]] = {
    "cut": lambda *_: None,
    "rename": lambda tensor, _: tensor,
    "number": _odd_number,
    "all nan": lambda tensor, _: torch.full_like(tensor.float(), float("nan")),
    "row less": lambda tensor, _: tensor[:-1] if tensor.dim() else tensor[None],
    "row more": lambda tensor, _: torch.cat([tensor, tensor[:1]]) if tensor.dim() else tensor[None],
    "empty": lambda tensor, _: tensor[:0] if tensor.dim() else tensor[None][:0],
    "flat": lambda tensor, _: tensor.flatten(),
    "turned": lambda tensor, _: tensor.T if tensor.dim() == 2 else tensor[None],
    "type": lambda tensor, rng: tensor.to(rng.choice([torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool])),
    "zero": lambda tensor, _: torch.zeros_like(tensor),
}  # fmt: skip


# --- tables ---------------------------------------------------------------------------------------------------


def _mutate_table(path: Path, rng: random.Random) -> str:
    table = pq.read_table(path)
    kind = rng.choice(sorted(TABLE_CHANGES))
    name = rng.choice(table.column_names)
    changed = TABLE_CHANGES[kind](table, table.column_names.index(name), rng)
    pq.write_table(changed, path)
    return f"{kind} {name}"


def _set(table: pa.Table, at: int, values: pa.Array, name: str | None = None) -> pa.Table:
    return table.set_column(at, name or table.column_names[at], values)


def _value(table: pa.Table, at: int, rng: random.Random) -> pa.Table:
    """Another value somewhere in a column."""
    column = table.column(at).combine_chunks()
    values = column.to_pylist()
    if not values:
        return table
    odd = {
        pa.types.is_floating: [float("nan"), float("inf"), -1.0, 0.0, 0.5, 1e38],
        pa.types.is_integer: [-1, 0, 1, 3, 10**4, 2**31 - 1, -(2**31)],
        pa.types.is_string: ["", "x", "user", "\x1b"],
    }
    choices = next((found for is_kind, found in odd.items() if is_kind(column.type)), [None])
    values[rng.randrange(len(values))] = rng.choice([*choices, None])
    try:
        return _set(table, at, pa.array(values, column.type))
    except (pa.ArrowInvalid, OverflowError):
        return _set(table, at, pa.array(values))


def _type(table: pa.Table, at: int, rng: random.Random) -> pa.Table:
    kind = rng.choice([pa.string(), pa.float64(), pa.int64(), pa.int16(), pa.bool_(), pa.float32(), pa.binary()])
    try:
        return _set(table, at, table.column(at).combine_chunks().cast(kind, safe=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return _set(table, at, pa.nulls(len(table), kind))


def _described(table: pa.Table, _at: int, rng: random.Random) -> pa.Table:
    metadata = dict(table.schema.metadata or {})
    described = metadata.get(b"nisbench")
    if described is None or rng.random() < 0.1:
        return table.replace_schema_metadata(None)
    value, _ = mutated_json(json.loads(described), rng)
    return table.replace_schema_metadata(metadata | {b"nisbench": json.dumps(value).encode()})


TABLE_CHANGES: dict[str, Callable[[pa.Table, int, random.Random], pa.Table]] = {
    "cut": lambda table, at, _: table.remove_column(at),
    "rename": lambda table, at, _: _set(table, at, table.column(at), "other"),
    "twice": lambda table, at, _: table.append_column(table.column_names[at], table.column(at)),
    "value": _value,
    "values": _value,
    "type": _type,
    "nulls": lambda table, at, _: _set(table, at, pa.nulls(len(table), table.schema.types[at])),
    "zeros": lambda table, at, _: _set(table, at, pa.array(np.zeros(len(table)).astype(str)).cast(pa.float32()).cast(
        table.schema.types[at] if not pa.types.is_string(table.schema.types[at]) else pa.string())),
    "row less": lambda table, _at, _: table.slice(1),
    "row more": lambda table, _at, _: pa.concat_tables([table, table.slice(0, 1)]),
    "empty": lambda table, _at, _: table.slice(0, 0),
    "one row": lambda table, _at, _: table.slice(0, 1),
    "order": lambda table, _at, rng: table.take(rng.sample(range(len(table)), len(table))),
    "columns": lambda table, _at, _: table.select(table.column_names[::-1]),
    "described": _described,
}  # fmt: skip
