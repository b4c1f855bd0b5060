"""How long the completions of each step were, the loss, and the gap between what generates and what learns."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.report.numbers import fixed, significant
from analysis.report.results import Results, lookup, methods
from analysis.report.section import Section
from analysis.report.studies.comparison.learning import numbers
from analysis.report.style import canvas, colour, label_ends


def sections(results: Results) -> list[Section]:
    [method] = methods(results)
    return [
        Section(
            name="lengths",
            title="Lengths",
            needs=[("training", method, "lengths")],
            figure=lengths_figure,
            caption=lengths_caption,
            on_demand=True,
        ),
        Section(
            name="loss",
            title="Loss",
            needs=[("training", method, "loss")],
            figure=loss_figure,
            caption=loss_caption,
            on_demand=True,
        ),
        Section(
            name="log_prob_gap",
            title="Gap of log-probabilities",
            needs=[("training", method, "log_prob_gap")],
            figure=gap_figure,
            caption=gap_caption,
            on_demand=True,
            terms=gap_terms,
        ),
    ]


def curves(results: Results, section: str, lines: dict[str, str], height: float) -> Figure:
    """Numbers of each step. lines: {key in the section: what stands at the end of its line}."""
    [method] = methods(results)
    measured = lookup(results, "training", method, section)
    drawing, axes = canvas(height)
    steps, ends = numbers(measured["step"]), []
    for key, name in lines.items():
        if key not in measured:
            continue
        values, shade = numbers(measured[key]), colour(method, [method])
        axes.plot(steps, values, color=shade, linewidth=1.6, linestyle="-" if key == next(iter(lines)) else ":")
        ends.append((name, steps[-1], values[-1], shade))
    axes.set_xlabel("Step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y")
    label_ends(axes, ends, 0.09)
    return drawing


def lengths_figure(results: Results) -> Figure:
    """Tokens of the completions of each training step: their mean, and the longest."""
    drawing = curves(results, "lengths", {"mean": "mean", "longest": "longest"}, 3.0)
    drawing.axes[0].set_ylabel("Tokens of a completion")
    drawing.axes[0].set_title("Length of the completions of each step")
    return drawing


def loss_figure(results: Results) -> Figure:
    """The training loss of each step."""
    drawing = curves(results, "loss", {"loss": "loss"}, 2.6)
    drawing.axes[0].set_ylabel("Loss")
    drawing.axes[0].set_title("Training loss of each step")
    return drawing


def gap_figure(results: Results) -> Figure:
    """Mean and largest difference between the two log-probabilities of a token, in nats, of each step measured."""
    drawing = curves(results, "log_prob_gap", {"mean": "mean", "largest": "largest"}, 2.6)
    drawing.axes[0].set_ylabel("Nats per token")
    drawing.axes[0].set_title("Between what generates and what training goes by")
    drawing.axes[0].set_ylim(bottom=0)
    return drawing


def lengths_caption(results: Results) -> str:
    [method] = methods(results)
    mean = lookup(results, "training", method, "lengths", "mean")
    known = [
        tokens for tokens in lookup(results, "training", method, "lengths", "longest") or [] if tokens is not None
    ]
    longest = f"; the longest of all had {fixed(max(known), 0)}" if known else ""
    return (
        f"A completion had {fixed(mean[0], 1)} tokens on average in the first step and {fixed(mean[-1], 1)} in the "
        f"last{longest}."
    )


def loss_caption(results: Results) -> str:
    [method] = methods(results)
    loss = lookup(results, "training", method, "loss", "loss")
    return f"From {significant(loss[0])} in the first step to {significant(loss[-1])} in the last."


def gap_caption(results: Results) -> str:
    [method] = methods(results)
    measured = lookup(results, "training", method, "log_prob_gap")
    largest = max(value for value in measured["largest"] if value is not None)
    return (
        f"In the steps measured ({len(measured['step'])}), on their first completions, the two log-probabilities of a "
        f"token differed by {significant(measured['mean'][0])} nats on average at first and "
        f"{significant(measured['mean'][-1])} at last, at most by {significant(largest)}. {WHY_A_GAP[method]}"
    )


# Why the two are not equal; docs/training.md has more.
WHY_A_GAP = {
    "es": "One side is the engine, token by token in its own type and kernels, the other the same member in float32, "
    "in one pass: what differs is rounding, of weights, of a perturbation beside its weight, and of sums.",
    "grpo": "One side is what generates, token by token in its own type and kernels, the other the training forward "
    "pass: what differs is rounding, not alike on both sides, and with vLLM another implementation.",
}


def gap_terms(results: Results) -> list[tuple[str, str]]:
    meaning = "absolute difference, in nats, of two computations of the same weights for the same token"
    return [("gap of log-probabilities", meaning)]
