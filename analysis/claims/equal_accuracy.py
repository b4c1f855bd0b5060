"""What differs between two solutions where they are equally accurate, and along the way of both trainings there.

The section "matched" of a comparison's results.json. Its part "at" has the form of the whole file, so that whatever
reads one (a claim, a sentence) can be asked at both stopping points: at the matched budget and at matched accuracy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from analysis.behaviour.controls import line_controls
from analysis.behaviour.kl import kl_drift
from analysis.behaviour.lines import straight_lines, task_landscape
from analysis.claims.comparison import CONTROL_POINTS, ComparedOn, completions_of, evaluate_model, random_walk
from analysis.claims.matched import Curve, Match, columns, cost_of, value_at
from analysis.criteria import MATCHED_ACCURACY, NON_INFERIOR
from analysis.geometry.updates import update_geometry
from analysis.resume import folder_digests, stage
from eval.completions import accuracy_of, read_completions
from eval.intervals import mean_interval
from eval.stages import Stages
from eval.tasks import task_name


# The stages of `matched_section`.
MATCHED = ("equal accuracy", "along the trainings")
DIRECTIONS = ("forward", "reverse")


def non_inferiority(
    first: Sequence[float | None], second: Sequence[float | None], base: Sequence[float | None]
) -> dict[str, Any]:
    """Does the first model match or exceed the second on the same problems, by at most `NON_INFERIOR` less?

    Scores of the same problems in the same order; a problem that one of the two left unscored is dropped. The interval
    is that of the mean paired difference, normal approximation. The control that must fail is the base in place of the
    first: where it passes too, the test cannot tell.

    Returns {"difference", "low", "high" (first minus second, shares; None with fewer than two problems), "margin",
    "problems", "control": the same three of the base, "verdict": "matches or exceeds", "falls short", "cannot tell"}.
    """
    difference, low, high, problems = paired_difference(first, second)
    control = dict(zip(("difference", "low", "high"), paired_difference(base, second), strict=False))
    if low is None or high is None or control["high"] is None or control["high"] >= -NON_INFERIOR:
        verdict = "cannot tell"
    elif low >= -NON_INFERIOR:
        verdict = "matches or exceeds"
    else:
        verdict = "falls short" if high < -NON_INFERIOR else "cannot tell"
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "margin": NON_INFERIOR,
        "problems": problems,
        "control": control,
        "verdict": verdict,
    }


def paired_difference(
    first: Sequence[float | None], second: Sequence[float | None]
) -> tuple[float | None, float | None, float | None, int]:
    """Mean difference on the same problems, its 95 % interval, and how many both were scored on.

    Fewer than two have neither. Raises ValueError for lists of different lengths.
    """
    differences = [a - b for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if len(differences) < 2:
        return None, None, None, len(differences)
    return fmean(differences), *mean_interval(differences), len(differences)


def matched_section(
    run: Path,
    base: Path,
    task: str,
    measured_on: ComparedOn,
    device: Any,
    curves: Mapping[str, Curve],
    match: Match,
    kept: Mapping[str, Mapping[int, Path]],
    end: Mapping[str, Any],
    stages: Stages | None = None,
) -> dict[str, Any]:
    """The comparison at equal accuracy, and the measurements along both trainings. Returns

        {"within": MATCHED_ACCURACY, "found", "level", "difference": see `Match`,
         "pair": {method: {each number of `Reached`}},
         "cost": {method: {each cost: to reach `level`, interpolated} or None},
         "at": {"task", "evaluation", "geometry", "random_walk", "kl", "connectivity",
                "controls"} as in results.json, of the pair,
         "stops": {"matched budget", "matched accuracy": see `stopped`},
         "non_inferior": {"matched budget", "matched accuracy"}: see `non_inferiority`, first method against second,
         "curves": {method: {each number of `Reached`: [of each evaluation]}},
         "kept": {method: {"step", "accuracy", "norm", "on_forward", "on_reverse", "off_forward", "off_reverse": [of
                           each kept checkpoint]}},
         "at_level": {method: {each but step and accuracy: interpolated to `level`, or None}}}

    match: two of `curves`, in their order. kept: {method: {step: folder}} of the pair and of what is measured along
    the way; the last step's is run/<method>/model. end: the sections of results.json about the finished models.
    """
    pair = dict(zip(curves, match.pair, strict=True))
    at = stage(
        run,
        "equal accuracy",
        inputs_of(base, {method: kept[method][point.step] for method, point in pair.items()}, task, measured_on),
        lambda: at_pair(run, base, task, measured_on, device, pair, kept, end),
        stages,
    )
    every = {f"{method} {step}": folder for method, of in kept.items() for step, folder in of.items()}
    along = stage(
        run,
        "along the trainings",
        inputs_of(base, every, task, measured_on),
        lambda: along_trainings(base, every, measured_on, device),
        stages,
    )
    measured = {
        method: measured_along(method, curve, sorted(kept[method]), along, task) for method, curve in curves.items()
    }
    return {
        "within": MATCHED_ACCURACY,
        "found": match.found,
        "level": match.level,
        "difference": match.difference,
        "pair": {method: asdict(point) for method, point in pair.items()},
        "cost": {method: cost_of(curve, match.level) for method, curve in curves.items()},
        **at,
        "stops": {
            "matched budget": stopped(end, task, list(curves)),
            "matched accuracy": stopped(at["at"], task, list(curves)),
        },
        "curves": {method: columns(curve) for method, curve in curves.items()},
        "kept": measured,
        "at_level": {method: at_level(numbers, match.level) for method, numbers in measured.items()},
    }


def stopped(sections: Mapping[str, Any], task: str, methods: Sequence[str]) -> dict[str, Any]:
    """What is compared at one stopping point, in one place. Returns

        {"accuracy", "norm", "on_forward", "on_reverse", "off_forward", "off_reverse": {each method, "ratio": the first
         over the second, None over 0}, "cosine", "null_std"}

    Accuracy on the trained task's test problems; KL in nats per token, on the trained task and as a mean
    over the others.
    """
    name = task_name(task)
    numbers: dict[str, Any] = {
        "accuracy": {method: sections["evaluation"][method].get(name, {}).get("accuracy") for method in methods},
        "norm": {method: sections["geometry"]["checkpoints"][method]["norm"] for method in methods},
    }
    for way in DIRECTIONS:
        per_token = {
            method: {of: found[way]["per_token"] for of, found in sections["kl"][method].items()} for method in methods
        }
        numbers[f"on_{way}"] = {method: per_token[method].get(name) for method in methods}
        numbers[f"off_{way}"] = {
            method: off_task({of: {way: value} for of, value in per_token[method].items()}, name, way)
            for method in methods
        }
    for found in numbers.values():
        first, second = (found[method] for method in methods[:2])
        found["ratio"] = None if None in (first, second) or second <= 0 else first / second
    angle = sections["geometry"]["cosine"]["|".join(methods[:2])]
    return numbers | {"cosine": angle["total"], "null_std": angle["null_std"]}


def inputs_of(base: Path, models: Mapping[str, Path], task: str, measured_on: ComparedOn) -> dict[str, Any]:
    """What the measurements depend on."""
    names = ("data_seed", "max_new_tokens", "test_tasks", "test_size", "kl_prompts", "line_points", "line_size")
    return {
        "checkpoints": folder_digests({"base": base, **models}),
        "task": task,
        **{name: getattr(measured_on, name) for name in names},
    }


def at_pair(
    run: Path,
    base: Path,
    task: str,
    measured_on: ComparedOn,
    device: Any,
    pair: Mapping[str, Any],
    kept: Mapping[str, Mapping[int, Path]],
    end: Mapping[str, Any],
) -> dict[str, Any]:
    """ "at" and "non_inferior" of `matched_section`; of a finished model what was measured already is taken."""
    models = {method: kept[method][point.step] for method, point in pair.items()}
    earlier = {method: folder for method, folder in models.items() if folder != run / method / "model"}
    tasks, name = measured_on.test_tasks, task_name(task)
    evaluation, scores = {"base": end["evaluation"]["base"]}, {}
    for method, folder in models.items():
        if method in earlier:
            evaluation[method], records = evaluate_model(folder, base, measured_on, device)
            scores[method] = list(map(accuracy_of, records.get(name, [])))
        else:
            evaluation[method] = end["evaluation"][method]
    at_end = {model: scores_at_end(run, model, name) for model in ("base", *models)}
    first, second = models
    geometry = update_geometry(base, models)
    generation = (measured_on.data_seed, measured_on.max_new_tokens, measured_on.batch_size, device)
    drift = kl_drift(base, earlier, tasks, measured_on.kl_prompts, *generation) if earlier else {}
    walks = {
        method: random_walk(run / method, geometry["checkpoints"][method]["norm"], geometry["parameters"], point.step)
        for method, point in pair.items()
        if method == "es"
    }
    matched = at_end | scores
    line, controls = line_of_pair(base, models, task, measured_on, device)
    return {
        "at": {
            "task": task,
            "evaluation": evaluation,
            "geometry": geometry,
            "random_walk": walks,
            "kl": {method: drift.get(method, end["kl"][method]) for method in models},
            "connectivity": line,
            "controls": controls,
        },
        "non_inferior": {
            "matched budget": non_inferiority(at_end[first], at_end[second], at_end["base"]),
            "matched accuracy": non_inferiority(matched[first], matched[second], at_end["base"]),
        },
    }


def line_of_pair(
    base: Path, models: dict[str, Path], task: str, measured_on: ComparedOn, device: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """ "connectivity" and "controls" of the line between the two, of as many points as the controls have."""
    generation = (measured_on.data_seed, measured_on.max_new_tokens, measured_on.batch_size, device)
    landscape = task_landscape(base, models, task, measured_on.line_size, *generation)
    points = min(measured_on.line_points, CONTROL_POINTS)
    first, second = models
    line = straight_lines(landscape, points, [(first, second)])
    pair = f"{first}|{second}"
    controls = line_controls(landscape, first, second, points, line["lines"][pair])
    return line, {"lines": {pair: controls}, "update": None}


def scores_at_end(run: Path, model: str, task: str) -> list[float | None]:
    """What each problem counted for in the final evaluation of a model, in their order; none of a task not tested."""
    file = completions_of(run / "completions", [model], [task])[task][model]
    return [] if not file.exists() else list(map(accuracy_of, read_completions(file)))


def along_trainings(base: Path, models: Mapping[str, Path], measured_on: ComparedOn, device: Any) -> dict[str, Any]:
    """{"norm": {model: length of its update}, "kl": as `kl_drift` returns it, its numbers per token alone}.

    On a quarter of the prompts of finished models: a curve needs many models more than narrow intervals.
    """
    generation = (measured_on.data_seed, measured_on.max_new_tokens, measured_on.batch_size, device)
    prompts = max(measured_on.kl_prompts // 4, 1)
    drift = kl_drift(base, dict(models), measured_on.test_tasks, prompts, *generation)
    lengths = {name: update_geometry(base, {name: folder}) for name, folder in models.items()}
    return {
        "prompts": prompts,
        "norm": {name: geometry["checkpoints"][name]["norm"] for name, geometry in lengths.items()},
        "kl": {
            name: {of: {way: found[way]["per_token"] for way in DIRECTIONS} for of, found in of_tasks.items()}
            for name, of_tasks in drift.items()
        },
    }


def measured_along(
    method: str, curve: Curve, steps: Sequence[int], along: Mapping[str, Any], task: str
) -> dict[str, list[Any]]:
    """The columns of "kept": lengths, and KL on the trained task and its mean over the others, nats per token."""
    accuracy = {point.step: point.accuracy for point in curve}
    rows: dict[str, list[Any]] = {"step": list(steps), "accuracy": [accuracy[step] for step in steps]}
    names = [f"{method} {step}" for step in steps]
    rows["norm"] = [along["norm"][name] for name in names]
    for way in DIRECTIONS:
        rows[f"on_{way}"] = [along["kl"][name].get(task_name(task), {}).get(way) for name in names]
        rows[f"off_{way}"] = [off_task(along["kl"][name], task_name(task), way) for name in names]
    return rows


def off_task(drift: Mapping[str, Mapping[str, float]], task: str, way: str) -> float | None:
    others = [found[way] for name, found in drift.items() if name != task]
    return fmean(others) if others and None not in others else None


def at_level(numbers: Mapping[str, list[Any]], level: float) -> dict[str, float | None]:
    """Every quantity of "kept", interpolated to an accuracy."""
    quantities = [name for name in numbers if name not in ("step", "accuracy")]
    return {
        name: None if None in numbers[name] else value_at(numbers["accuracy"], numbers[name], level)
        for name in quantities
    }
