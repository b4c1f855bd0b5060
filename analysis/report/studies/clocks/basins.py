"""From how far noisy strings return, what denoising costs, and where wrong strings go: the learned score field."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis.report.numbers import significant
from analysis.report.results import Results
from analysis.report.section import Section
from analysis.report.studies.clocks.labels import Entry
from analysis.report.studies.clocks.panels import (
    CLASS_COLOURS,
    MEMORY_COLOUR,
    STEPS,
    WINDOW_COLOUR,
    along_training,
    class_keys,
    key,
    legend,
    numbers,
    panel_for_each,
    stage_panels,
    steps_axis,
)
from analysis.report.style import DASHED, DOTTED, FAINT, GREY, INK


CAPTION = (
    "Noise is added to a vertex and the model restores it: the share that returns exactly, at once (solid) or "
    "along the whole flow (dashed). Grey: what signs alone give, without any rule. The rule is learned where "
    "held-out strings return from further than that and strings with one wrong symbol return no more; the "
    "training set is memorised where its strings return from further than other valid ones."
)
RADII_CAPTION = (
    "Noise level from which half of the vertices return in one step. Blue rises to the rule's optimum, then orange "
    "leaves it behind."
)
LOSSES_CAPTION = (
    "Learning the rule parts violating strings from valid ones at middle noise levels; memory parts training strings "
    "from held-out ones."
)
# Where wrong strings go, from the bottom of the figure to its top.
FATES = {
    "valid": Patch(color=WINDOW_COLOUR, label="another valid string"),
    "train": Patch(color=MEMORY_COLOUR, label="training string"),
    "other": Patch(color=FAINT, label="other"),
    "stays": Patch(color=GREY, label="back to itself"),
}


def basins(results: Results) -> Figure:
    """How far noise may move a vertex before the model no longer brings it back: by class, at stages of training."""

    def paint(axes: Axes, field: Entry, i: int) -> None:
        for kind, shade in CLASS_COLOURS.items():
            at_once, flow = (
                100 * np.array(field["basins"][way][i][kind]["probability"]) for way in ("one_step", "flow")
            )
            axes.plot(field["sigmas"], at_once, color=shade, linewidth=1.9)
            axes.plot(field["flow_sigmas"], flow, color=shade, linewidth=1, linestyle=DASHED)
        without_rule = 100 * np.array(field["no_rule"]["held_out"]["probability"])
        axes.fill_between(field["sigmas"], 0, without_rule, color=FAINT, alpha=0.7, linewidth=0)
        axes.xaxis.set_major_locator(MaxNLocator(3))

    xlabel = "Noise level sigma from which the vertex must return"
    drawing = stage_panels(results, results["score_field"], ": return (%)", xlabel, paint)
    whole = key("whole flow", linestyle=DASHED, linewidth=1)
    legend(drawing, [*class_keys(), whole, Patch(color=FAINT, label="no rule")])
    return drawing


def losses(results: Results) -> Figure:
    """Denoising loss of the three classes by noise level, at stages of training."""

    def paint(axes: Axes, field: Entry, i: int) -> None:
        axes.plot(field["sigmas"], field["rule_loss"]["held_out"], color=INK, linewidth=1, linestyle=DASHED)
        for kind, shade in CLASS_COLOURS.items():
            axes.plot(field["sigmas"], field["denoising_loss"][i][kind], color=shade, linewidth=1.9)
        axes.xaxis.set_major_locator(MaxNLocator(3))

    drawing = stage_panels(results, results["score_field"], "\nsquared error", "Noise level sigma", paint)
    legend(drawing, [*class_keys(), key("rule optimum", linestyle=DASHED, linewidth=1)])
    return drawing


def radii(results: Results) -> Figure:
    """The noise level from which half of the vertices return, through training."""
    fields = results["score_field"]
    drawing, panels = panel_for_each(results, fields, 2.2, "Basin radius (sigma)", STEPS)
    optima = {
        "rule_optimum": key("rule optimum", GREY, linewidth=1, linestyle=DASHED),
        "no_rule": key("no rule", GREY, linewidth=1, linestyle=DOTTED),
    }
    for axes, (name, field) in zip(panels, fields.items(), strict=True):
        for kind, shade in CLASS_COLOURS.items():
            through_training = numbers([at[kind]["radius"] for at in field["basins"]["one_step"]])
            axes.plot(np.maximum(field["steps"], 1), through_training, color=shade, marker="o", markersize=3.5)
        for optimum, line in optima.items():
            radius = field[optimum]["held_out"]["radius"]
            if radius is not None:
                axes.axhline(radius, color=GREY, linewidth=1, linestyle=line.get_linestyle())
        along_training(axes, results["runs"][name])
    legend(drawing, [*class_keys(), *optima.values()])
    return drawing


def capture(results: Results) -> Figure:
    """Where strings with one wrong symbol are taken, through training, from a middle noise level."""
    fields = results["score_field"]
    drawing, panels = panel_for_each(results, fields, 2.1, "Share of vertices (%)", STEPS)
    colours = [patch.get_facecolor() for patch in FATES.values()]
    for axes, field in zip(panels, fields.values(), strict=True):
        i = field["flow_sigmas"].index(field["capture_sigma"])
        shares = 100 * np.array([[at[fate][i] for at in field["capture"]] for fate in FATES])
        axes.stackplot(np.maximum(field["steps"], 1), shares, colors=colours, linewidth=0)
        axes.set_ylim(0, 100)
        axes.set_xlim(max(field["steps"][0], 1), field["steps"][-1])
        steps_axis(axes)
    legend(drawing, list(FATES.values()), handlelength=1)
    return drawing


def capture_caption(results: Results) -> str:
    sigma = next(field["capture_sigma"] for field in results["score_field"].values())
    return (
        f"Strings that break the rule in one symbol, after noise of level {significant(sigma, 2)} and the whole flow."
    )


NEEDS = [("score_field",)]
SECTION = Section("basins", "Basins of attraction", NEEDS, basins, lambda results: CAPTION, on_demand=True)
RADII_SECTION = Section(
    "basin-radii", "Basins through training", NEEDS, radii, lambda results: RADII_CAPTION, on_demand=True
)
LOSSES_SECTION = Section(
    "losses", "Denoising loss by noise level", NEEDS, losses, lambda results: LOSSES_CAPTION, on_demand=True
)
CAPTURE_SECTION = Section("capture", "Where wrong strings go", NEEDS, capture, capture_caption, on_demand=True)
