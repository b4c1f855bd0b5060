"""Figures that set a few models beside each other: accuracy on every task, update size, KL divergence."""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.report.numbers import significant
from analysis.report.results import Results, label, lookup, methods, models, tasks
from analysis.report.sentences import known
from analysis.report.style import INK, WIDTH, colour, logarithmic


DIRECTIONS = ("forward", "reverse")


def accuracy(results: Results) -> Figure:
    """Accuracy of every model on every task, with 95 % intervals; the trained task stands first."""
    shown = [name for name in models(results) if lookup(results, "evaluation", name)]
    evaluated = [task for task in tasks(results) if any(lookup(results, "evaluation", name, task) for name in shown)]
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(shown)
    top = 5.0
    for i, name in enumerate(shown):
        shade = colour(name, shown)
        rows = [(x, lookup(results, "evaluation", name, task)) for x, task in enumerate(evaluated)]
        rows = [(x + (i - (len(shown) - 1) / 2) * width, row) for x, row in rows if known(row)]
        positions, heights = [x for x, _ in rows], [100 * row["accuracy"] for _, row in rows]
        below = [100 * (row["accuracy"] - row["low"]) for _, row in rows]
        top = max([top, *(100 * row["high"] for _, row in rows)])
        above = [100 * (row["high"] - row["accuracy"]) for _, row in rows]
        axes.bar(positions, heights, 0.9 * width, color=shade, label=label(name))
        axes.errorbar(positions, heights, (below, above), fmt="none", ecolor=INK, elinewidth=1.3, capsize=3)
        for x, height, rise in zip(positions, heights, above, strict=True):
            axes.annotate(
                f"{height:.0f}",
                (x, height + rise),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=9.5,
                color=shade,
                weight="bold",
            )
    trained = lookup(results, "task")
    axes.set_xticks(
        range(len(evaluated)),
        [f"{label(task)}\n(trained)" if task == trained else label(task) for task in evaluated],
    )
    for tick, task in zip(axes.get_xticklabels(), evaluated, strict=True):
        tick.set(fontsize=10.5, weight="bold" if task == trained else "normal")
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 105 if top > 90 else 1.15 * top)
    axes.set_ylabel("Accuracy (%)")
    axes.grid(axis="y")
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(shown),
        handlelength=0.9,
        handleheight=0.9,
        borderaxespad=0.2,
    )
    return figure


def update_size(results: Results) -> Figure:
    """Norm of each update on a logarithmic axis, with the norm that a random walk of the same steps would have."""
    norms = {
        method: lookup(results, "geometry", "checkpoints", method, "norm")
        for method in methods(results)
        if lookup(results, "geometry", "checkpoints", method, "norm") is not None
    }
    predicted = {method: lookup(results, "random_walk", method, "predicted_norm") for method in norms}
    positive = [value for value in (*norms.values(), *predicted.values()) if value] or [1.0]
    low, high = min(positive) / 3, max(positive) * 2.2
    figure = Figure(figsize=(WIDTH, 1.2 + 0.62 * len(norms)), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    for y, (method, norm) in enumerate(norms.items()):
        shade = colour(method, list(norms))
        axes.barh(y, norm, 0.5, left=0, color=shade)
        walk = predicted[method]
        axes.annotate(
            significant(norm),
            (max(norm, walk or 0, low), y),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=shade,
            weight="bold",
        )
        if walk:
            axes.plot([walk, walk], [y - 0.37, y + 0.37], color=INK, linewidth=2.4)
            axes.annotate(
                f"random walk: {significant(walk)}",
                (walk, y - 0.37),
                xytext=(4, 2),
                textcoords="offset points",
                ha="right",
                va="bottom",
                fontsize=10,
            )
    axes.set_xlim(low, high)
    axes.set_ylim(len(norms) - 0.5, -0.85)
    logarithmic(axes.xaxis, low, high)
    axes.set_yticks(range(len(norms)), [label(method) for method in norms])
    for tick, method in zip(axes.get_yticklabels(), norms, strict=True):
        tick.set(fontsize=12, weight="bold", color=colour(method, list(norms)))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("Length of the update, Euclidean norm (log scale)")
    return figure


def kl(results: Results) -> Figure:
    """KL divergence to the base on every task in both directions, with intervals, on a logarithmic axis.

    A divergence or a limit of 0 stands at the left edge.
    """
    shown = [method for method in methods(results) if lookup(results, "kl", method)]
    measured = [task for task in tasks(results) if any(lookup(results, "kl", name, task) for name in shown)]
    trained = lookup(results, "task")
    entries = {
        (direction, method, task): lookup(results, "kl", method, task, direction)
        for direction in DIRECTIONS
        for method in shown
        for task in measured
    }
    entries = {key: entry for key, entry in entries.items() if entry and entry["per_token"] is not None}
    ends = ("per_token", "per_token_low", "per_token_high")
    positive = [entry[end] for entry in entries.values() for end in ends if entry[end] and entry[end] > 0] or [1.0]
    # Room on the right for the numbers.
    left, right = min(positive) / 2, max(positive) * 5

    figure = Figure(figsize=(WIDTH, 1.55 + 0.6 * len(measured)), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    panels[0].set_xscale("log")
    panels[0].set_xlim(left, right)
    for axes, direction in zip(panels, DIRECTIONS, strict=True):
        definitions = {entry["direction"]: None for (shown_in, *_), entry in entries.items() if shown_in == direction}
        axes.set_title("\n".join([direction.capitalize(), *definitions]))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        logarithmic(axes.xaxis, left, right)
    for (direction, method, task), entry in entries.items():
        axes = panels[DIRECTIONS.index(direction)]
        y = measured.index(task) + (shown.index(method) - (len(shown) - 1) / 2) * 0.62 / len(shown)
        shade = colour(method, shown)
        value, low, high = (None if entry[end] is None else max(left, entry[end]) for end in ends)
        if low is not None and high is not None:
            axes.plot([low, high], [y, y], color=shade, linewidth=2)
        axes.plot(value, y, "o", color=shade, markersize=6)
        axes.annotate(
            significant(entry["per_token"], 2),
            (value if high is None else high, y),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=shade,
        )
    panels[0].set_ylim(len(measured) - 0.5, -0.5)
    panels[0].set_yticks(
        range(len(measured)), [f"{label(task)}\n(trained)" if task == trained else label(task) for task in measured]
    )
    for tick, task in zip(panels[0].get_yticklabels(), measured, strict=True):
        tick.set(weight="bold" if task == trained else "normal")
    figure.supxlabel("KL divergence (nats per token, log scale)", fontsize=11)
    handles = [Line2D([], [], color=colour(m, shown), marker="o", markersize=6, linestyle="") for m in shown]
    figure.legend(handles, [label(m) for m in shown], loc="outside upper left", ncols=len(shown), handletextpad=0.2)
    return figure
