"""What heads attend to, through training."""

import numpy as np
from matplotlib.figure import Figure

from analysis.report.results import Results
from analysis.report.section import Section
from analysis.report.studies.clocks.labels import Entry
from analysis.report.studies.clocks.panels import STEPS, along_training, key, legend, panel_for_each
from analysis.report.style import DOTTED, GREY


LAYER_COLOURS = ("#56b4e9", "#0072b2", "#cc79a7", "#e69f00", "#009e73", "#6e6e6e")
CAPTION = (
    "Attention mass of each head on the other positions of the same group, relative to attention spread evenly (1). "
    "Lines: the two clocks."
)


def layer_colour(layer: int) -> str:
    return LAYER_COLOURS[layer % len(LAYER_COLOURS)]


def attending(results: Results) -> dict[str, Entry]:
    """The runs whose models have attention that can be read."""
    return {name: part for name, part in results["mechanism"].items() if part["attention"][0] is not None}


def figure(results: Results) -> Figure:
    """Attention of every head to the other positions of the group through training; one line a head."""
    shown = attending(results)
    ylabel = "Mass on the group\n(times even attention)"
    drawing, panels = panel_for_each(results, shown, 2.3, ylabel, STEPS, sharey=False)
    for axes, (name, part) in zip(panels, shown.items(), strict=True):
        for layer in range(len(part["attention"][0])):
            heads = np.array([at[layer] for at in part["attention"]])
            axes.plot(np.maximum(part["steps"], 1), heads, color=layer_colour(layer), linewidth=1.5)
        axes.axhline(1, color=GREY, linewidth=1, linestyle=DOTTED)
        axes.set_ylim(bottom=0)
        along_training(axes, results["runs"][name])
    most = max(len(part["attention"][0]) for part in shown.values())
    entries = [key(f"layer {layer}", layer_colour(layer)) for layer in range(most)]
    legend(drawing, entries, ncols=6, handlelength=1.4, fontsize=10)
    return drawing


SECTION = Section(
    name="attention",
    title="Attention to the group",
    needs=[("mechanism",)],
    on_demand=True,
    figure=figure,
    caption=lambda results: CAPTION,
    drawable=lambda results: bool(attending(results)),
)
