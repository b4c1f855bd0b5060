"""How far each training moved the weights, beside a random walk, and where they moved most."""

from collections.abc import Mapping
from functools import partial

from matplotlib.figure import Figure

from analysis.criteria import SAME_LENGTH
from analysis.report.numbers import count, percent, significant, times
from analysis.report.results import Results, asked, label, lookup, methods, model_heading
from analysis.report.section import Section, Terms
from analysis.report.sentences import join, sentence
from analysis.report.studies.comparison.layer_maps import layer_maps, log_scale
from analysis.report.style import INK, canvas, colour, colour_bar, logarithmic, name_rows, write_beside
from analysis.report.tables import Cell, Table, value


# The only method whose length has a closed form to compare with.
RANDOM_WALKER = "es"
CHANGED = (
    "Parameters changed",
    "Share of parameters that differ from the base, exactly and after rounding both to bfloat16, the type in "
    "which models are mostly served.",
)
percent_two = partial(percent, decimals=2)


def section(results: Results) -> Section:
    return Section(
        name="update-size",
        title="How far the weights moved",
        needs=[("geometry", "checkpoints", method) for method in methods(results)] or [("geometry",)],
        wanted=[("random_walk", method) for method in methods(results) if method == RANDOM_WALKER],
        figure=figure,
        caption=caption,
        numbers=[table, table_by_kind],
        terms=terms,
    )


def places_section(results: Results) -> Section:
    return Section(
        name="relative-change",
        title="Where the weights moved",
        needs=[("geometry", "checkpoints", method, "per_layer_kind") for method in methods(results)]
        or [("geometry",)],
        figure=places_figure,
        caption=places_caption,
    )


def terms(results: Results) -> Terms:
    length = (
        "Euclidean norm of the trained weights minus the base weights, in float32. Relative: divided by the norm "
        f"of the base weights of the same matrices. Lengths within {percent(SAME_LENGTH - 1, 0)} are called equal."
    )
    walks = {method: lookup(results, "random_walk", method) for method in methods(results)}
    settings = [
        f" Here alpha = {significant(walk.get('alpha'))}, T = {count(walk.get('steps'))}, "
        f"N = {count(walk.get('members'))}, d = {count(walk.get('parameters'))}."
        for walk in walks.values()
        if walk
    ]
    random_walk = (
        "The length alpha * sqrt(T * d / N) that evolution strategies would move on a reward without any slope, after "
        "T steps with N members and d parameters (arXiv 2604.01499)."
    )
    walked = [] if asked(results) is not None else [("Random walk", random_walk + "".join(settings))]
    return [("Length of an update", length), *walked, CHANGED]


def norms(results: Results) -> dict[str, float]:
    """Length of each update by method, where known."""
    lengths = {method: lookup(results, "geometry", "checkpoints", method, "norm") for method in methods(results)}
    return {method: norm for method, norm in lengths.items() if norm is not None}


def labelled_norms(results: Results) -> dict[str, float]:
    return {label(method): norm for method, norm in norms(results).items()}


def figure(results: Results) -> Figure:
    """Norm of each update on a logarithmic axis, with the norm that a random walk of the same steps would have."""
    lengths = norms(results)
    predicted = {method: lookup(results, "random_walk", method, "predicted_norm") for method in lengths}
    positive = [length for length in (*lengths.values(), *predicted.values()) if length] or [1.0]
    low, high = min(positive) / 3, max(positive) * 2.2
    drawing, axes = canvas(1.2 + 0.62 * len(lengths))
    axes.set_xscale("log")
    for y, (method, length) in enumerate(lengths.items()):
        shade, walk = colour(method, list(lengths)), predicted[method]
        # A length has no interval within one run; on a logarithmic axis, where bars have no beginning, it is a dot.
        if length > 0:
            axes.plot(length, y, "o", color=shade, markersize=10, label=label(method))
        beyond = (max(length, walk or 0, low), y)
        write_beside(axes, significant(length), beyond, (11, 0), va="center", color=shade, weight="bold")
        if walk:
            axes.plot([walk, walk], [y - 0.37, y + 0.37], color=INK, linewidth=2.4)
            words = f"random walk: {significant(walk)}"
            write_beside(axes, words, (walk, y - 0.37), (4, 2), ha="right", va="bottom", fontsize=10.5)
    axes.set_xlim(low, high)
    logarithmic(axes.xaxis, low, high)
    name_rows(axes, [label(method) for method in lengths], grid="x")
    axes.set_ylim(len(lengths) - 0.5, -0.85)
    for tick, method in zip(axes.get_yticklabels(), lengths, strict=True):
        tick.set(fontsize=12, weight="bold", color=colour(method, list(lengths)))
    axes.set_xlabel("Length of the update, Euclidean norm (log scale)")
    return drawing


def caption(results: Results) -> str:
    """Which update is longer, and whether a random walk explains the length of an update."""
    lengths = norms(results)
    clauses = [distance(labelled_norms(results))] if lengths else []
    for method, length in lengths.items():
        predicted = lookup(results, "random_walk", method, "predicted_norm")
        clauses += [random_walk(label(method), length, predicted)] if predicted and length else []
    return sentence(clauses, "The length of the updates is not known")


def distance(lengths: Mapping[str, float]) -> str:
    """Which update is longer, and how many times: "ES moved the weights 9.1 times as far as GRPO"."""
    least, most = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
    if lengths[most] == 0:
        return f"{join(list(lengths))} did not move the weights"
    if len(lengths) == 1:
        return f"{most} moved the weights by {significant(lengths[most])}"
    if lengths[least] == 0:
        return f"{most} moved the weights by {significant(lengths[most])} and {least} not at all"
    ratio = lengths[most] / lengths[least]
    if ratio <= SAME_LENGTH:
        listed = join([significant(length) for length in lengths.values()])
        return f"{join(list(lengths))} moved the weights about equally far (by {listed})"
    return f"{most} moved the weights {times(ratio)} times as far as {least}"


def random_walk(name: str, measured: float, predicted: float) -> str:
    """How the measured norm of an update compares with that of a random walk of as many steps."""
    ratio = measured / predicted
    alike = 1 / SAME_LENGTH <= ratio <= SAME_LENGTH
    how = "" if alike else f"{significant(ratio, 2)} times "
    walk = f"what a random walk of the same steps predicts ({significant(predicted)})"
    return f"{name}'s length of {significant(measured)} is {how}{walk}"


def places_figure(results: Results) -> Figure:
    """Relative norm of each method's update by layer and kind of matrix, on one shared logarithmic colour scale."""
    maps = {
        label(method): {
            layer: {kind: None if share is None else 100 * share for kind, share in row.items()}
            for layer, row in relative_norms(results, method).items()
        }
        for method in methods(results)
        if relative_norms(results, method)
    }
    scale = log_scale(
        [one for cells in maps.values() for row in cells.values() for one in row.values() if one], (0.1, 100.0)
    )
    drawing, image = layer_maps(maps, scale, "viridis", partial(significant, digits=2))
    bar = colour_bar(drawing, image, "Relative length of the update (%, log scale)")
    logarithmic(bar.xaxis, scale.vmin, scale.vmax)
    return drawing


def relative_norms(results: Results, method: str) -> dict[str, dict[str, float | None]]:
    """{layer: {kind of matrix: length of the update over that of the base's matrix}}."""
    cells = lookup(results, "geometry", "checkpoints", method, "per_layer_kind") or {}
    return {layer: {kind: entry["relative_norm"] for kind, entry in row.items()} for layer, row in cells.items()}


def places_caption(results: Results) -> str:
    """Where each update is largest relative to the weights."""
    return sentence(
        [
            largest_change(label(method), relative_norms(results, method)) or f"{label(method)} changes nothing"
            for method in methods(results)
        ]
    )


def largest_change(name: str, relative: Mapping[str, Mapping[str, float | None]]) -> str | None:
    """Where the relative change is largest and how unevenly it is spread; `relative` by layer and kind of matrix."""
    shares = {(layer, kind): share for layer, row in relative.items() for kind, share in row.items() if share}
    if not shares:
        return None
    layer, kind = max(shares, key=shares.__getitem__)
    where = f"{kind} of layer {layer}" if layer.isdecimal() else f"{kind} outside the layers"
    most, least = max(shares.values()), min(shares.values())
    return (
        f"{name} changes {where} most (by {significant(100 * most)} % of its length), "
        f"{times(most / least)} times as much as what it changes least"
    )


def table(results: Results) -> Table:
    """How long each update is and how many parameters it touches."""
    columns = {
        "Length": ("norm", significant),
        "Relative to base": ("relative_norm", percent_two),
        "Random walk": (None, significant),
        "Parameters changed": ("changed_share", percent),
        "Changed in bf16": ("changed_share_bf16", percent),
    }
    if asked(results) is not None:
        del columns["Random walk"]
    rows = []
    for method in methods(results):
        at, walk = ("geometry", "checkpoints", method), ("random_walk", method, "predicted_norm")
        if lookup(results, *at):
            cells = [value(results, (*at, key) if key else walk, write) for key, write in columns.values()]
            rows.append([Cell(label(method)), *cells])
    parameters = count(lookup(results, "geometry", "parameters"))
    base_norm = significant(lookup(results, "geometry", "base_norm"))
    note = f"The model has {parameters} parameters; the base weights have length {base_norm}."
    return Table("Size of the updates", [model_heading(results), *columns], rows, note)


def table_by_kind(results: Results) -> Table:
    """Relative length of each update by kind of matrix, over all layers."""
    by_kind = {method: lookup(results, "geometry", "checkpoints", method, "per_kind") for method in methods(results)}
    shown = [method for method, kinds in by_kind.items() if kinds]
    quantities = (("length", "norm", significant), ("relative", "relative_norm", percent_two))
    rows = [
        [Cell(kind)]
        + [
            value(results, ("geometry", "checkpoints", method, "per_kind", kind, key), write)
            for _, key, write in quantities
            for method in shown
        ]
        for kind in dict.fromkeys(kind for method in shown for kind in by_kind[method])
    ]
    columns = ["Kind of matrix", *(f"{label(method)} {word}" for word, *_ in quantities for method in shown)]
    return Table("Updates by kind of matrix, all layers together", columns, rows)
