"""From the rows of many runs: their clocks and windows, medians over seeds, and fits. Needs no model."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any, TypeVar

import numpy as np

from analysis.clocks.censored import Line, censored_fit
from analysis.clocks.runs import NO_SETTING, RULE_KEYS, Run
from analysis.clocks.striking import (
    MEMORY,
    RULE,
    RULE_NOVEL,
    Crossing,
    bootstrap,
    clock,
    clock_interval,
    clocks,
    innovation_window,
    innovation_yield,
    loss_minimum,
    median_clock,
    percentile_interval,
)


Item = TypeVar("Item")
Replicates = dict[str, dict[str, list[Crossing]]]

MAIN_CLOCKS = (RULE, RULE_NOVEL, MEMORY)
SIZE_KEYS = frozenset({"train_size"})
CAPACITY_KEYS = frozenset({"width", "depth", "heads", "mlp_ratio"})
CURVES = (
    "step",
    "seconds",
    "valid",
    "group_valid",
    "copies",
    "control",
    "novel_valid",
    "unique",
    "loss_train",
    "loss_held_out",
)
REPLICATES = 200


def bootstraps(runs: Sequence[Run], replicates: int = REPLICATES) -> Replicates:
    """{run: {clock: its `analysis.clocks.striking.bootstrap`}} for the main clocks."""
    return {run.name: bootstrap(run.rows, MAIN_CLOCKS, replicates, seed=i) for i, run in enumerate(runs)}


def variants(runs: Sequence[Run]) -> dict[str, str]:
    """{run: "width 64" where it differs so from the usual run of its model, besides rule and N; "" where it does not}.

    Of a key that the runs of a model do not share, the value that most of them have is the usual one.
    """
    words = {}
    for of_model in group_by(runs, lambda run: run.model).values():
        keys = of_model[0].config.keys() - NO_SETTING - RULE_KEYS - SIZE_KEYS
        usual = {key: Counter(run.config[key] for run in of_model).most_common(1)[0][0] for key in sorted(keys)}
        for run in of_model:
            differing = [key for key in usual if run.config[key] != usual[key]]
            words[run.name] = ", ".join(f"{key.replace('_', ' ')} {run.config[key]}" for key in differing)
    return words


def runs_section(runs: Sequence[Run], replicates: Replicates) -> dict[str, dict[str, Any]]:
    """{run: what it was, its curves, its clocks with bootstrap intervals over samples, its window, its yield}."""
    section = {}
    variant = variants(runs)
    for run in runs:
        found = clocks(run.rows)
        window = innovation_window(found[RULE_NOVEL], found[MEMORY])
        intervals = {name: clock_interval(again) for name, again in replicates[run.name].items()}
        section[run.name] = {
            "model": run.model,
            "rule": run.rule.describe(),
            "complexity": run.rule.complexity,
            "constraint_size": run.rule.constraint_size,
            "log2_count": run.rule.log2_count,
            "N": run.train_size,
            "variant": variant[run.name],
            "parameters": run.parameters,
            "seed": run.seed,
            "setting": run.setting(),
            "finished": run.finished,
            "steps": run.rows[-1]["step"],
            "seconds": run.rows[-1]["seconds"],
            "evaluations": len(run.rows),
            "samples": run.rows[-1]["samples"],
            "loss_minimum": loss_minimum(run.rows),
            "clocks": {
                name: None if crossed is None else {"step": crossed.step, "after": crossed.after}
                for name, crossed in found.items()
            },
            "intervals": {name: list(interval) for name, interval in intervals.items()},
            "window": asdict(window),
            "yield": innovation_yield(run.rows),
            "curves": {name: [row[name] for row in run.rows] for name in CURVES},
        }
    return section


def settings_section(runs: Sequence[Run], replicates: Replicates) -> list[dict[str, Any]]:
    """What runs that differ in their seed alone have in common, by model, complexity and size of the training set."""
    settings = []
    variant = variants(runs)
    for group in group_by(runs, lambda run: run.setting()).values():
        first = group[0]
        windows = [innovation_window(clock(run.rows, RULE_NOVEL), clock(run.rows, MEMORY)) for run in group]
        states = [window.state for window in windows]
        widths = [window.width for window in windows if window.width is not None]
        bounds = [window.at_least for window in windows if window.at_least is not None]
        settings.append(
            {
                "model": first.model,
                "rule": first.rule.describe(),
                "complexity": first.rule.complexity,
                "constraint_size": first.rule.constraint_size,
                "N": first.train_size,
                "variant": variant[first.name],
                "parameters": first.parameters,
                "runs": [run.name for run in group],
                "seeds": [run.seed for run in group],
                "clocks": {
                    name: median_clock(
                        [clock(run.rows, name) for run in group], [replicates[run.name][name] for run in group]
                    )
                    for name in MAIN_CLOCKS
                },
                "open": states.count("open"),
                "vanished": states.count("vanished"),
                "censored": states.count("censored"),
                "share_open": states.count("open") / len(states),
                "width_median": median(widths) if widths else None,
                "width_at_least": median(bounds) if bounds else None,
                "yield_median": median(innovation_yield(run.rows)["per_sample"] for run in group),
            }
        )
    order = ("model", "complexity", "constraint_size", "rule", "variant", "N")
    return sorted(settings, key=lambda setting: tuple(setting[key] for key in order))


def fits_section(runs: Sequence[Run], replicates: Replicates) -> list[dict[str, Any]]:
    """Slopes of log10 tau against one quantity, all else equal, and against all of them together, for every model.

    Censored runs count as censored (`censored.censored_fit`). Each entry: {"clock", "model", "against":
    "log10 N", "complexity", "log10 parameters" or "all", "fixed": what the others are, "slopes": {quantity:
    {"slope", "low", "high": Wald, "bootstrap_low", "bootstrap_high": over seeds and samples}}, "intercept", "spread",
    "observed", "censored", "seeds"}; slopes are null where the observed runs do not determine them.
    """
    fits = []
    for model in dict.fromkeys(run.model for run in runs):
        of_model = [run for run in runs if run.model == model]
        for against, keys in (
            ("log10 N", SIZE_KEYS),
            ("complexity", frozenset(RULE_KEYS)),
            ("log10 parameters", CAPACITY_KEYS),
        ):
            for group in group_by(of_model, lambda run, keys=keys: run.setting(keys)).values():
                if len({QUANTITIES[against](run) for run in group}) > 1:
                    fits += [_fit(group, name, [against], replicates) for name in MAIN_CLOCKS]
        varying = [name for name, value in QUANTITIES.items() if len({value(run) for run in of_model}) > 1]
        if len(varying) > 1:
            fits += [_fit(of_model, name, varying, replicates) for name in MAIN_CLOCKS]
    return fits


QUANTITIES: dict[str, Callable[[Run], float]] = {
    "log10 N": lambda run: math.log10(run.train_size),
    "complexity": lambda run: float(run.rule.complexity),
    "log10 parameters": lambda run: 0.0 if run.parameters is None else math.log10(run.parameters),
}


def _fit(runs: Sequence[Run], name: str, quantities: Sequence[str], replicates: Replicates) -> dict[str, Any]:
    design = [[1.0, *(QUANTITIES[quantity](run) for quantity in quantities)] for run in runs]

    def fitted(rows: Sequence[int], crossings: Sequence[Crossing]) -> Line | None:
        return censored_fit(
            [design[i] for i in rows], [math.log10(c.time) for c in crossings], [c.observed for c in crossings]
        )

    line = fitted(range(len(runs)), [clock(run.rows, name) for run in runs])
    # Seeds are drawn anew within each setting, so that every replicate has all of them.
    positions = group_by(range(len(runs)), lambda i: runs[i].setting())
    generator = np.random.default_rng(0)
    slopes: list[list[float]] = [[] for _ in quantities]
    count = len(replicates[runs[0].name][name])
    for replicate in range(count if line else 0):
        chosen = [int(i) for members in positions.values() for i in generator.choice(members, size=len(members))]
        again = fitted(chosen, [replicates[runs[i].name][name][replicate] for i in chosen])
        for values, slope in zip(slopes, again.coefficients[1:] if again else [], strict=False):
            values.append(slope)
    found = {}
    for column, quantity in enumerate(quantities):
        interval = line.interval(column + 1) if line else None
        # A replicate without enough observed clocks has no slope; with too many of those there is no interval.
        enough = len(slopes[column]) >= max(1, 0.9 * count)
        bootstrap = percentile_interval(slopes[column]) if enough else (None, None)
        found[quantity] = {
            "slope": line.coefficients[column + 1] if line else None,
            "low": interval[0] if interval else None,
            "high": interval[1] if interval else None,
            "bootstrap_low": bootstrap[0],
            "bootstrap_high": bootstrap[1],
        }
    first = runs[0]
    fixed = {
        "log10 N": f"{first.rule.describe()}",
        "complexity": f"N = {first.train_size}",
        "log10 parameters": f"{first.rule.describe()}, N = {first.train_size}",
    }
    observed = [clock(run.rows, name).observed for run in runs]
    return {
        "clock": name,
        "model": first.model,
        "against": quantities[0] if len(quantities) == 1 else "all",
        "fixed": fixed[quantities[0]] if len(quantities) == 1 else "nothing",
        "slopes": found,
        "intercept": line.coefficients[0] if line else None,
        "spread": line.spread if line else None,
        "observed": sum(observed),
        "censored": len(observed) - sum(observed),
        "seeds": len({run.seed for run in runs}),
    }


def group_by(items: Sequence[Item], key: Callable[[Item], Any]) -> dict[Any, list[Item]]:
    """Items with equal keys together, in the order in which they come."""
    groups: dict[Any, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
