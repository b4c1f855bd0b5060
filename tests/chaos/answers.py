"""Answers to all tasks that no model should give: a score or none, never an exception, and never long."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from eval.adapters import score_completion
from eval.commands.output import write_jsonl
from eval.tasks import Task, get_task
from tests.chaos.findings import Report
from tests.recipe_files import ROOT


# Rows as the tasks load them: where a task needs a data set that is not here, one of its shape.
ROWS: dict[str, list[dict[str, Any]]] = {
    "countdown": [{"numbers": [3, 7, 25], "target": 46}],
    "arithmetic": [{"answer": "17"}],
    "four_choice": [{"answer": "B"}],
    "yes_no": [{"answer": "yes"}],
    "countdown_hub": [{"nums": [98, 19, 1], "target": 98.0, "numbers": [98, 19, 1]}],
    "gsm8k": [{"answer": "So 18 are left. #### 18"}, {"answer": "#### 1,234.5"}],
    "boolq": [{"answer": True}, {"answer": False}],
    "conciseness": [{"answer": "Paris"}],
    "sciknoweval_chemistry": [{"answer": "C", "answerKey": "C"}],
    "math": [
        {"solution": r"It is $\boxed{\frac{1}{2}}$.", "answer": r"\frac{1}{2}"},
        {"solution": r"\boxed{(3, \frac{\pi}{2})}", "answer": r"(3, \frac{\pi}{2})"},
        {"solution": r"\boxed{\text{even}}", "answer": r"\text{even}"},
    ],
}
# Seconds that one answer may take: math has a limit of 1 s and starts a worker anew after it.
LIMIT, LIMIT_OF_MATH = 0.5, 3.0
PIECES = (
    r"\boxed{ } \frac{1}{2} \frac \text{B} \textbf{(B)} <answer> </answer> <think> </think> #### \( \) $ $$ \[ \] "
    r"{ } ( ) [ ] + - * / ^ ** = == , . : ; ! % € £ yes no Yes. NO true false A B C D (A) B) 18 1,234 -7 3.5 1e9 "
    r"1e-400 10^{10^{10}} 9^9^9^9 100000! 2006! \sqrt{-1} \infty nan inf None \pi x x=18 \int_0^1 \sum_{i=1}^{n} "
    r"\begin{matrix} \end{matrix} the answer is final Answer: · – − × ÷ ½ ² ١٢ 一 𝟙 \x00 \ud800 __import__('os') "
    r"os.system('true') lambda:0 1/0 0/0 7**7**7 ((((((((( ))))))))) \left( \right) \bigl( 3+7*25 (25-3)*7 98+19-19"
    r" 1_000 0x1F 0b11 1.2.3 --1 +-+-1"
).split()
GLUE = ("", "", " ", " ", "\n", "\t", "\u2009", "\u200f", "\r\n")


def answers(report: Report, folder: Path, count: int, seed: int) -> None:
    """Score `count` random answers; slow ones, exceptions and impossible values are findings."""
    generator = random.Random(seed)
    slowest, undecided = {}, 0
    names = list(ROWS)
    # Math is judged in other processes and takes longest: it gets its share last.
    per_task = {name: count // len(names) + (number < count % len(names)) for number, name in enumerate(names)}
    for name, wanted in per_task.items():
        task = get_task(name)
        scored = 0
        for _ in range(wanted):
            if report.left < 1:
                break
            text, row = answer(generator), generator.choice(ROWS[name])
            value, seconds = judge(report, task, text, row)
            undecided += value is None
            scored += 1
            slowest[name] = max(slowest.get(name, 0.0), seconds)
        if scored < wanted:
            report.note(name, f"{scored} of {wanted}, no time")
    report.note("slowest", ", ".join(f"{name} {seconds:.2f} s" for name, seconds in sorted(slowest.items())))
    report.note("undecided", undecided)


def judge(report: Report, task: Task, text: str, row: dict[str, Any]) -> tuple[float | None, float]:
    """The score and its seconds."""
    began = time.monotonic()
    try:
        value = score_completion(task, text, row).value
    except Exception as error:  # whatever it is, it is a finding
        report.case(False, f"{task.name}: {type(error).__name__} {str(error)[:80]} for {text[:120]!r}")
        return None, time.monotonic() - began
    seconds = time.monotonic() - began
    limit = LIMIT_OF_MATH if task.name == "math" else LIMIT
    report.case(seconds <= limit, f"{task.name}: {seconds:.1f} s for {text[:160]!r}")
    return value, seconds


def answer(generator: random.Random) -> str:
    """Pieces of answers in a random order; now and then very many of one, or any characters at all."""
    kind = generator.random()
    if kind < 0.05:
        return (generator.choice(PIECES) + generator.choice(GLUE)) * generator.choice([100, 1000, 10000])
    if kind < 0.1:
        return "".join(chr(generator.randrange(0x11000)) for _ in range(generator.randrange(200)))
    text = "".join(generator.choice(PIECES) + generator.choice(GLUE) for _ in range(generator.randrange(1, 12)))
    text = text.replace(r"\x00", "\x00").replace(r"\ud800", "\ud800")
    if kind < 0.5:
        text = rf"The answer is \boxed{{{text}}}"
    elif kind < 0.7:
        text = f"<answer>{text}</answer>"
    return text


HOSTILE = {
    "script": "<script>document.title='owned'</script><img src=x onerror=alert(1)></pre></td></table>",
    "lone surrogate": "before \ud800 after \udfff",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x1b[2J\x1b]0;owned\x07",
    "right to left": "\u202e <answer>4</answer> \u2066\u2067 \u200f",
    "a megabyte": "1" * (1 << 20),
    "a megabyte of brackets": "(" * (1 << 20),
    "a megabyte of lines": "#### 4\n" * (1 << 17),
    "template": "{{ 7 * 7 }} {% raw %} ${x_2$ \\frac",
    "line separators": "a\u2028b\u2029c\x85d\x0be",
}


def hostile(report: Report, folder: Path) -> None:
    """Hostile completions through every task's score, through `eval score`, and as records of an evaluation."""
    folder.mkdir(parents=True)
    for name, rows in ROWS.items():
        for kind, text in HOSTILE.items():
            if report.left < 5:
                report.note("ended at", f"{name}, {kind}")
                return
            judge_hostile(report, name, kind, text, rows[0])
    for name in ("countdown", "four_choice", "gsm8k"):
        score_file(report, folder, name)
    records = [{"completion": text, "kind": kind} for kind, text in HOSTILE.items()]
    write_jsonl(folder / "records.jsonl", records)
    read = [json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").split("\n") if line]
    report.case(read == records, "records of an evaluation do not read back as they were")


def judge_hostile(report: Report, name: str, kind: str, text: str, row: dict[str, Any]) -> None:
    began = time.monotonic()
    try:
        score_completion(get_task(name), text, row)
    except Exception as error:  # whatever it is, it is a finding
        report.case(False, f"{name}: {type(error).__name__} {str(error)[:80]} for {kind}")
        return
    seconds = time.monotonic() - began
    report.case(seconds <= LIMIT_OF_MATH, f"{name}: {seconds:.1f} s for {kind}")


def score_file(report: Report, folder: Path, name: str) -> None:
    """`python -m eval score` on a file of them: one score a line, in order."""
    given, scored = folder / f"{name}.jsonl", folder / f"{name}-scores.jsonl"
    lines = [json.dumps(ROWS[name][0] | {"completion": text}) for text in HOSTILE.values()]
    given.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "eval", "score", "--task", name, "--input", given, "--output", scored]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    last = done.stderr.strip().split("\n")[-1][:200]
    report.case(done.returncode == 0, f"eval score --task {name}: status {done.returncode}, {last}")
    if done.returncode == 0:
        count = len(scored.read_text(encoding="utf-8").split("\n")) - 1
        report.case(count == len(HOSTILE), f"eval score --task {name}: {count} scores of {len(HOSTILE)} lines")
