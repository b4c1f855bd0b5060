"""How much of a model its circuits keep."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.report.numbers import count, fixed, percent, significant
from analysis.report.results import Results, lookup
from analysis.report.section import Section
from analysis.report.studies.circuits.labels import SMALLEST, task_label
from analysis.report.studies.circuits.panels import grid, legend_above
from analysis.report.studies.number_columns import with_suffixed_ends
from analysis.report.studies.terms import explained
from analysis.report.style import DOTTED, GREY, colour, logarithmic
from analysis.report.tables import Column, Table, number_table


COLUMNS: tuple[Column, ...] = (
    *with_suffixed_ends("CPR", fixed, "faithfulness.cpr"),
    ("CPR on ln k", "faithfulness.log_cpr", fixed),
    ("CMD", "faithfulness.cmd", fixed),
    (SMALLEST, "faithfulness.smallest", count),
    ("Heads' share", "profile.attention", percent),
    ("Depth", "profile.depth", fixed),
    ("IG error", "completeness.error", significant),
)
TERMS = {
    "Faithfulness f": "With m the mean logit difference: (m of the circuit - m of nothing) / (m of the model - m of "
    "nothing). Nodes outside of the circuit write what they write on the corrupted prompt.",
    "CPR, CMD, CPR on ln k": "CPR: area under f over the share k of nodes kept, from 0.1 % to all. Half of it is "
    "decided between k = 0.5 and 1. CMD: area between f and 1. CPR on ln k: mean of f over the logarithm of k, where "
    "small circuits count. A ranking with f = 0 until the whole model is kept has a CPR of 0.25.",
}


def by_model(results: Results) -> dict[str, dict[str, Any]]:
    """{model: {task: circuit}} of the models that have circuits."""
    circuits = lookup(results, "circuits") or {}
    return {model: of["tasks"] for model, of in circuits.items() if of.get("tasks")}


def figure(results: Results) -> Figure:
    """Faithfulness of growing circuits, one panel for each task, one line for each model."""
    models = by_model(results)
    tasks = list(dict.fromkeys(task for circuits in models.values() for task in circuits))
    drawing, axes = grid(len(tasks), 1.75, sharex=True, sharey=True)
    for panel, task in zip(axes, tasks, strict=True):
        for model, circuits in models.items():
            if task in circuits:
                curve, shade = circuits[task]["faithfulness"], colour(model, list(models))
                band = (curve["shares"], curve["f_low"], curve["f_high"])
                panel.fill_between(*band, color=shade, alpha=0.14, linewidth=0)
                panel.plot(curve["shares"], curve["f"], color=shade, linewidth=1.6, label=model)
        panel.axhline(1, color=GREY, linestyle=DOTTED, linewidth=1)
        panel.set_title(task_label(task), weight="bold")
        panel.set_xscale("log")
        panel.grid(axis="y")
        logarithmic(panel.xaxis, 0.001, 1.0)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        panel.label_outer()
    drawing.supxlabel("Nodes kept (% of all, log scale)", fontsize=11)
    drawing.supylabel("Faithfulness f", fontsize=11)
    legend_above(drawing, axes[0], 3)
    return drawing


def caption(results: Results) -> str:
    """Size of the smallest faithful circuits."""
    clauses = []
    for model, circuits in by_model(results).items():
        sizes = [circuit["faithfulness"]["smallest"] for circuit in circuits.values()]
        reached = [size for size in sizes if size is not None]
        if reached:
            nodes = len(results["circuits"][model]["nodes"]) - 1
            clauses.append(f"{model} {min(reached)} to {max(reached)} of {nodes}")
    return (
        "Faithfulness is 1 for the whole model and 0 with every node knocked out; above 1 the circuit beats the "
        f"model. Bands: 95 % over examples. Smallest circuits with f of at least 0.8, in nodes: {'; '.join(clauses)}."
    )


def table(results: Results) -> Table:
    """Areas under the curves."""
    rows = [
        ([model, task_label(task)], ("circuits", model, "tasks", task))
        for model, circuits in by_model(results).items()
        for task in circuits
    ]
    return number_table(results, "Circuits by direct attribution", ["Model", "Task"], COLUMNS, rows)


def section(results: Results) -> Section:
    needs = [("circuits", model, "tasks") for model in lookup(results, "models") or []]
    title = "How much of a model its circuits keep"
    return Section("faithfulness", title, needs, figure, caption, numbers=[table], terms=explained(TERMS))
