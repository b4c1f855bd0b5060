"""What models wrote on the same problems: who is right where, how often two write the same, and examples to read.

An answer is a row of `eval.completions.read_completions`; a model has one for each problem. Right is a score of 1,
or of more where a reward of one's own gives more; of a graded task, an answer that is in form as well.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from analysis.statistics import mcnemar
from eval.completions import accuracy_of, read_completions
from eval.digests import file_digest
from eval.errors import UserError
from eval.intervals import wilson_interval


Answers = Sequence[Mapping[str, Any]]
BASE = "base"
# Problems of a task that a page shows at most, and the seed by which they are chosen.
SHOWN = 200
SEED = 0
# Kinds of problems by who has them right; "only|NAME": that model alone.
ALL, SOME, NONE, UNSCORED = "all", "some", "none", "unscored"


def written_section(run: Path, files: Mapping[str, Mapping[str, Path]]) -> dict[str, Any]:
    """{task: {"files": {model: {file, sha256}}, ...`written`}} of the tasks whose files are all there.

    files: {task: {model: file}}, the base model first where there is one; they are named from `run` on. Raises
    UserError for a damaged file.
    """
    complete = {task: of_task for task, of_task in files.items() if all(file.is_file() for file in of_task.values())}
    return {
        task: {
            "files": {
                model: {"file": file.relative_to(run).as_posix(), "sha256": file_digest(file)}
                for model, file in of_task.items()
            },
            **written({model: read_completions(file) for model, file in of_task.items()}),
        }
        for task, of_task in complete.items()
    }


def written(answers: Mapping[str, Answers]) -> dict[str, Any]:
    """What models wrote on one task, in numbers. answers: of each model, the base first where there is one.

        problems  how many
        compared  the models that kinds are about, see `compared`
        kinds     {kind: {problems, shown}}, see `kind_of_problem`; shown: how many of them the page has as examples
        some      the same of problems that one of more than two compared models has right, but not all
        differ    the same of problems on which the texts of the compared models are not all the same
        pairs     {"a|b": `agreement`} for every two models

    Raises UserError if two models answered different problems, or one has several answers to a problem.
    """
    require_same_problems(answers)
    names = compared(list(answers))
    kinds = problem_kinds(answers, names)
    differing = texts_differ(answers, names)
    shown = choose(kinds)
    partly = [is_partly_right(kind) for kind in kinds]

    def counts(chosen: Sequence[bool]) -> dict[str, int]:
        return {"problems": sum(chosen), "shown": sum(chosen[place] for place in shown)}

    present = [kind for kind in all_kinds(names) if kind != UNSCORED or kind in kinds]
    return {
        "problems": len(kinds),
        "compared": names,
        "kinds": {kind: counts([one == kind for one in kinds]) for kind in present},
        **({"some": counts(partly)} if len(names) > 2 else {}),
        **({"differ": counts(differing)} if len(names) > 1 else {}),
        "pairs": {
            f"{one}|{other}": agreement(answers[one], answers[other]) for one, other in combinations(answers, 2)
        },
    }


def agreement(first: Answers, second: Answers) -> dict[str, Any]:
    """How alike two models answer the same problems. Shares are {share, low, high, count, total}, Wilson's at 95 %.

    identical_text  texts that are the same, character by character
    same_answer     answers found in both that are the same text, of the problems where either model gave one
    flips           {both_right, only_first, only_second, both_wrong, unscored, p_value}: problems by who is right, and
                    the exact test of `analysis.statistics.mcnemar`; unscored: those that either left without a score
    """
    pairs = list(zip(first, second, strict=True))
    answered = [(one, other) for one, other in pairs if one["parsed"] is not None or other["parsed"] is not None]
    scored = [(one, other) for one, other in pairs if one["value"] is not None and other["value"] is not None]
    rights = [[is_right(accuracy_of(row)) for row in rows] for rows in (first, second)]
    test = asdict(mcnemar(*rights))
    both_right = sum(one == other == 1.0 for one, other in zip(*rights, strict=True))
    return {
        "identical_text": share_of(sum(one["text"] == other["text"] for one, other in pairs), len(pairs)),
        "same_answer": share_of(sum(one["parsed"] == other["parsed"] for one, other in answered), len(answered)),
        "flips": {
            "both_right": both_right,
            "both_wrong": len(scored) - both_right - test["only_first"] - test["only_second"],
            "unscored": len(pairs) - len(scored),
            **test,
        },
    }


def is_right(value: float | None) -> float | None:
    """1.0 for right, 0.0 for wrong, None without a score."""
    return None if value is None else float(value >= 1.0)


def share_of(count: int, total: int) -> dict[str, Any]:
    """A share with Wilson's interval, all three None of nothing."""
    low, high = wilson_interval(count, total) if total else (None, None)
    return {"share": count / total if total else None, "low": low, "high": high, "count": count, "total": total}


def require_same_problems(answers: Mapping[str, Answers]) -> None:
    """Raise UserError unless every model answered the same problems, each once."""
    asked = {model: [(row["index"], row["prompt"]) for row in rows] for model, rows in answers.items()}
    first = next(iter(asked.values()))
    for model, problems in asked.items():
        if len({index for index, _ in problems}) < len(problems):
            raise UserError(f"{model} has several answers to a problem; compare models with one answer to each")
        if problems != first:
            raise UserError(
                f"{model} answered other problems than {next(iter(asked))}; evaluate both on the same ones"
            )


def compared(models: Sequence[str]) -> list[str]:
    """The models whose successes make the kinds of problems: those that were trained, or a single one and its base."""
    trained = [model for model in models if model != BASE]
    return trained if len(trained) > 1 else list(models)


def all_kinds(names: Sequence[str]) -> list[str]:
    """Every kind that `kind_of_problem` can tell for these compared models."""
    only = [f"only|{name}" for name in names] if len(names) > 1 else []
    return [ALL, *([SOME] if len(names) > 2 else []), *only, NONE, UNSCORED]


def kind_of_problem(values: Sequence[float | None], names: Sequence[str]) -> str:
    """Who has a problem right: "all", "some" (several, not all), "only|NAME", "none"; "unscored" with any None."""
    if None in values:
        return UNSCORED
    right = [name for name, value in zip(names, values, strict=True) if is_right(value)]
    if len(right) in (0, len(names)):
        return ALL if right else NONE
    return f"only|{right[0]}" if len(right) == 1 else SOME


def is_partly_right(kind: str) -> bool:
    """Whether some of the compared models have problems of this kind right, but not all."""
    return kind == SOME or kind.startswith("only|")


def problem_kinds(answers: Mapping[str, Answers], names: Sequence[str]) -> list[str]:
    """The kind of each problem."""
    rows = zip(*(answers[name] for name in names), strict=True)
    return [kind_of_problem([accuracy_of(row) for row in problem], names) for problem in rows]


def texts_differ(answers: Mapping[str, Answers], names: Sequence[str]) -> list[bool]:
    """Of each problem: whether these models did not all write the same text."""
    rows = zip(*(answers[name] for name in names), strict=True)
    return [len({row["text"] for row in problem}) > 1 for problem in rows]


def choose(kinds: Sequence[str], limit: int = SHOWN, seed: int = SEED) -> list[int]:
    """The places of at most `limit` problems, ascending: as many of each kind as of any other, as far as there are.

    So that rare kinds are seen: what a kind lacks goes to the others in equal parts. Within a kind the problems are
    drawn by `seed`.
    """
    generator = random.Random(seed)
    drawn = {kind: [place for place, one in enumerate(kinds) if one == kind] for kind in sorted(set(kinds))}
    for places in drawn.values():
        generator.shuffle(places)
    return sorted(take_in_turn(list(drawn.values()), limit))


def take_in_turn(piles: Sequence[Sequence[int]], limit: int) -> list[int]:
    """At most `limit` entries: the first of each pile, then the second of each, and so on."""
    longest = max(map(len, piles), default=0)
    return [pile[turn] for turn in range(longest) for pile in piles if turn < len(pile)][:limit]
