"""The overlay that makes a data set of a table, and a study of it: YAML, with what was seen in comments."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from nisbench.commands.new_dataset.roles import Roles, part_values
from nisbench.data.table_files import Source
from nisbench.params.columns import Parts, TableFile

PLAIN = re.compile(r"[A-Za-z_][\w .-]*[\w]|[A-Za-z]\w*")
NOT_PLAIN = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def lines(
    name: str, urls: Sequence[str], parts: Parts | None, source: Source, table: pa.Table, roles: Roles
) -> Iterator[str]:
    """The overlay's lines. `urls` are relative to it; `table` is what `source`, the first of them, begins with."""
    yield f"# Guessed from the first {len(table):,} rows of {Path(urls[0]).name}. Change what is wrong: docs/how-to/add-a-dataset.md has every key."
    yield "datasets:"
    yield f"  {name}:"
    yield "    format: table"
    yield f"    title: {_plain(name.replace('_', ' '))}"
    yield f"    task: {roles.task} # or: {', '.join(sorted({'rating', 'ctr', 'topk'} - {roles.task}))}"
    if len(urls) == 1:
        yield f"    url: {_plain(urls[0])} # relative to this file"
    else:
        yield f"    url: {_listed(urls)} # relative to this file"
    yield "    md5: null # the content of files is part of the ids anyway"
    if parts is not None:
        named = ", ".join(f"{part}: {_listed(getattr(parts, part))}" for part in Parts.model_fields)
        yield f"    files: {{{named}}}"
    elif source.member is not None:
        yield f"    files: [{_plain(source.member)}]"
    yield f"    read: {_read(source.read)}"
    yield ""
    yield from _label(roles)
    yield from _fields(roles)
    yield from _how(roles, table, divided=parts is not None)
    yield ""
    yield from _study(name, roles)


def _fields(roles: Roles) -> Iterator[str]:
    for role, column in (("user", roles.user), ("item", roles.item)):
        if column:
            yield f"    {role}: {_plain(column.name)} # {column.said()}"
    if roles.tokens:
        yield "    tokens: # every different value is a feature"
        yield from (f"      - {_plain(column.name)} # {column.said()}" for column in roles.tokens)
    if roles.multi:
        yield "    multi: # several tokens in one value: their mean embedding counts"
        for column in roles.multi:
            settings = f"{{separator: {_plain(column.separator)}, at_most: {column.most}}}"
            yield f"      {_plain(column.name)}: {settings} # {column.said()}"
    if roles.scalars:
        yield "    scalars: # none, minmax, standard or log2_buckets; missing: a number, mean or refuse"
        for column, scale in roles.scalars:
            yield f"      {_plain(column.name)}: {{scale: {scale}, missing: mean}} # {column.said()}"
    unused = {column.name: f"{why}; {column.said()}" for column, why in roles.unused}
    yield from (f"    # not used: {_plain(name)}: {why}" for name, why in {**unused, **roles.unfit}.items())
    if roles.time:
        yield f"    time: {_plain(roles.time.name)} # {roles.time.said()}"


def _label(roles: Roles) -> Iterator[str]:
    label = roles.label
    if roles.constant_label is not None:
        yield f"    # Beware: {roles.constant_label}"
    if label is None:
        yield "    label: null # every row counts as taken"
    elif roles.task == "ctr":
        yield f"    label: {{column: {_plain(label.name)}, binary: true}} # {sum(label.numbers) / len(label.numbers):.1%} are 1"
    else:
        values = sorted(set(label.numbers))
        middle = values[min(len(values) // 2, len(values) - 2)]  # above the largest, nothing would be positive
        yield f"    label: {{column: {_plain(label.name)}}} # from {values[0]:g} to {values[-1]:g}"
        yield f"    # as clicks: task: ctr, and label: {{column: {_plain(label.name)}, positive_above: {middle:g}, drop_equal: false}}"


def _how(roles: Roles, table: pa.Table, *, divided: bool) -> Iterator[str]:
    values = part_values(roles.part) if roles.part and not divided else None
    if roles.part and values:
        parts = ", ".join(f"{part}: {json.dumps(of)}" for part, of in values.items())
        yield f"    part: {{column: {_plain(roles.part.name)}, {parts}}}"
    yield "    min_count: 2 # rarer tokens become their field's unknown feature; users and items never do"
    yield "    fit_on: train # where tokens are counted and scales are taken from; or: all"
    pair = [column.name for column in (roles.user, roles.item) if column]
    repeated = len(pair) == 2 and len(table.group_by(pair).aggregate([])) < len(table)
    if len(pair) < 2:
        yield "    duplicates: keep # or: last, mean, refuse"
    elif repeated:
        yield "    duplicates: last # some rows have the same user and item; or: mean, keep, refuse"
    else:
        yield "    duplicates: refuse # rows with the same user and item; or: last, mean, keep"
    by_time = " # or, the latest for test: {by: time, proportions: [8, 1, 1]}" if roles.time else ""
    if roles.task == "topk":
        yield "    split: leave_one_out # each user's last item is for test, the one before for validation"
    elif divided or values:
        yield f"    split: published # as the {'files' if divided else 'column'} say{'' if divided else 's'}"
    else:
        yield f"    split: {{proportions: [8, 1, 1], seed: 1}}{by_time}"
    count = min(10, roles.features or 1)  # there cannot be more blocks than features
    yield f"    blocks: {{by: count, count: {count}}} # features of similar frequency share their dimensions"


def _study(name: str, roles: Roles) -> Iterator[str]:
    table = {"rating": "table2", "ctr": "table3", "topk": "table4"}[roles.task]
    models = {"mf": "mlp, neumf", "fm": "wide_deep, deepfm"}[roles.model()]
    yield "studies:"
    yield f"  {name}:"
    yield f"    title: {_plain('Dimensions for ' + name.replace('_', ' '))}"
    yield "    grids:"
    yield "      main:"
    yield f"        datasets: [{name}]"
    yield f"        models: [{roles.model()}] # also: {models}"
    yield "        methods: # and the compression rates to prune each at; uniform_tuned is the baseline to beat, and takes longest"
    yield "          full_table: [1]"
    yield "          uniform_tuned: [1]"
    yield "          network_pruning: [2, 5]"
    yield "          dnis: [1, 2, 5]"
    yield "    seeds: [1] # more of them tell luck from merit"
    yield f"    tables: [table1, {table}]"
    yield "    figures: [pareto]"
    yield "    overrides:"
    yield "      training: {base_dimension: 16, batch_size: 1024} # the largest dimension; a batch for a table of up to a million rows"
    yield "      methods:"
    yield "        uniform_tuned: {dimensions: [4, 8, 16], l2: [0.0, 1.0e-5, 1.0e-4]}"


def _read(read: TableFile) -> str:
    keys = ["layout", *(["delimiter"] if read.layout == "csv" else [])]
    plain = TableFile(layout=read.layout, delimiter=read.delimiter)
    keys += [key for key in TableFile.model_fields if getattr(read, key) != getattr(plain, key)]
    return "{" + ", ".join(f"{key}: {_listed(getattr(read, key))}" for key in keys) + "}"


def _listed(value: object) -> str:
    return f"[{', '.join(map(_plain, value))}]" if isinstance(value, list | tuple) else _plain(value)


def _plain(value: object) -> str:
    """As YAML has it, in quotes only where they are needed."""
    plain = isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in NOT_PLAIN
    return str(value) if plain else json.dumps(value, ensure_ascii=False)
