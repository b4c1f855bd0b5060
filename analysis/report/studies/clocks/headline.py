"""The answer of a sweep in a few words, its tiles, its vocabulary and its budget."""

from collections import Counter
from collections.abc import Sequence

from analysis.clocks.striking import CLOCKS, MEMORY, RULE_NOVEL
from analysis.report.numbers import count, percent, times
from analysis.report.results import Results
from analysis.report.section import Terms, Tile
from analysis.report.studies.clocks.claims import JUDGED
from analysis.report.studies.clocks.labels import model_label, rule_label, run_label, variant_label
from analysis.report.studies.clocks.windows import by_model
from analysis.report.tables import Table, number_table


READING = (
    "Evaluations lie on a logarithmic grid of steps; the crossing is interpolated linearly in log step "
    "between the last evaluation below the threshold and the first one above. A clock that has not struck by "
    "the end is right-censored: it is never written as the last step."
)
CONTROL = (
    "A set of as many valid strings as the training set, disjoint from it, never trained on. Matches with it are "
    "chance; only copies beyond them are memory."
)
WINDOW = (
    "From tau_rule_novel to tau_mem; its width is log10 of their ratio. Open if the rule clock strikes first, "
    "vanished if not, also where the rule clock had not struck when the memory clock did."
)


def states(results: Results) -> Counter[str]:
    """How many windows are "open", "vanished" and "censored"."""
    return Counter(run["window"]["state"] for run in results["runs"].values())


def title(results: Results) -> str:
    opened, runs = states(results)["open"], len(results["runs"])
    if opened == runs:
        return f"Rule first, copies later, in all {runs} runs"
    if opened:
        return f"Rule first, copies later: {opened} of {runs} runs have a window in between"
    return f"No window between rule and copies in {runs} runs"


def headline(results: Results) -> str:
    """What each model learns soonest, and how many windows are open."""
    parts, settings = [], by_model(results)
    for model in dict.fromkeys(run["model"] for run in results["runs"].values()):
        learned = [setting for setting in settings[model] if setting["clocks"][RULE_NOVEL]["median"] is not None]
        if not learned:
            parts.append(f"{model_label(model)} learns none of its rules within its budget")
            continue
        quickest = min(learned, key=lambda setting: setting["clocks"][RULE_NOVEL]["median"])
        rule, memory = (quickest["clocks"][name]["median"] for name in (RULE_NOVEL, MEMORY))
        copying = "no copies by the end" if memory is None else f"copies begin at {count(memory)}"
        parts.append(
            f"{model_label(model)} learns {rule_label(quickest['rule'])} from N = {quickest['N']}"
            f"{variant_label(quickest)} after {count(rule)} steps, {copying}"
        )
    counts = states(results)
    windows = f"{counts['open']} open, {counts['vanished']} vanished, {counts['censored']} not decided."
    return f"{'; '.join(parts)}. Windows of the {len(results['runs'])} runs: {windows}"


def context(results: Results) -> str:
    runs = results["runs"].values()
    models = ", ".join(model_label(model) for model in dict.fromkeys(run["model"] for run in runs))
    seeds = len({run["seed"] for run in runs})
    unfinished = sum(not run["finished"] for run in runs)
    text = (
        f"Small generative models trained on strings that obey a rule: {models}; {len(runs)} runs, "
        f"{len(results['settings'])} settings, {seeds} {'seed' if seeds == 1 else 'seeds'}."
    )
    return text + (f" {unfinished} runs are not finished." if unfinished else "")


def tiles(results: Results) -> Sequence[Tile]:
    """How many windows, how wide the widest, how soon the first rule, how good the best model, how many claims."""
    runs, counts = results["runs"].values(), states(results)
    shown = [
        Tile("Windows open", f"{counts['open']} of {len(runs)}", "runs that learn the rule before they copy"),
        Tile("Windows vanished", f"{counts['vanished']} of {len(runs)}", "runs that copy before they learn the rule"),
    ]
    wide = [run for run in runs if (run["window"]["width"] or 0) > 0]
    if wide:
        widest = max(wide, key=lambda run: run["window"]["width"])
        factor = times(10 ** widest["window"]["width"])
        shown.append(Tile("Widest of known width", f"{factor} times", f"in steps: {run_label(widest)}"))
    learned = [run for run in runs if run["clocks"][RULE_NOVEL]["step"] is not None]
    if learned:
        first = min(learned, key=lambda run: run["clocks"][RULE_NOVEL]["step"])
        shown.append(
            Tile("Rule learned soonest", f"{count(first['clocks'][RULE_NOVEL]['step'])} steps", run_label(first))
        )
    best = max(runs, key=lambda run: run["yield"]["per_sample"])
    best_yield = percent(best["yield"]["per_sample"], 0)
    shown.append(Tile("Best innovation yield", best_yield, f"new, valid: {run_label(best)}"))
    verdicts = Counter(entry["verdict"] for entry in results["claims"])
    judged = sum(verdicts[verdict] for verdict in JUDGED)
    shown.append(Tile("Claims seen", f"{verdicts['seen']} of {judged}", "that the sweep can judge, by model"))
    return shown


def terms(results: Results) -> Terms:
    def sustained(evaluations: int) -> str:
        return "" if evaluations == 1 else f", and stay there for {evaluations} evaluations in a row"

    return [
        *(
            (name, f"First evaluation at which {clock.meaning}{sustained(clock.sustained)}.")
            for name, clock in CLOCKS.items()
        ),
        ("Reading a clock", READING),
        ("Control", CONTROL),
        ("Innovation window", WINDOW),
    ]


def budget(results: Results) -> Table:
    columns = [
        ("Steps", "steps", count),
        ("Seconds of training", "seconds", count),
        ("Evaluations", "evaluations", count),
        ("Samples each", "samples", count),
    ]
    rows = [((name, "yes" if run["finished"] else "no"), ("runs", name)) for name, run in results["runs"].items()]
    return number_table(results, "Budget", ["Run", "Finished"], columns, rows)
