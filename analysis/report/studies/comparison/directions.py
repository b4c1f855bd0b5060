"""In which direction the updates point: the cosine between them, over all parameters and matrix by matrix."""

from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from analysis.criteria import ALIGNED, CHANCE, DIFFERENT_LENGTH, NEARLY_ORTHOGONAL, PARTLY_ALIGNED, SAME_LENGTH
from analysis.report.numbers import fixed
from analysis.report.results import Results, lookup, method_pairs, pair_label
from analysis.report.section import Section
from analysis.report.sentences import sentence
from analysis.report.studies.comparison.layer_maps import layer_maps
from analysis.report.style import colour_bar
from analysis.report.tables import Table, number_table


# The scales reach at least this far, so that chance does not look like structure: cosines, and standard deviations.
SMALLEST_COSINE_SCALE = 0.1
SMALLEST_CHANCE_SCALE = 2 * CHANCE
COSINE = (
    "Of the angle between two updates: 1 the same direction, 0 orthogonal. Chance is the standard deviation "
    f"of the cosine of two random updates with the same length matrix by matrix; within {CHANCE:g} of it a "
    "cosine is called no more than random. Otherwise it is called nearly orthogonal under "
    f"{NEARLY_ORTHOGONAL:g}, weak under {PARTLY_ALIGNED:g} and partial under {ALIGNED:g}. A single matrix has "
    "fewer parameters than the model, so that chance moves its cosine further: the map shows each cosine over the "
    "standard deviation of chance for its matrix, 1 / sqrt(d) with d parameters. A small cosine alone does not "
    "show two solutions: an update that is mostly random has a small cosine with everything."
)


def section(results: Results) -> Section:
    return Section(
        name="cosine",
        title="In which direction they moved",
        needs=[("geometry", "cosine", pair) for pair in method_pairs(results)] or [("geometry", "cosine")],
        figure=figure,
        caption=caption,
        numbers=[table],
        terms=lambda results: [("Cosine", COSINE)],
    )


def cosines(results: Results) -> dict[str, float | None]:
    """Cosine over all parameters by pair, for the pairs that were compared."""
    pairs = lookup(results, "geometry", "cosine") or {}
    return {pair: entry["total"] for pair, entry in pairs.items() if entry}


def figure(results: Results) -> Figure:
    """Cosine between the updates of two methods by layer and kind of matrix, in standard deviations of chance.

    Results that do not say what chance is for a single matrix are drawn as plain cosines.
    """
    pairs = {pair: entry for pair, entry in lookup(results, "geometry", "cosine").items() if entry}
    in_chance = all(entry.get("null_std_per_layer_kind") for entry in pairs.values())
    of_pair = over_chance if in_chance else itemgetter("per_layer_kind")
    maps = {pair_label(pair): of_pair(entry) for pair, entry in pairs.items()}
    sizes = [abs(c) for cells in maps.values() for row in cells.values() for c in row.values() if c is not None]
    limit = max([SMALLEST_CHANCE_SCALE if in_chance else SMALLEST_COSINE_SCALE, *sizes])
    write = partial(fixed, decimals=1 if in_chance else 2)
    drawing, image = layer_maps(maps, Normalize(-limit, limit), "RdBu_r", write)
    words = f"Cosine in standard deviations of chance (up to \N{PLUS-MINUS SIGN}{CHANCE:g}: no more than random)"
    colour_bar(drawing, image, words if in_chance else "Cosine between the two updates (\N{MINUS SIGN}1 to 1)")
    return drawing


def over_chance(entry: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """{layer: {kind: cosine over its standard deviation for random directions}}; None where it is undefined."""
    chance = entry["null_std_per_layer_kind"]

    def over(cosine: float | None, layer: str, kind: str) -> float | None:
        spread = chance.get(layer, {}).get(kind)
        return cosine / spread if cosine is not None and spread else None

    return {
        layer: {kind: over(cosine, layer, kind) for kind, cosine in row.items()}
        for layer, row in entry["per_layer_kind"].items()
    }


def caption(results: Results) -> str:
    """How the updates are oriented, over all parameters and matrix by matrix."""
    clauses = []
    for pair, total in cosines(results).items():
        null_std = lookup(results, "geometry", "cosine", pair, "null_std")
        clause = orientation(total, null_std)
        if len(cosines(results)) > 1:
            clause = f"{pair_label(pair)}: {clause}"
        if null_std:
            chance = f"0 \N{PLUS-MINUS SIGN} {fixed(null_std, 4)} (one standard deviation)"
            clause += f"; random directions would have {chance}"
        spread = cosine_range(lookup(results, "geometry", "cosine", pair, "per_layer_kind") or {})
        clauses += [clause, spread] if spread else [clause]
    return sentence(clauses)


def orientation(cosine: float | None, null_std: float | None) -> str:
    """How two updates are oriented: "the two updates are nearly orthogonal (cosine 0.012)".

    null_std: standard deviation of the cosine of two random directions with the same length in every tensor.
    """
    if cosine is None:
        return "the cosine between the two updates is undefined"
    size = abs(cosine)
    if null_std is not None and size <= CHANCE * null_std:
        return f"the two updates are no more aligned than two random directions (cosine {fixed(cosine, 4)})"
    if size < NEARLY_ORTHOGONAL:
        how = "are nearly orthogonal"
    elif size < PARTLY_ALIGNED:
        how = "are weakly aligned" if cosine > 0 else "are weakly opposed"
    elif size < ALIGNED:
        how = "are partly aligned" if cosine > 0 else "are partly opposed"
    else:
        how = "point almost the same way" if cosine > 0 else "point almost opposite ways"
    return f"the two updates {how} (cosine {fixed(cosine)})"


def cosine_range(by_layer: Mapping[str, Mapping[str, float | None]]) -> str | None:
    """Between which values the cosines of single matrices lie; `by_layer` by layer and kind of matrix."""
    values = {(layer, kind): c for layer, row in by_layer.items() for kind, c in row.items() if c is not None}
    if not values:
        return None
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    (low_at, high_at) = (f"{kind}, layer {layer}" if layer.isdecimal() else kind for layer, kind in (low, high))
    return f"matrix by matrix it runs from {fixed(values[low])} ({low_at}) to {fixed(values[high])} ({high_at})"


def weights_verdict(norms: Sequence[float], cosine: float | None) -> str | None:
    """Two updates in a few words, for the title."""
    if cosine is None or min(norms) == 0:
        return None
    ratio = max(norms) / min(norms)
    if cosine >= ALIGNED and ratio <= SAME_LENGTH:
        return "nearly the same weights"
    if cosine < PARTLY_ALIGNED or ratio > DIFFERENT_LENGTH:
        return "different weights"
    return "partly the same weights"


def table(results: Results) -> Table:
    """Orientation of the updates, over all parameters."""
    four_decimals = partial(fixed, decimals=4)
    columns = [("Cosine", "total", four_decimals), ("Chance (standard deviation)", "null_std", four_decimals)]
    rows = [
        ((pair_label(pair),), ("geometry", "cosine", pair)) for pair in lookup(results, "geometry", "cosine") or {}
    ]
    return number_table(results, "Orientation of the updates", ["Pair"], columns, rows)
