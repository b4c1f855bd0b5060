"""The head of the page on a study of circuits: the answer in a few words, in sentences and in a few numbers."""

from analysis.report.numbers import fixed
from analysis.report.results import Results, label, lookup
from analysis.report.section import Tile
from analysis.report.sentences import join
from analysis.report.studies.circuits import overlap, transfer
from analysis.report.studies.circuits.labels import capital, models_of_change, task_label


TERMS = {
    "Clean, corrupted, logit difference": "Prompts come in pairs; the corrupted one differs in what the answer hangs "
    "on, token by token in the same places. Logit difference: of the right and of the competing answer, at the last "
    "token. Answers of several tokens are told apart by the first token that differs; what comes before it belongs to "
    "the prompt.",
    "Solved": "The right answer stands before the wrong one after the clean prompt, and less so after the corrupted "
    "one. Circuits are found and judged on solved examples only; of several models, on what all of them solve.",
    "Node": "An attention head or an MLP. The embeddings, `input`, are in every circuit unless ranked is said.",
}


def title(results: Results) -> str:
    """The first answer in a few words."""
    clauses = []
    verdicts = [transfer.ahead(results, pair) for pair in lookup(results, "transfer") or {}]
    known = [verdict for verdict in verdicts if verdict is not None]
    if known:
        where = "" if all(known) or not any(known) else " everywhere"
        clauses.append(f"DFA {'beats' if all(known) else 'does not beat'} simple transfer{where}")
    changes = overlap.changed(results)
    if changes:
        names = [label(name) for name, change in changes.items() if change]
        clauses.append(f"{join(names)} changed the circuits" if names else "no circuit changed beyond chance")
    return capital(", ".join(clauses)) if clauses else "Circuits of language models"


def headline(results: Results) -> str:
    """Transfer against its baselines, then change against its null."""
    clauses = [transfer.outcome(results, pair) for pair in lookup(results, "transfer") or {}]
    said = " ".join(f"{capital(clause)}." for clause in (*clauses, overlap.outcome(results)) if clause)
    return said or f"Circuits of {join(lookup(results, 'models') or [])} by direct attribution."


def context(results: Results) -> str:
    """Models and tasks."""
    tasks = [task_label(task) for task in lookup(results, "tasks") or []]
    return f"{len(lookup(results, 'models') or [])} models, {len(tasks)} tasks: {', '.join(tasks)}"


def tiles(results: Results) -> list[Tile]:
    """The numbers of the headline."""
    shown = []
    for pair in lookup(results, "transfer") or {}:
        rows = transfer.mean_cpr(results, pair, "corrected")
        if rows:
            text = " / ".join(fixed(rows[row], 2) for row in ("zero_shot", "depth_mean", "gold"))
            shown.append(Tile("CPR", text, f"{transfer.to(pair)}: zero-shot DFA / same depth / direct"))
    for name, likeness in overlap.mean_likeness(results).items():
        text = f"{likeness['value']} / {likeness['null']}"
        shown.append(Tile("Rank correlation of scores", text, f"base and {label(name)} / null, mean over tasks"))
    activity = lookup(results, "change", "intensity") or {}
    for name in activity:
        base = models_of_change(results)[0]
        if name != base:
            ratio = activity[name]["intensity"] / activity[base]["intensity"]
            shown.append(Tile("Activation intensity", f"{ratio:.2f} times", f"{label(name)}, of {label(base)}"))
    return shown
