"""The arms of a sequential run, and what arms, tasks and metrics are called in text and figures."""

from analysis.report.results import LABELS, Results, lookup


METRIC_LABELS = {
    "average_accuracy": "Average accuracy",
    "learning_accuracy": "Learning accuracy",
    "backward_transfer": "Backward transfer",
    "forward_transfer": "Forward transfer",
    "forgetting": "Forgetting",
}
# Of methods and of the papers' tasks, beside those of a comparison.
NAMES = LABELS | {
    "sft": "SFT",
    "countdown_hub": "Countdown hub",
    "math": "MATH",
    "sciknoweval_chemistry": "Chemistry",
    "boolq": "BoolQ",
    "gsm8k": "GSM8K",
    "conciseness": "Conciseness",
}


def called(name: str) -> str:
    """How an arm or a task is called in text and figures."""
    return NAMES.get(name, name)


def arms(results: Results) -> list[str]:
    """The arms with at least one complete chain."""
    return list(lookup(results, "continual", "seeds") or {})


def main_arms(results: Results) -> list[str]:
    """The first arm of each method."""
    return lookup(results, "continual", "main") or []


def controls(results: Results) -> list[str]:
    """The arms beside the main arm of their method."""
    return [arm for arm in arms(results) if arm not in main_arms(results)]


def columns(results: Results) -> list[str]:
    """The tasks on which every row of a matrix is measured."""
    return lookup(results, "columns") or []
