"""A few samples of a few steps, with what each of them is."""

from typing import Any

import numpy as np
from safetensors.numpy import load_file

from analysis.clocks_report.runs import Run
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
        strings.append(in_rows(run, drawn).tolist())
        kinds.append(["copy" if c else "novel" if v else "invalid" for c, v in zip(copied, valid, strict=True)])
    return {
        "steps": chosen,
        "strings": strings,
        "kinds": kinds,
        "shape": list(drawn_shape(run)),
        "vocabulary": run.rule.vocabulary,
    }


def in_rows(run: Run, strings: np.ndarray) -> np.ndarray:
    """The symbols of each string, int8 [M, n], in the order of the rows in which it is drawn."""
    if len(run.rule.shape) == 1 and run.config.get("group"):
        return strings.reshape(len(strings), -1, run.config["group"]).swapaxes(1, 2).reshape(len(strings), -1)
    return strings


def drawn_shape(run: Run) -> tuple[int, int]:
    """A grid as it is; a string of groups with a column for each group; another of even length in two rows."""
    shape = run.rule.shape
    if len(shape) == 2:
        return shape[0], shape[1]
    if run.config.get("group"):
        return run.config["group"], run.rule.positions // run.config["group"]
    return (2, run.rule.positions // 2) if run.rule.positions % 2 == 0 else (1, run.rule.positions)
