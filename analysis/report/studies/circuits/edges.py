"""Where the edges changed, and which layers get a higher LoRA rank for it."""

import numpy as np
from matplotlib.figure import Figure

from analysis.report.numbers import percent
from analysis.report.results import Results, label, lookup
from analysis.report.section import Section
from analysis.report.sentences import join
from analysis.report.studies.terms import explained
from analysis.report.style import canvas, colour
from analysis.report.tables import Cell, Table


AT = ("change", "lora")
TERMS = {
    "Critical layers": "Those whose outgoing edges changed most (arXiv 2502.11812). Whether a higher rank there "
    "helps more than in random layers is open; the control file has as many random layers.",
}


def figure(results: Results) -> Figure:
    """Share of the change of edge scores that begins in each layer, for every post-trained model."""
    models = lookup(results, *AT)
    drawing, axes = canvas(2.6)
    width = 0.8 / len(models)
    layers = np.arange(max(len(edges["change"]) for edges in models.values()))
    above = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "fontsize": 9}
    for i, (name, edges) in enumerate(models.items()):
        shade, shares = colour(name, list(models)), 100 * np.array(edges["change"])
        at = layers + (i - (len(models) - 1) / 2) * width
        axes.bar(at, shares, 0.9 * width, color=shade, label=label(name))
        for layer in edges["critical"]:
            axes.annotate("critical", (at[layer], shares[layer]), color=shade, **above)
    axes.margins(y=0.16)
    axes.set_xticks(layers if len(layers) <= 16 else layers[:: -(-len(layers) // 12)])
    axes.set_xlabel("Layer in which the edge begins")
    axes.set_ylabel("Share of change (%)")
    axes.grid(axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(models), handlelength=0.9, handleheight=0.9)
    return drawing


def caption(results: Results) -> str:
    """Where the change begins."""
    models = lookup(results, *AT)
    clauses = []
    for name, edges in models.items():
        top = int(np.argmax(edges["change"]))
        clauses.append(f"{label(name)} {percent(edges['change'][top], 0)} in layer {top}")
    even = percent(1 / len(next(iter(models.values()))["change"]), 0)
    return (
        f"Of the change in edge scores, mean over tasks, the largest share is {join(clauses)}; an even "
        f"spread would be {even} each. The layers marked critical get a higher LoRA rank in the files "
        "named below, beside a control."
    )


def table(results: Results) -> Table:
    """Layers for LoRA."""
    rows = []
    for name, edges in (lookup(results, *AT) or {}).items():
        words = [label(name)]
        for choice in ("critical", "random"):
            words += [", ".join(map(str, edges[choice])), edges[f"{choice}_file"]]
        rows.append([Cell(word) for word in words])
    note = "The files are options of recipes/grpo.py: --lora_rank 4 --lora_patterns FILE."
    columns = ["Model", "Critical layers", "lora_patterns", "Random layers", "lora_patterns"]
    return Table("LoRA ranks from the change of edges", columns, rows, note)


SECTION = Section(
    "edge-change", "Where the edges changed", [AT], figure, caption, numbers=[table], terms=explained(TERMS)
)
