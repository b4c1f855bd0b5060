"""The sentences of a sequential run."""

from collections.abc import Mapping
from typing import Any

from analysis.report.numbers import count, fixed, percent, points
from analysis.report.results import Results, lookup
from analysis.report.section import Tile
from analysis.report.studies.sequential.figures import arms, called, controls, main_arms


# The pair that the title is about, if both methods were run.
COMPARED = ("es", "grpo")
# What else might predict forgetting, in the words of a sentence.
OTHER_PREDICTORS = {"reverse": "the reverse KL", "norm": "the length of the update"}

Interval = Mapping[str, Any]


def title(results: Results) -> str:
    """Which method forgets more, by how much, or that no difference is seen."""
    pair = main_pair(results)
    if pair is not None:
        found = lookup(results, "continual", "pairs", pair, "metrics", "forgetting")
        one, other = (called(arm) for arm in pair.split("|"))
        if found is None:
            return f"{one} and {other} after one task: nothing that was trained can be forgotten yet"
        if found["low"] <= 0 <= found["high"]:
            return f"No difference in forgetting is seen between {one} and {other}: {span(_reversed(found))}"
        if found["high"] < 0:
            return f"{one} forgets {_more(_reversed(found), other)}"
        return f"{other} forgets {_more(found, one)}"
    for arm in main_arms(results)[:1]:
        found = lookup(results, "continual", "metrics", arm, "forgetting")
        return f"{called(arm)} forgets {span(found)}" if found else f"{called(arm)} after one task"
    return "Tasks in sequence"


def headline(results: Results) -> str:
    """What the main arms learned, kept and forgot, and what forgetting goes with."""
    said = [_outcome(results, arm) for arm in main_arms(results)]
    relation = _relation(results)
    if relation:
        said.append(f"Over all stages, the loss on the other tasks {relation}.")
    if said and min(len(seeds) for seeds in results["continual"]["seeds"].values()) == 1:
        said.append("Where an arm has one seed, its intervals cover the choice of test items only.")
    return " ".join(said)


def context(results: Results) -> str:
    """Tasks, arms, seeds, budget."""
    tasks = [called(task) for task in lookup(results, "tasks") or []]
    seeds = {len(found) for found in (lookup(results, "continual", "seeds") or {}).values()}
    shown = len(arms(results))
    parts = [", then ".join(tasks), f"{shown} arm{'' if shown == 1 else 's'}" if shown else ""]
    if seeds:
        numbers = str(min(seeds)) if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
        parts.append(f"{numbers} seed{'' if seeds == {1} else 's'} each")
    if lookup(results, "match"):
        amount = lookup(results, "budget")
        parts.append(f"{f'{count(amount)} ' if amount else 'matched by '}{results['match']} a task")
    parts.append(f"from {results['base_model']}" if lookup(results, "base_model") else "")
    return "; ".join(part for part in parts if part)


def tiles(results: Results) -> list[Tile]:
    """The numbers of the headline."""
    main = main_arms(results)
    found = []
    names = " / ".join(called(arm) for arm in main)
    if main:
        for metric, words, write in (
            ("average_accuracy", "Average accuracy", percent),
            ("forgetting", "Forgetting", points),
        ):
            values = [lookup(results, "continual", "metrics", arm, metric, "value") for arm in main]
            if None not in values:
                text = " / ".join(write(value).removesuffix(" points").removesuffix(" %") for value in values)
                unit = "%" if metric == "average_accuracy" else "points"
                found.append(Tile(f"{words}, {unit}", text, f"{names}, after the last task"))
    forward = lookup(results, "continual", "drift", "step", "all", "forward", "correlation")
    if forward and forward["value"] is not None:
        found.append(Tile("Rank correlation", fixed(forward["value"], 2), "forward KL and loss on the other tasks"))
    return found


def matrices(results: Results, shown: list[str]) -> str:
    """What each row did to the others."""
    clauses = []
    for arm in shown:
        cells = lookup(results, "continual", "forgetting", arm) or {}
        if cells:
            task = max(cells, key=lambda task: cells[task]["value"])
            clear = cells[task]["low"] > 0
            clauses.append(f"{called(arm)} {f'{called(task)}, {span(cells[task])}' if clear else 'nothing clearly'}")
    text = (
        "Accuracy in percent with its 95 % interval, mean over seeds. Blue: better than before all training; red: "
        "worse. Framed: the task that was just trained."
    )
    if clauses:
        text += f" Forgotten most: by {'; by '.join(clauses)}."
    left_out = lookup(results, "continual", "left_out") or {}
    if left_out:
        text += f" Left out: {'; '.join(f'{chain} ({reason})' for chain, reason in left_out.items())}."
    return text


def metrics(results: Results) -> str:
    """How to read it."""
    text = "Dots: means over seeds with 95 % intervals over seeds and test items; bars: single seeds."
    if lookup(results, "continual", "forgetting", arms(results)[0]):
        text += (
            " What was never learned cannot be forgotten: read forgetting beside the accuracy right after training."
        )
    return text


def differences(results: Results) -> str:
    """Which controls change forgetting."""
    less, more, unclear = [], [], []
    for pair, found in results["continual"]["pairs"].items():
        one, other = pair.split("|")
        entry = found["metrics"]["forgetting"]
        if entry is None or other not in controls(results):
            continue
        if entry["high"] < 0:
            less.append(f"{called(other)} than {called(one)}, by {span(_reversed(entry))}")
        elif entry["low"] > 0:
            more.append(f"{called(other)} than {called(one)}, by {span(entry)}")
        else:
            unclear.append(f"{called(other)} and {called(one)}, {span(entry)}")
    text = "Both arms of a pair answered the same items, which are drawn together. Above 0, the first named is higher."
    for words, listed in (
        ("Less forgetting", less),
        ("More forgetting", more),
        ("No clear difference in forgetting", unclear),
    ):
        if listed:
            text += f" {words}: {'; '.join(listed)}."
    return text


def retention(results: Results) -> str:
    """Where a task stands when the stages after its own are over."""
    tasks = results["tasks"]
    text = "Dotted: the stage that trained on the task of the panel. Bands: 95 % intervals of the main arms."
    if len(tasks) < 2:
        return text
    clauses = []
    for arm in main_arms(results):
        column = [row[0] for row in results["continual"]["matrix"][arm]["value"]]
        clauses.append(
            f"{called(arm)} takes it from {percent(column[0], 0)} to {percent(column[1], 0)} and ends with "
            f"{percent(column[-1], 0)}"
        )
    return f"{text} {called(tasks[0])}, the first task: {'; '.join(clauses)}."


def drift(results: Results) -> str:
    """Which quantity goes with forgetting best."""
    relation = _relation(results)
    text = (
        "One point for each stage of each chain. Across: how far the stage moved the model from where it started, on "
        "prompts of the task it trained on. Up: mean accuracy lost on all other columns. Black: quadratic fit."
    )
    return f"{text} The loss {relation}." if relation else text


def main_pair(results: Results) -> str | None:
    """Key of the pair that the title is about: ES and GRPO, or else the first two main arms."""
    main = main_arms(results)
    known = [arm for method in COMPARED for arm in main if results["arms"][arm]["method"] == method]
    chosen = known if len(known) == len(COMPARED) else main[:2]
    # The order of the arms in the run is the order of the subtraction.
    return "|".join(sorted(chosen, key=main.index)) if len(chosen) == 2 else None


def span(found: Interval) -> str:
    """ "8.1 points (5.0 to 11.2)"."""
    return f"{points(found['value'])} ({points(found['low']).split()[0]} to {points(found['high']).split()[0]})"


def _more(found: Interval, other: str) -> str:
    """ "8.1 points more than ES (5.0 to 11.2)"."""
    amount, _, interval = span(found).partition(" (")
    return f"{amount} more than {other} ({interval}"


def _reversed(found: Interval) -> Interval:
    """The same of the first minus the second."""
    return {"value": -found["value"], "low": -found["high"], "high": -found["low"]}


def _outcome(results: Results, arm: str) -> str:
    found = results["continual"]["metrics"][arm]
    learned = percent(found["learning_accuracy"]["value"])
    if found["forgetting"] is None:
        return f"{called(arm)} brings {called(results['tasks'][0])} to {learned}."
    return (
        f"{called(arm)} brings the tasks to {learned} right after their training and keeps an average accuracy of "
        f"{percent(found['average_accuracy']['value'])} at the end, forgetting {span(found['forgetting'])}."
    )


def _relation(results: Results) -> str | None:
    """What the loss on the other tasks goes with; None where no rank correlation is defined."""
    predictors = lookup(results, "continual", "drift", "step", "all") or {}
    forward = lookup(predictors, "forward", "correlation")
    if not forward or forward["value"] is None:
        return None
    value = fixed(forward["value"], 2)
    if forward["low"] is None:
        return (
            f"has a rank correlation of {value} with the forward KL on the new task (too few chains for an interval)"
        )
    interval = f"rank correlation {value}, {fixed(forward['low'], 2)} to {fixed(forward['high'], 2)}"
    if forward["low"] > 0:
        text = f"rises with the forward KL on the new task ({interval})"
    elif forward["high"] < 0:
        text = f"falls with the forward KL on the new task ({interval})"
    else:
        text = f"does not clearly go with the forward KL on the new task ({interval})"
    clauses = []
    for name, words in OTHER_PREDICTORS.items():
        found = lookup(predictors, name, "forward_minus")
        if found and found["low"] is not None:
            how = (
                "worse" if found["low"] > 0 else "better" if found["high"] < 0 else "neither clearly better nor worse"
            )
            clauses.append(f"{words} ({fixed(predictors[name]['correlation']['value'], 2)}) predicts it {how}")
    return "; ".join([text, *clauses])
