"""The line that a training prints after a step, the same for every method.

    grpo  12/120  reward 0.512  accuracy 61.5 %  1,240 completions/s  0.41 s/step  44 s left

Only what is known stands in it: the accuracy where the step has just been evaluated, no reward where none was given.
"""


def step_line(
    method: str,
    step: int,
    steps: int,
    *,
    seconds: float | None = None,
    done: int | None = None,
    unit: str = "completions",
    reward: float | None = None,
    loss: float | None = None,
    accuracy: float | None = None,
) -> str:
    """The line after `step` of `steps` steps.

    seconds: of training so far, without evaluations, over all starts of the run; what speed and time left come from.
    done: of `unit`, what was generated or trained on in them. accuracy: greedy, of this step's model.
    """
    parts = [f"{method}  {step:>{len(str(steps))}}/{steps}"]
    if reward is not None:
        parts.append(f"reward {reward:.3f}")
    if loss is not None:
        parts.append(f"loss {loss:.4g}")
    if accuracy is not None:
        parts.append(f"accuracy {100 * accuracy:.1f} %")
    if seconds and step:
        if done is not None:
            parts.append(f"{_rate(done / seconds)} {unit}/s")
        each = seconds / step
        parts.append(f"{each:.3g} s/step")
        parts.append(f"{duration(each * (steps - step))} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """In the two units that matter: 44 s, 3 min 05 s, 2 h 10 min, 3 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"
