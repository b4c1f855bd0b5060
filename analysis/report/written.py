"""What the models wrote, as a page shows it: numbers from results.json, texts from the files that it names."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from analysis.behaviour.written import (
    ALL,
    NONE,
    SEED,
    SOME,
    UNSCORED,
    choose,
    is_partly_right,
    problem_kinds,
    take_in_turn,
    texts_differ,
)
from analysis.report.numbers import count, fixed, percent, significant
from analysis.report.provenance import with_sources
from analysis.report.results import Results, label, lookup, pair_label, printable
from analysis.report.section import Tile
from analysis.report.sentences import join
from analysis.report.tables import Cell, Table, number_table, value
from analysis.report.visible import cut_note, visible
from eval.completions import read_completions
from eval.digests import file_digest
from eval.results_file import kind_of


# Examples of a task without a script and in print, and characters of a problem's columns and of an answer.
PRINTED = 6
LONGEST_REFERENCE = 400
AGREEMENT = (
    ("Identical text", "identical_text.share", percent),
    ("Low", "identical_text.low", percent),
    ("High", "identical_text.high", percent),
    ("Problems", "identical_text.total", count),
    ("Same answer", "same_answer.share", percent),
    ("Low", "same_answer.low", percent),
    ("High", "same_answer.high", percent),
    ("With an answer", "same_answer.total", count),
)
FLIPS = (
    ("Both right", "flips.both_right", count),
    ("Only A right", "flips.only_first", count),
    ("Only B right", "flips.only_second", count),
    ("Both wrong", "flips.both_wrong", count),
    ("No score", "flips.unscored", count),
    ("McNemar's p", "flips.p_value", partial(significant, digits=2)),
)


@dataclass(frozen=True)
class Answer:
    """What one model wrote. said: its name, score and tokens. note: what is not shown of it."""

    said: str
    text: str
    answer: str
    note: str


@dataclass(frozen=True)
class Example:
    """A problem with the answers of all models, base first. filters: numbers of the filters that show it."""

    title: str
    prompt: str
    reference: str
    answers: Sequence[Answer]
    filters: Sequence[int]


@dataclass(frozen=True)
class Filter:
    """A choice of examples. note: how many of how many problems."""

    name: str
    note: str


@dataclass(frozen=True)
class Written:
    """One task. name: of its place on the page. sentence: what is shown. missing: why no texts are, or empty.

    instructions: the system prompt of all problems, empty where they have none or several.
    """

    name: str
    title: str
    tiles: Sequence[Tile]
    sentence: str
    instructions: str
    filters: Sequence[Filter]
    examples: Sequence[Example]
    printed: Sequence[Example]
    tables: Sequence[Table]
    missing: str

    @property
    def embedded(self) -> Markup:
        """The examples as JSON for an element of a page: no character in it can end or begin one."""
        return harmless([asdict(example) for example in self.examples])


def harmless(data: Any) -> Markup:
    """JSON in ASCII, without the characters that mean something to a page."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def written_of(run: Path, results: Results) -> list[Written]:
    """Of each task whose texts were kept, in the order of results.json."""
    results = printable(results)
    tasks = lookup(results, "written") or {}
    return [of_task(run, results, task, f"written-{number}") for number, task in enumerate(tasks, start=1)]


def of_task(run: Path, results: Results, task: str, name: str) -> Written:
    section = results["written"][task]
    answers, missing = read_answers(run, section["files"])
    kinds: list[str] = []
    places: list[int] = []
    examples: dict[int, Example] = {}
    if not missing:
        kinds = problem_kinds(answers, section["compared"])
        places = choose(kinds)
        examples = examples_of(answers, section["compared"], kinds, places, filters(section))
    piles = [[place for place in places if kinds[place] == kind] for kind in section["kinds"]]
    return Written(
        name=name,
        title=f"What the model wrote while training: {label(task)}"
        if "step" in section
        else f"What the models wrote: {label(task)}",
        tiles=tiles(section),
        sentence=sentence(section),
        instructions=instructions(answers),
        filters=[Filter(name, note) for name, note in filters(section).values()],
        examples=list(examples.values()),
        printed=[examples[place] for place in sorted(take_in_turn(piles, PRINTED))],
        tables=[with_sources(table, kind_of(results)) for table in tables_of(results, task)],
        missing=missing,
    )


def read_answers(run: Path, files: Mapping[str, Mapping[str, str]]) -> tuple[dict[str, list[Any]], str]:
    """The answers of each model, and why they cannot be shown: a file is gone or is another one."""
    places = {model: (run / row["file"]).resolve() for model, row in files.items()}
    gone = [row["file"] for model, row in files.items() if not is_in(run, places[model])]
    if gone:
        return {}, f"The texts are not shown: {join(gone)} {'is' if len(gone) == 1 else 'are'} not in the run folder."
    changed = [row["file"] for model, row in files.items() if row["sha256"] != file_digest(places[model])]
    if changed:
        return {}, f"The texts are not shown: {join(changed)} changed after the numbers were computed."
    return {model: read_completions(path) for model, path in places.items()}, ""


def is_in(run: Path, file: Path) -> bool:
    try:
        return file.is_file() and file.is_relative_to(run.resolve())
    except OSError:  # no name that a file could have
        return False


def examples_of(
    answers: Mapping[str, Sequence[Any]],
    compared: Sequence[str],
    kinds: Sequence[str],
    places: Sequence[int],
    choices: Mapping[str, Any],
) -> dict[int, Example]:
    """{place: example} of the chosen problems. choices: the filters, in order, by what they choose."""
    differ = texts_differ(answers, compared)
    examples = {}
    for place in places:
        rows = {model: of_model[place] for model, of_model in answers.items()}
        kind, first = kinds[place], next(iter(rows.values()))
        chosen = {"", kind} | ({"some"} if is_partly_right(kind) else set()) | ({"differ"} if differ[place] else set())
        examples[place] = Example(
            title=f"{'Problem' if first['tokens'] is not None else 'Completion'} {first['index'] + 1}: "
            f"{kind_name(kind, compared)}",
            prompt=visible(conversation(first["prompt"])),
            reference=visible(columns_text(first["reference"]), LONGEST_REFERENCE),
            answers=[answer_of(model, row) for model, row in rows.items()],
            filters=[number for number, choice in enumerate(choices) if choice in chosen],
        )
    return examples


def answer_of(model: str, row: Mapping[str, Any]) -> Answer:
    marks = {None: "no score", 1.0: "right", 0.0: "wrong"}
    score = marks.get(row["value"]) or f"score {fixed(row['value'], 2)}"
    # Of a trainer's table neither is known.
    tokens = "" if row["tokens"] is None else f", {count(row['tokens'])} tokens"
    ended = ", cut off at the limit of tokens" if row["finished"] is False else ""
    return Answer(
        said=f"{label(printable(model))}: {score}{tokens}{ended}",
        text=visible(row["text"]),
        answer="" if row["parsed"] is None else visible(row["parsed"], LONGEST_REFERENCE),
        note=cut_note(row["text"]),
    )


def conversation(messages: Sequence[Mapping[str, str]]) -> str:
    """The messages without the system's; each with its role where there are several."""
    told = [message for message in messages if message["role"] != "system"]
    if len(told) == 1:
        return told[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in told)


def instructions(answers: Mapping[str, Sequence[Any]]) -> str:
    """The system prompt, where all problems have the same."""
    asked = {
        "\n".join(message["content"] for message in row["prompt"] if message["role"] == "system")
        for of_model in answers.values()
        for row in of_model
    }
    return visible(asked.pop()) if len(asked) == 1 else ""


def columns_text(reference: Mapping[str, Any]) -> str:
    """ "numbers: [3, 4], target: 7" """
    words = {name: entry if isinstance(entry, str) else json.dumps(entry) for name, entry in reference.items()}
    return ", ".join(f"{name}: {entry}" for name, entry in words.items() if entry != "null")


def kind_name(kind: str, compared: Sequence[str]) -> str:
    """How a kind of problem is called for one, for two or for more compared models."""
    if kind.startswith("only|"):
        return f"only {label(kind.removeprefix('only|'))}"
    names = {
        1: {ALL: "right", NONE: "wrong"},
        2: {ALL: "both right", NONE: "all wrong"},
    }.get(len(compared), {ALL: "right in all", SOME: "right in several", NONE: "wrong in all"})
    return {**names, UNSCORED: "without a score"}[kind]


def filters(section: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """{what it chooses: (name, how many of how many problems)}. "" chooses all."""
    shown = sum(row["shown"] for row in section["kinds"].values())
    chosen = {"": ("all examples", {"problems": section["problems"], "shown": shown})}
    for kind, row in section["kinds"].items():
        if kind == SOME:
            chosen["some"] = ("right in some", section["some"])
        else:
            chosen[kind] = (kind_name(kind, section["compared"]), row)
    if "differ" in section:
        chosen["differ"] = ("texts differ", section["differ"])
    return {
        choice: (name, f"{count(row['shown'])} of {count(row['problems'])}") for choice, (name, row) in chosen.items()
    }


def sentence(section: Mapping[str, Any]) -> str:
    """What the examples are of, and how they were chosen."""
    shown = sum(row["shown"] for row in section["kinds"].values())
    compared = [label(name) for name in section["compared"]]
    if "step" in section:
        which = (
            f"{count(shown)} of {count(section['problems'])}" if shown < section["problems"] else f"All {count(shown)}"
        )
        return (
            f"{which} completions of the last table that the training kept are shown, those of step "
            f"{count(section['step'])}. They are sampled, on training problems. Right is a score of 1 or more."
        )
    if shown == section["problems"]:
        which = f"All {count(shown)} held-out problems are shown."
    else:
        which = (
            f"{count(shown)} of {count(section['problems'])} held-out problems are shown: as many of each kind as of "
            f"any other, as far as there are, drawn with seed {SEED}."
        )
    kinds = f" A problem's kind is told by the answers of {join(compared)}." if len(compared) > 1 else ""
    return f"{which}{kinds} Right is a score of 1 or more."


def tiles(section: Mapping[str, Any]) -> list[Tile]:
    """How alike the two compared models write and answer; none for another number of models."""
    if len(section["compared"]) != 2:
        return []
    pair = "|".join(section["compared"])
    names = [label(name) for name in section["compared"]]
    row = section["pairs"][pair]
    shown = []
    for name, key, of in (
        ("Identical text", "identical_text", "texts"),
        ("Same answer", "same_answer", "problems with an answer"),
    ):
        share = row[key]
        if share["total"]:
            note = f"{count(share['count'])} of {count(share['total'])} {of}, {pair_label(pair)}"
            shown.append(Tile(name, percent(share["share"], 0), note))
    flips = row["flips"]
    text = f"{count(flips['only_first'])} / {count(flips['only_second'])}"
    note = f"problems; McNemar's p {significant(flips['p_value'], 2)}"
    return [*shown, Tile(f"Only {' / only '.join(names)} right", text, note)]


def tables_of(results: Results, task: str) -> list[Table]:
    return [kinds_table(results, task), *pair_tables(results, task)]


def kinds_table(results: Results, task: str) -> Table:
    section, at = results["written"][task], ("written", task)
    things = "Completions" if "step" in section else "Problems"
    named = [(kind_name(kind, section["compared"]), (*at, "kinds", kind)) for kind in section["kinds"]]
    further = {"some": "right in some, not in all", "differ": "texts differ"}
    named += [(name, (*at, key)) for key, name in further.items() if key in section]
    rows = [
        [Cell(name), *(value(results, (*place, key), count) for key in ("problems", "shown"))] for name, place in named
    ]
    return Table(f"Kinds of {things.lower()}: {label(task)}", ["Kind", things, "Shown"], rows)


def pair_tables(results: Results, task: str) -> list[Table]:
    pairs = results["written"][task]["pairs"]
    rows = [([label(name) for name in pair.split("|")], ("written", task, "pairs", pair)) for pair in pairs]
    alike = "Same answer: the answers found in both texts are the same, of the problems where either holds one."
    test = "McNemar's exact test, two-sided: are A and B right equally often? Only problems that both scored count."
    tables = [
        number_table(results, f"How alike two models write: {label(task)}", ("A", "B"), AGREEMENT, rows, alike),
        number_table(results, f"Who is right where: {label(task)}", ("A", "B"), FLIPS, rows, test),
    ]
    return tables if rows else []
