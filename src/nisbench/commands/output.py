"""How commands print: tables that never cut a name off, sizes, JSON, and progress on stderr."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from tabulate import tabulate

from nisbench.errors import printable

Progress = Callable[[str, int, int], None]
"""What is being done, its number from 1, and how many there are."""

NARROWEST = 20


def print_json(value: Any) -> None:
    """Numbers keep every digit; NaN and infinity, which JSON lacks, become null."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(
    heads: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = (), fold: str = "", form: str = "plain"
) -> str:
    """A table as text. On a terminal, the column `fold` is as narrow as the width asks for, and continues on further lines."""
    if not rows:
        return tabulate([], heads, tablefmt=form)
    text = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    widths: list[int | None] = [None] * len(heads)
    if fold and (wide := width()):
        place = list(heads).index(fold)
        others = [max(len(row[i]) for row in [list(heads), *text]) + 2 for i in range(len(heads)) if i != place]
        own = max(len(row[place]) for row in [list(heads), *text])
        widths[place] = min(own, max(NARROWEST, wide - sum(others) - 2))
    alignment = ["right" if head in right else "left" for head in heads]
    return tabulate(
        text, heads, tablefmt=form, disable_numparse=True, colalign=alignment,
        maxcolwidths=widths if any(widths) else None,
    )  # fmt: skip


def width() -> int | None:
    """Columns of the terminal, or those that COLUMNS names; None where the output goes to a file or a pipe."""
    return shutil.get_terminal_size((0, 0)).columns or None


def size(count: float) -> str:
    """Bytes in the unit that suits them: 512 B, 1.5 KiB, 23 MiB, 4.0 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 999.5 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count >= 9.95 else f"{count:.1f} {unit}"


@contextmanager
def progress(verb: str) -> Iterator[Progress]:
    """Tell on stderr what is being done: in one line that changes, or, where stderr is no terminal, in a line for each."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if console.is_terminal:
        with console.status(verb) as status:
            yield lambda text, number, count: status.update(f"{verb} {number} of {count}: {escape(text)}")
    else:
        yield lambda text, number, count: console.print(f"{verb} {number} of {count}: {escape(text)}")
