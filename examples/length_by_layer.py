"""A section of the report: how the length of each update is spread over the layers.

A section is one object: where its numbers stand in results.json, what is drawn, what is said. Put it into the
list of its chapter, `analysis/report/studies/comparison`, and it is on every page that has the numbers.
"""

import math

from matplotlib.figure import Figure

from analysis.report.numbers import significant
from analysis.report.results import Results, label, lookup, methods
from analysis.report.section import Section
from analysis.report.style import WIDTH, colour
from analysis.report.tables import Cell, Table, value


def layer_lengths(results: Results, method: str) -> dict[str, float]:
    """{layer: Euclidean length of the update of all its matrices}; "-" is what lies outside the layers."""
    by_layer = lookup(results, "geometry", "checkpoints", method, "per_layer_kind") or {}
    return {
        layer: math.hypot(*(entry["norm"] for entry in kinds.values())) for layer, kinds in sorted(by_layer.items())
    }


def figure(results: Results) -> Figure:
    picture = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = picture.subplots()
    for method in methods(results):
        lengths = layer_lengths(results, method)
        axes.plot(list(lengths), list(lengths.values()), "o-", color=colour(method, methods(results)))
    axes.set(xlabel="layer", ylabel="length of the update", yscale="log")
    return picture


def caption(results: Results) -> str:
    largest = {}
    for method in methods(results):
        lengths = layer_lengths(results, method)
        largest[method] = max(lengths, key=lengths.__getitem__)
    return "; ".join(f"{label(method)} moved layer {layer} furthest" for method, layer in largest.items()) + "."


def table(results: Results) -> Table:
    rows = [
        [Cell(label(method)), value(results, ("geometry", "checkpoints", method, "norm"), significant)]
        for method in methods(results)
    ]
    return Table("Length of the whole update", ["Method", "Length"], rows)


SECTION = Section(
    name="length-by-layer",
    title="How the length is spread over the layers",
    needs=(("geometry", "checkpoints"),),
    figure=figure,
    caption=caption,
    numbers=(table,),
    terms=lambda results: [("Length of a layer", "Euclidean, over all parameters of its matrices.")],
)
