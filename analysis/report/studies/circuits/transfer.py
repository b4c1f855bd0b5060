"""What a small model's circuit says about a large one's: DFA beside its controls and baselines."""

from functools import partial
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure

from analysis.report.numbers import fixed, percent, significant
from analysis.report.results import Results, lookup
from analysis.report.section import Section
from analysis.report.studies.circuits.labels import capital, task_label
from analysis.report.studies.number_columns import two_decimals
from analysis.report.studies.terms import explained
from analysis.report.style import DOTTED, GREY, INK, canvas
from analysis.report.tables import Cell, Column, Table, row_cells, value


# Direct attribution, what DFA makes of the source, what it must beat, and what knows nothing.
DIRECT, DFA, TARGET_ALONE, CONTROL = GROUPS = (INK, "#0072b2", "#009e73", "#9a9a9a")
# In the order of the published tables, then the controls and the baselines that these lack.
ROWS = {
    "gold": ("Direct attribution", DIRECT),
    "in_distribution": ("DFA, same task", DFA),
    "near": ("DFA, paired task", DFA),
    "zero_shot": ("DFA, zero-shot", DFA),
    "best": ("DFA, best of these", DFA),
    "random_w": ("Untrained map", CONTROL),
    "scrambled_s": ("Scrambled source", CONTROL),
    "permuted_w": ("Permuted map", CONTROL),
    "depth_mean": ("Same depth", CONTROL),
    "random_ranking": ("Random ranking", CONTROL),
    "mask_learning": ("Learned mask", TARGET_ALONE),
    "equal_compute": ("Direct, equal compute", TARGET_ALONE),
    "mean_of_masks": ("Mean mask of others", TARGET_ALONE),
    "nearest_mask": ("Mask of nearest task", TARGET_ALONE),
    "mean_of_gold": ("Mean direct of others", TARGET_ALONE),
    "nearest_gold": ("Direct of nearest task", TARGET_ALONE),
}
# What ranks the large model's nodes without training on the source and without seeing the task in the large model.
SIMPLE = ("depth_mean", "mean_of_gold", "mean_of_masks", "random_ranking")
SUMMARY: tuple[Column, ...] = (
    ("CPR, input kept", "always.cpr", fixed),
    ("Recovery", "always.recovery_mean", percent),
    ("CPR, input ranked", "ranked.cpr", fixed),
    ("Recovery", "ranked.recovery_mean", percent),
)
TERMS = {
    "DFA, presets": "Differentiable faithfulness alignment (arXiv 2604.24302): a learned map from the small model's "
    "scores to gates of the large one. paper: every choice of the released code, mistakes included (heads are not "
    "trained, `input` is ranked, prompts weigh by their length, the best regime is chosen on the test split). "
    "corrected: without them. Both are judged on the same test examples.",
}


def mean_cpr(results: Results, pair: str, preset: str) -> dict[str, float]:
    """Mean CPR of every row over the tasks, by the policy of the preset; empty where it was not run."""
    policy = lookup(results, "transfer", pair, "presets", preset, "input_policy")
    averages = lookup(results, "transfer", pair, "presets", preset, "averages") or {}
    return {row: entry[policy]["cpr"] for row, entry in averages.items()}


def ahead(results: Results, pair: str) -> bool | None:
    """Whether zero-shot DFA beats every simple ranking; None if the corrected preset was not run."""
    rows = mean_cpr(results, pair, "corrected")
    return rows["zero_shot"] > max(rows[row] for row in SIMPLE) if rows else None


def outcome(results: Results, pair: str) -> str | None:
    """A clause of the headline."""
    rows = {row: fixed(cpr, 2) for row, cpr in mean_cpr(results, pair, "corrected").items()}
    if not rows:
        return None
    small, large = pair.split(">")
    return (
        f"from {small} to {large}, a task unseen, DFA reaches a mean CPR of {rows['zero_shot']}; the same relative "
        f"depth, untrained, {rows['depth_mean']}; the mean of the other tasks' circuits in {large} "
        f"{rows['mean_of_gold']}; direct attribution {rows['gold']}"
    )


def figure(results: Results, pair: str) -> Figure:
    """CPR of every ranking, mean over tasks and each task as a small point; the presets beside each other."""
    presets = results["transfer"][pair]["presets"]
    rows = [row for row in ROWS if any(row in preset["averages"] for preset in presets.values())]
    rows.sort(key=lambda row: GROUPS.index(ROWS[row][1]))
    drawing, panels = canvas(1.1 + 0.27 * len(rows), 1, len(presets), sharey=True, squeeze=False)
    for axes, (name, preset) in zip(panels.flat, presets.items(), strict=True):
        policy, tasks = preset["input_policy"], preset["tasks"].values()
        floor = np.mean([task["floor"][policy] for task in tasks])
        axes.axvline(floor, color=GREY, linestyle=DOTTED, linewidth=1.2)
        for y, row in enumerate(rows):
            if row in preset["averages"]:
                shade = ROWS[row][1]
                each = [task["rows"][row][policy]["cpr"]["mean"] for task in tasks if row in task["rows"]]
                axes.plot(each, [y] * len(each), "|", color=shade, alpha=0.5, markersize=9)
                axes.plot(preset["averages"][row][policy]["cpr"], y, "o", color=shade, markersize=7)
        axes.set_title(f"{name} (input {'ranked' if policy == 'ranked' else 'kept'})", weight="bold")
        axes.set_xlabel("CPR")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.set_yticks(range(len(rows)), [ROWS[row][0] for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
    return drawing


def caption(results: Results, pair: str) -> str:
    """What the source adds, in both presets."""
    clauses = []
    for name, preset in results["transfer"][pair]["presets"].items():
        rows = {row: fixed(cpr, 2) for row, cpr in mean_cpr(results, pair, name).items()}
        floor = fmean(task["floor"][preset["input_policy"]] for task in preset["tasks"].values())
        clauses.append(
            f"{name}: direct attribution {rows['gold']}, zero-shot DFA {rows['zero_shot']}, mean of the other tasks' "
            f"direct attribution {rows['mean_of_gold']}, learned mask {rows['mask_learning']}, a useless ranking "
            f"{fixed(floor, 2)}"
        )
    seeds = len(results["transfer"][pair]["seeds"])
    return (
        f"Mean CPR (dots; bars: single tasks; dashed: a useless ranking), {seeds} seed{'s' if seeds > 1 else ''}. "
        f"{capital('; '.join(clauses))}. Blue: DFA. Green: the target alone. Grey: controls; of them same depth and "
        "scrambled source use the source."
    )


def task_table(results: Results, pair: str, preset: str) -> Table:
    """CPR of every ranking on every task, as in the published tables, with what these lack."""
    at = ("transfer", pair, "presets", preset)
    tasks, policy = list(lookup(results, *at, "tasks") or {}), lookup(results, *at, "input_policy")
    rows = [
        [Cell(words)]
        + [value(results, (*at, "tasks", task, "rows", row, policy, "cpr", "mean"), two_decimals) for task in tasks]
        + [value(results, (*at, "averages", row, policy, "cpr"), two_decimals)]
        for row, (words, _) in ROWS.items()
        if lookup(results, *at, "averages", row)
    ]
    title = f"{to(pair)}, {preset}: CPR, input {'ranked' if policy == 'ranked' else 'always kept'}"
    return Table(title, ["Ranking", *map(task_label, tasks), "Mean"], rows)


def summary_table(results: Results, pair: str, preset: str) -> Table:
    """Floor-corrected recovery, both treatments of `input`, and compute, mean over tasks."""
    at = ("transfer", pair, "presets", preset)
    first = next(iter(lookup(results, *at, "tasks") or {}), "")
    rows = [
        row_cells(results, [words], (*at, "averages", row), SUMMARY)
        + [value(results, (*at, "tasks", first, "rows", row, "compute_ratio"), significant)]
        for row, (words, _) in ROWS.items()
        if lookup(results, *at, "averages", row)
    ]
    note = (
        "Recovery: (CPR - floor) / (direct attribution - floor), mean over the tasks where direct attribution is at "
        f"least 0.02 above the floor. Compute: forward passes of the large model for {task_label(first)}, as a "
        "multiple of direct attribution's; a backward pass counts as two."
    )
    columns = ["Ranking", *(heading for heading, _, _ in SUMMARY), "Compute"]
    return Table(f"{to(pair)}, {preset}: recovery and compute", columns, rows, note)


def to(pair: str) -> str:
    """ "small>medium" -> "small to medium"."""
    return pair.replace(">", " to ")


def section(results: Results, pair: str) -> Section:
    needs = [("transfer", pair, "presets")]
    tables = [
        partial(table, pair=pair, preset=preset)
        for preset in lookup(results, *needs[0]) or {}
        for table in (task_table, summary_table)
    ]
    name, title = f"transfer-{pair.replace('>', '-')}", f"From {to(pair)}"
    drawn, said = partial(figure, pair=pair), partial(caption, pair=pair)
    return Section(name, title, needs, drawn, said, numbers=tables, terms=explained(TERMS))
