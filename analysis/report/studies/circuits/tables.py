"""The tables of a study of circuits. Every number in them is one value of `results.json`, and says which."""

from analysis.report.numbers import count, fixed, percent, significant
from analysis.report.results import Results, label, lookup
from analysis.report.studies.circuits.figures import direction_label, pair_name, row_label, task_label
from analysis.report.tables import Cell, Table, value


# In the order of the published tables, then the controls and the baselines that these lack.
ROWS = (
    "gold",
    "in_distribution",
    "near",
    "zero_shot",
    "best",
    "random_w",
    "scrambled_s",
    "permuted_w",
    "depth_mean",
    "random_ranking",
    "mask_learning",
    "equal_compute",
    "mean_of_masks",
    "nearest_mask",
    "mean_of_gold",
    "nearest_gold",
)


SMALLEST = "Smallest, f \N{GREATER-THAN OR EQUAL TO} 0.8"


def models(results: Results) -> Table:
    """What was looked at."""
    rows = [
        [
            Cell(model),
            value(results, ("circuits", model, "parameters"), count),
            value(results, ("circuits", model, "layers"), count),
            value(results, ("circuits", model, "heads"), count),
            Cell(", ".join(task_label(task) for task in lookup(results, "circuits", model, "tasks") or {})),
        ]
        for model in lookup(results, "models") or []
    ]
    left_out = [reason for tasks in (lookup(results, "left_out") or {}).values() for reason in tasks.values()]
    note = f"Left out: {'; '.join(left_out)}." if left_out else "No task was left out."
    return Table("Models", ["Model", "Parameters", "Layers", "Heads", "Tasks"], rows, note)


def accuracies(results: Results) -> Table:
    """How often each model prefers the right answer."""
    rows = []
    for model, tasks in (lookup(results, "accuracy") or {}).items():
        for task in tasks:
            at = ("accuracy", model, task)
            rows.append(
                [
                    Cell(label(model)),
                    Cell(task_label(task)),
                    *(value(results, (*at, key), percent) for key in ("accuracy", "low", "high", "solved", "fitting")),
                    *(value(results, (*at, key), significant) for key in ("clean", "corrupted")),
                    value(results, (*at, "total"), count),
                ]
            )
    columns = ["Model", "Task", "Accuracy", "Low", "High", "Solved", "Fitting", "Clean", "Corrupted", "Examples"]
    note = (
        "Clean, corrupted: mean logit difference after either prompt. Fitting: drawn examples whose tokens keep their "
        "positions with this tokenizer; the others are not counted."
    )
    return Table("Right answer before the wrong one, on test examples", columns, rows, note)


def faithfulness(results: Results) -> Table:
    """Areas under the curves."""
    rows = []
    for model, found in (lookup(results, "circuits") or {}).items():
        for task in found["tasks"]:
            at = ("circuits", model, "tasks", task)
            rows.append(
                [
                    Cell(model),
                    Cell(task_label(task)),
                    *(
                        value(results, (*at, "faithfulness", key), fixed)
                        for key in ("cpr", "cpr_low", "cpr_high", "log_cpr", "cmd")
                    ),
                    value(results, (*at, "faithfulness", "smallest"), count),
                    value(results, (*at, "profile", "attention"), percent),
                    value(results, (*at, "profile", "depth"), fixed),
                    value(results, (*at, "completeness", "error"), significant),
                ]
            )
    columns = [
        "Model",
        "Task",
        "CPR",
        "Low",
        "High",
        "CPR on ln k",
        "CMD",
        SMALLEST,
        "Heads' share",
        "Depth",
        "IG error",
    ]
    return Table("Circuits by direct attribution", columns, rows)


def transfer(results: Results, pair: str, preset: str) -> Table:
    """CPR of every ranking on every task, as in the published tables, with what these lack."""
    at = ("transfer", pair, "presets", preset)
    tasks, policy = list(lookup(results, *at, "tasks") or {}), lookup(results, *at, "input_policy")
    rows = [
        [Cell(row_label(row))]
        + [value(results, (*at, "tasks", task, "rows", row, policy, "cpr", "mean"), fixed_two) for task in tasks]
        + [value(results, (*at, "averages", row, policy, "cpr"), fixed_two)]
        for row in ROWS
        if lookup(results, *at, "averages", row)
    ]
    return Table(
        f"{pair.replace('>', ' to ')}, {preset}: CPR, input {'ranked' if policy == 'ranked' else 'always kept'}",
        ["Ranking", *map(task_label, tasks), "Mean"],
        rows,
    )


def transfer_summary(results: Results, pair: str, preset: str) -> Table:
    """Floor-corrected recovery, both treatments of `input`, and compute, mean over tasks."""
    at = ("transfer", pair, "presets", preset)
    tasks = list(lookup(results, *at, "tasks") or {})
    rows = [
        [
            Cell(row_label(row)),
            value(results, (*at, "averages", row, "always", "cpr"), fixed),
            value(results, (*at, "averages", row, "always", "recovery_mean"), percent),
            value(results, (*at, "averages", row, "ranked", "cpr"), fixed),
            value(results, (*at, "averages", row, "ranked", "recovery_mean"), percent),
            value(results, (*at, "tasks", tasks[0], "rows", row, "compute_ratio"), significant),
        ]
        for row in ROWS
        if lookup(results, *at, "averages", row)
    ]
    columns = ["Ranking", "CPR, input kept", "Recovery", "CPR, input ranked", "Recovery", "Compute"]
    first = task_label(tasks[0]) if tasks else ""
    note = (
        "Recovery: (CPR - floor) / (direct attribution - floor), mean over the tasks where direct attribution is at "
        f"least 0.02 above the floor. Compute: forward passes of the large model for {first}, as a multiple of direct "
        "attribution's; a backward pass counts as two."
    )
    return Table(f"{pair.replace('>', ' to ')}, {preset}: recovery and compute", columns, rows, note)


def overlaps(results: Results) -> Table:
    """Likeness of circuits beside its null."""
    rows = []
    for task, result in (lookup(results, "change", "tasks") or {}).items():
        for pair, levels in result["overlap"].items():
            for level in levels:
                at = ("change", "tasks", task, "overlap", pair, level)
                rows.append(
                    [
                        Cell(task_label(task)),
                        Cell(f"{pair_name(pair)}, {level}"),
                        value(results, (*at, "jaccard", "value"), fixed_two),
                        value(results, (*at, "jaccard", "null"), fixed_two),
                        value(results, (*at, "spearman", "value"), fixed),
                        value(results, (*at, "spearman", "null"), fixed),
                        *(value(results, (*at, "spearman", key), fixed) for key in ("difference", "low", "high")),
                        value(results, (*at, "weighted", "value"), fixed),
                        value(results, (*at, "weighted", "null"), fixed),
                    ]
                )
    columns = [
        "Task",
        "Pair",
        "Jaccard",
        "null",
        "Rank corr.",
        "null",
        "minus null",
        "Low",
        "High",
        "Weighted",
        "null",
    ]
    return Table("Likeness of circuits, and of one circuit to itself on redrawn examples (null)", columns, rows)


def cross_faithfulness(results: Results) -> Table:
    """The matrix with its intervals."""
    rows = []
    for task, result in (lookup(results, "change", "tasks") or {}).items():
        for one, others in result["cross_faithfulness"].items():
            for other in others:
                at = ("change", "tasks", task, "cross_faithfulness", one, other)
                rows.append(
                    [
                        Cell(task_label(task)),
                        Cell(f"{label(one)} in {label(other)}"),
                        *(value(results, (*at, key), fixed) for key in ("cpr", "cpr_low", "cpr_high")),
                        value(results, (*at, "smallest"), count),
                    ]
                )
    columns = ["Task", "Circuit of, run in", "CPR", "Low", "High", SMALLEST]
    return Table("Circuits of one model in another", columns, rows)


def transplants(results: Results) -> Table:
    """What the donor's activations do in the receiver."""
    rows = []
    for task, result in (lookup(results, "change", "tasks") or {}).items():
        for direction, entry in result["transplant"].items():
            at = ("change", "tasks", task, "transplant", direction)
            donor, receiver = direction.split(">")
            best = max(range(1, len(entry["nodes"])), key=lambda i: entry["nodes"][i])
            rows.append(
                [
                    Cell(task_label(task)),
                    Cell(f"{label(donor)} into {label(receiver)}"),
                    value(results, (*at, "receiver"), significant),
                    value(results, (*at, "donor"), significant),
                    value(results, (*at, "circuits", "3"), significant),
                    Cell(result["nodes"][best]),
                    value(results, (*at, "nodes", str(best)), significant),
                ]
            )
    columns = ["Task", "Transplant", "Receiver", "Donor", "20 % of nodes", "Best node", "with it"]
    return Table("Logit difference after a transplant of activations", columns, rows)


def migrations(results: Results) -> Table:
    """W = I + delta."""
    rows = []
    for direction, entry in (lookup(results, "change", "migration") or {}).items():
        for task in entry["tasks"]:
            at = ("change", "migration", direction)
            rows.append(
                [
                    Cell(direction_label(direction)),
                    Cell(task_label(task)),
                    value(results, (*at, "delta"), significant),
                    *(
                        value(results, (*at, "tasks", task, key), fixed)
                        for key in ("identity", "mapped", "gain", "low", "high")
                    ),
                ]
            )
    columns = ["Direction", "Task", "|delta|", "CPR, identity", "CPR, I + delta", "Gain", "Low", "High"]
    return Table("Alignment of circuits before and after", columns, rows)


def intensities(results: Results) -> Table:
    """Activity of the models."""
    rows = [
        [Cell(label(model))]
        + [
            value(results, ("change", "intensity", model, f"{key}{end}"), significant)
            for key in ("intensity", "entropy", "kurtosis")
            for end in ("", "_low", "_high")
        ]
        + [value(results, ("change", "intensity", model, "answers"), count)]
        for model in lookup(results, "change", "intensity") or {}
    ]
    columns = ["Model", "Intensity", "Low", "High", "Entropy", "Low", "High", "Kurtosis", "Low", "High", "Answers"]
    return Table("Activity while writing an answer", columns, rows)


def lora(results: Results) -> Table:
    """Layers for LoRA."""
    rows = [
        [
            Cell(label(name)),
            Cell(", ".join(map(str, entry["critical"]))),
            Cell(entry["critical_file"]),
            Cell(", ".join(map(str, entry["random"]))),
            Cell(entry["random_file"]),
        ]
        for name, entry in (lookup(results, "change", "lora") or {}).items()
    ]
    note = "The files are options of recipes/grpo.py: --lora_rank 4 --lora_patterns FILE."
    columns = ["Model", "Critical layers", "lora_patterns", "Random layers", "lora_patterns"]
    return Table("LoRA ranks from the change of edges", columns, rows, note)


def fixed_two(number: float | None) -> str:
    return fixed(number, 2)
