"""When a run ends: after its last step, with the first that reaches a budget of tokens or of seconds, or diverged."""

from typing import Any

from eval.errors import UserError
from trainers.arguments import check_at_least


def check_budgets(stop_at_tokens: int, stop_at_seconds: float) -> None:
    """Raise `UserError` for a negative budget, and for two at once: a run is matched by one of them."""
    check_at_least("stop_at_tokens", stop_at_tokens, 0)
    check_at_least("stop_at_seconds", stop_at_seconds, 0)
    if stop_at_tokens and stop_at_seconds:
        raise UserError("stop_at_tokens and stop_at_seconds are both given; keep one, and set the other to 0")


def ended_by(
    step: int, last_step: int, progress: dict[str, Any], stop_at_tokens: int, stop_at_seconds: float
) -> str | None:
    """What ends a run after `step` steps: "tokens", "seconds" or "steps"; None if it goes on.

    progress: holds the `tokens` generated and the `seconds` of training so far. A budget of 0 is none.
    """
    if stop_at_tokens and progress["tokens"] >= stop_at_tokens:
        return "tokens"
    if stop_at_seconds and progress["seconds"] >= stop_at_seconds:
        return "seconds"
    return "steps" if step >= last_step else None


def diverged(what: str, advice: str) -> UserError:
    """The error that ends a training before a checkpoint of it is called complete.

    what: which number of which step is not finite. advice: which options to change.
    """
    return UserError(f"{what}, which is not finite: the training has diverged; {advice}")
