"""The metrics of continual learning: what each arm learned, kept and forgot."""

from matplotlib.figure import Figure

from analysis.report.numbers import percent, points
from analysis.report.results import Results, lookup
from analysis.report.section import Section
from analysis.report.studies.number_columns import with_ends
from analysis.report.studies.sequential.arm_marks import interval_dot, look
from analysis.report.studies.sequential.arms import METRIC_LABELS, arms, called
from analysis.report.studies.terms import explained
from analysis.report.style import GREY, canvas, name_rows
from analysis.report.tables import Table, number_table, row_cells


# Metrics that are an accuracy; the others are differences of accuracies.
ACCURACIES = ("average_accuracy", "learning_accuracy")
DRAWN = (*ACCURACIES, "forgetting")


def figure(results: Results) -> Figure:
    """Average and learning accuracy and forgetting of every arm, with intervals and single seeds."""
    shown, metrics = arms(results), results["continual"]["metrics"]
    names = [name for name in DRAWN if metrics[shown[0]][name] is not None]
    drawing, panels = canvas(1.0 + 0.36 * len(shown), 1, len(names), sharey=True, squeeze=False)
    for axes, name in zip(panels.flat, names, strict=True):
        for y, arm in enumerate(shown):
            shade, _, marker = look(results, arm)
            seeds = [100 * chain[name] for chain in results["continual"]["seeds"][arm].values()]
            axes.plot(seeds, [y] * len(seeds), "|", color=shade, markersize=13, alpha=0.5)
            interval_dot(axes, metrics[arm][name], y, shade, marker)
        axes.margins(x=0.1)
        if name == "forgetting":
            axes.axvline(0, color=GREY, linewidth=1.2, zorder=0)
        axes.set_title(METRIC_LABELS[name].replace(" ", "\n"), weight="bold", fontsize=10)
        axes.set_xlabel("points" if name == "forgetting" else "%")
        name_rows(axes, [called(arm) for arm in shown], "x")
    return drawing


def caption(results: Results) -> str:
    """How to read it."""
    text = "Dots: means over seeds with 95 % intervals over seeds and test items; bars: single seeds."
    if lookup(results, "continual", "forgetting", arms(results)[0]):
        text += (
            " What was never learned cannot be forgotten: read forgetting beside the accuracy right after training."
        )
    return text


def metrics_table(results: Results) -> Table:
    """Every metric of every arm."""
    rows = []
    for name, words in METRIC_LABELS.items():
        columns = with_ends("Value", percent if name in ACCURACIES else points)
        for arm in arms(results):
            at = ("continual", "metrics", arm, name)
            if lookup(results, *at):
                rows.append(row_cells(results, [words, called(arm)], at, columns))
    return Table("Metrics of continual learning", ["Metric", "Arm", "Value", "Low", "High"], rows)


def forgetting_by_task(results: Results) -> Table:
    """How far each task fell from its best."""
    rows = [
        ([called(arm), called(task)], ("continual", "forgetting", arm, task))
        for arm, tasks in (lookup(results, "continual", "forgetting") or {}).items()
        for task in tasks
    ]
    return number_table(results, "Forgetting by task", ["Arm", "Task"], with_ends("Forgetting", points), rows)


TERMS = {
    "Average accuracy": "Mean over j of R[T, j]. Lopez-Paz and Ranzato 2017 (arXiv 1706.08840), equation 2.",
    "Learning accuracy": "Mean over j of R[j, j], each task right after its own training. Riemer et al. 2019 (arXiv "
    "1810.11910), section 6.1.",
    "Backward transfer": "Mean over j < T of R[T, j] - R[j, j]; below 0, later trainings harmed earlier tasks. "
    "Lopez-Paz and Ranzato, equation 3.",
    "Forward transfer": "Mean over j > 1 of R[j - 1, j] - R[0, j]: what earlier trainings did to a task before its "
    "own. Lopez-Paz and Ranzato, equation 4, with the model before all training as the reference.",
    "Forgetting": "Mean over j < T of the best R[k, j] of k = 1 to T - 1, minus R[T, j]. Chaudhry et al. 2018 (arXiv "
    "1801.10112), equation 3. What base could do and lost before row 1 is not in it; the loss on the other tasks has "
    "it.",
}


SECTION = Section(
    name="metrics",
    title="What was learned and what was kept",
    needs=[("continual", "metrics")],
    figure=figure,
    caption=caption,
    table=metrics_table,
    numbers=[forgetting_by_task],
    terms=explained(TERMS),
)
