"""Whether post-training changed which nodes and edges a circuit is made of."""

from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.report.numbers import fixed
from analysis.report.results import Results, label, lookup, pair_label
from analysis.report.section import Section, Terms
from analysis.report.sentences import join
from analysis.report.studies.circuits.labels import models_of_change, needs_of_tasks, of_tasks, task_label
from analysis.report.studies.number_columns import two_decimals
from analysis.report.style import INK, canvas
from analysis.report.tables import Column, Table, number_table


COLUMNS: tuple[Column, ...] = (
    ("Jaccard", "jaccard.value", two_decimals),
    ("null", "jaccard.null", two_decimals),
    ("Rank corr.", "spearman.value", fixed),
    ("null", "spearman.null", fixed),
    ("minus null", "spearman.difference", fixed),
    ("Low", "spearman.low", fixed),
    ("High", "spearman.high", fixed),
    ("Weighted", "weighted.value", fixed),
    ("null", "weighted.null", fixed),
)


def with_base(results: Results, other: str) -> list[dict[str, Any]]:
    """Rank correlation of the node scores of `other` with those of the base model, on each task."""
    pair = f"{models_of_change(results)[0]}|{other}"
    return [pairs[pair]["nodes"]["spearman"] for pairs in of_tasks(results, "overlap").values()]


def changed(results: Results) -> dict[str, bool]:
    """Of each post-trained model, whether some task's node circuit differs from the base's by more than the null."""
    likeness = {other: with_base(results, other) for other in models_of_change(results)[1:]}
    return {other: any(one["high"] < 0 for one in of_task) for other, of_task in likeness.items() if of_task}


def mean_likeness(results: Results) -> dict[str, dict[str, str]]:
    """Mean over tasks of the rank correlation with the base, and of its null, by post-trained model, as written."""
    likeness = {other: with_base(results, other) for other in models_of_change(results)[1:]}
    return {
        other: {key: fixed(fmean(one[key] for one in of_task), 2) for key in ("value", "null")}
        for other, of_task in likeness.items()
        if of_task
    }


def outcome(results: Results) -> str | None:
    """A clause of the headline."""
    clauses = [
        f"{label(name)} {likeness['value']} (null {likeness['null']})"
        for name, likeness in mean_likeness(results).items()
    ]
    if not clauses:
        return None
    return f"the rank correlation of node scores before and after post-training is {join(clauses)}, mean over tasks"


def figure(results: Results) -> Figure:
    """Likeness of two models' circuits beside the null, for nodes and edges, by task and pair."""
    tasks = of_tasks(results, "overlap")
    pairs = list(next(iter(tasks.values())))
    # One line for the name of each task above those of its pairs.
    step = len(pairs) + 1
    drawing, panels = canvas(1.3 + 0.24 * len(tasks) * step, 1, 2, sharey=True)
    places = {number * step + i: pair for number in range(len(tasks)) for i, pair in enumerate(pairs)}
    for axes, level in zip(panels, ("nodes", "edges"), strict=True):
        for number, likeness in enumerate(tasks.values()):
            for i, pair in enumerate(pairs):
                _draw_likeness(axes, likeness[pair][level]["spearman"], number * step + i)
        axes.set_title(level.capitalize(), weight="bold")
        axes.set_yticks(list(places), [pair_label(pair) for pair in places.values()])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(tasks) * step - 1.2, -1.4)
        axes.grid(axis="x")
        axes.set_xlabel("Rank correlation of scores")
        axes.set_xlim(right=1.02)
    place = {"weight": "bold", "fontsize": 10, "transform": panels[0].get_yaxis_transform()}
    for number, task in enumerate(tasks):
        panels[0].text(0, number * step - 0.75, task_label(task), **place)
    return drawing


def _draw_likeness(axes: Axes, likeness: dict[str, float], y: int) -> None:
    null = [likeness["null_low"], likeness["null_high"]]
    axes.plot(null, [y, y], color="#c4c4c4", linewidth=7, solid_capstyle="butt")
    axes.plot(likeness["null"] + likeness["difference"], y, "o", color=INK, markersize=5.5)


def caption(results: Results) -> str:
    """Which pairs differ by more than the choice of examples."""
    beyond, within = [], []
    for task, pairs in of_tasks(results, "overlap").items():
        for pair, levels in pairs.items():
            names = " and ".join(label(name) for name in pair.split("|"))
            (beyond if levels["nodes"]["spearman"]["high"] < 0 else within).append(f"{names} on {task_label(task)}")
    text = (
        "Dots: rank correlation of two models' scores. Grey: of one model's scores with themselves when examples are "
        "redrawn (95 %)."
    )
    if beyond:
        text += f" Node circuits differ by more than that for {join(beyond)}."
    if within:
        text += f" No difference is shown for {join(within)}."
    return text


def table(results: Results) -> Table:
    """Likeness of circuits beside its null."""
    rows = [
        ([task_label(task), f"{pair_label(pair)}, {level}"], ("change", "tasks", task, "overlap", pair, level))
        for task, pairs in of_tasks(results, "overlap").items()
        for pair, levels in pairs.items()
        for level in levels
    ]
    title = "Likeness of circuits, and of one circuit to itself on redrawn examples (null)"
    return number_table(results, title, ["Task", "Pair"], COLUMNS, rows)


def terms(results: Results) -> Terms:
    share = lookup(results, "config", "circuit_share")
    return [
        (
            "Null of a likeness",
            "The same measure between two circuits of the first model, each from examples drawn with replacement. A "
            "difference counts where the whole interval of likeness minus null lies below 0.",
        ),
        (
            "Jaccard, weighted, rank correlation",
            f"Jaccard: shared share of the two circuits of {share} of all nodes or edges. Weighted: sum of the "
            "smaller over sum of the larger strengths. Rank correlation: Spearman's, over all scores.",
        ),
    ]


def section(results: Results) -> Section:
    title, needs = "Is it the same circuit after post-training", needs_of_tasks(results, "overlap")
    return Section("overlap", title, needs, figure, caption, numbers=[table], terms=terms)
