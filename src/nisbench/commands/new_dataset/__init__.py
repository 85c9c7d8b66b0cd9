"""`nisbench new-dataset`: look at the head of a table, and write the overlay that makes a data set and a study of it.

All of it are guesses, from names and values, and the file says so beside each of them.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from nisbench import checkout
from nisbench.commands.new_dataset.overlay import lines
from nisbench.commands.new_dataset.reading import columns_of, head_read
from nisbench.commands.new_dataset.roles import Looked, Roles
from nisbench.data.table_files import Source
from nisbench.errors import NisbenchError
from nisbench.files import write_text
from nisbench.params.base import NAME
from nisbench.params.checks import RESERVED, RESERVED_PREFIXES
from nisbench.params.columns import Parts
from nisbench.params.loading import load


def run(
    files: Sequence[Path],
    *,
    validation: Sequence[Path] = (),
    test: Sequence[Path] = (),
    member: str | None = None,
    names: str | None = None,
    header: bool | None = None,
    name: str | None = None,
    label: str | None = None,
    output: Path | None = None,
) -> None:
    """Write the overlay and say what to do next.

    Several `files` are parts of one table, in that order. With `validation` and `test`, they are train. Raises `NisbenchError` if
    a file, or what to predict, cannot be told.
    """
    listed = [*files, *validation, *test]
    _check_files(listed, validation, test, member)
    name = _name(name or Path(member or files[0]).name.split(".")[0])
    output = output or Path(f"{name}.yaml")
    if output.exists():
        raise NisbenchError(f"{output}: there is such a file. Name another with --output, or delete it.")
    source, table, unfit = head_read(files[0], member, names.split(",") if names else None, header)
    for other in listed[1:]:
        _check_columns(source, table.column_names, Source(other, None, source.read))
    if source.read.layout == "csv" and not source.read.header and header is None:
        print("The first line is taken as data. If it names the columns, add --header.")
    if "" in unfit:
        print(f"One column is not used: it {unfit['']}.")
    roles = Roles.of([Looked.at(column, table[column]) for column in table.column_names], label, unfit)
    urls = [os.path.relpath(file.resolve(), output.resolve().parent) for file in listed]
    divided = [[file.name for file in part] for part in (files, validation, test)]
    parts = Parts(train=divided[0], validation=divided[1], test=divided[2]) if test else None
    write_text(output, "\n".join(lines(name, urls, parts, source, table, roles)) + "\n")
    try:
        load(checkout.params_root(Path()), [output])
    except NisbenchError as error:
        raise NisbenchError(
            f"{output} is written, but must be mended by hand before it can be used:\n{error}"
        ) from None
    print(
        f"{output} is written, from the first {len(table):,} rows. Read it: all that it says of the columns is guessed."
    )
    if roles.constant_label is not None:
        print(f"Beware: {roles.constant_label}. If it is so in the whole file, name another with --label.")
    here = checkout.params_root(Path()) == Path()
    where = (
        "in the project's top folder" if here else "in the top folder of a checkout of nisbench (there is none here)"
    )
    print(
        f"Then, {where}:\n\n    NISBENCH_PARAMS={output if here else output.resolve()} snakemake --cores all {name}\n"
    )
    print(f"The page will be results/{name}/page.html.")
    if not here:
        print(
            f'In Python, with NISBENCH_PARAMS={output}, the data set is nisbench.load_dataset("{name}"), without a checkout.'
        )


def _check_files(listed: Sequence[Path], validation: Sequence[Path], test: Sequence[Path], member: str | None) -> None:
    for file in listed:
        if not file.is_file():
            what = "is a folder; name the files in it" if file.is_dir() else "there is no such file"
            raise NisbenchError(f"{file}: {what}")
    if bool(validation) != bool(test):
        raise NisbenchError(
            "--validation and --test go together: without them, the table is divided at random or by time"
        )
    if member is not None and len(listed) > 1:
        raise NisbenchError("--member is for one archive; of several files, each is read whole")


def _check_columns(first: Source, columns: Sequence[str], other: Source) -> None:
    """Raise `NisbenchError` if a file lacks columns of the first. Of JSON lines, the first object need not have all keys."""
    if first.read.layout != "jsonl":
        there = columns_of(other)
        missing = [column for column in columns if column not in there]
        if missing:
            raise NisbenchError(
                f"{other}: has no column {missing[0]!r}, which {first} has: it is no part of the same table"
            )


def _name(text: str) -> str:
    found = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:40]
    if not re.match(NAME, found) or found in RESERVED or found.split("_")[0] in RESERVED_PREFIXES or _is_known(found):
        found = f"my_{found}" if found else "my_table"
    return found


def _is_known(name: str) -> bool:
    params = load(checkout.params_root(Path()), []).params
    return name in params.datasets or name in params.studies
