"""Reward and loss on the straight lines between the models, with all weights moving or one part of them alone."""

from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from analysis.barriers import CANNOT_TELL, Line, loss_barrier, reward_barrier
from analysis.criteria import EXCLUDED_REWARD, LOSS_BARRIER, REWARD_BARRIER
from analysis.report.numbers import count, percent, points, significant
from analysis.report.results import (
    BASE,
    OUTSIDE_LAYERS,
    Location,
    Results,
    in_order,
    label,
    lookup,
    model_pairs,
    models,
    pair_label,
)
from analysis.report.section import Section, Terms
from analysis.report.sentences import join, sentence
from analysis.report.studies.comparison.learning import numbers
from analysis.report.style import DOTTED, FURTHER_COLOURS, GREY, INK, canvas, colour, name_rows
from analysis.report.tables import Cell, Table, value


LINES_PER_ROW = 3
# How the outcome of a search for a barrier is written.
OUTCOMES = {
    "none": "no barrier",
    "clear": "a barrier",
    "lag": "a lag",
    "unresolved": "unresolved",
    "unknown": "not known",
}
CONTROLS = {
    "random": "a random update of the same length in every tensor",
    "mirrored": "the update turned round",
    "permuted": "the same seeds with shuffled fitness",
    "untrained": "a line through the untrained base",
}
CONTROLS_TERM = (
    "The first model is replaced by what learned nothing, on the same problems and references: random, base plus a "
    "random update as long as the model's in every tensor; mirrored, base minus the update; permuted, the run's own "
    "seeds with the fitness of every step shuffled; untrained, the base at every point between the ends. No barrier "
    "is called a finding only where the same test finds one on all of these; otherwise this test cannot tell. Base "
    "against base has a gap of 0 by itself."
)
SINGLE_PARTS = (
    "All parameters are those of the first model, and one part alone goes to the second. A gap up to "
    f"{points(REWARD_BARRIER)} of reward or {percent(LOSS_BARRIER, 0)} of what the references cost is called none."
)


def section(results: Results) -> Section:
    pairs = model_pairs(results)
    return Section(
        name="connectivity",
        title="On the straight lines between the models",
        needs=[("connectivity", "lines", pair) for pair in pairs] or [("connectivity",)],
        wanted=[("connectivity", "lines", pair, "loss_barrier") for pair in pairs],
        figure=figure,
        caption=caption,
        numbers=[table],
        terms=terms,
    )


def caption(results: Results) -> str:
    """The barrier of every line, and where the test has no power to deny one."""
    untold = {
        pair: judged
        for pair, judged in powerless(results).items()
        if pair in lines(results) and not has_barrier(lines(results)[pair])
    }
    by_pair = {pair_label(pair): line for pair, line in lines(results).items()}
    stated = barriers(by_pair, [pair_label(pair) for pair in untold])
    return " ".join([stated, *(cannot_tell(pair, judged) for pair, judged in untold.items())])


def powerless(results: Results) -> dict[str, dict[str, list[str]]]:
    """{pair: {quantity: names of the controls that pass}} of the lines of which the test cannot tell."""
    found = {
        pair: {
            quantity: judged[quantity]["passed"]
            for quantity in ("reward", "loss")
            if judged[quantity]["verdict"] == CANNOT_TELL
        }
        for pair, judged in (lookup(results, "controls", "lines") or {}).items()
    }
    return {pair: quantities for pair, quantities in found.items() if quantities}


def cannot_tell(pair: str, judged: Mapping[str, Sequence[str]]) -> str:
    """ "This test cannot tell whether ...", with the reason."""
    clauses = [
        f"in the {quantity} {join([CONTROLS[name] for name in passed]) or 'no control'} passes it as well"
        for quantity, passed in judged.items()
    ]
    return f"Of {pair_label(pair)} this test cannot tell: {'; '.join(clauses)}."


def controls_section() -> Section:
    return Section(
        name="controls",
        title="Would the test have found a barrier?",
        needs=[("controls", "lines")],
        on_demand=True,
        figure=controls_figure,
        caption=controls_caption,
        table=controls_table,
        terms=lambda results: [("Controls of a line", CONTROLS_TERM)],
    )


def controls_figure(results: Results) -> Figure:
    """The line between the methods beside its controls, reward and loss."""
    drawing, panels = canvas(4.2, 1, 2)
    for pair, judged in lookup(results, "controls", "lines").items():
        between = {"": lookup(results, "connectivity", "lines", pair), **judged["lines"]}
        between = {name: line for name, line in between.items() if line}
        for axes, (quantity, scale) in zip(panels, (("reward", 100), ("loss", 1)), strict=True):
            for i, (name, line) in enumerate(between.items()):
                style = {"linewidth": 1.5, "linestyle": DOTTED} if name else {"linewidth": 2.5}
                shade = FURTHER_COLOURS[(i - 1) % len(FURTHER_COLOURS)] if name else INK
                axes.plot(
                    numbers(line["ts"]),
                    scale * numbers(line[quantity]),
                    color=shade,
                    marker="o",
                    markersize=4,
                    **style,
                )
        handles = [Line2D([], [], color=INK, linewidth=2.5)]
        handles += [
            Line2D([], [], color=FURTHER_COLOURS[i % len(FURTHER_COLOURS)], linestyle=DOTTED)
            for i in range(len(between) - 1)
        ]
        drawing.legend(handles, [pair_label(pair), *list(between)[1:]], loc="outside upper left", ncols=len(between))
    for axes, name in zip(panels, ("Reward (% of examples fully right)", "Loss (nats per token)"), strict=True):
        axes.set_ylabel(name)
        axes.grid(axis="y")
    drawing.supxlabel("Position on the straight line to the second model", fontsize=11)
    return drawing


def controls_caption(results: Results) -> str:
    """The verdict of each quantity, and which controls were found."""
    clauses = []
    for pair, judged in lookup(results, "controls", "lines").items():
        for quantity in ("reward", "loss"):
            found = judged[quantity]
            caught = [name for name in found["controls"] if name not in found["passed"]]
            seen = f"found on {join(caught)}" if caught else "found on no control"
            missed = f", missed on {join(found['passed'])}" if found["passed"] else ""
            verdict = "this test cannot tell" if found["verdict"] == CANNOT_TELL else found["verdict"]
            clauses.append(f"{pair_label(pair)}, {quantity}: {verdict}; a barrier is {seen}{missed}")
    return sentence(clauses)


def controls_table(results: Results) -> Table:
    """The gap that decides on the line and on each control."""
    rows = []
    for pair, judged in lookup(results, "controls", "lines").items():
        for name in ["", *judged["lines"]]:
            cells = [Cell(f"{pair_label(pair)}, {name}" if name else pair_label(pair))]
            for quantity, write in (("reward", points), ("loss", percent)):
                at = ("controls", "lines", pair, quantity, *(["controls", name] if name else []))
                outcome = OUTCOMES[lookup(results, *at, "outcome")]
                cells += [value(results, (*at, "gap"), write), Cell(outcome)]
            rows.append(cells)
    columns = ["Line", "Gap of the reward", "Reward", "Gap of the loss, of what it costs", "Loss"]
    limits = f"Limits: {points(REWARD_BARRIER)} of reward, {percent(LOSS_BARRIER, 0)} of the loss on the even line."
    return Table("A line and its controls", columns, rows, limits)


def parts_section(name: str, what: str, key: str) -> Section:
    """Lines on which one part moves. what: such a part. key: of results.json."""
    return Section(
        name=name,
        title=f"One {what} at a time",
        needs=[(key,)],
        on_demand=True,
        figure=partial(parts_figure, key=key, what=what),
        caption=partial(parts_caption, key=key),
        numbers=[partial(parts_table, key=key, title=f"Lines on which one {what} moves")],
        terms=lambda results: [("Lines of single parts", SINGLE_PARTS)],
    )


def terms(results: Results) -> Terms:
    references = lookup(results, "connectivity", "references") or {}
    stated = [f"{key} {count(number)}" for key, number in references.items() if isinstance(number, int)]
    listed = f" ({', '.join(stated)})" if references else ""
    barrier = (
        "The largest gap between the value on the straight line (1 - t) a + t b between the weights of two models "
        "and the value that goes evenly from one end to the other: for the reward how far it falls below, for the "
        "loss how far it rises above. It is at least 0, and noise makes it larger, never smaller. Reward: "
        "accuracy of greedy decoding, with a Wilson interval. Loss: negative log-likelihood of right completions "
        f"of all models{listed}, with a bootstrap interval. It is called a barrier above "
        f"{points(REWARD_BARRIER)} of reward or {percent(LOSS_BARRIER, 0)} of the loss on the even line, if some "
        "point's whole interval lies beyond the even line, and a lag where that happens without being worse than the "
        "worse end; and no barrier up to that, if the interval of the reward stays "
        f"within {points(EXCLUDED_REWARD)} of it. Otherwise it is unresolved."
    )
    return [("Barrier", barrier)]


def lines(results: Results) -> dict[str, Line]:
    return {pair: line for pair, line in (lookup(results, "connectivity", "lines") or {}).items() if line}


def figure(results: Results) -> Figure:
    """Reward and, below it, loss along the straight line between two models; three pairs beside each other."""
    blocks = -(-len(lines(results)) // LINES_PER_ROW)
    columns = min(len(lines(results)), LINES_PER_ROW)
    drawing, panels = canvas(4.6 * blocks, 2 * blocks, columns, squeeze=False)
    drawing.get_layout_engine().set(wspace=0.09, hspace=0.05)
    for axes in panels.flat[1:]:
        axes.set_visible(False)
    for i, (pair, line) in enumerate(lines(results).items()):
        block, column = divmod(i, LINES_PER_ROW)
        for row, quantity, scale in ((0, "reward", 100), (1, "loss", 1)):
            axes = panels[2 * block + row, column]
            axes.set_visible(True)
            if i > 0:
                axes.sharey(panels[row, 0])
            draw_line(axes, pair, line, quantity, scale, models(results))
            axes.tick_params(labelleft=column == 0)
        panels[2 * block, column].set_title(pair_label(pair), weight="bold")
    for block in range(blocks):
        panels[2 * block, 0].set_ylabel("Reward (% of examples\nfully right)")
        panels[2 * block + 1, 0].set_ylabel("Loss (nats per token)")
    panels[0, 0].set_ylim(bottom=0)
    drawing.supxlabel("Position on the straight line between the two models", fontsize=11)
    return drawing


def draw_line(axes: Axes, pair: str, line: Line, quantity: str, scale: float, names: Sequence[str]) -> None:
    start, end = pair.split("|")
    # The line is drawn in the colour of what differs from the base, or in ink where both ends do.
    shade = colour(end, names) if start == BASE else INK
    t, values = numbers(line["ts"]), scale * numbers(line[quantity])
    low, high = scale * numbers(line[f"{quantity}_low"]), scale * numbers(line[f"{quantity}_high"])
    axes.fill_between(t, low, high, color=shade, alpha=0.16, linewidth=0)
    axes.plot(t[[0, -1]], values[[0, -1]], color=GREY, linestyle=DOTTED, linewidth=1.3)
    axes.plot(t, values, color=shade)
    for position, name in ((0, start), (-1, end)):
        axes.plot(t[position], values[position], "o", color=colour(name, names), markersize=7, clip_on=False)
    axes.set_xticks([0, 0.5, 1], [label(start), "", label(end)])
    for tick, name in zip(axes.get_xticklabels()[::2], (start, end), strict=True):
        tick.set(color=colour(name, names), weight="bold")
    axes.set_xlim(-0.06, 1.06)
    axes.grid(axis="y")


def barrier_between(line: Line) -> str:
    """What separates two models on the straight line between them, for the headline."""
    height = points(line["reward_barrier"])
    on_the_line = "on the straight line between them"
    match reward_barrier(line):
        case "none" if loss_barrier(line) == "clear":
            nats = significant(line["loss_barrier"], 2)
            return f"no reward barrier ({height}) but a loss barrier of {nats} nats per token lies between them"
        case "none":
            return f"no reward barrier lies {on_the_line} (largest gap {height})"
        case "lag":
            return f"{on_the_line} the reward lags by up to {height}, without falling below its lower end"
        case "clear":
            return f"a reward barrier of {height} lies {on_the_line}"
        case "unresolved":
            return f"a reward barrier between them is neither shown nor excluded (largest gap {height})"
    return "whether a reward barrier lies between them is not known"


def barriers(by_pair: Mapping[str, Line], untold: Sequence[str] = ()) -> str:
    """The barrier of every line, reward and loss, in one sentence; `by_pair` by the label of the pair.

    untold: labels of those of which the test cannot tell.
    """
    listed = [
        f"{pair} {points(line['reward_barrier'])} and {significant(line['loss_barrier'], 2)} "
        f"({CANNOT_TELL if pair in untold else outcome(line)})"
        for pair, line in by_pair.items()
    ]
    crossed = [pair for pair, line in by_pair.items() if "clear" in (reward_barrier(line), loss_barrier(line))]
    flat = not untold and all(reward_barrier(line) == loss_barrier(line) == "none" for line in by_pair.values())
    if crossed:
        opening = f"A barrier stands on {join(crossed)}"
    else:
        opening = "No line shows a barrier" if flat else "No barrier is established"
    gap = "the largest gap to the even line between the ends (dotted), in reward and in nats per token of loss"
    return f"{opening}; {gap}, is {', '.join(listed)}."


def outcome(line: Line) -> str:
    reward, loss = OUTCOMES[reward_barrier(line)], OUTCOMES[loss_barrier(line)]
    return reward if reward == loss else f"reward: {reward}, loss: {loss}"


def barrier_verdict(line: Line) -> str | None:
    """The barrier between two models in a few words, for the title; None when the numbers do not decide."""
    outcomes = {reward_barrier(line), loss_barrier(line)}
    if has_barrier(line):
        return "a barrier between them"
    return "no barrier between them" if outcomes == {"none"} else None


def has_barrier(line: Line) -> bool:
    return "clear" in (reward_barrier(line), loss_barrier(line))


def ends_and_barriers(results: Results, at: Location, points_of_line: int) -> list[Cell]:
    """Reward at both ends and its barrier, then the same of the loss."""
    last = str(points_of_line - 1)
    return [
        value(results, (*at, *key), write)
        for quantity, of_level, of_gap in (("reward", percent, points), ("loss", significant, significant))
        for key, write in (
            ((quantity, "0"), of_level),
            ((quantity, last), of_level),
            ((f"{quantity}_barrier",), of_gap),
        )
    ]


def table(results: Results) -> Table:
    """The ends and the barriers of every straight line."""
    rows = []
    for pair, line in lines(results).items():
        at = ("connectivity", "lines", pair)
        total = (*at, "reward_total", "0") if isinstance(line["reward_total"], list) else (*at, "reward_total")
        cells = ends_and_barriers(results, at, len(line["ts"]))
        rows.append([Cell(pair_label(pair)), *cells, value(results, total, count)])
    columns = [f"{quantity} {at}" for quantity in ("Reward", "Loss") for at in ("at start", "at end", "barrier")]
    return Table("Straight lines between the models", ["Line", *columns, "Examples"], rows)


def part_name(part: str) -> str:
    return "outside the layers" if part == OUTSIDE_LAYERS else part


def parts_figure(results: Results, key: str, what: str) -> Figure:
    """How reward and loss change when one part alone goes from one model to the other."""
    by_pair = lookup(results, key, "lines")
    parts = list(dict.fromkeys(part for of_pair in by_pair.values() for part in of_pair))
    if key == "layer_lines":
        parts = in_order(parts)
    drawing, panels = canvas(1.7 + 0.3 * len(parts), 1, 2, sharey=True)
    shades = {pair: FURTHER_COLOURS[i % len(FURTHER_COLOURS)] for i, pair in enumerate(by_pair)}
    quantities = (("reward", 100, "reward\n(points)"), ("loss", 1, "loss\n(nats per token)"))
    for axes, (quantity, scale, name) in zip(panels, quantities, strict=True):
        for i, (pair, of_pair) in enumerate(by_pair.items()):
            offset = 0.8 * ((i + 0.5) / len(by_pair) - 0.5)
            for y, part in enumerate(parts):
                if (change := change_along(of_pair.get(part), quantity)) is not None:
                    axes.barh(y + offset, scale * change, 0.32, color=shades[pair])
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_xlabel(f"Change of the {name}")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    name_rows(panels[0], [part_name(part) for part in parts])
    panels[0].set_ylabel(what.capitalize())
    handles = [Line2D([], [], color=shade, linewidth=5) for shade in shades.values()]
    names = [pair_label(pair).replace("\N{EN DASH}", " \N{RIGHTWARDS ARROW} ") for pair in shades]
    drawing.legend(handles, names, loc="outside upper left", ncols=3)
    return drawing


def change_along(line: Line | None, quantity: str) -> float | None:
    """By how much a quantity differs between the ends of a line; None if an end was not measured."""
    if not line or None in (line[quantity][0], line[quantity][-1]):
        return None
    return line[quantity][-1] - line[quantity][0]


def parts_caption(results: Results, key: str) -> str:
    """Which part changes the loss most when it moves alone, and the largest barrier."""
    clauses, heights = [], []
    for pair, parts in lookup(results, key, "lines").items():
        changes = {part: change_along(line, "loss") for part, line in parts.items()}
        changes = {part: change for part, change in changes.items() if change is not None}
        heights += [line["reward_barrier"] for line in parts.values() if line["reward_barrier"] is not None]
        start, end = (label(model) for model in pair.split("|"))
        if changes:
            part = max(changes, key=lambda part: abs(changes[part]))
            size = f"by {significant(changes[part], 2)} nats per token"
            clauses.append(f"from {start} to {end}, {moving_part(part, key)} alone changes the loss most ({size})")
    if heights:
        clauses.append(f"the largest gap in reward on any of these lines is {points(max(heights))}")
    return sentence(clauses, "no loss was measured")


def moving_part(part: str, key: str) -> str:
    if key == "kind_lines":
        return part
    return "what is no layer" if part == OUTSIDE_LAYERS else f"layer {part}"


def parts_table(results: Results, key: str, title: str) -> Table:
    rows = [
        [Cell(pair_label(pair)), Cell(part_name(part))]
        + ends_and_barriers(results, (key, "lines", pair, part), len(line["ts"]))
        for pair, parts in (lookup(results, key, "lines") or {}).items()
        for part, line in parts.items()
    ]
    columns = ["Line", "Part", "Reward at start", "At end", "Barrier", "Loss at start", "At end", "Barrier"]
    return Table(title, columns, rows)
