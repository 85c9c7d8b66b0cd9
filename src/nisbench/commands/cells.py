"""Choosing cells of a study by the names that params/ gives them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nisbench.errors import NisbenchError
from nisbench.params.tree import nearest
from nisbench.steps import Step, rate_name
from nisbench.studies import Cell, Plan, StudyPlan, paper_symbol


@dataclass(frozen=True)
class Filter:
    """What the options of a command ask for; what is None or empty is not asked for."""

    grid: str | None = None
    dataset: str | None = None
    model: str | None = None
    method: str | None = None
    cr: float | None = None
    seed: int | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in vars(self).values())

    def of(self, study: StudyPlan) -> list[Cell]:
        """The study's cells that match. Raises `NisbenchError`, with the nearest name, where none does."""
        found = list(study.cells)
        for option, wanted in vars(self).items():
            if wanted is None:
                continue
            known = list(dict.fromkeys(value for cell in found for value in _values(study, cell, option)))
            kept = [cell for cell in found if wanted in _values(study, cell, option)]
            if not kept:
                shown = f"{wanted:g}" if isinstance(wanted, float) else wanted
                names = [f"{value:g}" if isinstance(value, float) else value for value in known if value != ""]
                raise NisbenchError(f"{study.name} has no cell with --{option} {shown}{nearest(str(shown), names)}")
            found = kept
        return found


SIDE = re.compile(r"(?:(?P<model>[^/@]+)/)?(?P<method>[^/@]+)(?:@(?P<cr>[^/@]+))?")
"""MODEL/METHOD@CR. Without a model, the study's only one; without a rate, 1."""


def named(study: StudyPlan, text: str, chosen: Filter) -> list[Cell]:
    """The cells that MODEL/METHOD@CR names. They differ in their seeds alone."""
    match = SIDE.fullmatch(text)
    if not match:
        raise NisbenchError(f"{text!r} is no cell. Write MODEL/METHOD@CR, such as mf/dnis@2.")
    try:
        rate = float(match["cr"] or 1)
    except ValueError:
        raise NisbenchError(f"{text!r}: {match['cr']!r} is no compression rate") from None
    found = replace(chosen, method=match["method"]).of(study)
    found = replace(chosen, method=match["method"], model=match["model"] or chosen.model, cr=rate).of(study)
    for option in ("dataset", "model", "grid"):
        values = list(dict.fromkeys(getattr(cell, option) for cell in found))
        if len(values) == 1:
            continue
        if option == "grid" and "" in values and not chosen.grid:  # the one that nothing sets apart
            found = [cell for cell in found if not cell.grid]
            continue
        where = "model: write MODEL/METHOD@CR with" if option == "model" else f"{option}: add --{option} with"
        raise NisbenchError(
            f"{text!r} has several cells, by {where} one of {', '.join(filter(None, map(str, values)))}"
        )
    return found


def _values(study: StudyPlan, cell: Cell, option: str) -> tuple[str | float | int, ...]:
    """What a cell answers to. A grid has its own name and, where it sweeps something, one for each value."""
    if option == "grid":
        return (study.grids[cell.grid].name, cell.grid) if cell.grid else ("",)
    if option == "cr":
        return (cell.compression_rate,)
    value: str | int = getattr(cell, option)
    return (value,)


def name(study: StudyPlan, cell: Cell, *, rate: bool = True, seed: bool = True) -> str:
    """A cell in words: data set, model, method, rate, seed and, where it is set apart, the grid."""
    words = [cell.dataset, cell.model, cell.method]
    if rate and cell.compression_rate != 1:
        words.append(f"CR {rate_name(cell.compression_rate)}")
    if seed:
        words.append(f"seed {cell.seed}")
    return " ".join(words) + (f" ({grid(study, cell)})" if cell.grid else "")


def grid(study: StudyPlan, cell: Cell) -> str:
    """The name of a cell's grid and what it sweeps; empty if nothing sets it apart from others."""
    if not cell.grid:
        return ""
    plan = study.grids[cell.grid]
    return f"{plan.name}: {paper_symbol(plan.swept[0])}={plan.swept[1]}" if plan.swept else plan.name


def described(study: StudyPlan, steps: Iterable[Step]) -> dict[str, str]:
    """What each step of a study is, in words, by id: the names that its cells have in params/, K, L, and its grids."""
    cells: dict[str, list[Cell]] = {}
    for cell in study.cells:
        for step in (cell.prune, cell.search):
            cells.setdefault(step.id, []).append(cell)
    found = {}
    for step in steps:
        if step.id in cells:
            found[step.id] = _of_run(study, step, cells[step.id])
        else:
            names = [entry for block, entry in study.dataset_names.items() if step in study.blocks[block].upstream()]
            found[step.id] = _joined(names)
            if seeds := study.seeds_of(step):
                found[step.id] += f" seed {_joined(map(str, seeds))}"
            if step.name == "block":
                found[step.id] += f", {blocks(step)}"
    return found


def _of_run(study: StudyPlan, step: Step, cells: Sequence[Cell]) -> str:
    """Only the entries whose search or pruning this is: several where they differ in nothing that it depends on."""
    first = cells[0]
    rate = f" CR {rate_name(first.compression_rate)}" if step.name == "prune" else ""
    names = [_joined(getattr(cell, kind) for cell in cells) for kind in ("dataset", "model", "method")]
    sizes = f"K={first.settings.training.base_dimension}, {blocks(first.search.needs['block'])}"
    grids = _joined(filter(None, (grid(study, cell) for cell in cells)), "; ")
    tuned = _joined((", ".join(f"{key}={value}" for key, value in cell.tuned) for cell in cells if cell.tuned), "; ")
    sizes += f", {tuned}" if tuned else ""
    return f"{' '.join(names)}{rate} seed {first.seed}, {sizes}" + (f" [{grids}]" if grids else "")


def _joined(names: Iterable[str], by: str = "/") -> str:
    return by.join(dict.fromkeys(names))


def blocks(step: Step) -> str:
    """L of a blocking step, which its settings may leave to the data."""
    settings = step.settings.model_dump()
    return f"L={settings['count']}" if settings["by"] == "count" else f"L by {settings['by']}"


def asked_by(plan: Plan, step: Step) -> list[tuple[StudyPlan, Cell]]:
    """The cells of all studies whose search or pruning a step is."""
    return [
        (study, cell)
        for study in plan.studies.values()
        for cell in study.cells
        if step.id in (cell.prune.id, cell.search.id)
    ]
