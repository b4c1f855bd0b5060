"""The head of the page on a sequential run: the answer in a few words, in a few sentences and in a few numbers."""

from analysis.report.numbers import count, fixed, percent, points
from analysis.report.results import Results, lookup
from analysis.report.section import Tile
from analysis.report.studies.sequential.arms import arms, called, main_arms
from analysis.report.studies.sequential.drift import loss_relation
from analysis.report.studies.sequential.intervals import more_than, span, turned


# The pair that the title is about, if both methods were run.
COMPARED = ("es", "grpo")
TERMS = {
    "Arm, chain, stage": "Arm: a method with its options; the first arm of a method is its main one, the others its "
    "controls. Chain: one seed of an arm, trained on all tasks in order. Stage: one of these trainings.",
    "Intervals": "Bootstrap at 95 %: seeds and test items drawn with replacement, the same items for all arms, the "
    "seeds of each arm on their own (percentile; Efron and Tibshirani 1993, chapter 13). With one seed they cover the "
    "choice of items alone; with few seeds they are somewhat too narrow. A difference is clear where its interval "
    "leaves out 0.",
    "Budget": "Completions, tokens or seconds were made equal, as the configuration says; all are given, because "
    "equal in one is not equal in the others.",
}


def title(results: Results) -> str:
    """Which method forgets more, by how much, or that no difference is seen."""
    pair = main_pair(results)
    if pair in (lookup(results, "continual", "pairs") or {}):
        forgetting = lookup(results, "continual", "pairs", pair, "metrics", "forgetting")
        one, other = (called(arm) for arm in pair.split("|"))
        if forgetting is None:
            return f"{one} and {other} after one task: nothing that was trained can be forgotten yet"
        if forgetting["low"] <= 0 <= forgetting["high"]:
            return f"No difference in forgetting is seen between {one} and {other}: {span(turned(forgetting))}"
        if forgetting["high"] < 0:
            return f"{one} forgets {more_than(turned(forgetting), other)}"
        return f"{other} forgets {more_than(forgetting, one)}"
    for arm in main_arms(results)[:1]:
        forgetting = lookup(results, "continual", "metrics", arm, "forgetting")
        if forgetting:
            return f"{called(arm)} forgets {span(forgetting)}"
        if len(lookup(results, "tasks") or []) == 1:
            return f"{called(arm)} after one task"
    return "Tasks in sequence"


def main_pair(results: Results) -> str | None:
    """Key of the pair that the title is about: ES and GRPO, or else the first two main arms."""
    main = main_arms(results)
    known = [arm for method in COMPARED for arm in main if results["arms"][arm]["method"] == method]
    chosen = known if len(known) == len(COMPARED) else main[:2]
    # The order of the arms in the run is the order of the subtraction.
    return "|".join(sorted(chosen, key=main.index)) if len(chosen) == 2 else None


def headline(results: Results) -> str:
    """What the main arms learned, kept and forgot, and what forgetting goes with."""
    measured = lookup(results, "continual", "metrics") or {}
    said = [_outcome(results, arm) for arm in main_arms(results) if arm in measured]
    relation = loss_relation(results)
    if relation:
        said.append(f"Over all stages, the loss on the other tasks {relation}.")
    if said and min(len(seeds) for seeds in results["continual"]["seeds"].values()) == 1:
        said.append("Where an arm has one seed, its intervals cover the choice of test items only.")
    return " ".join(said)


def _outcome(results: Results, arm: str) -> str:
    metrics = results["continual"]["metrics"][arm]
    learned = percent(metrics["learning_accuracy"]["value"])
    if metrics["forgetting"] is None:
        return f"{called(arm)} brings {called(results['tasks'][0])} to {learned}."
    return (
        f"{called(arm)} brings the tasks to {learned} right after their training and keeps an average accuracy of "
        f"{percent(metrics['average_accuracy']['value'])} at the end, forgetting {span(metrics['forgetting'])}."
    )


def context(results: Results) -> str:
    """Tasks, arms, seeds, budget."""
    tasks = [called(task) for task in lookup(results, "tasks") or []]
    seeds = {len(chains) for chains in (lookup(results, "continual", "seeds") or {}).values()}
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
    main, shown = main_arms(results), []
    names = " / ".join(map(called, main))
    for metric, words, write, unit in (
        ("average_accuracy", "Average accuracy", percent, "%"),
        ("forgetting", "Forgetting", points, "points"),
    ):
        values = [lookup(results, "continual", "metrics", arm, metric, "value") for arm in main]
        if main and None not in values:
            text = " / ".join(write(value).removesuffix(f" {unit}") for value in values)
            shown.append(Tile(f"{words}, {unit}", text, f"{names}, after the last task"))
    correlation = lookup(results, "continual", "drift", "step", "all", "forward", "correlation", "value")
    if correlation is not None:
        shown.append(Tile("Rank correlation", fixed(correlation, 2), "forward KL and loss on the other tasks"))
    return shown
