"""Memory in the score or in the likelihood beside memory in the samples."""

from matplotlib.figure import Figure

from analysis.clocks.striking import MEMORY
from analysis.criteria import RECOVERY_GAP
from analysis.report.numbers import NOT_AVAILABLE, count
from analysis.report.results import Results
from analysis.report.section import Section, Terms
from analysis.report.studies.clocks.labels import Entry, run_label
from analysis.report.studies.clocks.panels import clock_mark, key, legend, log_ticks
from analysis.report.studies.clocks.phases import PHASE_COLOURS, PHASE_LABELS
from analysis.report.style import DASHED, GREY, INK, canvas
from analysis.report.tables import Cell, Table, value


LOSS_GAP = "tau_mem_loss_gap"
CAPTION = (
    "Every mark is a run. Left: denoisers, when noisy training strings return oftener than noisy unseen ones (score "
    "clock). Right: all models, when unseen valid strings cost more than training strings (loss, for next-token "
    "models the likelihood). Below the diagonal memory shows there before it shows in samples. Open marks: not copied "
    "by the end."
)
MEANING = (
    f"First checkpoint at which training strings return from noise {RECOVERY_GAP:.0%} oftener than held-out ones, in "
    "one step of the denoiser."
)
TURN = (
    "The checkpoint at which the denoiser lies nearest to the rule's optimum, before it turns to the training set's."
)


def early_clocks(results: Results) -> dict[str, dict[str, Entry | None]]:
    """{run: {"score": tau_mem_recovery, "loss": tau_mem_loss_gap}}, None where the run has none."""
    scores = results.get("score_memory", {})
    return {
        name: {
            "score": scores[name]["tau_mem_recovery"] if name in scores else None,
            "loss": run["clocks"][LOSS_GAP],
        }
        for name, run in results["runs"].items()
    }


def figure(results: Results) -> Figure:
    """The two early clocks of every run against exact copies."""
    drawing, panels = canvas(3.1, 1, 2, sharex=True, sharey=True)
    clocks = early_clocks(results)
    ends = []
    for axes, (kind, words) in zip(panels, (("score", "score clock"), ("loss", "gap between losses")), strict=True):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(words, fontsize=10)
        for name, run in results["runs"].items():
            early, copies = clocks[name][kind], run["clocks"][MEMORY]
            if early is None or early["step"] is None:
                continue
            time = max(copies["after"], 1) if copies["step"] is None else copies["step"]
            clock_mark(axes, copies, (time, early["step"]), PHASE_COLOURS[run["first"]], ">")
            ends += [time, early["step"]]
        axes.set_xlabel("Copying begins (step)")
        axes.grid(axis="y")
    low, high = (min(ends) / 1.5, max(ends) * 1.5) if ends else (10, 1000)
    for axes in panels:
        axes.plot([low, high], [low, high], color=GREY, linewidth=1, linestyle=DASHED)
        axes.minorticks_off()
        log_ticks(axes.xaxis, low, high)
        log_ticks(axes.yaxis, low, high)
    panels[0].set_ylabel("Early clock (step)")
    entries = [key(label, PHASE_COLOURS[phase], "o") for phase, label in PHASE_LABELS.items()]
    legend(drawing, [*entries, key("not copied by the end", INK, ">", markerfacecolor="white")])
    return drawing


def table(results: Results) -> Table:
    clocks, rows = early_clocks(results), []
    for name, run in results["runs"].items():
        copies, found = run["clocks"][MEMORY]["step"], clocks[name]
        score = name in results.get("score_memory", {})
        at = ("score_memory", name)
        ahead = [Cell(times_of(copies, early and early["step"])) for early in (found["score"], found["loss"])]
        rows.append(
            [
                Cell(run_label(run) + f", seed {run['seed']}"),
                Cell(PHASE_LABELS.get(run["first"], "unknown")),
                value(results, ("runs", name, "clocks", MEMORY, "step"), count),
                value(results, (*at, "tau_mem_recovery", "step"), count) if score else Cell(NOT_AVAILABLE),
                value(results, ("runs", name, "clocks", LOSS_GAP, "step"), count),
                *ahead,
                value(results, (*at, "turn"), count) if score else Cell(NOT_AVAILABLE),
            ]
        )
    columns = ["Run", "Phase", "Copies", "Score clock", "Gap of losses", "Copies / score", "Copies / gap", "Turn"]
    return Table("Memory in score, likelihood and samples, in steps", columns, rows, "n/a: censored, or not measured.")


def times_of(late: float | None, early: float | None) -> str:
    return NOT_AVAILABLE if late is None or early is None else f"{late / early:.1f}"


def terms(results: Results) -> Terms:
    return [("tau_mem_recovery", MEANING), ("Turn", TURN)]


SECTION = Section(
    name="early-memory",
    title="Memory before copies",
    needs=[("runs",)],
    figure=figure,
    caption=lambda results: CAPTION,
    drawable=lambda results: any(
        clock and clock["step"] is not None for found in early_clocks(results).values() for clock in found.values()
    ),
    numbers=[table],
    terms=terms,
)
