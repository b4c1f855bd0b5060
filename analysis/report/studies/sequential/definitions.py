"""What the words of a report on tasks in sequence mean."""

from analysis.report.results import Results, lookup


def definitions(results: Results) -> list[tuple[str, str]]:
    """(term, meaning) of everything that needs one; R[k, j] is the accuracy on task j after k of T trainings."""
    size = lookup(results, "config", "test_size")
    return [
        (
            "Accuracy matrix R",
            "R[k, j]: mean score on held-out items of column j after the k-th of T trainings; row 0 is the model "
            f"before all training. The items{f', at most {size} a column,' if size else ''} are the same for every "
            "row, seed and arm. Answers that could not be scored count in nothing.",
        ),
        ("Average accuracy", "Mean over j of R[T, j]. Lopez-Paz and Ranzato 2017 (arXiv 1706.08840), equation 2."),
        (
            "Learning accuracy",
            "Mean over j of R[j, j], each task right after its own training. Riemer et al. 2019 (arXiv 1810.11910), "
            "section 6.1.",
        ),
        (
            "Backward transfer",
            "Mean over j < T of R[T, j] - R[j, j]; below 0, later trainings harmed earlier tasks. Lopez-Paz and "
            "Ranzato, equation 3.",
        ),
        (
            "Forward transfer",
            "Mean over j > 1 of R[j - 1, j] - R[0, j]: what earlier trainings did to a task before its own. Lopez-Paz "
            "and Ranzato, equation 4, with the model before all training as the reference.",
        ),
        (
            "Forgetting",
            "Mean over j < T of the best R[k, j] of k = 1 to T - 1, minus R[T, j]. Chaudhry et al. 2018 (arXiv "
            "1801.10112), equation 3. What base could do and lost before row 1 is not in it; the loss on the other "
            "tasks has it.",
        ),
        (
            "Loss on the other tasks",
            "Of a stage, against the model that it started from: mean of R[k - 1, j] - R[k, j] over all columns j but "
            "the one it trained on. Against the model before all stages: mean of R[0, j] - R[k, j] over the columns "
            "that no stage up to k trained on.",
        ),
        (
            "Forward and reverse KL",
            "On prompts of the task of the stage, in nats per token. Forward: KL(before || after) over completions "
            "that the model before sampled. Reverse: KL(after || before) over completions that the model after "
            f"sampled. Before is the model that the stage started from or the base.{_estimator(results)} Shenfeld et "
            "al. 2025 (arXiv 2509.04259) find that the forward KL on the new task predicts forgetting, whatever the "
            "method.",
        ),
        (
            "Rank correlation, fit",
            "Spearman's, over stages. Its interval draws whole chains (arm and seed) with replacement, as the stages "
            "of a chain depend on each other; under 4 chains there is none. Forward KL minus it: the rank correlation "
            "of the forward KL less that of the predictor, on the same draws. Fit: least squares, quadratic. "
            "Gain on the new task: R[k, k] less the same before.",
        ),
        (
            "Intervals",
            "Bootstrap at 95 %: seeds and test items drawn with replacement, the same items for all arms, the seeds "
            "of each arm on their own (percentile; Efron and Tibshirani 1993, chapter 13). With one seed they cover "
            "the choice of items alone; with few seeds they are somewhat too narrow. A difference is clear where its "
            "interval leaves out 0.",
        ),
        (
            "Arm, chain, stage",
            "Arm: a method with its options; the first arm of a method is its main one, the others its controls. "
            "Chain: one seed of an arm, trained on all tasks in order. Stage: one of these trainings.",
        ),
        (
            "Budget",
            "Completions, tokens or seconds were made equal, as the configuration says; all are given, because equal "
            "in one is not equal in the others.",
        ),
    ]


def _estimator(results: Results) -> str:
    """How the divergences were measured, as the first of them says; nothing if none does."""
    for arm in (lookup(results, "arms") or {}).values():
        for chain in arm["seeds"].values():
            for stage in chain["stages"]:
                found = lookup(stage, "kl_step", "forward")
                if found and "estimator" in found:
                    return (
                        f" Estimator: {found['estimator']}, at temperature {found['temperature']:g}, "
                        f"{found['prompts']} prompts a stage and direction."
                    )
    return ""
