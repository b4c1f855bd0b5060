"""What samples lose when one head or one MLP is silenced."""

from matplotlib.figure import Figure

from analysis.report.results import Results
from analysis.report.section import Section
from analysis.report.studies.clocks.panels import MEMORY_COLOUR, RULE_COLOUR, key, legend, panel_for_each
from analysis.report.style import FAINT, write_beside


# Parts whose loss moves less than this, in points, are drawn without their name.
NAMED_EFFECT = 5
CAPTION = (
    "Each mark is one head or MLP layer set to 0 at the last checkpoint: what samples lose in validity and in copies. "
    "Parts far to the left carry the rule, parts far down carry memory."
)
# By the first letter of a part's name.
KINDS = {"a": key("head", RULE_COLOUR, "o"), "m": key("MLP", MEMORY_COLOUR, "s")}


def figure(results: Results) -> Figure:
    """The change of valid samples and of copies without each part, at the last checkpoint."""
    shown = results["mechanism"]
    drawing, panels = panel_for_each(results, shown, 2.5, "Copies (points)", sharey=False)
    for axes, part in zip(panels, shown.values(), strict=True):
        effects = part["ablation"][-1]
        whole = effects["none"]
        axes.axhline(0, color=FAINT, linewidth=1)
        axes.axvline(0, color=FAINT, linewidth=1)
        for unit, effect in list(effects.items())[1:]:
            at = tuple(100 * (effect[share] - whole[share]) for share in ("valid", "copies"))
            kind = KINDS[unit[0]]
            axes.plot(*at, kind.get_marker(), color=kind.get_color(), markersize=5, alpha=0.8)
            if max(map(abs, at)) >= NAMED_EFFECT:
                write_beside(axes, unit, at, (4, 3), fontsize=8, color=kind.get_color())
        axes.margins(0.18)
        axes.set_xlabel("Valid (points)", fontsize=10)
    legend(drawing, list(KINDS.values()), handletextpad=0.2, fontsize=10)
    return drawing


SECTION = Section(
    "ablation", "What a head or an MLP does", [("mechanism",)], figure, lambda results: CAPTION, on_demand=True
)
