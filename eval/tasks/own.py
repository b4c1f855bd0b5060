"""Data and rewards of one's own as a task: docs/own-data.md.

own_task("rows.jsonl", answer_column="answer", reward="reward.py:score")        of files
task_of_rewards("mine", train, evaluation, [score])                             of Python objects
"""

import os
import random
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from eval.digests import file_digest, rows_digest
from eval.errors import UserError
from eval.tasks.answer import extract_answer
from eval.tasks.base import SPLITS, Score, check_request
from eval.tasks.generate import hash64
from eval.tasks.own_reward import GIVEN, Reward, check_signature, make_reward
from eval.tasks.own_rows import SPLIT_COLUMN, Row, checked_rows, messages, read_rows, split_rows
from eval.tasks.scorers import SCORERS


# The keys of a task in a configuration, and their defaults.
DEFAULTS = {"prompt_column": "prompt", "answer_column": "", "reward": [], "system_prompt": "", "name": ""}
DIGEST = "sha256"
ANSWER = "answer"


@dataclass(frozen=True)
class OwnTask:
    """Rows and reward functions as a task.

    rows: by split, each with `prompt` as messages. source: what it was made of, as a configuration holds it; with the
    digests it tells two tasks apart. answer_column: the column with an answer to learn from, empty without one.
    plain: the functions get prompts and completions as texts, and not as messages.

    A score is the weighted sum of what the functions return, any finite number. A function that returns None has no
    opinion; where none has one, the completion cannot be scored.
    """

    name: str
    rows: Mapping[str, Sequence[Row]] = field(repr=False)
    rewards: tuple[Reward, ...]
    system_prompt: str = ""
    answer_column: str = ""
    plain: bool = False
    source: Mapping[str, Any] = field(default_factory=dict)

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        """`size` rows of `split`, or as many as there are, which is said once in the terminal.

        seed: 0 takes them in the order of the data, any other shuffles them first.
        """
        check_request(self.name, split, size)
        rows = list(self.rows[split])
        if not rows:
            raise UserError(f"task {self.name} has no {split} rows; give some in a column {SPLIT_COLUMN!r}")
        if seed != 0:
            random.Random(hash64("own", split, seed)).shuffle(rows)
        if size > len(rows):
            say(f"task {self.name}: {split} has {len(rows)} rows, all are taken where {size} are asked for")
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        rows = [row | {"prompt": [*system, *row["prompt"]]} for row in rows[:size]]
        try:
            return datasets.Dataset.from_list(rows)
        except (pa.ArrowException, OverflowError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"task {self.name}: the rows do not fit into one table ({reason}); correct them"
            ) from error

    def score(self, completion: str, row: Row) -> Score:
        return self.score_batch([completion], [row], None)[0]

    def score_batch(
        self,
        completions: Sequence[str],
        rows: Sequence[Row],
        completion_ids: Sequence[list[int]] | None,
        given: Mapping[str, Any] | None = None,
    ) -> list[Score]:
        """The score of each completion, an answer to the row at its place. `parts` has each function's reward.

        completion_ids: their tokens; None for stored texts. given: what TRL passes besides, by name, such as
        `trainer_state`.

        Raises UserCodeError where a function raises, and UserError for what is no reward.
        """
        if not self.rewards:
            raise UserError(f"task {self.name} has no reward; give one, such as reward: reward.py:score")
        if not completions:
            return []
        prompts = [row["prompt"] for row in rows]
        answers: list[Any] = [[{"role": "assistant", "content": text}] for text in completions]
        if self.plain:
            prompts, answers = [prompt[-1]["content"] for prompt in prompts], list(completions)
        by_reward = {
            reward.name: reward(prompts, answers, completions, completion_ids, rows, given or {})
            for reward in self.rewards
        }
        scores = []
        for index, text in enumerate(completions):
            parts = {name: value for name, values in by_reward.items() if (value := values[index]) is not None}
            weighted = [reward.weight * parts[reward.name] for reward in self.rewards if reward.name in parts]
            scores.append(Score(sum(weighted) if weighted else None, extract_answer(text), parts))
        return scores

    def describe(self) -> str:
        """One line: where the rows are from, how many each split has, and what rewards them."""
        sizes = ", ".join(f"{split} {len(self.rows[split])}" for split in SPLITS)
        rewards = ", ".join(f"{reward.weight:g} * {reward.reference or reward.name}" for reward in self.rewards)
        return (
            f"task {self.name}: {self.source.get('data', 'rows given in Python')}: {sizes}; reward {rewards or 'none'}"
        )


def task_of_rewards(
    name: str,
    train: Iterable[Row],
    evaluation: Iterable[Row] | None,
    reward_funcs: Any,
    weights: Sequence[float] | None = None,
    system_prompt: str = "",
) -> OwnTask:
    """A task of rows in memory and reward functions (one, or a list of functions and scorers' names).

    evaluation: the rows of both validation and test; None for none. Prompts that are all plain texts reach the
    functions as texts, with completions as texts; others as messages, as in TRL.
    """
    functions = list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
    weights = [1.0] * len(functions) if weights is None else list(weights)
    if len(weights) != len(functions):
        raise UserError(f"{len(weights)} weights for {len(functions)} reward functions; give one for each")
    rewards = _named_apart([make_reward(*pair, answer_column=ANSWER) for pair in zip(functions, weights, strict=True)])
    given = {"train": list(train), "validation": list(evaluation or ())}
    for split, rows in given.items():
        for index, row in enumerate(rows):
            if not row.get("prompt"):
                raise UserError(f"row {index} of the {split} rows has no prompt; give each row a prompt")
    if not given["train"]:
        raise UserError("there are no training rows; give at least one")
    plain = all(isinstance(row["prompt"], str) for rows in given.values() for row in rows)
    for reward in rewards:
        check_signature(reward, [column for column in given["train"][0] if column != "prompt"], "the data")
    digest = {f"{split}_{DIGEST}": rows_digest(rows) for split, rows in given.items()}
    by_split = {split: [{**row, "prompt": messages(row["prompt"])} for row in rows] for split, rows in given.items()}
    by_split["test"] = by_split["validation"]
    answer = ANSWER if all(ANSWER in row for row in given["train"]) else ""
    return OwnTask(name, by_split, rewards, system_prompt, answer, plain, digest)


def own_task(
    data: str,
    prompt_column: str = "prompt",
    answer_column: str = "",
    reward: Any = (),
    system_prompt: str = "",
    name: str = "",
    sha256: str = "",
) -> OwnTask:
    """A task of a file of rows (.jsonl, .json, .parquet, .csv) or of a data set of the hub.

    answer_column: empty for `answer` if there is such a column. reward: `file.py:function`, a scorer's name, or a list
    of them and of {"reward", "weight"}. name: empty for the file's. sha256: of the data in an earlier run; other data
    is refused. Raises UserError, in one line, for everything that is wrong with the rows or a reward.
    """
    placed = read_rows(data)
    if not answer_column and any(ANSWER in one.row for one in placed):
        answer_column = ANSWER
    rewards = _rewards_of(reward, answer_column)
    scorers = {one.reference: one.function.problem for one in rewards if one.reference in SCORERS}
    if scorers and not answer_column:
        raise UserError(f"reward {next(iter(scorers))} needs the right answers; give answer_column")
    rows = checked_rows(data, placed, prompt_column, answer_column, scorers)
    columns = [column for column in rows[0] if column != "prompt"]
    if taken := [column for column in columns if column in GIVEN]:
        raise UserError(f"{data} has a column {taken[0]!r}, a name that rewards get something else by; rename it")
    for one in rewards:
        check_signature(one, columns, data)
    digest = file_digest(Path(data).expanduser()) if Path(data).expanduser().is_file() else rows_digest(rows)
    if sha256 and sha256 != digest:
        raise UserError(
            f"{data} is not what it was (sha256 {sha256[:12]}, now {digest[:12]}); take another output_dir"
        )
    source = {
        "data": data,
        "prompt_column": prompt_column,
        "answer_column": answer_column,
        "reward": _rewards_with_digests(reward),
        "system_prompt": system_prompt,
        "name": name or default_name(data),
        DIGEST: digest,
    }
    by_split = split_rows(data, rows)
    return OwnTask(source["name"], by_split, rewards, system_prompt, answer_column, source=source)


def rewards_alone(reward: Any, answer_column: str) -> OwnTask:
    """A task without rows, for completions that are there already. reward: as `own_task` takes it."""
    return OwnTask("reward", {}, _rewards_of(reward, answer_column), answer_column=answer_column)


def default_name(data: str) -> str:
    """A task's name from its data: the file's without ending, letters, digits and dashes alone."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(data).stem.partition(":")[0]).strip("-") or "own"


def say(line: str) -> None:
    """Print a line about data on stderr: once, and by the first process alone."""
    if line not in _SAID and os.environ.get("RANK", "0") == "0":
        _SAID.add(line)
        print(line, file=sys.stderr, flush=True)


_SAID: set[str] = set()


def reward_entries(reward: Any) -> list[dict[str, Any]]:
    """The rewards of a configuration as a list of {"reward", "weight", ...}. Raises UserError for anything else."""
    entries = []
    if not isinstance(reward, str | Mapping | list | tuple | None):
        raise UserError(f"reward is {reward!r}; write file.py:function, a scorer, or a list of them")
    for entry in [reward] if reward and isinstance(reward, str | Mapping) else list(reward or ()):
        entry = _with_weight(entry) if isinstance(entry, str) else entry
        if not isinstance(entry, Mapping) or not isinstance(entry.get("reward"), str):
            raise UserError(f"reward has {entry!r}; write file.py:function, a scorer, or {{reward: ..., weight: ...}}")
        if unknown := [key for key in entry if key not in ("reward", "weight", DIGEST)]:
            raise UserError(f"reward {entry['reward']} has an unknown key {unknown[0]!r}; it takes reward and weight")
        entries.append({"reward": entry["reward"], "weight": entry.get("weight", 1.0), **_digest_of(entry)})
    return entries


def _with_weight(text: str) -> dict[str, Any]:
    """`reward.py:score=0.5` as an entry. Raises UserError for a weight that is no number."""
    reference, equals, weight = text.partition("=")
    try:
        return {"reward": reference} | ({"weight": float(weight)} if equals else {})
    except ValueError:
        raise UserError(f"reward {text!r} has the weight {weight!r}; write a number, {reference}=0.5") from None


def _digest_of(entry: Mapping[str, Any]) -> dict[str, str]:
    return {DIGEST: entry[DIGEST]} if DIGEST in entry else {}


def _rewards_of(reward: Any, answer_column: str) -> tuple[Reward, ...]:
    return _named_apart(
        [make_reward(entry["reward"], entry["weight"], answer_column) for entry in reward_entries(reward)]
    )


def _rewards_with_digests(reward: Any) -> list[dict[str, Any]]:
    """The entries with the digest of each file. Raises UserError if one was given that is no longer true."""
    entries = []
    for entry in reward_entries(reward):
        file = Path(entry["reward"].rpartition(":")[0]).expanduser()
        digest = {DIGEST: file_digest(file)} if entry["reward"] not in SCORERS else {}
        if DIGEST in entry and entry[DIGEST] != digest.get(DIGEST):
            raise UserError(f"reward {entry['reward']} is not what it was; take another output_dir")
        entries.append({"reward": entry["reward"], "weight": float(entry["weight"]), **digest})
    return entries


def _named_apart(rewards: Sequence[Reward]) -> tuple[Reward, ...]:
    """Two functions of one name get numbers."""
    named: list[Reward] = []
    for reward in rewards:
        name, number = reward.name, 2
        while name in [other.name for other in named]:
            name, number = f"{reward.name}_{number}", number + 1
        named.append(Reward(name, reward.function, reward.weight, reward.reference, reward.answer_column))
    return tuple(named)
