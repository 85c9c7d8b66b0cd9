"""How searches trained: the validation loss of every trial by epoch, which shows whether the baselines converged."""

from nisbench.records import search_result
from nisbench.report import style
from nisbench.report.outputs import curves
from nisbench.studies import StudyPlan


def draw(plan: StudyPlan) -> None:
    """One picture per method, model and data set; a line per trial and seed, the chosen trials in colour."""
    for name, searches in curves(plan).items():
        first = searches[0]
        figure, (axis,) = style.panels(1, 1, (4.6, 3.2))
        seen: list[float] = []
        for chosen in (False, True):  # the chosen ones last, on top
            for cell in searches:
                run = search_result(cell.search)
                for i, trial in enumerate(run.trials):
                    losses = trial.losses
                    if losses and (i == run.best_trial) == chosen:
                        look = (
                            {"color": style.COLOURS[0], "linewidth": 1.6, "marker": "."}
                            if chosen
                            else {"color": "0.7", "linewidth": 0.7}
                        )
                        label = style.plain(f"{trial.name} (seed {cell.seed})") if chosen else None
                        axis.plot(range(1, len(losses) + 1), losses, label=label, **look)
                        seen += losses[1:]  # the first epoch's would leave no room for the rest
        if seen and min(seen) < max(seen):
            margin = 0.05 * (max(seen) - min(seen))
            axis.set_ylim(min(seen) - margin, max(seen) + margin)
        panel = plan.title(first.grid, model=first.model, dataset=first.dataset)
        style.entitle(axis, f"{plan.title(first.grid, method=first.method)}: {panel}")
        axis.set_xlabel("epoch")
        axis.set_ylabel("validation loss")
        if axis.get_legend_handles_labels()[0]:  # none if all searches failed
            axis.legend(loc="upper right", fontsize=6.5)
        figure.subplots_adjust(left=0.14, right=0.98, bottom=0.15, top=0.92)
        style.save(figure, plan.folder, name.removesuffix(".svg"), ["svg"], cropped=False)
