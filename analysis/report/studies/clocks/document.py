"""What the page on the clocks says, in order."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from analysis.clocks.claims import CLAIMS
from analysis.clocks.striking import CLOCKS
from analysis.criteria import AGREEMENT, BASIN_FACTOR, INVARIANT_FACTOR, NEARLY_LINEAR
from analysis.report.document import Document, Part
from analysis.report.numbers import count, fixed, percent, significant, times
from analysis.report.results import Location, Results, lookup
from analysis.report.section import Tile
from analysis.report.studies.clocks import figures
from analysis.report.studies.clocks.figures import model_label, rule_label, variant_label
from analysis.report.style import draw
from analysis.report.tables import Cell, Table, settings, value


def compose(results: Results) -> Document:
    """The page on `results`, of `analysis.clocks.study.build`."""
    parts = [
        _part(
            "claims",
            "What the sweep shows",
            figures.claims,
            results,
            'Claims of "The two clocks and the innovation window" (arXiv 2605.10019), by model. Seen and not seen '
            "are judged by criteria fixed beforehand (see Definitions); censored: the runs ended before they "
            "could show it; a dash: no two runs differ in what the claim is about. Numbers and "
            "seeds stand in the first table.",
        ),
        _part("windows", "Both clocks on one axis", figures.windows, results, _windows_text(results)),
        _part(
            "curves",
            "How runs get there",
            figures.curves,
            results,
            "One run of each of several settings: validity of what is new (blue), share of copies (orange), matches "
            "with strings that were never shown (grey, chance). The shaded window lies between the two clocks. Where "
            "validity rises only as copies do, the model has memorised and learned no rule.",
        ),
        _part(
            "samples",
            "What the models draw",
            figures.samples,
            results,
            "A few samples at a few steps, each a small grid (lines hold whole groups). Green frames "
            "are new and valid, orange ones are copies of training strings, grey ones break the rule.",
            needed=("samples",),
        ),
        _part(
            "against-n",
            "Clocks against the size of the training set",
            figures.clocks_against_n,
            results,
            "Every dot is a run; lines join medians, dashes are fits that count unfinished clocks as censored.",
            empty=not figures.panels_against(results, "N"),
        ),
        _part(
            "against-complexity",
            "Clocks against the complexity of the rule",
            figures.clocks_against_complexity,
            results,
            "The factor is the fitted growth of the clock for each unit of complexity.",
            empty=not figures.panels_against(results, "complexity"),
        ),
        _part(
            "window-map",
            "Where the window is open",
            figures.window_map,
            results,
            "Width between the median clocks in factors of ten; a bound where one of them is censored. Below it the "
            "share of runs whose own window is open.",
        ),
        _part(
            "basins",
            "Basins of attraction",
            figures.basins,
            results,
            "Noise is added to a vertex and the model restores it: the share that returns exactly, at once (solid) or "
            "along the whole flow (dashed). Grey: what signs alone give, without any rule. The rule is learned where "
            "held-out strings return from further than that and strings with one wrong symbol return no more; the "
            "training set is memorised where its strings return from further than other valid ones.",
            needed=("score_field",),
        ),
        _part(
            "basin-radii",
            "Basins through training",
            figures.basin_radii,
            results,
            "Noise level from which half of the vertices return in one step. Blue rises to the rule's optimum, then "
            "orange leaves it behind.",
            needed=("score_field",),
        ),
        _part(
            "losses",
            "Denoising loss by noise level",
            figures.losses,
            results,
            "Learning the rule parts violating strings from valid ones at middle noise levels; memory parts training "
            "strings from held-out ones.",
            needed=("score_field",),
        ),
        _part(
            "score-clock",
            "Between the two optima",
            figures.score_clock,
            results,
            "Distance of the learned denoiser to the exact optimum of the rule and to that of the training set, as "
            "one number between \N{MINUS SIGN}1 and 1, on held-out strings. Lines: the two clocks. Copying shows here "
            "before it shows in samples.",
            needed=("score_field",),
        ),
        _part(
            "capture",
            "Where wrong strings go",
            figures.capture,
            results,
            "Strings that break the rule in one symbol, after noise of level "
            f"{significant(_capture_sigma(results), 2)} and the whole flow.",
            needed=("score_field",),
        ),
        _part(
            "position-loss",
            "Next-token models: loss by position",
            figures.position_loss,
            results,
            "The last symbol of a group follows from the others: its loss falls to 0 when the rule is learned. "
            "Training strings below the line are memorised.",
            needed=("position_loss",),
        ),
        _part(
            "attention",
            "Attention to the group",
            figures.attention,
            results,
            "Attention mass of each head on the other positions of the same group, relative to attention spread "
            "evenly (1). Lines: the two clocks.",
            empty=not figures.attending(results),
        ),
        _part(
            "ablation",
            "What a head or an MLP does",
            figures.ablation,
            results,
            "Each mark is one head or MLP layer set to 0 at the last checkpoint: what samples lose in validity and in "
            "copies. Parts far to the left carry the rule, parts far down carry memory.",
            needed=("mechanism",),
        ),
        _part(
            "relation",
            "Relations between two objects",
            figures.relation,
            results,
            "The model is given a relation (left of, right of, above, below) and draws two objects on a grid. Bars: "
            "without each part, how often the objects are right, and how often they then stand as asked. A part whose "
            "loss costs the relation but not the objects reads the relation.",
            empty=not figures.relating(results),
        ),
    ]
    return Document(
        title=_title(results),
        headline=_headline(results),
        context=_context(results),
        tiles=_tiles(results),
        missing=[],
        parts=[part for part in parts if part is not None],
        numbers=[table for table in _tables(results) if table.rows],
        budget=_budget(results),
        definitions=_definitions(),
        environment=settings(results, "environment", "Environment"),
        config=settings(results, "config", "Configuration"),
        command=lookup(results, "command"),
    )


def _part(
    name: str,
    title: str,
    painter: Callable[[Results], Figure],
    results: Results,
    sentence: str,
    needed: Location = (),
    empty: bool = False,
) -> Part | None:
    """None where the sweep holds nothing for this figure: it is then no part of this report."""
    if empty or (needed and not lookup(results, *needed)):
        return None
    return Part(name, title, draw(name, lambda: painter(results)), sentence, [])


def _counts(results: Results) -> dict[str, int]:
    states = [run["window"]["state"] for run in results["runs"].values()]
    return {state: states.count(state) for state in ("open", "vanished", "censored")}


def _title(results: Results) -> str:
    counts, runs = _counts(results), len(results["runs"])
    if counts["open"] == runs:
        return f"Rule first, copies later, in all {runs} runs"
    if counts["open"]:
        return f"Rule first, copies later: {counts['open']} of {runs} runs have a window in between"
    return f"No window between rule and copies in {runs} runs"


def _headline(results: Results) -> str:
    counts = _counts(results)
    parts = []
    for model in dict.fromkeys(run["model"] for run in results["runs"].values()):
        of_model = [setting for setting in results["settings"] if setting["model"] == model]
        known = [s for s in of_model if s["clocks"]["tau_rule_novel"]["median"] is not None]
        if not known:
            parts.append(f"{model_label(model)} learns none of its rules within its budget")
            continue
        quickest = min(known, key=lambda s: s["clocks"]["tau_rule_novel"]["median"])
        rule = quickest["clocks"]["tau_rule_novel"]["median"]
        memory = quickest["clocks"]["tau_mem"]["median"]
        copying = f"copies begin at {count(memory)}" if memory is not None else "no copies by the end"
        parts.append(
            f"{model_label(model)} learns {rule_label(quickest['rule'])} from N = {quickest['N']}"
            f"{variant_label(quickest)} after {count(rule)} steps, {copying}"
        )
    states = f"{counts['open']} open, {counts['vanished']} vanished, {counts['censored']} not decided."
    return f"{'; '.join(parts)}. Windows of the {len(results['runs'])} runs: {states}"


def _context(results: Results) -> str:
    runs = results["runs"].values()
    models = ", ".join(model_label(model) for model in dict.fromkeys(run["model"] for run in runs))
    seeds = len({run["seed"] for run in runs})
    many = "seed" if seeds == 1 else "seeds"
    unfinished = sum(not run["finished"] for run in runs)
    text = (
        f"Small generative models trained on strings that obey a rule: {models}; {len(runs)} runs, "
        f"{len(results['settings'])} settings, {seeds} {many}."
    )
    return text + (f" {unfinished} runs are not finished." if unfinished else "")


def _windows_text(results: Results) -> str:
    return (
        "Rows are settings, dots are seeds, strokes their medians. The rule counts as learned when 90 % of the "
        "samples that are no copies obey it, at two evaluations in a row; copying begins when copies exceed matches "
        "with a control set by 10 % of the samples. The bar between is the innovation window. Arrows stand "
        "where a run ended before its clock struck."
    )


def _capture_sigma(results: Results) -> float | None:
    return next((field["capture_sigma"] for field in (lookup(results, "score_field") or {}).values()), None)


def _tiles(results: Results) -> list[Tile]:
    """How many windows, how wide the widest, how soon the first rule, how good the best model, how many claims."""
    runs, counts = results["runs"], _counts(results)
    tiles = [
        Tile("Windows open", f"{counts['open']} of {len(runs)}", "runs that learn the rule before they copy"),
        Tile("Windows vanished", f"{counts['vanished']} of {len(runs)}", "runs that copy before they learn the rule"),
    ]
    widths = {name: run["window"]["width"] for name, run in runs.items() if run["window"]["width"] is not None}
    if widths and max(widths.values()) > 0:
        widest = max(widths, key=widths.get)
        tiles.append(
            Tile("Widest of known width", f"{times(10 ** widths[widest])} times", f"in steps: {_words(runs[widest])}")
        )
    struck = {name: run["clocks"]["tau_rule_novel"]["step"] for name, run in runs.items()}
    struck = {name: step for name, step in struck.items() if step is not None}
    if struck:
        first = min(struck, key=struck.get)
        tiles.append(Tile("Rule learned soonest", f"{count(struck[first])} steps", _words(runs[first])))
    best = max(runs, key=lambda name: runs[name]["yield"]["per_sample"])
    tiles.append(
        Tile(
            "Best innovation yield", percent(runs[best]["yield"]["per_sample"], 0), f"new, valid: {_words(runs[best])}"
        )
    )
    verdicts = [entry["verdict"] for entry in results["claims"]]
    judged = len([verdict for verdict in verdicts if verdict in ("seen", "not seen")])
    tiles.append(Tile("Claims seen", f"{verdicts.count('seen')} of {judged}", "that the sweep can judge, by model"))
    return tiles


def _words(run: dict[str, Any]) -> str:
    return f"{model_label(run['model'])}, {rule_label(run['rule'])}, N={run['N']}{variant_label(run)}"


def _tables(results: Results) -> list[Table]:
    return [_claims(results), _settings_table(results), _fits(results), _sensitivity(results), _runs(results)]


def _claims(results: Results) -> Table:
    rows = [
        [
            Cell(entry["claim"]),
            Cell("all" if entry["model"] == "all" else model_label(entry["model"])),
            Cell(entry["verdict"]),
            Cell(", ".join(map(str, entry["seeds"])) or "none"),
            value(results, ("claims", str(i), "runs"), count),
            Cell(entry["evidence"]),
        ]
        for i, entry in enumerate(results["claims"])
    ]
    note = " ".join(f"{claim}: {meaning}." for claim, meaning in CLAIMS.items())
    columns = ["Claim", "Model", "Verdict", "Seeds", "Runs", "Evidence"]
    return Table("Claims C1 to C7 (arXiv 2605.10019)", columns, rows, note)


def _settings_table(results: Results) -> Table:
    rows = []
    for i, setting in enumerate(results["settings"]):
        at = ("settings", str(i))
        rows.append(
            [
                Cell(model_label(setting["model"])),
                Cell(rule_label(setting["rule"]) + variant_label(setting)),
                value(results, (*at, "N"), count),
                value(results, (*at, "parameters"), count),
                *(
                    value(results, (*at, "clocks", name, end), count)
                    for name in ("tau_rule", "tau_rule_novel", "tau_mem")
                    for end in ("median", "low", "high")
                ),
                value(results, (*at, "share_open"), lambda share: percent(share, 0)),
                value(results, (*at, "width_median"), lambda width: fixed(width, 2)),
                value(results, (*at, "yield_median"), percent),
            ]
        )
    columns = [
        "Model",
        "Rule",
        "N",
        "Parameters",
        "tau_rule",
        "Low",
        "High",
        "tau_rule_novel",
        "Low",
        "High",
        "tau_mem",
        "Low",
        "High",
        "Open",
        "Width",
        "Yield",
    ]
    note = (
        "Steps; n/a: censored. Medians after Kaplan and Meier; intervals by bootstrap over seeds and samples. Width: "
        "median over the seeds whose clocks both struck. Yield: new, valid and distinct samples at the best "
        "evaluation, median over seeds."
    )
    return Table("Clocks by setting", columns, rows, note)


def _fits(results: Results) -> Table:
    rows = []
    for i, fit in enumerate(results["fits"]):
        for quantity in fit["slopes"]:
            at = ("fits", str(i), "slopes", quantity)
            rows.append(
                [
                    Cell(model_label(fit["model"])),
                    Cell(fit["clock"]),
                    Cell(quantity),
                    Cell("the others in the fit" if fit["against"] == "all" else fit["fixed"]),
                    *(
                        value(results, (*at, key), lambda slope: fixed(slope, 2))
                        for key in ("slope", "low", "high", "bootstrap_low", "bootstrap_high")
                    ),
                    value(results, ("fits", str(i), "observed"), count),
                    value(results, ("fits", str(i), "censored"), count),
                    value(results, ("fits", str(i), "seeds"), count),
                ]
            )
    columns = [
        "Model",
        "Clock",
        "Against",
        "Fixed",
        "Slope",
        "Low",
        "High",
        "Bootstrap low",
        "Bootstrap high",
        "Observed",
        "Censored",
        "Seeds",
    ]
    note = (
        "Slopes of log10 tau by maximum likelihood with normal residuals, where censored runs count as later than "
        "their end (Tobit). Low to high: Wald, from the likelihood; too narrow with few runs. n/a: not determined."
    )
    return Table("Fits", columns, rows, note)


def _sensitivity(results: Results) -> Table:
    """What each clock says, because definitions that all make sense lie a factor of ten apart."""
    rows = [
        [
            Cell(name),
            *(value(results, ("runs", name, "clocks", clock, "step"), count) for clock in CLOCKS),
            value(results, ("runs", name, "loss_minimum"), count),
        ]
        for name in results["runs"]
    ]
    return Table("Every clock of every run, in steps", ["Run", *CLOCKS, "Least held-out loss"], rows)


def _runs(results: Results) -> Table:
    rows = []
    for name, run in results["runs"].items():
        at = ("runs", name)
        rows.append(
            [
                Cell(name),
                Cell(run["window"]["state"]),
                value(results, (*at, "window", "width"), lambda width: fixed(width, 2)),
                value(results, (*at, "window", "at_least"), lambda width: fixed(width, 2)),
                value(results, (*at, "window", "at_most"), lambda width: fixed(width, 2)),
                *(
                    value(results, (*at, "intervals", clock, end), count)
                    for clock in ("tau_rule_novel", "tau_mem")
                    for end in ("0", "1")
                ),
                value(results, (*at, "yield", "per_sample"), percent),
                value(results, (*at, "samples"), count),
            ]
        )
    columns = [
        "Run",
        "Window",
        "Width",
        "At least",
        "At most",
        "tau_rule_novel low",
        "High",
        "tau_mem low",
        "High",
        "Yield",
        "Samples",
    ]
    return Table(
        "Windows of every run", columns, rows, "Intervals by bootstrap over the samples drawn; n/a: censored."
    )


def _budget(results: Results) -> Table:
    rows = [
        [
            Cell(name),
            Cell("yes" if run["finished"] else "no"),
            *(value(results, ("runs", name, key), count) for key in ("steps", "seconds", "evaluations", "samples")),
        ]
        for name, run in results["runs"].items()
    ]
    columns = ["Run", "Finished", "Steps", "Seconds of training", "Evaluations", "Samples each"]
    return Table("Budget", columns, rows)


def _definitions() -> Sequence[tuple[str, str]]:
    return [
        *(
            (name, f"First evaluation at which {clock.meaning}{_sustained(clock.sustained)}.")
            for name, clock in CLOCKS.items()
        ),
        (
            "Reading a clock",
            "Evaluations lie on a logarithmic grid of steps; the crossing is interpolated linearly in log step "
            "between the last evaluation below the threshold and the first one above. A clock that has not struck by "
            "the end is right-censored: it is never written as the last step.",
        ),
        (
            "Control",
            "A set of as many valid strings as the training set, disjoint from it, never trained on. Matches with it "
            "are chance; only copies beyond them are memory.",
        ),
        (
            "Innovation window",
            "From tau_rule_novel to tau_mem; its width is log10 of their ratio. Open if the rule clock strikes first, "
            "vanished if not, also where the rule clock had not struck when the memory clock did.",
        ),
        (
            "Verdicts",
            f"Order (C1, C2, C5a, C5b): seen if at least {percent(AGREEMENT, 0)} of the pairs of runs that differ in "
            "one quantity, and whose order is certain in spite of censoring, have it. C3: the median memory clocks of "
            f"the rules lie within a factor of {INVARIANT_FACTOR:g}. C4: slope from {NEARLY_LINEAR[0]:g} to "
            f"{NEARLY_LINEAR[1]:g}. C5c: some run's window has vanished. C6: every model has a run with an open "
            "window and both clocks. C7: just after tau_rule held-out basins are wider than the no-rule optimum's, "
            "and violating ones narrower; at the end, after tau_mem, training basins are wider than held-out ones; "
            f"each by a factor of {BASIN_FACTOR:g}. Not seen: it shows something else. Censored: the runs ended "
            "before they could show it. Thresholds are this lab's.",
        ),
        (
            "Complexity",
            "The smallest number of positions whose joint distribution over the valid strings is not uniform: the "
            "group size for parity.",
        ),
    ]


def _sustained(evaluations: int) -> str:
    return "" if evaluations == 1 else f", and stay there for {evaluations} evaluations in a row"
