"""How figures look, and how they become files: the same data, the same bytes."""

import math
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from nisbench.errors import printable
from nisbench.files import atomic_write
from nisbench.params.kinds import kinds
from nisbench.params.methods import Method

Drawn = tuple[pd.DataFrame, Figure, str]
"""A figure: its data, in the form that its CSV has, its picture, and a caption."""

mpl.use("agg")  # pictures are files: no screen is needed

STYLE = {
    "svg.hashsalt": "nisbench",
    "figure.facecolor": "white",
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "lines.markersize": 5.5,
}
# Colours for the colour-blind. In grey, markers tell series apart.
COLOURS = sns.color_palette("colorblind")
SPARE_COLOURS = (8, 6, 5, 9, 3, 2)
"""Places in the palette for kinds that name no colour."""
SPARE_MARKERS = "X>d8H"
"""For kinds that name no marker; and of a kind's third and fourth method, and so on: every second one is hollow."""


DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
"""Beside colours and markers: a marker has its own, and every second method of a kind the next."""


def use_style() -> None:
    sns.set_theme(style="whitegrid", palette="colorblind", rc=STYLE)


def looks(methods: Mapping[str, Method]) -> dict[str, dict[str, object]]:
    """How to draw each series, by its method: a kind has one colour in all figures, its first method the marker."""
    seen: dict[str, int] = {}
    found: dict[str, dict[str, object]] = {}
    taken: set[tuple[Any, str, int]] = set()
    for name, method in methods.items():
        kind = str(method.kind_name())
        colour, marker = _colour_of(kind, method), method.marker or SPARE_MARKERS[_place(kind, "marker")]
        nth = seen[kind] = seen.get(kind, -1) + 1
        marker = SPARE_MARKERS[(nth // 2 - 1) % len(SPARE_MARKERS)] if nth > 1 else marker
        for spare in SPARE_MARKERS:  # there are more kinds than colours
            if (colour, marker, nth % 2) not in taken:
                break
            marker = spare
        taken.add((colour, marker, nth % 2))
        found[name] = {"color": colour, "marker": marker, "markeredgewidth": 0.5, "markeredgecolor": "black"}
        found[name] |= {"linestyle": DASHES[(ord(marker) + nth % 2) % len(DASHES)]}  # the same in all figures
        if nth % 2:
            found[name] |= {"markerfacecolor": "white", "markeredgewidth": 1.2, "markeredgecolor": colour}
    return found


def _colour_of(kind: str, method: Method) -> Any:
    if isinstance(method.colour, str):
        return method.colour
    if method.colour is not None:
        return COLOURS[method.colour % len(COLOURS)]
    return COLOURS[SPARE_COLOURS[_place(kind, "colour")]]


def _place(kind: str, attribute: str) -> int:
    """A place among the spare colours or markers: the kinds that name none take one after another."""
    without = sorted(name for name, other in kinds("methods").items() if getattr(other, attribute, None) is None)
    spare = SPARE_COLOURS if attribute == "colour" else SPARE_MARKERS
    return without.index(kind) % len(spare)


def label_sizes(axis: Axes, low: float, high: float) -> None:
    """Ticks of a logarithmic axis from `low` to `high`: as few as have at least three labels."""
    axis.set_xlim(low, high)
    for steps in (
        (1,),
        (1, 3),
        (1, 2, 5),
        (1, 1.5, 2, 3, 5, 7),
        tuple(np.arange(1, 10, 0.5)),
        tuple(np.arange(1, 10, 0.1)),
    ):
        powers = np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) >= LABELS:
            break
    apart = max(1, len(ticks) // (2 * LABELS))
    axis.xaxis.set_major_locator(FixedLocator(ticks[::apart]))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_minor_locator(NullLocator())


LABELS = 3
"""An axis has at least so many: with fewer, no scale can be read."""


class NothingToShowError(Exception):
    """All runs that a figure would show failed."""


def plain(text: str) -> str:
    """Text from elsewhere as matplotlib draws it character by character, without taking any of it for a formula."""
    return printable(text).replace("$", r"\$")


def entitle(axis: Axes, text: str) -> None:
    """Give a panel a title, in as many lines as its width asks for."""
    figure = axis.figure
    assert isinstance(figure, Figure)
    width = axis.get_position().width * figure.get_figwidth() * 72  # in points
    size = font_manager.FontProperties(size=plt.rcParams["axes.titlesize"]).get_size_in_points()
    lines = textwrap.wrap(text, max(20, int(1.1 * width / (0.5 * size))))  # half of its height is a letter's mean width
    axis.set_title("\n".join(map(plain, lines)))


def panels(count: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of `size` inches, `columns` to a row. Raises `NothingToShowError` if `count` is 0."""
    if count == 0:
        raise NothingToShowError
    use_style()
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return figure, list(axes.flat[:count])


def nothing() -> Drawn:
    """The picture in place of a figure all of whose runs failed."""
    figure, (axis,) = panels(1, 1, (3.6, 1.2))
    axis.set_axis_off()
    axis.text(0.5, 0.5, "all runs for this figure failed", ha="center", va="center")
    return pd.DataFrame(columns=["nothing"]), figure, "All runs for this figure failed."


def save(
    figure: Figure, folder: Path, name: str, formats: Iterable[str] = ("png", "svg"), cropped: bool = True
) -> None:
    """As ``name.png`` and ``name.svg``, without anything that differs from one run to the next.

    Cropping takes as long as drawing: it draws once more to find out where something is.
    """
    for suffix in formats:
        metadata = {"Software": None} if suffix == "png" else {"Date": None}
        with atomic_write(folder / f"{name}.{suffix}") as temporary:
            figure.savefig(
                temporary, format=suffix, dpi=160, metadata=metadata, bbox_inches="tight" if cropped else None
            )
    plt.close(figure)
