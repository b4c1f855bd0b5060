"""What the words of the report mean, so that a page can be read on its own."""

from analysis.criteria import (
    ALIGNED,
    CHANCE,
    EXCLUDED_REWARD,
    LOSS_BARRIER,
    NEARLY_ORTHOGONAL,
    PARTLY_ALIGNED,
    REWARD_BARRIER,
    SAME_LENGTH,
    SIMILAR_ACCURACY,
)
from analysis.report.numbers import count, percent, points, significant
from analysis.report.results import Results, lookup, methods


def definitions(results: Results) -> list[tuple[str, str]]:
    """(term, meaning) of everything that needs one; what the run itself states is taken from it."""
    return [
        (
            "Accuracy",
            "Share of held-out examples that greedy decoding answers fully right. Its interval is Wilson's, at 95 %. "
            "It covers the choice of examples, not what another training seed would give.",
        ),
        (
            "Lifts, lowers, clearly",
            "Two 95 % intervals do not overlap. Where they overlap, no difference is claimed. Accuracies are called "
            f"similar when the intervals overlap and the values are at most {points(SIMILAR_ACCURACY)} apart.",
        ),
        (
            "Budget",
            "The number of completions generated for training. Tokens and seconds stand beside it, because equal "
            "completions are neither equal tokens nor equal time.",
        ),
        (
            "Length of an update",
            "Euclidean norm of the trained weights minus the base weights, in float32. Relative: divided by the norm "
            f"of the base weights of the same matrices. Lengths within {percent(SAME_LENGTH - 1, 0)} are called "
            "equal.",
        ),
        ("Random walk", _random_walk(results)),
        (
            "Parameters changed",
            "Share of parameters that differ from the base, exactly and after rounding both to bfloat16, the type in "
            "which models are mostly served.",
        ),
        (
            "Cosine",
            "Of the angle between two updates: 1 the same direction, 0 orthogonal. Chance is the standard deviation "
            f"of the cosine of two random updates with the same length matrix by matrix; within {CHANCE} of it a "
            "cosine is called no more than random. Otherwise it is called nearly orthogonal under "
            f"{NEARLY_ORTHOGONAL:g}, weak under {PARTLY_ALIGNED:g} and partial under {ALIGNED:g}. A single matrix has "
            "fewer parameters than the model, so that chance moves its cosine further. A small cosine alone does not "
            "show two solutions: an update that is mostly random has a small cosine with everything.",
        ),
        ("KL divergence", _kl(results)),
        (
            "Barrier",
            "The largest gap between the value on the straight line (1 - t) a + t b between the weights of two models "
            "and the value that goes evenly from one end to the other: for the reward how far it falls below, for the "
            "loss how far it rises above. It is at least 0, and noise makes it larger, never smaller. Reward: "
            "accuracy of greedy decoding, with a Wilson interval. Loss: negative log-likelihood of right completions "
            f"of all models{_references(results)}, with a bootstrap interval. It is called a barrier above "
            f"{points(REWARD_BARRIER)} of reward or {LOSS_BARRIER:g} nats per token, if some point's whole "
            "interval lies beyond the even line, and a lag where that happens without being worse than the worse end; "
            "and no barrier up to that, if the interval of the reward stays "
            f"within {points(EXCLUDED_REWARD)} of it. Otherwise it is unresolved.",
        ),
    ]


def _references(results: Results) -> str:
    references = lookup(results, "connectivity", "references")
    if not references:
        return ""
    stated = [f"{key} {count(number)}" for key, number in references.items() if isinstance(number, int)]
    return f" ({', '.join(stated)})"


def _random_walk(results: Results) -> str:
    text = (
        "The length alpha * sqrt(T * d / N) that evolution strategies would move on a reward without any slope, after "
        "T steps with N members and d parameters (arXiv 2604.01499)."
    )
    for method in methods(results):
        walk = lookup(results, "random_walk", method)
        if walk:
            text += (
                f" Here alpha = {significant(walk.get('alpha'))}, T = {count(walk.get('steps'))}, "
                f"N = {count(walk.get('members'))}, d = {count(walk.get('parameters'))}."
            )
    return text


def _kl(results: Results) -> str:
    stated: dict[str, None] = {}
    for tasks in (lookup(results, "kl") or {}).values():
        for directions in (tasks or {}).values():
            for name, entry in (directions or {}).items():
                if entry:
                    stated[
                        f"{name.capitalize()}: {entry.get('direction')}, completions sampled from "
                        f"{entry.get('sampled_from')}, {entry.get('estimator')}."
                    ] = None
    return " ".join(
        [
            "How far the distribution over completions is from the base's, in nats; it depends on the direction.",
            *stated,
            "Per token: the sum over all completions divided by their tokens. Intervals: 95 %, bootstrap over "
            "completions.",
        ]
    )
