"""How each search trained: validation loss by epoch, trial by trial, which shows whether the baselines converged."""

from nisbench.report import style
from nisbench.report.outputs import curves
from nisbench.report.results import search_result
from nisbench.studies import StudyPlan


def draw(plan: StudyPlan) -> None:
    """One picture per search method, model and data set; a line per trial and seed, those that validation chose in colour."""
    for name, searches in curves(plan).items():
        cell = searches[0]
        figure, (axis,) = style.panels(1, 1, (4.6, 3.2))
        seen: list[float] = []
        for chosen in (False, True):  # the chosen ones last, on top
            for each in searches:
                run = search_result(each.search)
                for i, trial in enumerate(run.trials):
                    losses = trial.losses
                    if losses and (i == run.best_trial) == chosen:
                        look = (
                            {"color": style.COLOURS[0], "linewidth": 1.6, "marker": "."}
                            if chosen
                            else {"color": "0.7", "linewidth": 0.7}
                        )
                        label = f"{trial.name} (seed {each.seed})" if chosen else None
                        axis.plot(range(1, len(losses) + 1), losses, label=label, **look)
                        seen += losses[1:]  # the first epoch's would leave no room for the rest
        if seen and min(seen) < max(seen):
            margin = 0.05 * (max(seen) - min(seen))
            axis.set_ylim(min(seen) - margin, max(seen) + margin)
        panel = plan.title(cell.grid, model=cell.model, dataset=cell.dataset)
        title = f"{plan.title(cell.grid, method=cell.method)}: {panel}"
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.set_ylabel("validation loss")
        if axis.get_legend_handles_labels()[0]:  # none if all searches failed
            axis.legend(loc="upper right", fontsize=6.5)
        style.save(figure, plan.folder, name.removesuffix(".svg"), ["svg"])
