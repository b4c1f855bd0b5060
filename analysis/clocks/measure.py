"""From the rows of many runs: their clocks and windows, medians over seeds, and fits. Needs no model."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, TypeVar

import numpy as np

from analysis.clocks.censored import Line, censored_fit
from analysis.clocks.resampled import bootstrap, clock_interval, median_clock
from analysis.clocks.runs import NO_SETTING, RULE_KEYS, Run
from analysis.clocks.striking import MEMORY, RULE, RULE_NOVEL, Crossing, loss_minimum
from analysis.statistics import interval_of_draws


Item = TypeVar("Item")
Replicates = dict[str, dict[str, list[Crossing]]]

MAIN_CLOCKS = (RULE, RULE_NOVEL, MEMORY)
CURVES = ("step", "seconds", "valid", "group_valid", "copies", "control", "novel_valid", "unique")
CURVES += ("loss_train", "loss_held_out")
REPLICATES = 200


@dataclass(frozen=True)
class Quantity:
    """What a sweep varies. keys: of the config, those that set it. others: what stays fixed beside it, in words."""

    value: Callable[[Run], float]
    keys: frozenset[str]
    others: Callable[[Run], str]


QUANTITIES = {
    "log10 N": Quantity(
        value=lambda run: math.log10(run.train_size),
        keys=frozenset({"train_size"}),
        others=lambda run: run.rule.describe(),
    ),
    "complexity": Quantity(
        value=lambda run: float(run.rule.complexity),
        keys=frozenset(RULE_KEYS),
        others=lambda run: f"N = {run.train_size}",
    ),
    "log10 parameters": Quantity(
        value=lambda run: 0.0 if run.parameters is None else math.log10(run.parameters),
        keys=frozenset({"width", "depth", "heads", "mlp_ratio"}),
        others=lambda run: f"{run.rule.describe()}, N = {run.train_size}",
    ),
}


def varied(runs: Sequence[Run], name: str) -> list[list[Run]]:
    """Groups of runs that differ in one quantity, and but for their seeds in nothing else."""
    quantity = QUANTITIES[name]
    groups = group_by(runs, lambda run: run.setting_apart_from(quantity.keys)).values()
    return [group for group in groups if len({quantity.value(run) for run in group}) > 1]


def bootstraps(runs: Sequence[Run], replicates: int = REPLICATES) -> Replicates:
    """{run: {clock: its `analysis.clocks.resampled.bootstrap`}} for the main clocks."""
    return {run.name: bootstrap(run.rows, MAIN_CLOCKS, replicates, seed=i) for i, run in enumerate(runs)}


def variants(runs: Sequence[Run]) -> dict[str, str]:
    """{run: "width 64" where it differs so from the usual run of its model, besides rule and N; "" where it does not}.

    Of a key that the runs of a model do not share, the value that most of them have is the usual one.
    """
    words = {}
    for of_model in group_by(runs, lambda run: run.model).values():
        keys = of_model[0].config.keys() - NO_SETTING - RULE_KEYS - QUANTITIES["log10 N"].keys
        usual = {key: Counter(run.config[key] for run in of_model).most_common(1)[0][0] for key in sorted(keys)}
        for run in of_model:
            differing = [key for key in usual if run.config[key] != usual[key]]
            words[run.name] = ", ".join(f"{key.replace('_', ' ')} {run.config[key]}" for key in differing)
    return words


def runs_section(runs: Sequence[Run], replicates: Replicates) -> dict[str, dict[str, Any]]:
    """{run: what it was, its curves, its clocks with bootstrap intervals over samples, its window, its yield}."""
    variant = variants(runs)
    return {
        run.name: {
            "model": run.model,
            "rule": run.rule.describe(),
            "complexity": run.rule.complexity,
            "constraint_size": run.rule.constraint_size,
            "log2_count": run.rule.log2_count,
            "N": run.train_size,
            "variant": variant[run.name],
            "parameters": run.parameters,
            "seed": run.seed,
            "setting": run.setting,
            "finished": run.finished,
            "steps": run.rows[-1]["step"],
            "seconds": run.rows[-1]["seconds"],
            "evaluations": len(run.rows),
            "samples": run.rows[-1]["samples"],
            "loss_minimum": loss_minimum(run.rows),
            "clocks": {name: crossed and asdict(crossed) for name, crossed in run.clocks.items()},
            "intervals": {name: list(clock_interval(again)) for name, again in replicates[run.name].items()},
            "window": asdict(run.window),
            "first": run.window.first,
            "memory_censored_by": run.memory_censored_by,
            "yield": run.innovation_yield,
            "curves": {name: [row[name] for row in run.rows] for name in CURVES},
        }
        for run in runs
    }


def settings_section(runs: Sequence[Run], replicates: Replicates) -> list[dict[str, Any]]:
    """What runs that differ in their seed alone have in common, by model, complexity and size of the training set."""
    settings = []
    variant = variants(runs)
    for group in group_by(runs, lambda run: run.setting).values():
        first = group[0]
        states = [run.window.state for run in group]
        widths = [run.window.width for run in group if run.window.width is not None]
        bounds = [run.window.at_least for run in group if run.window.at_least is not None]
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
                        [run.clocks[name] for run in group], [replicates[run.name][name] for run in group]
                    )
                    for name in MAIN_CLOCKS
                },
                "open": states.count("open"),
                "vanished": states.count("vanished"),
                "censored": states.count("censored"),
                "share_open": states.count("open") / len(states),
                "width_median": median(widths) if widths else None,
                "width_at_least": median(bounds) if bounds else None,
                "yield_median": median(run.innovation_yield["per_sample"] for run in group),
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
    for of_model in group_by(runs, lambda run: run.model).values():
        for name, quantity in QUANTITIES.items():
            for group in varied(of_model, name):
                fits += [_fit(group, clock, [name], quantity.others(group[0]), replicates) for clock in MAIN_CLOCKS]
        varying = [name for name, each in QUANTITIES.items() if len({each.value(run) for run in of_model}) > 1]
        if len(varying) > 1:
            fits += [_fit(of_model, clock, varying, "nothing", replicates) for clock in MAIN_CLOCKS]
    return fits


def _fit(
    runs: Sequence[Run], clock: str, quantities: Sequence[str], fixed: str, replicates: Replicates
) -> dict[str, Any]:
    design = [[1.0, *(QUANTITIES[quantity].value(run) for quantity in quantities)] for run in runs]
    crossings = [run.clocks[clock] for run in runs]
    line = fitted_line(design, crossings)
    drawn = resampled_lines(runs, clock, design, replicates) if line else []
    observed = sum(crossed.observed for crossed in crossings)
    return {
        "clock": clock,
        "model": runs[0].model,
        "against": quantities[0] if len(quantities) == 1 else "all",
        "fixed": fixed,
        "slopes": {
            quantity: slope_of(line, column, drawn, len(replicates[runs[0].name][clock]))
            for column, quantity in enumerate(quantities, start=1)
        },
        "intercept": line.coefficients[0] if line else None,
        "spread": line.spread if line else None,
        "observed": observed,
        "censored": len(runs) - observed,
        "seeds": len({run.seed for run in runs}),
    }


def fitted_line(design: Sequence[Sequence[float]], crossings: Sequence[Crossing]) -> Line | None:
    """log10 of the clocks against the columns of the design, a row per run; None where it is not determined."""
    return censored_fit(design, [math.log10(c.time) for c in crossings], [c.observed for c in crossings])


def resampled_lines(
    runs: Sequence[Run], clock: str, design: Sequence[Sequence[float]], replicates: Replicates
) -> list[tuple[float, ...]]:
    """The coefficients of every replicate that has enough observed clocks for them, over seeds and samples."""
    # Seeds are drawn anew within each setting, so that every replicate has all of them.
    positions = group_by(range(len(runs)), lambda i: runs[i].setting)
    generator = np.random.default_rng(0)
    lines = []
    for replicate in range(len(replicates[runs[0].name][clock])):
        chosen = [int(i) for members in positions.values() for i in generator.choice(members, size=len(members))]
        again = fitted_line([design[i] for i in chosen], [replicates[runs[i].name][clock][replicate] for i in chosen])
        lines += [again.coefficients] if again else []
    return lines


def slope_of(
    line: Line | None, column: int, drawn: Sequence[Sequence[float]], replicates: int
) -> dict[str, float | None]:
    """One coefficient with both its intervals. drawn: `resampled_lines`, of as many `replicates`."""
    wald = (line and line.interval(column)) or (None, None)
    # With too many replicates that have no slope there is no interval.
    enough = len(drawn) >= max(1, 0.9 * replicates)
    bootstrap_low, bootstrap_high = interval_of_draws([each[column] for each in drawn]) if enough else (None, None)
    return {
        "slope": line.coefficients[column] if line else None,
        "low": wald[0],
        "high": wald[1],
        "bootstrap_low": bootstrap_low,
        "bootstrap_high": bootstrap_high,
    }


def group_by(items: Sequence[Item], key: Callable[[Item], Any]) -> dict[Any, list[Item]]:
    """Items with equal keys together, in the order in which they come."""
    groups: dict[Any, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
