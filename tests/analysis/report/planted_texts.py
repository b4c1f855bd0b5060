"""A run whose models wrote planted texts, hostile ones among them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.behaviour.written import written_section
from eval.completions import completions_file, write_completions
from eval.storage import write_json


HOSTILE = (
    '<script>document.title = "owned"</script>',
    "</script><script>document.title = 'owned'</script>",
    "</SCRIPT ><img src=x onerror=\"document.title='owned'\">",
    "<!--<script>",
    "-->]]>&lt;&#60;&amp;",
    "half a pair \ud83d here",
    "nul \x00, escape \x1b[31mred\x1b[0m, bell \x07, delete \x7f, C1 \x9b",
    "\u202eturned around\u2066 and never turned back",
    "a" + "\u0301" * 5000 + "b",
    "line\u2028separator\u2029paragraph\r\nreturn",
    "x" * 1_000_000,
    "```\n# no heading\n| no | table |\n<b>",
    "{{ 7 * 7 }}{% raw %}",
)


def plant(run: Path, results: dict, tasks: Mapping[str, Mapping[str, Sequence[tuple[str, str | None, float | None]]]]):
    """Write tables, {task: {model: (text, parsed, value) of each problem}}, and results.json with their numbers."""
    files: dict[str, dict[str, Path]] = {}
    for task, models in tasks.items():
        for model, answers in models.items():
            file = run / "completions" / completions_file(model, task)
            rows = [problem(number) for number in range(len(answers))]
            records = [
                {"index": number, "completion": text, "parsed": parsed, "value": value, "parts": {}, "tokens": 7}
                | {"finished": len(text) < 1000}
                for number, (text, parsed, value) in enumerate(answers)
            ]
            write_completions(file, task, records, rows)
            files.setdefault(task, {})[model] = file
    section = written_section(run, files)
    write_json(run / "results.json", results | {"written": section})


def problem(number: int) -> dict:
    prompt = [
        {"role": "system", "content": "Answer <b>briefly</b>."},
        {"role": "user", "content": f"Number {number}?"},
    ]
    return {"prompt": prompt, "numbers": [number, 1], "target": "</script>" if number == 3 else str(number)}


def plain_answers(right: Sequence[bool | None], word: str = "so") -> list[tuple[str, str, float | None]]:
    """Texts that say the number, or the next one where they are to be wrong; None: without a score."""
    said = [str(number if good else number + 1) for number, good in enumerate(right)]
    values = [None if good is None else float(good) for good in right]
    return [(f"{word}, {number}", number, value) for number, value in zip(said, values, strict=True)]
