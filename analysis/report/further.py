"""The sentences under the figures of the sections that a comparison need not have: spectra, paths, planes, theory."""

from statistics import fmean
from typing import Any

from analysis.criteria import LIKE_RANDOM, LOSS_BARRIER, REWARD_BARRIER, ROUGHLY, SAME_LENGTH
from analysis.report import sentences as say
from analysis.report.numbers import count, fixed, percent, points, significant, times
from analysis.report.results import Results, label, lookup, methods, pair_label


# An overlap or a rank within this factor of that of random directions is called that of random directions.
# The spread of the members that theory predicts agrees with the measured one within this factor.


def spectra(results: Results) -> str:
    """In how many matrices an update has directions that stand out of noise."""
    clauses = []
    for method, found in _spectra(results).items():
        matrices = [matrix for matrix in found["matrices"].values() if matrix["norm"] > 0]
        standing = sum(matrix["above_noise"] > 0 for matrix in matrices)
        largest = max((m["singular_values"][0] / m["random_edge"] for m in matrices), default=0.0)
        if standing:
            clauses.append(
                f"{label(method)} has directions longer than random noise of its length would have in "
                f"{count(standing)} of {count(len(matrices))} matrices, the longest {times(largest)} times as long"
            )
        else:
            clauses.append(f"in none of its {count(len(matrices))} matrices does {label(method)} stand out of noise")
    return _stop("; ".join(clauses))


def ranks(results: Results) -> str:
    """How concentrated the updates are, against random matrices."""
    clauses = []
    for method, found in _spectra(results).items():
        rows = [row for row in found["per_kind"].values() if row]
        if rows:
            share = fmean(row["effective_rank"] / row["random_effective_rank"] for row in rows)
            how = " (like noise)" if 1 / LIKE_RANDOM <= share <= LIKE_RANDOM else ""
            clauses.append(f"{percent(share, 0)} of a random matrix's{how} for {label(method)}")
    return _stop(f"averaged over kinds, the effective rank of the update is {say.join(clauses)}")


def subspaces(results: Results) -> str:
    """Whether updates share directions, and whether they lie in the base's top directions, more than by chance."""
    clauses = []
    for pair, found in (lookup(results, "spectra", "pairs") or {}).items():
        ratios = [
            row[side]["mean_square"] / row[side]["null"]
            for row in found["per_kind"].values()
            if row
            for side in ("left", "right")
        ]
        if ratios:
            clauses.append(f"the top directions of {pair_label(pair)} overlap {_against_chance(fmean(ratios))}")
    for method, found in _spectra(results).items():
        ratios = [
            row["base_overlap"][side]["share"] / row["base_overlap"][side]["null"]
            for row in found["per_kind"].values()
            if row
            for side in ("left", "right")
        ]
        if ratios:
            clauses.append(f"{label(method)} lies in the base's top directions {_against_chance(fmean(ratios))}")
    top = lookup(results, "spectra", "top")
    return _stop(f"of the {count(top)} largest directions of each matrix, averaged over kinds: {'; '.join(clauses)}")


def trajectory(results: Results) -> str:
    """Whether the path looks like independent steps or like one direction."""
    path, names = results["trajectory"]["all"], results["trajectory"]["checkpoints"]
    turns = [value for value in path["successive_cosine"] if value is not None]
    straightness = path["norm"][-1] / path["path_length"] if path["path_length"] else 0.0
    ratio = path["norm"][-1] / path["random_norm"][-1] if path["random_norm"][-1] else 0.0
    clauses = [
        f"after {len(names)} stretches the weights are {significant(path['norm'][-1])} from the base, "
        f"{percent(straightness, 0)} of the length of the way there"
    ]
    if 1 / SAME_LENGTH <= ratio <= SAME_LENGTH:
        clauses.append("which is what stretches in random directions would give")
    elif ratio > SAME_LENGTH:
        clauses.append(f"{significant(ratio, 2)} times what stretches in random directions would give")
    if turns:
        clauses.append(f"the mean cosine of one stretch with the next is {fixed(fmean(turns))}")
    return _stop("; ".join(clauses))


def layer_lines(results: Results) -> str:
    return _part_lines(results, "layer_lines", lambda part: f"layer {part}" if part != "-" else "what is no layer")


def kind_lines(results: Results) -> str:
    return _part_lines(results, "kind_lines", lambda part: part)


def _part_lines(results: Results, section: str, name: Any) -> str:
    """Which part changes the loss most when it moves alone, and the largest barrier."""
    clauses, barriers = [], []
    for pair, parts in lookup(results, section, "lines").items():
        changes = {
            part: line["loss"][-1] - line["loss"][0]
            for part, line in parts.items()
            if None not in (line["loss"][0], line["loss"][-1])
        }
        barriers += [line["reward_barrier"] for line in parts.values() if line["reward_barrier"] is not None]
        start, end = (label(end) for end in pair.split("|"))
        if changes:
            part = max(changes, key=lambda part: abs(changes[part]))
            clauses.append(
                f"from {start} to {end}, {name(part)} alone changes the loss most "
                f"(by {significant(changes[part], 2)} nats per token)"
            )
    if barriers:
        clauses.append(f"the largest gap in reward on any of these lines is {points(max(barriers))}")
    return _stop("; ".join(clauses) or "no loss was measured")


def plane(results: Results) -> str:
    """Where on the measured grid the reward is best and what a straight view from corner to corner passes."""
    found = results["plane"]
    flat = [
        (reward, x, y)
        for y, row in zip(found["ys"], found["reward"], strict=True)
        for x, reward in zip(found["xs"], row, strict=True)
    ]
    best, x, y = max(flat)
    corners = {label(name): at["reward"] for name, at in found["models"].items()}
    listed = say.join([f"{name} {percent(reward, 0)}" for name, reward in corners.items()])
    return (
        f"The corners have {listed}; the best of the {len(flat)} points of the grid, at ({significant(x)}, "
        f"{significant(y)}), has {percent(best, 0)} of {count(found['size'])} examples."
    )


def probes(results: Results) -> str:
    """What each direction gains, and what moving so far costs, beside random directions."""
    found = results["probes"]
    at = max(range(len(found["scales"])), key=found["scales"].__getitem__)
    at = found["scales"].index(1.0) if 1.0 in found["scales"] else at
    quantity = "reward" if found["start"]["loss"] is None else "loss"
    unit = "nats per token" if quantity == "loss" else "of reward"
    clauses = []
    for method, probed in found["checkpoints"].items():
        update, random = probed["update"]["even"][quantity][at], probed["random_mean"]["even"][quantity][at]
        gain = probed["update"]["odd"]["reward"][at]
        ratio = f", {times(update / random)} times" if random > 0 and update > random else ""
        clauses.append(
            f"{label(method)}'s direction gains {points(gain)} of reward and costs {significant(update, 2)} {unit} "
            f"whichever way it is gone{ratio} ({significant(random, 2)} for random directions of its length)"
        )
    return _stop(f"at {significant(found['scales'][at])} times the update, " + "; ".join(clauses))


def kl_matrices(results: Results) -> str:
    """The stage and task of the largest drift."""
    found = results["kl_matrices"]["incremental"]
    cells = {
        (stage, task): entry["per_token"]
        for stage, row in found.items()
        for task, entry in row.items()
        if entry["per_token"] is not None
    }
    if not cells:
        return "No divergence could be measured."
    stage, task = max(cells, key=cells.__getitem__)
    direction = found[stage][task]["direction"]
    return (
        f"The largest step is that of {label(stage)} on {label(task)}, {significant(cells[stage, task], 2)} nats per "
        f"token ({direction}, completions sampled from {label(found[stage][task]['sampled_from'])})."
    )


def theory_walk(results: Results) -> str:
    """How close the measured distance is to the random walk's, and where the theory does not apply."""
    clauses = []
    for name, run in results["theory"].items():
        walk, setting = run["walk"], run["setting"]
        plateau = f", towards a plateau of {significant(walk['plateau'])}" if walk["plateau"] is not None else ""
        ratio = "" if walk["ratio"] is None else f", {fixed(walk['ratio'])} times the walk's"
        clauses.append(
            f"{label(name)} ends {significant(walk['measured'][-1])} from the base{ratio} "
            f"(alpha {significant(setting['alpha'])}, T = {count(setting['updates'])}, "
            f"N = {count(setting['members'])}, d = {count(setting['parameters'])}){plateau}"
        )
        clauses += run["fails"]
    return _stop("; ".join(clauses))


def useful(results: Results) -> str:
    """How much of a step is signal."""
    clauses = []
    for name, run in results["theory"].items():
        if run["useful"]:
            first, second = run["useful"]["first"], run["useful"]["second"]
            clauses.append(
                f"in the first half of {label(name)} the gradient explains {percent(first['signal_share'], 0)} of the "
                f"spread between members and in the second {percent(second['signal_share'], 0)}, so that "
                f"{significant(first['share'], 2)} and {significant(second['share'], 2)} of a step's squared length "
                f"point along it; it would take {significant(first['members_for_half'], 2)} members for one half"
            )
            if run["fails"]:
                clauses.append("this assumes independent noise, which the run does not have")
    return _stop("; ".join(clauses))


def theory_reward(results: Results) -> str:
    """The quadratic landscape that explains the reward, and the prediction that is no part of the fit."""
    clauses = []
    for name, run in results["theory"].items():
        modes = run["modes"]
        if modes:
            ratio = modes["predicted_fitness_std"] / modes["fitness_std"]
            agreement = "close to" if 1 / ROUGHLY <= ratio <= ROUGHLY else f"{significant(ratio, 2)} times"
            clauses.append(
                f"{label(name)}'s reward settles at {percent(modes['final_reward'], 0)} as if "
                f"{significant(modes['modes'], 2)} directions of curvature {significant(modes['curvature'], 2)} were "
                f"left to learn; such a landscape alone would make the members differ by "
                f"{significant(modes['predicted_fitness_std'], 2)}, {agreement} the measured "
                f"{significant(modes['fitness_std'], 2)} at the end"
            )
    return _stop("; ".join(clauses))


def claims(results: Results) -> str:
    """How many claims hold."""
    found = results["claims"]
    by_verdict: dict[str, list[str]] = {}
    for claim in found["claims"]:
        by_verdict.setdefault(claim["verdict"], []).append(claim["key"])
    listed = "; ".join(f"{verdict}: {', '.join(keys)}" for verdict, keys in by_verdict.items())
    return f"Verdicts over {_several(found['comparisons'], 'comparison')}. {_stop(listed)}"


def claims_figure(results: Results) -> str:
    seeds = len(lookup(results, "claims", "seeds"))
    return (
        f"Each row is a claim of the table below, each column one condition with up to {_several(seeds, 'seed')}; the "
        "number is the mean over the seeds of what the claim is about."
    )


def claims_title(results: Results) -> str:
    """ "Of 17 claims 9 hold, 2 do not, 3 depend on the setting and 3 are not decided"."""
    verdicts = [claim["verdict"] for claim in results["claims"]["claims"]]
    # What one does, what several do, and how many.
    parts = [
        ("holds", "hold", sum(verdict.startswith("holds") for verdict in verdicts)),
        ("does not", "do not", sum(verdict.startswith("does not") for verdict in verdicts)),
        ("depends on the setting", "depend on the setting", verdicts.count("depends")),
        ("is not decided", "are not decided", verdicts.count("undecided")),
        ("was not measured", "were not measured", verdicts.count("not measured")),
    ]
    listed = [f"{number} {one if number == 1 else several}" for one, several, number in parts if number]
    return f"Of {len(verdicts)} claims {say.join(listed)}"


def claims_context(results: Results) -> str:
    found, model = results["claims"], lookup(results, "base_model")
    factors = "; ".join(f"{factor} {', '.join(map(label, values))}" for factor, values in found["factors"].items())
    return f"{_several(found['comparisons'], 'comparison')}{f' from {model}' if model else ''}: {factors}"


def title(results: Results) -> str | None:
    """The answer of a file that holds no comparison of methods."""
    if lookup(results, "claims"):
        return claims_title(results)
    if lookup(results, "trajectory") and not methods(results):
        return "How one run drifted"
    return None


def definitions(results: Results) -> list[tuple[str, str]]:
    """(term, meaning) of what the further sections speak of."""
    found = []
    if lookup(results, "spectra"):
        found += [
            (
                "Stable and effective rank",
                "Of the update of one matrix: its squared norm over the square of its largest singular value, and the "
                "exponential of the entropy of the squared singular values' shares. A random matrix of the same shape "
                "has nearly its whole rank. Directions stand out of noise if they are longer than the longest of a "
                "random matrix of that norm in 99 % of cases.",
            ),
            (
                "Overlap",
                "Mean squared cosine of the principal angles between the spaces of the "
                f"{count(results['spectra']['top'])} largest singular directions, and the share of an update's "
                "squared length inside the base's such space; over what random directions would have.",
            ),
        ]
    if lookup(results, "probes"):
        found.append(
            (
                "Odd and even part",
                "Along a direction, (f(+) - f(-)) / 2 and (f(+) + f(-)) / 2 - f(0): what the direction itself gains, "
                "and what moving so far costs whichever the sign.",
            )
        )
    if lookup(results, "layer_lines") or lookup(results, "kind_lines"):
        found.append(
            (
                "Lines of single parts",
                "All parameters are those of the first model, and one part alone goes to the second. A gap up to "
                f"{points(REWARD_BARRIER)} of reward or {LOSS_BARRIER:g} nats per token is called none.",
            )
        )
    if lookup(results, "theory"):
        found.append(
            (
                "Theory",
                "Random walk: the length that the noise of the logged steps gives on a reward without slope, alpha "
                "* sqrt(T * d / N) for z-scored fitness. Useful share: of a step's squared length, along the gradient "
                "of a linear reward (1 + (N - 2) s) / (d + (N - 2) s), s the share of the members' spread that the "
                "gradient explains, taken from how fast the reward rises. Modes: directions of one curvature that, "
                "each an Ornstein-Uhlenbeck process, keep a reward of 1 out of reach. All of it is for noise that is "
                "independent for every parameter.",
            )
        )
    if lookup(results, "claims"):
        claims = results["claims"]
        found.append(
            (
                "Verdict",
                "One condition is one task, budget and precision. A claim holds there if the 95 % interval "
                "(Student's, over training seeds) of its number lies in the range that the claim needs, does not "
                "hold if it lies outside, and is undecided otherwise or with fewer than "
                f"{count(claims['min_seeds'])} seeds. Over all conditions it depends on the factors of which two "
                "conditions that differ in nothing else give opposite verdicts. No correction for the number of "
                "claims. Intervals cover other training seeds, not other problems, models or sizes.",
            )
        )
    return found


def _spectra(results: Results) -> dict[str, Any]:
    found = {method: lookup(results, "spectra", "checkpoints", method) for method in methods(results)}
    return {method: entry for method, entry in found.items() if entry}


def _several(number: int, what: str) -> str:
    return f"{count(number)} {what}" + ("" if number == 1 else "s")


def _against_chance(ratio: float) -> str:
    if 1 / LIKE_RANDOM <= ratio <= LIKE_RANDOM:
        return f"as random directions do ({significant(ratio, 2)} times)"
    return f"{significant(ratio, 2)} times as much as random directions"


def _stop(words: str) -> str:
    return words[:1].upper() + words[1:] + "."
