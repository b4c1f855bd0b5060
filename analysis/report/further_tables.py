"""The tables of the sections that a comparison need not have. Every number is one value of `results.json`."""

from analysis.report.numbers import count, fixed, percent, points, significant
from analysis.report.results import Results, label, lookup, methods, pair_label
from analysis.report.tables import Cell, Table, four_decimals, value


VERDICTS = {"holds": "holds", "fails": "does not hold", "undecided": "undecided"}


def spectra(results: Results) -> Table:
    """Ranks and overlap with the base by kind of matrix."""
    rows = []
    for method in methods(results):
        for kind, entry in (lookup(results, "spectra", "checkpoints", method, "per_kind") or {}).items():
            at = ("spectra", "checkpoints", method, "per_kind", kind)
            if entry:
                ranks = ("stable_rank", "random_stable_rank", "effective_rank", "random_effective_rank", "above_noise")
                rows.append(
                    [Cell(label(method)), Cell(kind)]
                    + [value(results, (*at, key), significant) for key in ranks]
                    + [
                        value(results, (*at, "base_overlap", side, key), percent)
                        for side in ("left", "right")
                        for key in ("share", "null")
                    ]
                )
    columns = [
        "Method",
        "Kind of matrix",
        "Stable rank",
        "Random",
        "Effective rank",
        "Random",
        "Above noise",
        "In base's outputs",
        "Random",
        "In base's inputs",
        "Random",
    ]
    return Table("Shape of the updates, means over the matrices of a kind", columns, rows)


def subspaces(results: Results) -> Table:
    rows = []
    for pair, found in (lookup(results, "spectra", "pairs") or {}).items():
        for kind, entry in found["per_kind"].items():
            at = ("spectra", "pairs", pair, "per_kind", kind)
            if entry:
                rows.append(
                    [Cell(pair_label(pair)), Cell(kind)]
                    + [
                        value(results, (*at, side, key), four_decimals)
                        for side in ("left", "right")
                        for key in ("mean_square", "null")
                    ]
                )
    columns = ["Pair", "Kind of matrix", "Overlap, outputs", "Random", "Overlap, inputs", "Random"]
    return Table("Mean squared cosine between the top directions of two updates", columns, rows)


def trajectory(results: Results) -> Table:
    rows = []
    for i, name in enumerate(lookup(results, "trajectory", "checkpoints") or []):
        at = ("trajectory", "all")
        rows.append(
            [Cell(name)]
            + [value(results, (*at, key, str(i)), significant) for key in ("norm", "random_norm", "step_norm")]
            + [value(results, (*at, key, str(i)), fixed) for key in ("cosine_with_final", "random_cosine_with_final")]
        )
    columns = ["Checkpoint", "Distance", "Random", "Stretch", "Cosine with the whole", "Random"]
    return Table("The path of the run", columns, rows)


def part_lines(results: Results, section: str, title: str) -> Table:
    rows = []
    for pair, parts in (lookup(results, section, "lines") or {}).items():
        for part, line in parts.items():
            at, last = (section, "lines", pair, part), str(len(line["ts"]) - 1)
            rows.append(
                [
                    Cell(pair_label(pair)),
                    Cell("outside the layers" if part == "-" else part),
                    value(results, (*at, "reward", "0"), percent),
                    value(results, (*at, "reward", last), percent),
                    value(results, (*at, "reward_barrier"), points),
                    value(results, (*at, "loss", "0"), significant),
                    value(results, (*at, "loss", last), significant),
                    value(results, (*at, "loss_barrier"), significant),
                ]
            )
    columns = ["Line", "Part", "Reward at start", "At end", "Barrier", "Loss at start", "At end", "Barrier"]
    return Table(title, columns, rows)


def probes(results: Results) -> Table:
    rows = []
    for method in lookup(results, "probes", "checkpoints") or {}:
        for i, scale in enumerate(results["probes"]["scales"]):
            at = ("probes", "checkpoints", method)
            rows.append(
                [Cell(label(method)), Cell(significant(scale))]
                + [
                    value(results, (*at, of, part, quantity, str(i)), points if quantity == "reward" else significant)
                    for quantity in ("reward", "loss")
                    for part in ("odd", "even")
                    for of in ("update", "random_mean")
                ]
            )
    columns = [
        "Update",
        "Scale",
        "Odd, reward",
        "Random",
        "Even, reward",
        "Random",
        "Odd, loss",
        "Random",
        "Even, loss",
        "Random",
    ]
    return Table("Probes along the updates and along random directions", columns, rows)


def kl_matrices(results: Results) -> Table:
    rows = []
    for part in ("incremental", "cumulative"):
        for stage, tasks in (lookup(results, "kl_matrices", part) or {}).items():
            for task, entry in tasks.items():
                at = ("kl_matrices", part, stage, task)
                rows.append(
                    [Cell(label(task)), Cell(entry["direction"]), Cell(part)]
                    + [value(results, (*at, f"per_token{end}"), significant) for end in ("", "_low", "_high")]
                    + [value(results, (*at, "sequences"), count)]
                )
    columns = ["Task", "Direction", "Matrix", "Per token", "Low", "High", "Completions"]
    return Table("KL divergence between stages, in nats", columns, rows)


def theory(results: Results) -> Table:
    """What theory and the logs of each run give."""
    rows = []
    for name, run in (lookup(results, "theory") or {}).items():
        last = str(len(run["walk"]["steps"]) - 1)
        listed = [
            ("Distance from base", ("walk", "measured", last), significant),
            ("Random walk", ("walk", "predicted", last), significant),
            ("R\N{SUPERSCRIPT TWO} of squared distance against steps", ("walk", "r_squared"), four_decimals),
            ("Plateau of the anchored decay", ("walk", "plateau"), significant),
            ("Independent directions of a perturbation", ("isotropy", "effective_dimension"), count),
            *(
                (f"{title}, {half} half", ("useful", half, key), write)
                for half in ("first", "second")
                for title, key, write in (
                    ("Signal share s", "signal_share", significant),
                    ("Useful share of a step", "share", significant),
                    ("Members for one half useful", "members_for_half", significant),
                )
            ),
            ("Curvature of the limiting modes", ("modes", "curvature"), significant),
            ("Number of these modes", ("modes", "modes"), significant),
            ("Spread of the members at the end", ("modes", "fitness_std"), significant),
            ("The same, predicted (self-consistent)", ("modes", "predicted_fitness_std"), significant),
            ("Final reward, fitted", ("modes", "final_reward"), percent),
            ("Final reward, spread frozen at its first value", ("modes", "frozen_reward"), percent),
        ]
        rows += [
            [Cell(label(name)), Cell(title), value(results, ("theory", name, *at), write)]
            for title, at, write in listed
            if lookup(results, "theory", name, *at) is not None
        ]
        rows += [[Cell(label(name)), Cell(f"not given: {what}"), Cell(why)] for what, why in run["missing"].items()]
    return Table("Theory beside the runs", ["Run", "Quantity", "Value"], rows)


def claims(results: Results) -> Table:
    """The verdicts."""
    rows = []
    for i, claim in enumerate(lookup(results, "claims", "claims") or []):
        at = ("claims", "claims", str(i))
        verdict = claim["verdict"] + (f" on {', '.join(claim['depends_on'])}" if claim["depends_on"] else "")
        rows.append(
            [Cell(claim["key"]), Cell(claim["statement"]), Cell(verdict)]
            + [value(results, (*at, name), count) for name in VERDICTS]
            + [Cell(claim["quantity"]), Cell(claim["source"])]
        )
    columns = ["Claim", "Statement", "Verdict", "Holds in", "Fails in", "Undecided", "Measured as", "Source"]
    return Table("The claims", columns, rows, "Holds in, fails in, undecided: numbers of conditions.")


def claim_conditions(results: Results) -> Table:
    """Mean and interval of every claim in every condition."""
    rows = []
    factors = list(lookup(results, "claims", "factors") or {})
    for i, claim in enumerate(lookup(results, "claims", "claims") or []):
        for j, entry in enumerate(claim["conditions"]):
            at = ("claims", "claims", str(i), "conditions", str(j))
            rows.append(
                [Cell(claim["key"]), *(Cell(label(entry[factor])) for factor in factors)]
                + [value(results, (*at, key), significant) for key in ("mean", "low", "high")]
                + [value(results, (*at, "seeds"), count), Cell(VERDICTS[entry["verdict"]])]
            )
    columns = ["Claim", *(factor.capitalize() for factor in factors), "Mean", "Low", "High", "Seeds", "Verdict"]
    return Table("The claims in every condition, over seeds", columns, rows)
