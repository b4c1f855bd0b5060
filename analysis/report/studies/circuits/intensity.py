"""How active the models are while they write an answer."""

from matplotlib.figure import Figure

from analysis.report.numbers import count, significant
from analysis.report.results import Results, label, lookup
from analysis.report.section import Section
from analysis.report.sentences import join
from analysis.report.studies.number_columns import with_suffixed_ends
from analysis.report.studies.terms import explained
from analysis.report.style import canvas, colour
from analysis.report.tables import Column, Table, number_table


AT = ("change", "intensity")
# Statistic: its name over a panel.
PANELS = {"intensity": "Intensity", "entropy": "Entropy (nats)", "kurtosis": "Excess kurtosis"}
COLUMNS: tuple[Column, ...] = (
    *(column for name in PANELS for column in with_suffixed_ends(name.capitalize(), significant, name)),
    ("Answers", "answers", count),
)
TERMS = {
    "Intensity, entropy, kurtosis": "Of the edges of the residual graph between blocks, weights by zero ablation to "
    "first order (arXiv 2509.21044): mean absolute weight, entropy of their histogram, excess kurtosis; means over "
    "answers.",
}


def figure(results: Results) -> Figure:
    """Activation intensity, entropy and kurtosis of every model, with intervals."""
    models = lookup(results, *AT)
    drawing, panels = canvas(2.3, 1, len(PANELS))
    for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
        for x, (model, activity) in enumerate(models.items()):
            middle, low, high = (activity[f"{name}{end}"] for end in ("", "_low", "_high"))
            shade = colour(model, list(models))
            axes.errorbar(x, middle, [[middle - low], [high - middle]], fmt="o", color=shade, capsize=4)
        axes.set_xticks(range(len(models)), [label(model) for model in models], rotation=30, ha="right", fontsize=9)
        axes.set_xlim(-0.6, len(models) - 0.4)
        axes.set_title(title, weight="bold")
        axes.grid(axis="y")
    return drawing


def caption(results: Results) -> str:
    """Which models differ clearly from the base."""
    (base, of_base), *others = lookup(results, *AT).items()
    clauses = []
    for other, activity in others:
        words = []
        for name in PANELS:
            if activity[f"{name}_low"] > of_base[f"{name}_high"]:
                words.append(f"{name} higher")
            elif activity[f"{name}_high"] < of_base[f"{name}_low"]:
                words.append(f"{name} lower")
        clauses.append(f"{label(other)}: {join(words) if words else 'no clear difference'}")
    return (
        f"Compared with {label(base)}, where 95 % intervals do not overlap: {'; '.join(clauses)}. Statistics of the "
        "edges of the residual graph, while each model writes its own answer to problems that all solve."
    )


def table(results: Results) -> Table:
    """Activity of the models."""
    rows = [([label(model)], (*AT, model)) for model in lookup(results, *AT) or {}]
    return number_table(results, "Activity while writing an answer", ["Model"], COLUMNS, rows)


SECTION = Section(
    "intensity", "How active the models are", [AT], figure, caption, numbers=[table], terms=explained(TERMS)
)
