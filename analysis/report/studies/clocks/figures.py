"""Figures of the clocks: from results.json alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from analysis.report.results import Results
from analysis.report.style import FAINT, INK, NO_VALUE, WIDTH


RULE_COLOUR = "#0072b2"
MEMORY_COLOUR = "#d55e00"
WINDOW_COLOUR = "#009e73"
INVALID_COLOUR = "#b8b8b8"
CLASS_COLOURS = {"train": MEMORY_COLOUR, "held_out": RULE_COLOUR, "violating": "#7a7a7a"}
CLASS_LABELS = {"train": "training", "held_out": "held-out", "violating": "one wrong"}
MODEL_LABELS = {"mlp": "MLP", "dit": "DiT", "gpt2": "GPT-2", "llama": "Llama", "diffusers_dit": "diffusers DiT"}
RULE_CLOCK, MEMORY_CLOCK = "tau_rule_novel", "tau_mem"

Entry = dict[str, Any]


def model_label(name: str) -> str:
    return MODEL_LABELS.get(name, name)


def rule_label(described: str) -> str:
    """ "parity(length=24, group=3)" -> "parity 24, G=3": the size of the strings, then what else the rule takes."""
    name, _, options = described.rstrip(")").partition("(")
    words = [name.replace("_", " ")]
    for option in filter(None, options.split(", ")):
        key, value = option.split("=")
        words.append(
            {"length": f" {value}", "side": f" {value}x{value}", "group": f", G={value}"}.get(key, f", {key} {value}")
        )
    return "".join(words)


def variant_label(entry: Entry) -> str:
    """ ", width 64" of a run or setting that is not the usual one of its model, else nothing."""
    return f", {entry['variant']}" if entry["variant"] else ""


def run_title(run: Entry) -> str:
    """A run in two short lines."""
    first = f"{model_label(run['model'])}, {rule_label(run['rule'])},"
    return f"{first}\nN={run['N']}{variant_label(run)}, seed {run['seed']}"


VERDICT_COLOURS = {"seen": "#bfe3d7", "not seen": "#f6cfb5", "censored": "#ececec", "not measured": "#ffffff"}


def claims(results: Results) -> Figure:
    """A row for each claim, a column for each model, and the verdict in the cell."""
    entries = results["claims"]
    names = list(dict.fromkeys(entry["claim"] for entry in entries))
    models = list(dict.fromkeys(entry["model"] for entry in entries if entry["model"] != "all"))
    figure = Figure(figsize=(WIDTH, 0.5 + 0.44 * len(names)), layout="constrained")
    axes = figure.subplots()
    for entry in entries:
        y = names.index(entry["claim"])
        left, width = (0, len(models)) if entry["model"] == "all" else (models.index(entry["model"]), 1)
        verdict = entry["verdict"]
        axes.barh(y, width, 0.94, left=left, color=VERDICT_COLOURS[verdict], edgecolor="white", linewidth=2)
        axes.text(
            left + width / 2,
            y,
            "\N{EN DASH}" if verdict == "not measured" else verdict,
            ha="center",
            va="center",
            fontsize=9.5,
            weight="bold" if verdict in ("seen", "not seen") else "normal",
        )
    axes.set_yticks(range(len(names)), [f"{name}  {SHORT_CLAIMS[name]}" for name in names], fontsize=9.5)
    axes.set_xticks(np.arange(len(models)) + 0.5, [model_label(model) for model in models], weight="bold")
    axes.xaxis.tick_top()
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, len(models))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


SHORT_CLAIMS = {
    "C1": "tau_rule grows with complexity",
    "C2": "tau_rule falls with capacity",
    "C3": "tau_mem ignores the rule",
    "C4": "tau_mem nearly linear in N",
    "C5a": "window widens with N",
    "C5b": "window narrows with complexity",
    "C5c": "window can vanish",
    "C6": "both clocks in all models",
    "C7": "basins follow the clocks",
}


def windows(results: Results) -> Figure:
    """Every setting as a row: the median window as a bar, the clocks of every seed as dots, on one axis of steps."""
    settings = results["settings"]
    models = list(dict.fromkeys(setting["model"] for setting in settings))
    heights = [sum(setting["model"] == model for setting in settings) for model in models]
    figure = Figure(figsize=(WIDTH, 1.1 + 0.36 * len(settings) + 0.42 * len(models)), layout="constrained")
    panels = figure.subplots(len(models), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, model in zip(panels, models, strict=True):
        rows = [setting for setting in settings if setting["model"] == model]
        for y, setting in enumerate(rows):
            _window_row(axes, y, setting, results["runs"])
        names = [f"{rule_label(setting['rule'])}, N={setting['N']}{variant_label(setting)}" for setting in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(model_label(model), weight="bold")
        axes.grid(axis="x")
        _steps_axis(axes)
    panels[-1].set_xlabel("Optimiser step (log scale)")
    handles = [
        Line2D([], [], color=RULE_COLOUR, marker="o", linestyle="", label="rule learned"),
        Line2D([], [], color=MEMORY_COLOUR, marker="o", linestyle="", label="copying begins"),
        Patch(color=WINDOW_COLOUR, alpha=0.3, label="window"),
        Line2D([], [], color=INK, marker=">", markerfacecolor="white", linestyle="", label="later than the run"),
    ]
    figure.legend(
        handles=handles, loc="outside upper left", ncols=4, handletextpad=0.2, columnspacing=0.9, fontsize=10
    )
    return figure


def _window_row(axes: Axes, y: float, setting: Entry, runs: dict[str, Entry]) -> None:
    rule, memory = (setting["clocks"][name] for name in (RULE_CLOCK, MEMORY_CLOCK))
    start, end = rule["median"], memory["median"]
    if start is not None:
        last = end if end is not None else memory["at_least"]
        if last is not None and last > start:
            axes.barh(y, last - start, 0.62, left=start, color=WINDOW_COLOUR, alpha=0.28, linewidth=0)
    for offset, name, shade in ((-0.14, RULE_CLOCK, RULE_COLOUR), (0.14, MEMORY_CLOCK, MEMORY_COLOUR)):
        for run in setting["runs"]:
            _clock_mark(axes, runs[run]["clocks"][name], y + offset, shade)
        middle = setting["clocks"][name]["median"]
        if middle is not None:
            axes.plot([middle, middle], [y - 0.34, y + 0.34], color=shade, linewidth=2.4, solid_capstyle="butt")


def _clock_mark(axes: Axes, crossed: Entry, height: float, shade: str) -> None:
    """A dot where the clock struck, an open arrow to the right where the run ended first."""
    if crossed["step"] is not None:
        axes.plot(crossed["step"], height, "o", color=shade, markersize=4.5, alpha=0.75, markeredgewidth=0)
    else:
        axes.plot(
            max(crossed["after"], 1), height, ">", markerfacecolor="white", markeredgecolor=shade, markersize=4.5
        )


def curves(results: Results) -> Figure:
    """Validity and copying through training, for one run of each of a few settings."""
    chosen = results["shown_runs"]
    columns = 2 if len(chosen) > 1 else 1
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(WIDTH, 0.7 + 2.15 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    for axes, name in zip(grid.flat, chosen, strict=False):
        run = results["runs"][name]
        steps = np.maximum(run["curves"]["step"], 1)
        for key, shade, style in (
            ("valid", RULE_COLOUR, (0, (2, 1.5))),
            ("novel_valid", RULE_COLOUR, "-"),
            ("copies", MEMORY_COLOUR, "-"),
            ("control", "#8a8a8a", "-"),
        ):
            values = 100 * _numbers(run["curves"][key])
            axes.plot(steps, values, color=shade, linestyle=style, linewidth=1.2 if key in ("valid", "control") else 2)
        _shade_window(axes, run)
        axes.set_xscale("log")
        axes.set_ylim(-3, 103)
        axes.set_title(run_title(run), fontsize=10)
        axes.grid(axis="y")
        _steps_axis(axes)
    for axes in grid[:, 0]:
        axes.set_ylabel("Share of samples (%)")
    figure.supxlabel("Optimiser step (log scale)", fontsize=11)
    handles = [
        Line2D([], [], color=RULE_COLOUR, label="valid among new"),
        Line2D([], [], color=RULE_COLOUR, linestyle=(0, (2, 1.5)), linewidth=1.2, label="valid"),
        Line2D([], [], color=MEMORY_COLOUR, label="copies"),
        Line2D([], [], color="#8a8a8a", linewidth=1.2, label="control"),
        Patch(color=WINDOW_COLOUR, alpha=0.28, label="window"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=5, handlelength=1.3, columnspacing=0.9, fontsize=10)
    return figure


def _shade_window(axes: Axes, run: Entry) -> None:
    rule, memory = (run["clocks"][name] for name in (RULE_CLOCK, MEMORY_CLOCK))
    start, end = rule["step"], memory["step"]
    if start is not None:
        axes.axvline(start, color=RULE_COLOUR, linewidth=1, linestyle=(0, (1, 1.5)))
        last = memory["after"] if end is None else end
        if last > start:
            axes.axvspan(start, last, color=WINDOW_COLOUR, alpha=0.13, linewidth=0)
    if end is not None:
        axes.axvline(end, color=MEMORY_COLOUR, linewidth=1, linestyle=(0, (1, 1.5)))


def clocks_against_n(results: Results) -> Figure:
    """Both clocks of every run against the size of the training set, with the censored fit."""
    return _clocks_against(results, "N", "log10 N", "Training strings N (log scale)", logarithmic=True)


def clocks_against_complexity(results: Results) -> Figure:
    """Both clocks of every run against the complexity of the rule."""
    return _clocks_against(
        results, "complexity", "complexity", "Complexity of the rule (positions that hang together)", logarithmic=False
    )


def _clocks_against(results: Results, key: str, quantity: str, label: str, logarithmic: bool) -> Figure:
    panels = panels_against(results, key)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH, 0.75 + 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, settings) in zip(grid.flat, panels.items(), strict=False):
        axes.set_yscale("log")
        if logarithmic:
            axes.set_xscale("log")
        for name, shade, shift in ((RULE_CLOCK, RULE_COLOUR, -1), (MEMORY_CLOCK, MEMORY_COLOUR, 1)):
            _medians(axes, settings, results["runs"], key, name, shade, shift, logarithmic)
            _fit_line(axes, results["fits"], settings, name, quantity, key, shade)
        values = sorted({setting[key] for setting in settings})
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
        axes.margins(x=0.14, y=0.16)
        _log_ticks(axes.yaxis, *axes.get_ylim())
        axes.set_title(title, fontsize=10)
        axes.grid(axis="y")
    for axes in grid[:, 0]:
        axes.set_ylabel("Optimiser step (log)")
    figure.supxlabel(label, fontsize=11)
    handles = [
        Line2D([], [], color=RULE_COLOUR, marker="o", label="rule learned"),
        Line2D([], [], color=MEMORY_COLOUR, marker="o", label="copying begins"),
        Line2D([], [], color=INK, marker="^", markerfacecolor="white", linestyle="", label="later than the run"),
        Line2D([], [], color=INK, linestyle=(0, (4, 2)), linewidth=1.2, label="fit"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, handlelength=1.6, columnspacing=0.9, fontsize=10)
    return figure


def panels_against(results: Results, key: str) -> dict[str, list[Entry]]:
    """Settings that differ in `key` and share model, variant and the other of N and rule, by a title.

    Only those with two values of `key`.
    """
    found: dict[str, list[Entry]] = {}
    for setting in results["settings"]:
        other = rule_label(setting["rule"]) if key == "N" else f"N={setting['N']}"
        found.setdefault(f"{model_label(setting['model'])}, {other}{variant_label(setting)}", []).append(setting)
    return {title: group for title, group in found.items() if len({setting[key] for setting in group}) > 1}


def _medians(
    axes: Axes,
    settings: Sequence[Entry],
    runs: dict[str, Entry],
    key: str,
    name: str,
    shade: str,
    shift: int,
    logarithmic: bool,
) -> None:
    """Dots for the runs, moved a little apart by clock, and a line through the observed medians."""
    points = []
    for setting in sorted(settings, key=lambda each: each[key]):
        x = setting[key] * 1.03**shift if logarithmic else setting[key] + 0.06 * shift
        for run in setting["runs"]:
            crossed = runs[run]["clocks"][name]
            if crossed["step"] is not None:
                axes.plot(x, crossed["step"], "o", color=shade, markersize=4.5, alpha=0.6, markeredgewidth=0)
            else:
                axes.plot(
                    x, max(crossed["after"], 1), "^", markerfacecolor="white", markeredgecolor=shade, markersize=5
                )
        if setting["clocks"][name]["median"] is not None:
            points.append((x, setting["clocks"][name]["median"]))
    if points:
        axes.plot(*zip(*points, strict=True), color=shade, linewidth=2)


def _fit_line(
    axes: Axes, fits: Sequence[Entry], settings: Sequence[Entry], name: str, quantity: str, key: str, shade: str
) -> None:
    first = settings[0]
    fixed = first["rule"] if key == "N" else f"N = {first['N']}"
    for fit in fits:
        if (fit["clock"], fit["model"], fit["against"], fit["fixed"]) != (name, first["model"], quantity, fixed):
            continue
        slope = fit["slopes"][quantity]["slope"]
        if slope is not None:
            x = np.array(sorted({setting[key] for setting in settings}), dtype=float)
            at = np.log10(x) if key == "N" else x
            axes.plot(x, 10 ** (fit["intercept"] + slope * at), color=shade, linewidth=1.2, linestyle=(0, (4, 2)))
            word = f"slope {slope:.2f}" if key == "N" else f"\N{MULTIPLICATION SIGN}{10**slope:.1f} each"
            height = 0.03 if name == RULE_CLOCK else 0.13
            axes.text(0.97, height, word, transform=axes.transAxes, ha="right", color=shade, fontsize=9.5)
        return


def window_map(results: Results) -> Figure:
    """Width of the window by N and rule (and variant of the model), one map for each model."""
    models = list(dict.fromkeys(setting["model"] for setting in results["settings"]))
    parts = {model: [s for s in results["settings"] if s["model"] == model] for model in models}
    rules = {model: list(dict.fromkeys(map(_map_row, part))) for model, part in parts.items()}
    heights = [len(rules[model]) for model in models]
    figure = Figure(figsize=(WIDTH, 0.9 + sum(0.75 + 0.52 * height for height in heights)), layout="constrained")
    panels = figure.subplots(len(models), 1, squeeze=False, height_ratios=heights)[:, 0]
    widths = [abs(w) for w in (_shown_width(s)[0] for s in results["settings"]) if w is not None]
    limit = max([1.0, *widths])
    scale = Normalize(-limit, limit)
    shades = LinearSegmentedColormap.from_list("window", [MEMORY_COLOUR, "#f7f7f7", WINDOW_COLOUR])
    for axes, model in zip(panels, models, strict=True):
        sizes = sorted({setting["N"] for setting in parts[model]})
        values = np.full((len(rules[model]), len(sizes)), np.nan)
        for setting in parts[model]:
            row, column = rules[model].index(_map_row(setting)), sizes.index(setting["N"])
            width, word = _shown_width(setting)
            values[row, column] = np.nan if width is None else width
            axes.text(column + 0.5, row + 0.5, word, ha="center", va="center", fontsize=9.5, linespacing=1.15)
        image = axes.pcolormesh(values, norm=scale, cmap=shades, edgecolors="white", linewidth=1.5)
        axes.set_facecolor(NO_VALUE)
        axes.set_xticks(np.arange(len(sizes)) + 0.5, [f"{size}" for size in sizes])
        axes.set_yticks(np.arange(len(rules[model])) + 0.5, rules[model])
        axes.set_ylim(len(rules[model]), 0)
        axes.tick_params(length=0)
        axes.set_title(model_label(model), weight="bold")
        for spine in axes.spines.values():
            spine.set_visible(False)
    panels[-1].set_xlabel("Training strings N")
    figure.colorbar(
        image,
        ax=list(panels),
        location="bottom",
        shrink=0.75,
        aspect=34,
        pad=0.02,
        label="Width in factors of 10 in steps",
    )
    return figure


def _map_row(setting: Entry) -> str:
    return rule_label(setting["rule"]) + variant_label(setting).replace(", ", ",\n", 1)


def _shown_width(setting: Entry) -> tuple[float | None, str]:
    """(width that colours the cell, its words): the width between median clocks, or the bound that is known."""
    rule, memory = (setting["clocks"][name] for name in (RULE_CLOCK, MEMORY_CLOCK))
    runs = setting["open"] + setting["vanished"] + setting["censored"]
    share = f"{setting['open']} of {runs} open"
    start, end = rule["median"], memory["median"]
    if start is not None and end is not None:
        width = float(np.log10(end / start))
        return width, f"{width:+.2f}\n{share}"
    if start is not None:
        bound = float(np.log10(memory["at_least"] / start))
        return (bound, f"> {bound:+.2f}\n{share}") if bound > 0 else (None, f"unknown\n{share}")
    if end is not None:
        bound = float(np.log10(end / rule["at_least"]))
        return (bound, f"< {bound:+.2f}\n{share}") if bound <= 0 else (None, f"unknown\n{share}")
    return None, f"unknown\n{share}"


def _steps_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    _log_ticks(axes.xaxis, *axes.get_xlim())


def _log_ticks(axis: Axis, low: float, high: float) -> None:
    """Ticks at 1, 2, 5 or at 1, 3 of a decade where there is room, written as 300 or 3k."""
    decades = np.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.2 else (1, 3) if decades < 2.2 else (1,)))
    axis.set_major_formatter(FuncFormatter(_thousands))
    axis.set_minor_formatter(NullFormatter())


def _thousands(value: float, _: int) -> str:
    return f"{value / 1000:.3g}k" if value >= 1000 else f"{value:g}"


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def samples(results: Results) -> Figure:
    """What the shown runs generate at a few steps: each string a small grid, framed by what it is."""
    shown = results["samples"]
    # Inches: rows of samples that fill the width, which differ in height with the shape of the strings.
    heights = [
        0.3 + len(entry["steps"]) * 1.35 * entry["shape"][0] / entry["shape"][1] * 0.93 * WIDTH / (1.35 * SHOWN + 2.6)
        for entry in shown.values()
    ]
    figure = Figure(figsize=(WIDTH, 0.5 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, entry) in zip(panels, shown.items(), strict=True):
        _sample_grid(axes, entry)
        run = results["runs"][name]
        axes.set_title(f"{run_title(run).replace(chr(10), ' ')}", fontsize=10, loc="left")
        axes.set_anchor("W")
    handles = [
        Patch(facecolor="white", edgecolor=shade, linewidth=2, label=label)
        for shade, label in zip(KIND_COLOURS.values(), ("new and valid", "copy", "breaks the rule"), strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, handlelength=1, handleheight=1, fontsize=10)
    return figure


# Samples beside each other.
SHOWN = 8
KIND_COLOURS = {"novel": WINDOW_COLOUR, "copy": MEMORY_COLOUR, "invalid": INVALID_COLOUR}


def _sample_grid(axes: Axes, entry: Entry) -> None:
    height, width = entry["shape"]
    gap = 0.35 * width
    for y, step in enumerate(entry["steps"]):
        for x, (string, kind) in enumerate(zip(entry["strings"][y], entry["kinds"][y], strict=True)):
            left, top = x * (width + gap), y * (height + 0.35 * height)
            grid = np.array(string, dtype=float).reshape(height, width)
            axes.imshow(
                grid,
                extent=(left, left + width, top + height, top),
                cmap="Greys",
                vmin=-0.25,
                vmax=max(entry["vocabulary"] - 1, 1),
                interpolation="nearest",
                alpha=0.35 if kind == "invalid" else 1,
            )
            frame = [left, left + width, left + width, left, left], [top, top, top + height, top + height, top]
            axes.plot(*frame, color=KIND_COLOURS[kind], linewidth=1.8)
        axes.text(
            -0.6 * gap,
            y * 1.35 * height + height / 2,
            f"step {_thousands(step, 0)}",
            ha="right",
            va="center",
            fontsize=9.5,
        )
    count = max(len(row) for row in entry["strings"])
    axes.set_xlim(-2.6 * width, count * (width + gap))
    axes.set_ylim(len(entry["steps"]) * 1.35 * height, -0.2 * height)
    axes.set_aspect("equal")
    axes.axis("off")


def basins(results: Results) -> Figure:
    """How far noise may move a vertex before the model no longer brings it back: by class, at stages of training."""
    fields = results["score_field"]
    figure = Figure(figsize=(WIDTH, 0.75 + 2.3 * len(fields)), layout="constrained")
    grid = figure.subplots(len(fields), 4, sharey=True, sharex=True, squeeze=False)
    for row, (name, field) in zip(grid, fields.items(), strict=True):
        run = results["runs"][name]
        for axes, (label, i) in zip(row, stages(field, run).items(), strict=True):
            for kind, shade in CLASS_COLOURS.items():
                probability = 100 * np.array(field["basins"]["one_step"][i][kind]["probability"])
                axes.plot(field["sigmas"], probability, color=shade, linewidth=1.9)
                flow = 100 * np.array(field["basins"]["flow"][i][kind]["probability"])
                axes.plot(field["flow_sigmas"], flow, color=shade, linewidth=1, linestyle=(0, (2, 1.5)))
            none = 100 * np.array(field["no_rule"]["held_out"]["probability"])
            axes.fill_between(field["sigmas"], 0, none, color=FAINT, alpha=0.7, linewidth=0)
            axes.set_title(f"{label}\nstep {_thousands(field['steps'][i], 0)}", fontsize=9.5)
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.grid(axis="y")
        row[0].set_ylabel(f"{_short(run)}: return (%)", fontsize=9.5)
    figure.supxlabel("Noise level sigma from which the vertex must return", fontsize=11)
    handles = [Line2D([], [], color=shade, label=CLASS_LABELS[kind]) for kind, shade in CLASS_COLOURS.items()]
    handles += [
        Line2D([], [], color=INK, linestyle=(0, (2, 1.5)), linewidth=1, label="whole flow"),
        Patch(color=FAINT, label="no rule"),
    ]
    figure.legend(
        handles=handles, loc="outside upper left", ncols=5, handlelength=1.1, columnspacing=0.8, fontsize=9.5
    )
    return figure


def stages(field: Entry, run: Entry) -> dict[str, int]:
    """Four measured steps: the first, tau_rule or after, the middle of the window, and the last."""
    steps = field["steps"]
    rule, memory = (run["clocks"][name]["step"] for name in (RULE_CLOCK, MEMORY_CLOCK))
    last = len(steps) - 1

    def first_after(step: float | None, fallback: int) -> int:
        return fallback if step is None else next((i for i, other in enumerate(steps) if other >= step), last)

    early = first_after(rule, last // 3)
    late = first_after(memory, max(2 * last // 3, min(early + 1, last)))
    return {
        "start": 0,
        "rule" if rule is not None else "early": early,
        "memory" if memory is not None else "late": late,
        "end": last,
    }


def basin_radii(results: Results) -> Figure:
    """The noise level from which half of the vertices return, through training."""
    fields = results["score_field"]
    figure = Figure(figsize=(WIDTH, 0.75 + 2.2 * -(-len(fields) // 2)), layout="constrained")
    grid = figure.subplots(-(-len(fields) // 2), min(2, len(fields)), sharey=True, squeeze=False)
    for axes in grid.flat[len(fields) :]:
        axes.set_visible(False)
    for axes, (name, field) in zip(grid.flat, fields.items(), strict=False):
        run = results["runs"][name]
        for kind, shade in CLASS_COLOURS.items():
            radii = _numbers([at[kind]["radius"] for at in field["basins"]["one_step"]])
            axes.plot(np.maximum(field["steps"], 1), radii, color=shade, marker="o", markersize=3.5)
        for key, style in (("rule_optimum", (0, (4, 2))), ("no_rule", (0, (1, 1.5)))):
            radius = field[key]["held_out"]["radius"]
            if radius is not None:
                axes.axhline(radius, color="#8a8a8a", linewidth=1, linestyle=style)
        _shade_window(axes, run)
        _steps_axis(axes)
        axes.set_title(run_title(run), fontsize=10)
        axes.grid(axis="y")
    for axes in grid[:, 0]:
        axes.set_ylabel("Basin radius (sigma)")
    figure.supxlabel("Optimiser step (log scale)", fontsize=11)
    handles = [Line2D([], [], color=shade, label=CLASS_LABELS[kind]) for kind, shade in CLASS_COLOURS.items()]
    handles += [
        Line2D([], [], color="#8a8a8a", linewidth=1, linestyle=(0, (4, 2)), label="rule optimum"),
        Line2D([], [], color="#8a8a8a", linewidth=1, linestyle=(0, (1, 1.5)), label="no rule"),
    ]
    figure.legend(
        handles=handles, loc="outside upper left", ncols=5, handlelength=1.2, columnspacing=0.8, fontsize=9.5
    )
    return figure


def score_clock(results: Results) -> Figure:
    """I(sigma) by noise level and step: blue towards the rule's optimum, orange towards the training set's."""
    fields = results["score_field"]
    figure = Figure(figsize=(WIDTH, 1.3 + 2.0 * -(-len(fields) // 2)), layout="constrained")
    grid = figure.subplots(-(-len(fields) // 2), min(2, len(fields)), sharey=True, squeeze=False)
    shades = LinearSegmentedColormap.from_list("optimum", [MEMORY_COLOUR, "#f7f7f7", RULE_COLOUR])
    for axes in grid.flat[len(fields) :]:
        axes.set_visible(False)
    for axes, (name, field) in zip(grid.flat, fields.items(), strict=False):
        run = results["runs"][name]
        values = np.array([_numbers(at["index"]) for at in field["score_clock"]]).T
        image = axes.pcolormesh(
            _edges(np.maximum(field["steps"], 1)),
            _edges(np.array(field["sigmas"])),
            values,
            cmap=shades,
            vmin=-1,
            vmax=1,
        )
        for clock, shade in ((RULE_CLOCK, RULE_COLOUR), (MEMORY_CLOCK, MEMORY_COLOUR)):
            if run["clocks"][clock]["step"] is not None:
                axes.axvline(run["clocks"][clock]["step"], color=shade, linewidth=1.8)
        axes.set_yscale("log")
        axes.set_yticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
        axes.minorticks_off()
        _steps_axis(axes)
        axes.set_title(run_title(run), fontsize=10)
    for axes in grid[:, 0]:
        axes.set_ylabel("Noise level sigma")
    for axes in list(grid.flat)[max(len(fields) - 2, 0) : len(fields)]:
        axes.set_xlabel("Optimiser step (log)")
    figure.colorbar(
        image,
        ax=list(grid.flat),
        location="bottom",
        shrink=0.75,
        aspect=34,
        pad=0.03,
        label="\N{MINUS SIGN}1: training set's optimum     +1: rule's optimum",
    )
    return figure


def _edges(centres: np.ndarray) -> np.ndarray:
    """Borders of cells around positive `centres`, half-way in log."""
    logs = np.log(np.unique(centres)) if len(np.unique(centres)) == len(centres) else np.log(centres)
    middles = (logs[1:] + logs[:-1]) / 2
    first, last = (
        (logs[0] - (middles[0] - logs[0]), logs[-1] + (logs[-1] - middles[-1]))
        if len(middles)
        else (logs[0] - 0.1, logs[0] + 0.1)
    )
    return np.exp(np.concatenate([[first], middles, [last]]))


def capture(results: Results) -> Figure:
    """Where strings with one wrong symbol are taken, through training, from a middle noise level."""
    fields = results["score_field"]
    figure = Figure(figsize=(WIDTH, 0.75 + 2.1 * -(-len(fields) // 2)), layout="constrained")
    grid = figure.subplots(-(-len(fields) // 2), min(2, len(fields)), sharey=True, squeeze=False)
    for axes in grid.flat[len(fields) :]:
        axes.set_visible(False)
    kinds = {"valid": WINDOW_COLOUR, "train": MEMORY_COLOUR, "other": "#d9d9d9", "stays": "#8a8a8a"}
    labels = {"valid": "another valid string", "train": "training string", "other": "other", "stays": "back to itself"}
    for axes, (name, field) in zip(grid.flat, fields.items(), strict=False):
        run = results["runs"][name]
        i = field["flow_sigmas"].index(field["capture_sigma"])
        shares = 100 * np.array([[at[kind][i] for at in field["capture"]] for kind in kinds])
        axes.stackplot(np.maximum(field["steps"], 1), shares, colors=list(kinds.values()), linewidth=0)
        _steps_axis(axes)
        axes.set_ylim(0, 100)
        axes.set_xlim(max(field["steps"][0], 1), field["steps"][-1])
        axes.set_title(run_title(run), fontsize=10)
    for axes in grid[:, 0]:
        axes.set_ylabel("Share of vertices (%)")
    figure.supxlabel("Optimiser step (log scale)", fontsize=11)
    handles = [Patch(color=shade, label=labels[kind]) for kind, shade in kinds.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, handlelength=1, columnspacing=0.9, fontsize=9.5)
    return figure


def position_loss(results: Results) -> Figure:
    """Next-token loss by position at stages of training, against the least loss that knows the rule."""
    parts = results["position_loss"]
    figure = Figure(figsize=(WIDTH, 0.9 + 2.3 * len(parts)), layout="constrained")
    grid = figure.subplots(len(parts), 4, sharey=True, sharex=True, squeeze=False)
    for row, (name, part) in zip(grid, parts.items(), strict=True):
        run = results["runs"][name]
        for axes, (label, i) in zip(row, stages(part, run).items(), strict=True):
            positions = np.arange(1, len(part["oracle"]) + 1)
            axes.step(positions, part["oracle"], where="mid", color=INK, linewidth=1)
            for kind in ("train", "held_out"):
                axes.plot(
                    positions, part[kind][i], color=CLASS_COLOURS[kind], linewidth=1.5, marker="o", markersize=2.5
                )
            axes.set_title(f"{label}\nstep {_thousands(part['steps'][i], 0)}", fontsize=9.5)
            axes.set_ylim(-0.05, max(1.2, 1.6 * max(part["oracle"])))
            axes.grid(axis="y")
        row[0].set_ylabel(f"{_short(run)}: loss (nats)", fontsize=9.5)
    figure.supxlabel("Position in the string", fontsize=11)
    handles = [Line2D([], [], color=CLASS_COLOURS[kind], label=CLASS_LABELS[kind]) for kind in ("train", "held_out")]
    handles.append(Line2D([], [], color=INK, linewidth=1, label="least loss that knows the rule"))
    figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=10)
    return figure


def losses(results: Results) -> Figure:
    """Denoising loss of the three classes by noise level, at stages of training."""
    fields = results["score_field"]
    figure = Figure(figsize=(WIDTH, 0.75 + 2.3 * len(fields)), layout="constrained")
    grid = figure.subplots(len(fields), 4, sharey=True, sharex=True, squeeze=False)
    for row, (name, field) in zip(grid, fields.items(), strict=True):
        run = results["runs"][name]
        for axes, (label, i) in zip(row, stages(field, run).items(), strict=True):
            axes.plot(field["sigmas"], field["rule_loss"]["held_out"], color=INK, linewidth=1, linestyle=(0, (4, 2)))
            for kind, shade in CLASS_COLOURS.items():
                axes.plot(field["sigmas"], field["denoising_loss"][i][kind], color=shade, linewidth=1.9)
            axes.set_title(f"{label}\nstep {_thousands(field['steps'][i], 0)}", fontsize=9.5)
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.grid(axis="y")
        row[0].set_ylabel(f"{_short(run)}\nsquared error", fontsize=9.5)
    figure.supxlabel("Noise level sigma", fontsize=11)
    handles = [Line2D([], [], color=shade, label=CLASS_LABELS[kind]) for kind, shade in CLASS_COLOURS.items()]
    handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 2)), label="rule optimum"))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=4, handlelength=1.4, columnspacing=0.8, fontsize=9.5
    )
    return figure


LAYER_COLOURS = ("#56b4e9", "#0072b2", "#cc79a7", "#e69f00", "#009e73", "#6e6e6e")


def attending(results: Results) -> dict[str, Entry]:
    """The runs whose models have attention that can be read."""
    return {name: part for name, part in (results.get("mechanism") or {}).items() if part["attention"][0] is not None}


def attention(results: Results) -> Figure:
    """Attention of every head to the other positions of the group through training; one line a head."""
    shown = attending(results)
    figure, panels = _panel_for_each(results, shown, 2.3)
    for axes, (name, part) in zip(panels, shown.items(), strict=True):
        steps = np.maximum(part["steps"], 1)
        layers = len(part["attention"][0])
        for layer in range(layers):
            values = np.array([at[layer] for at in part["attention"]])
            axes.plot(steps, values, color=LAYER_COLOURS[layer % len(LAYER_COLOURS)], linewidth=1.5)
        axes.axhline(1, color="#8a8a8a", linewidth=1, linestyle=(0, (1, 1.5)))
        _shade_window(axes, results["runs"][name])
        _steps_axis(axes)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
    panels[0].set_ylabel("Mass on the group\n(times even attention)")
    figure.supxlabel("Optimiser step (log scale)", fontsize=11)
    most = max(len(part["attention"][0]) for part in shown.values())
    handles = [
        Line2D([], [], color=LAYER_COLOURS[layer % len(LAYER_COLOURS)], label=f"layer {layer}")
        for layer in range(most)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=6, handlelength=1.4, fontsize=10)
    return figure


# Parts whose loss moves less than this, in points, are drawn without their name.
NAMED_EFFECT = 5


def ablation(results: Results) -> Figure:
    """What samples lose when one head or one MLP is silenced, at the last checkpoint."""
    shown = results["mechanism"]
    figure, panels = _panel_for_each(results, shown, 2.5)
    for axes, part in zip(panels, shown.values(), strict=True):
        effects = part["ablation"][-1]
        whole = effects["none"]
        axes.axhline(0, color=FAINT, linewidth=1)
        axes.axvline(0, color=FAINT, linewidth=1)
        for unit, effect in effects.items():
            if unit == "none":
                continue
            x, y = (100 * (effect[key] - whole[key]) for key in ("valid", "copies"))
            shade = RULE_COLOUR if unit.startswith("a") else MEMORY_COLOUR
            axes.plot(x, y, "o" if unit.startswith("a") else "s", color=shade, markersize=5, alpha=0.8)
            if max(abs(x), abs(y)) < NAMED_EFFECT:
                continue
            axes.annotate(unit, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8, color=shade)
        axes.margins(0.18)
        axes.set_xlabel("Valid (points)", fontsize=10)
    panels[0].set_ylabel("Copies (points)")
    handles = [
        Line2D([], [], color=RULE_COLOUR, marker="o", linestyle="", label="head"),
        Line2D([], [], color=MEMORY_COLOUR, marker="s", linestyle="", label="MLP"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, handletextpad=0.2, fontsize=10)
    return figure


def relating(results: Results) -> dict[str, Entry]:
    """The runs on spatial relations whose prompted model was taken apart."""
    return {name: part["relation"] for name, part in (results.get("mechanism") or {}).items() if part["relation"]}


def relation(results: Results) -> Figure:
    """Without which part the objects are still drawn, but no longer as the relation asks."""
    shown = relating(results)
    figure, panels = _panel_for_each(results, shown, 2.8)
    for axes, effects in zip(panels, shown.values(), strict=True):
        units = [unit for unit in effects if unit != "none"]
        for key, shade, shift in (("relation", RULE_COLOUR, -0.18), ("objects", WINDOW_COLOUR, 0.18)):
            heights = [100 * effects[unit][key] for unit in units]
            axes.bar(np.arange(len(units)) + shift, heights, 0.34, color=shade)
            axes.axhline(100 * effects["none"][key], color=shade, linewidth=1, linestyle=(0, (4, 2)))
        axes.set_xticks(range(len(units)), units, rotation=60, fontsize=9)
        axes.set_ylim(0, 103)
    panels[0].set_ylabel("Right (%)")
    handles = [
        Patch(color=RULE_COLOUR, label="relation, where the objects are right"),
        Patch(color=WINDOW_COLOUR, label="objects"),
        Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 2)), label="whole model"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, handlelength=1.2, fontsize=9.5)
    return figure


def _panel_for_each(results: Results, shown: dict[str, Entry], height: float) -> tuple[Figure, list[Axes]]:
    """Two panels in a row, each with its run as title."""
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(WIDTH, 0.75 + height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    for axes, name in zip(panels, shown, strict=False):
        run = results["runs"][name]
        axes.set_title(run_title(run), fontsize=10)
    return figure, panels[: len(shown)]


def _short(run: Entry) -> str:
    """A run without its seed, in two short lines."""
    return f"{model_label(run['model'])}, {rule_label(run['rule'])}\nN={run['N']}{variant_label(run)}"
