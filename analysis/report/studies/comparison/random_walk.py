"""A run of evolution strategies beside what theory predicts from its logs: its length, its steps, its reward."""

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator, NullFormatter

from analysis.criteria import ROUGHLY
from analysis.report.numbers import count, fixed, percent, significant
from analysis.report.results import Results, label, lookup
from analysis.report.section import Section
from analysis.report.sentences import sentence
from analysis.report.style import DASHED, DOTTED, GREY, INK, canvas, colour, label_ends, name_rows, write_beside
from analysis.report.tables import Cell, Table, value


MEANING = (
    "Random walk: the length that the noise of the logged steps gives on a reward without slope, alpha "
    "* sqrt(T * d / N) for z-scored fitness. Useful share: of a step's squared length, along the gradient "
    "of a linear reward (1 + (N - 2) s) / (d + (N - 2) s), s the share of the members' spread that the "
    "gradient explains, taken from how fast the reward rises. Modes: directions of one curvature that, "
    "each an Ornstein-Uhlenbeck process, keep a reward of 1 out of reach. All of it is for noise that is "
    "independent for every parameter."
)
# What the table shows of a run, where it stands ("{last}": of the last step), and how it is written.
QUANTITIES: tuple[tuple[str, str, Callable[..., str]], ...] = (
    ("Distance from base", "walk.measured.{last}", significant),
    ("Random walk", "walk.predicted.{last}", significant),
    ("R\N{SUPERSCRIPT TWO} of squared distance against steps", "walk.r_squared", lambda share: fixed(share, 4)),
    ("Plateau of the anchored decay", "walk.plateau", significant),
    ("Independent directions of a perturbation", "isotropy.effective_dimension", count),
    ("Signal share s, first half", "useful.first.signal_share", significant),
    ("Useful share of a step, first half", "useful.first.share", significant),
    ("Members for one half useful, first half", "useful.first.members_for_half", significant),
    ("Signal share s, second half", "useful.second.signal_share", significant),
    ("Useful share of a step, second half", "useful.second.share", significant),
    ("Members for one half useful, second half", "useful.second.members_for_half", significant),
    ("Curvature of the limiting modes", "modes.curvature", significant),
    ("Number of these modes", "modes.modes", significant),
    ("Spread of the members at the end", "modes.fitness_std", significant),
    ("The same, predicted (self-consistent)", "modes.predicted_fitness_std", significant),
    ("Final reward, fitted", "modes.final_reward", percent),
    ("Final reward, spread frozen at its first value", "modes.frozen_reward", percent),
)


def sections() -> list[Section]:
    shared: dict[str, Any] = {"needs": [("theory",)], "on_demand": True}
    return [
        Section(
            name="theory-walk",
            title="The drift beside a random walk",
            figure=walk_figure,
            caption=walk_caption,
            numbers=[table],
            terms=lambda results: [("Theory", MEANING)],
            **shared,
        ),
        Section(
            name="theory-useful",
            title="Which share of a step is useful",
            figure=useful_figure,
            caption=useful_caption,
            drawable=lambda results: bool(runs_with(results, "useful")),
            **shared,
        ),
        Section(
            name="theory-reward",
            title="Where the reward settles",
            figure=reward_figure,
            caption=reward_caption,
            drawable=lambda results: bool(runs_with(results, "modes")),
            **shared,
        ),
    ]


def runs_with(results: Results, key: str) -> dict[str, Any]:
    """{run: what theory says}, of the runs for which it says anything about `key`."""
    return {name: run for name, run in (lookup(results, "theory") or {}).items() if run[key]}


def walk_figure(results: Results) -> Figure:
    """Measured distance from base at every step, beside a random walk of the same steps."""
    runs, ends = results["theory"], []
    figure, axes = canvas(3.2)
    for name, run in runs.items():
        walk, shade, last = run["walk"], colour(name, list(runs)), run["walk"]["steps"][-1]
        axes.plot(walk["steps"], walk["measured"], color=shade, linewidth=3.2, alpha=0.7)
        axes.plot(walk["steps"], walk["predicted"], color=INK, linewidth=1.5, linestyle=DASHED)
        ends.append((label(name), last, walk["measured"][-1], shade))
        ends.append(("random walk", last, walk["predicted"][-1], INK))
        if walk["plateau"] is not None:
            axes.axhline(walk["plateau"], color=GREY, linestyle=DOTTED, linewidth=1.4)
            ends.append(("plateau", last, walk["plateau"], "#6e6e6e"))
    over_steps(axes, "Distance from base")
    label_ends(axes, ends, 0.085)
    return figure


def over_steps(axes: Axes, quantity: str) -> None:
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Step")
    axes.set_ylabel(quantity)
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def walk_caption(results: Results) -> str:
    """How close the measured distance is to the random walk's, and where the theory does not apply."""
    clauses = []
    for name, run in results["theory"].items():
        walk, setting = run["walk"], run["setting"]
        plateau = f", towards a plateau of {significant(walk['plateau'])}" if walk["plateau"] is not None else ""
        ratio = "" if walk["ratio"] is None else f", {fixed(walk['ratio'])} times the walk's"
        clauses.append(
            f"{label(name)} ends {significant(walk['measured'][-1])} from the base{ratio} "
            f"(alpha {significant(setting['alpha'])}, T = {count(setting['updates'])}, "
            f"N = {count(setting['members'])}, d = {count(setting['parameters'])}){plateau}"
        )
        clauses += run["fails"]
    return sentence(clauses)


def useful_figure(results: Results) -> Figure:
    """Share of a step's squared length along the gradient, in both halves of each run, beside a random direction's."""
    runs = runs_with(results, "useful")
    halves = [(name, half, part) for name, run in runs.items() for half, part in run["useful"].items()]
    figure, axes = canvas(1.1 + 0.75 * len(runs))
    axes.set_xscale("log")
    ends = [part[end] for *_, part in halves for end in ("share_low", "share_high", "random_share")]
    axes.set_xlim(min(ends) / 1.6, max(ends) * 1.6)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(LogFormatterSciNotation())
    for y, (name, half, part) in enumerate(halves):
        shade = colour(name, list(runs))
        axes.plot([part["share_low"], part["share_high"]], [y, y], color=shade)
        axes.plot(part["share"], y, "o", color=shade, markersize=7)
        axes.plot([part["random_share"]] * 2, [y - 0.35, y + 0.35], color=INK, linewidth=2.2)
        if half == "first":
            at = (part["random_share"], y - 0.35)
            write_beside(axes, "one random direction", at, (4, 1), fontsize=9.5, va="bottom")
    rows = [f"{label(name)}, steps {part['from_step']}\N{EN DASH}{part['to_step']}" for name, _, part in halves]
    name_rows(axes, rows, grid="x")
    axes.set_ylim(len(rows) - 0.5, -0.9)
    axes.set_xlabel("Share of a step along the gradient (log scale)")
    return figure


def useful_caption(results: Results) -> str:
    """How much of a step is signal."""
    clauses = []
    for name, run in runs_with(results, "useful").items():
        first, second = run["useful"]["first"], run["useful"]["second"]
        clauses.append(
            f"in the first half of {label(name)} the gradient explains {percent(first['signal_share'], 0)} of the "
            f"spread between members and in the second {percent(second['signal_share'], 0)}, so that "
            f"{significant(first['share'], 2)} and {significant(second['share'], 2)} of a step's squared length "
            f"point along it; it would take {significant(first['members_for_half'], 2)} members for one half"
        )
        if run["fails"]:
            clauses.append("this assumes independent noise, which the run does not have")
    return sentence(clauses)


def reward_figure(results: Results) -> Figure:
    """The members' mean reward, and the fitted approach to its final value."""
    runs, ends = runs_with(results, "modes"), []
    figure, axes = canvas(3.2)
    for name, run in runs.items():
        modes, shade = run["modes"], colour(name, list(runs))
        axes.plot(modes["steps"], modes["reward"], "o", color=shade, markersize=4.5, alpha=0.8)
        axes.plot(modes["steps"], modes["fitted"], color=shade)
        axes.axhline(modes["final_reward"], color=shade, linestyle=DOTTED, linewidth=1.4)
        ends.append(("fit settles here", modes["steps"][-1], modes["final_reward"], shade))
    over_steps(axes, "Mean reward of the members")
    label_ends(axes, ends, 0.085)
    return figure


def reward_caption(results: Results) -> str:
    """The quadratic landscape that explains the reward, and the prediction that is no part of the fit."""
    clauses = []
    for name, run in runs_with(results, "modes").items():
        modes = run["modes"]
        ratio = modes["predicted_fitness_std"] / modes["fitness_std"]
        agreement = "close to" if 1 / ROUGHLY <= ratio <= ROUGHLY else f"{significant(ratio, 2)} times"
        clauses.append(
            f"{label(name)}'s reward settles at {percent(modes['final_reward'], 0)} as if "
            f"{significant(modes['modes'], 2)} directions of curvature {significant(modes['curvature'], 2)} were "
            f"left to learn; such a landscape alone would make the members differ by "
            f"{significant(modes['predicted_fitness_std'], 2)}, {agreement} the measured "
            f"{significant(modes['fitness_std'], 2)} at the end"
        )
    return sentence(clauses)


def table(results: Results) -> Table:
    """What theory and the logs of each run give."""
    rows = []
    for name, run in (lookup(results, "theory") or {}).items():
        last = str(len(run["walk"]["steps"]) - 1)
        for title, keys, write in QUANTITIES:
            at = ("theory", name, *keys.format(last=last).split("."))
            if lookup(results, *at) is not None:
                rows.append([Cell(label(name)), Cell(title), value(results, at, write)])
        rows += [[Cell(label(name)), Cell(f"not given: {what}"), Cell(why)] for what, why in run["missing"].items()]
    return Table("Theory beside the runs", ["Run", "Quantity", "Value"], rows)
