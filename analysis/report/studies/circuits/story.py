"""The sentences of a study of circuits."""

from statistics import fmean
from typing import Any

from analysis.report.numbers import fixed, percent, significant
from analysis.report.results import Results, label, lookup
from analysis.report.section import Tile
from analysis.report.sentences import join
from analysis.report.studies.circuits.figures import direction_label, task_label


# What ranks the large model's nodes without training on the source and without seeing the task in the large model.
SIMPLE = ("depth_mean", "mean_of_gold", "mean_of_masks", "random_ranking")


def title(results: Results) -> str:
    """The first answer in a few words."""
    clauses = []
    known = [verdict for pair in lookup(results, "transfer") or {} if (verdict := ahead(results, pair)) is not None]
    if known:
        where = "" if all(known) or not any(known) else " everywhere"
        clauses.append(f"DFA {'beats' if all(known) else 'does not beat'} simple transfer{where}")
    changes = changed(results)
    if changes:
        names = [label(name) for name, change in changes.items() if change]
        clauses.append(f"{join(names)} changed the circuits" if names else "no circuit changed beyond chance")
    return _capital(", ".join(clauses)) if clauses else "Circuits of language models"


def headline(results: Results) -> str:
    """Transfer against its baselines, then change against its null."""
    said = [_transfer_clause(results, pair) for pair in lookup(results, "transfer") or {}]
    said = [text for text in [*said, _change_clause(results)] if text]
    return " ".join(f"{_capital(text)}." for text in said) or (
        f"Circuits of {join(lookup(results, 'models') or [])} by direct attribution."
    )


def context(results: Results) -> str:
    """Models and tasks."""
    tasks = [task_label(task) for task in lookup(results, "tasks") or []]
    return f"{len(lookup(results, 'models') or [])} models, {len(tasks)} tasks: {', '.join(tasks)}"


def tiles(results: Results) -> list[Tile]:
    """The numbers of the headline."""
    found = []
    for pair in lookup(results, "transfer") or {}:
        rows = _averages(results, pair, "corrected")
        if rows:
            text = " / ".join(fixed(rows[row], 2) for row in ("zero_shot", "depth_mean", "gold"))
            found.append(Tile("CPR", text, f"{pair.replace('>', ' to ')}: zero-shot DFA / same depth / direct"))
    for name, entry in _overlaps(results, "nodes").items():
        text = f"{fixed(entry['value'], 2)} / {fixed(entry['null'], 2)}"
        found.append(Tile("Rank correlation of scores", text, f"base and {label(name)} / null, mean over tasks"))
    for name, entry in (lookup(results, "change", "intensity") or {}).items():
        base = lookup(results, "change", "models", "0")
        if name != base:
            ratio = entry["intensity"] / results["change"]["intensity"][base]["intensity"]
            found.append(Tile("Activation intensity", f"{ratio:.2f} times", f"{label(name)}, of {label(base)}"))
    return found


def scores(results: Results, model: str) -> str:
    """Where the strength lies."""
    tasks = results["circuits"][model]["tasks"]
    shares = {task: circuit["profile"]["attention"] for task, circuit in tasks.items()}
    most, least = max(shares, key=shares.__getitem__), min(shares, key=shares.__getitem__)
    checks = [circuit["completeness"]["error"] for circuit in tasks.values() if circuit["completeness"]]
    text = (
        f"Red nodes help, blue ones hinder. Heads hold from {percent(shares[least], 0)} ({task_label(least)}) to "
        f"{percent(shares[most], 0)} ({task_label(most)}) of the strength"
    )
    if checks:
        text += f"; integrated gradients miss the change that they should add up to by at most {percent(max(checks))}"
    return f"{text}."


def curves(results: Results) -> str:
    """Size of the smallest faithful circuits."""
    clauses = []
    for model, found in results["circuits"].items():
        sizes = [circuit["faithfulness"]["smallest"] for circuit in found["tasks"].values()]
        reached = [size for size in sizes if size is not None]
        if reached:
            nodes = len(found["nodes"]) - 1
            clauses.append(f"{model} {min(reached)} to {max(reached)} of {nodes}")
    return (
        "Faithfulness is 1 for the whole model and 0 with every node knocked out; above 1 the circuit beats the "
        "model. "
        f"Bands: 95 % over examples. Smallest circuits with f of at least 0.8, in nodes: {'; '.join(clauses)}."
    )


def transfer(results: Results, pair: str) -> str:
    """What the source adds, in both presets."""
    clauses = []
    for name, preset in results["transfer"][pair]["presets"].items():
        rows = _averages(results, pair, name)
        floor = fmean(task["floor"][preset["input_policy"]] for task in preset["tasks"].values())
        clauses.append(
            f"{name}: direct attribution {fixed(rows['gold'], 2)}, zero-shot DFA {fixed(rows['zero_shot'], 2)}, mean "
            "of "
            f"the other tasks' direct attribution {fixed(rows['mean_of_gold'], 2)}, learned mask "
            f"{fixed(rows['mask_learning'], 2)}, a useless ranking {fixed(floor, 2)}"
        )
    seeds = len(results["transfer"][pair]["seeds"])
    return (
        f"Mean CPR (dots; bars: single tasks; dashed: a useless ranking), {seeds} seed{'s' if seeds > 1 else ''}. "
        f"{_capital('; '.join(clauses))}. Blue: DFA. Green: the target alone. Grey: controls; of them same depth and "
        "scrambled source use the source."
    )


def overlap(results: Results) -> str:
    """Which pairs differ by more than the choice of examples."""
    beyond, within = [], []
    for task, result in results["change"]["tasks"].items():
        for pair, levels in result["overlap"].items():
            names = " and ".join(label(name) for name in pair.split("|"))
            (beyond if levels["nodes"]["spearman"]["high"] < 0 else within).append(f"{names} on {task_label(task)}")
    text = (
        "Dots: rank correlation of two models' scores. Grey: of one model's scores with themselves when examples are "
    )
    text += "redrawn (95 %). "
    if beyond:
        text += f"Node circuits differ by more than that for {join(beyond)}. "
    if within:
        text += f"No difference is shown for {join(within)}. "
    return text.strip()


def cross_faithfulness(results: Results) -> str:
    """How much of its own circuit's CPR each model keeps with the base's circuit."""
    base, *others = results["change"]["models"]
    clauses = []
    for other in others:
        pairs = [
            (result["cross_faithfulness"][base][other]["cpr"], result["cross_faithfulness"][other][other]["cpr"])
            for result in results["change"]["tasks"].values()
        ]
        clauses.append(
            f"in {label(other)} the circuit of {label(base)} has a mean CPR of "
            f"{fixed(fmean(p[0] for p in pairs), 2)}, "
            f"its own {fixed(fmean(p[1] for p in pairs), 2)}"
        )
    return f"{_capital('; '.join(clauses))}."


def transplants(results: Results) -> str:
    """Which single node carries most of the difference."""
    base, *others = results["change"]["models"]
    clauses = []
    for other in others:
        for task, result in results["change"]["tasks"].items():
            entry = result["transplant"][f"{other}>{base}"]
            gap = entry["donor"] - entry["receiver"]
            gains = [
                (value - entry["receiver"], name) for value, name in zip(entry["nodes"], result["nodes"], strict=True)
            ][1:]
            gain, node = max(gains)
            clauses.append(
                f"{label(other)} on {task_label(task)}: {node} alone gives {significant(gain, 2)} of "
                f"{significant(gap, 2)}"
            )
    return (
        f"Dashed: the donor itself. The node of the donor that raises the logit difference of {label(base)} most, "
        f"with the whole difference: {'; '.join(clauses)}."
    )


def drawing(results: Results, task: str) -> str:
    """What is drawn."""
    result = results["change"]["tasks"][task]
    edges = len(next(iter(result["circuits"].values()))["top_edges"])
    return (
        f"Circles are heads, squares MLPs; the {edges} strongest edges, red where they help and blue where they "
        "hinder, "
        "queries, keys and values of a head as one. Colours and widths are on one scale for all models."
    )


def edge_change(results: Results) -> str:
    """Where the change begins."""
    clauses = []
    for name, entry in results["change"]["lora"].items():
        top = max(range(len(entry["change"])), key=lambda layer: entry["change"][layer])
        clauses.append(f"{label(name)} {percent(entry['change'][top], 0)} in layer {top}")
    even = percent(1 / len(entry["change"]), 0)
    return (
        f"Of the change in edge scores, mean over tasks, the largest share is {join(clauses)}; an even spread would "
        "be "
        f"{even} each. The layers marked critical get a higher LoRA rank in the files named below, beside a control."
    )


def migrations(results: Results) -> str:
    """Gains against the null."""
    clauses = []
    for direction, entry in results["change"]["migration"].items():
        gains = [task["gain"] for task in entry["tasks"].values()]
        clear = [task_label(name) for name, task in entry["tasks"].items() if task["low"] > 0]
        text = f"{direction_label(direction)} {fixed(fmean(gains), 3)}"
        clauses.append(text + (f" (clear on {join(clear)})" if clear else ""))
    return (
        "An alignment I + delta from the old scores to the new circuit; a gain of 0 means that every component kept "
        f"its place. Mean gain in CPR: {'; '.join(clauses)}."
    )


def intensity(results: Results) -> str:
    """Which models differ clearly from the base."""
    found = results["change"]["intensity"]
    base, *others = found
    clauses = []
    for other in others:
        words = [
            f"{name} {'higher' if found[other][name] > found[base][name] else 'lower'}"
            for name in ("intensity", "entropy", "kurtosis")
            if found[other][f"{name}_low"] > found[base][f"{name}_high"]
            or found[other][f"{name}_high"] < found[base][f"{name}_low"]
        ]
        clauses.append(f"{label(other)}: {join(words) if words else 'no clear difference'}")
    return (
        f"Compared with {label(base)}, where 95 % intervals do not overlap: {'; '.join(clauses)}. Statistics of the "
        "edges "
        "of the residual graph, while each model writes its own answer to problems that all solve."
    )


def ahead(results: Results, pair: str) -> bool | None:
    """Whether zero-shot DFA beats every simple ranking; None if the corrected preset was not run."""
    rows = _averages(results, pair, "corrected")
    return rows["zero_shot"] > max(rows[row] for row in SIMPLE) if rows else None


def changed(results: Results) -> dict[str, bool]:
    """Of each post-trained model, whether some task's node circuit differs from the base's by more than the null."""
    models = lookup(results, "change", "models") or []
    return {
        other: any(
            result["overlap"][f"{models[0]}|{other}"]["nodes"]["spearman"]["high"] < 0
            for result in results["change"]["tasks"].values()
        )
        for other in models[1:]
    }


def _transfer_clause(results: Results, pair: str) -> str | None:
    rows = _averages(results, pair, "corrected")
    if not rows:
        return None
    small, large = pair.split(">")
    return (
        f"from {small} to {large}, a task unseen, DFA reaches a mean CPR of {fixed(rows['zero_shot'], 2)}; the same "
        f"relative depth, untrained, {fixed(rows['depth_mean'], 2)}; the mean of the other tasks' circuits in {large} "
        f"{fixed(rows['mean_of_gold'], 2)}; direct attribution {fixed(rows['gold'], 2)}"
    )


def _change_clause(results: Results) -> str | None:
    clauses = []
    for name, entry in _overlaps(results, "nodes").items():
        clauses.append(f"{label(name)} {fixed(entry['value'], 2)} (null {fixed(entry['null'], 2)})")
    if not clauses:
        return None
    return f"the rank correlation of node scores before and after post-training is {join(clauses)}, mean over tasks"


def _overlaps(results: Results, level: str) -> dict[str, dict[str, float]]:
    """Mean over tasks of rank correlation with the base, and of its null, by post-trained model."""
    models = lookup(results, "change", "models") or []
    found = {}
    for other in models[1:]:
        entries: list[dict[str, Any]] = [
            result["overlap"][f"{models[0]}|{other}"][level]["spearman"]
            for result in results["change"]["tasks"].values()
        ]
        found[other] = {key: fmean(entry[key] for entry in entries) for key in ("value", "null")}
    return found


def _averages(results: Results, pair: str, preset: str) -> dict[str, float]:
    """Mean CPR of every row, by the policy of the preset."""
    policy = lookup(results, "transfer", pair, "presets", preset, "input_policy")
    averages = lookup(results, "transfer", pair, "presets", preset, "averages") or {}
    return {row: entry[policy]["cpr"] for row, entry in averages.items()}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
