"""A few samples of a few steps, with what each of them is."""

import math
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from analysis.clocks.runs import Run
from eval.rules import is_member


SAMPLES = 8
STEPS = 5


def sample_grids(run: Run) -> dict[str, Any] | None:
    """{"steps", "strings": [step][sample] symbols, "kinds": [step][sample] "novel", "copy" or "invalid", "shape":
    (height, width) in which a string is drawn, "vocabulary"}; None if the run kept no samples.

    Steps are spread evenly over the evaluations, first and last included; samples are the first that were drawn.
    """
    files = {int(path.stem.removeprefix("step_")): path for path in run.folder.glob("samples/step_*.safetensors")}
    if not files:
        return None
    steps = sorted(files)
    chosen = sorted({steps[round(i)] for i in np.linspace(0, len(steps) - 1, STEPS)})
    strings, kinds = [], []
    for step in chosen:
        drawn = load_file(files[step])["samples"][:SAMPLES]
        copied = is_member(drawn, run.data["train"])
        valid = run.rule.valid(drawn)
        strings.append(drawn.tolist())
        kinds.append(["copy" if c else "novel" if v else "invalid" for c, v in zip(copied, valid, strict=True)])
    return {
        "steps": chosen,
        "strings": strings,
        "kinds": kinds,
        "shape": list(drawn_shape(run)),
        "vocabulary": run.rule.vocabulary,
    }


def drawn_shape(run: Run) -> tuple[int, int]:
    """(height, width): a grid as it is; a string in rows of whole groups, somewhat wider than high."""
    shape = run.rule.shape
    if len(shape) == 2:
        return shape[0], shape[1]
    count, group = run.rule.positions, run.config.get("group") or 1
    widths = [width for width in range(group, count + 1, group) if count % width == 0]
    width = min(widths, key=lambda each: abs(math.log(each / math.sqrt(1.5 * count))))
    return count // width, width
