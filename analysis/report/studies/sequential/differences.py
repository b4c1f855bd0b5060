"""Arm against arm on the same test items."""

from matplotlib.figure import Figure

from analysis.report.numbers import points
from analysis.report.results import Results, lookup
from analysis.report.section import Section
from analysis.report.studies.number_columns import with_ends
from analysis.report.studies.sequential.arm_marks import SHORT_NAME, interval_dot
from analysis.report.studies.sequential.arms import METRIC_LABELS, called, controls
from analysis.report.studies.sequential.intervals import span, turned
from analysis.report.style import GREY, INK, canvas, name_rows
from analysis.report.tables import Table, number_table


def pair_words(pair: str) -> str:
    """ "es|grpo" -> "GRPO minus ES": the order of the subtraction."""
    one, other = pair.split("|")
    return f"{called(other)} minus {called(one)}"


def figure(results: Results) -> Figure:
    """How much more each second arm forgets, and how much more it ends with, on the same items."""
    pairs = {pair: compared["metrics"] for pair, compared in results["continual"]["pairs"].items()}
    first = next(iter(pairs.values()))
    names = [name for name in ("forgetting", "average_accuracy") if first[name] is not None]
    drawing, panels = canvas(1.0 + 0.42 * len(pairs), 1, len(names), sharey=True, squeeze=False)
    for axes, name in zip(panels.flat, names, strict=True):
        for y, metrics in enumerate(pairs.values()):
            interval_dot(axes, metrics[name], y, INK, "o")
        axes.axvline(0, color=GREY, linewidth=1.2, zorder=0)
        axes.margins(x=0.1)
        axes.set_title(METRIC_LABELS[name], weight="bold", fontsize=10)
        axes.set_xlabel("Difference (points)")
        name_rows(axes, [_on_two_lines(pair_words(pair)) for pair in pairs], "x")
    return drawing


def _on_two_lines(words: str) -> str:
    """Where one is too short for both names."""
    return words if len(words) <= 2 * SHORT_NAME - 8 else words.replace(" minus ", "\nminus ")


def caption(results: Results) -> str:
    """Which controls change forgetting."""
    less, more, unclear = [], [], []
    for pair, compared in results["continual"]["pairs"].items():
        one, other = pair.split("|")
        forgetting = compared["metrics"]["forgetting"]
        if forgetting is None or other not in controls(results):
            continue
        if forgetting["high"] < 0:
            less.append(f"{called(other)} than {called(one)}, by {span(turned(forgetting))}")
        elif forgetting["low"] > 0:
            more.append(f"{called(other)} than {called(one)}, by {span(forgetting)}")
        else:
            unclear.append(f"{called(other)} and {called(one)}, {span(forgetting)}")
    outcomes = {"Less forgetting": less, "More forgetting": more, "No clear difference in forgetting": unclear}
    text = "Both arms of a pair answered the same items, which are drawn together. Above 0, the first named is higher."
    return text + "".join(f" {words}: {'; '.join(listed)}." for words, listed in outcomes.items() if listed)


def table(results: Results) -> Table:
    """Paired differences of metrics and of final accuracies."""
    rows = []
    for pair, compared in (lookup(results, "continual", "pairs") or {}).items():
        measured = [("metrics", name, words) for name, words in METRIC_LABELS.items() if compared["metrics"][name]]
        final = [("final", column, f"{called(column)}, at the end") for column in compared["final"]]
        rows += [
            ([pair_words(pair), words], ("continual", "pairs", pair, kind, name))
            for kind, name, words in (*measured, *final)
        ]
    title, headings = "Differences on the same test items", ["Arms", "Quantity"]
    return number_table(results, title, headings, with_ends("Difference", points), rows)


SECTION = Section(
    "differences", "Arm against arm on the same items", [("continual", "pairs")], figure, caption, numbers=[table]
)
