"""What the words of a report on circuits mean."""

from analysis.report.results import Results, lookup


def definitions(results: Results) -> list[tuple[str, str]]:
    """(term, meaning) of everything that needs one."""
    method, steps = lookup(results, "config", "method"), lookup(results, "config", "steps")
    share = lookup(results, "config", "circuit_share")
    return [
        (
            "Clean, corrupted, logit difference",
            "Prompts come in pairs; the corrupted one differs in what the answer hangs on, token by token in the same "
            "places. Logit difference: of the right and of the competing answer, at the last token. Answers of "
            "several "
            "tokens are told apart by the first token that differs; what comes before it belongs to the prompt.",
        ),
        (
            "Solved",
            "The right answer stands before the wrong one after the clean prompt, and less so after the corrupted "
            "one. "
            "Circuits are found and judged on solved examples only; of several models, on what all of them solve.",
        ),
        ("Node", "An attention head or an MLP. The embeddings, `input`, are in every circuit unless ranked is said."),
        (
            "Score",
            f"By {method}{f' with {steps} steps' if 'ig' in str(method) else ''}: how much the loss (minus the logit "
            "difference) would rise if the node wrote what it writes on the corrupted prompt. IG error: how far the "
            "scores of `input` are from the change of the loss that integrated gradients should add up to.",
        ),
        (
            "Faithfulness f",
            "With m the mean logit difference: (m of the circuit - m of nothing) / (m of the model - m of nothing). "
            "Nodes outside of the circuit write what they write on the corrupted prompt.",
        ),
        (
            "CPR, CMD, CPR on ln k",
            "CPR: area under f over the share k of nodes kept, from 0.1 % to all. Half of it is decided between k = "
            "0.5 "
            "and 1. CMD: area between f and 1. CPR on ln k: mean of f over the logarithm of k, where small circuits "
            "count. A ranking with f = 0 until the whole model is kept has a CPR of 0.25.",
        ),
        (
            "DFA, presets",
            "Differentiable faithfulness alignment (arXiv 2604.24302): a learned map from the small model's scores to "
            "gates of the large one. paper: every choice of the released code, mistakes included (heads are not "
            "trained, `input` is ranked, prompts weigh by their length, the best regime is chosen on the test split). "
            "corrected: without them. Both are judged on the same test examples.",
        ),
        (
            "Null of a likeness",
            "The same measure between two circuits of the first model, each from examples drawn with replacement. A "
            "difference counts where the whole interval of likeness minus null lies below 0.",
        ),
        (
            "Jaccard, weighted, rank correlation",
            f"Jaccard: shared share of the two circuits of {share} of all nodes or edges. Weighted: sum of the "
            "smaller "
            "over sum of the larger strengths. Rank correlation: Spearman's, over all scores.",
        ),
        (
            "Transplant",
            "The receiver runs, but the chosen nodes write what they write in the donor on the same prompt.",
        ),
        (
            "I + delta",
            "An alignment between two models of one shape that starts at the identity; delta is kept small by a "
            "penalty. base to itself: from other examples of the same model.",
        ),
        (
            "Intensity, entropy, kurtosis",
            "Of the edges of the residual graph between blocks, weights by zero ablation to first order (arXiv "
            "2509.21044): mean absolute weight, entropy of their histogram, excess kurtosis; means over answers.",
        ),
        (
            "Critical layers",
            "Those whose outgoing edges changed most (arXiv 2502.11812). Whether a higher rank there helps more than "
            "in "
            "random layers is open; the control file has as many random layers.",
        ),
    ]
