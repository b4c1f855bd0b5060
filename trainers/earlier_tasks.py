"""Earlier tasks in the training of a later one: a share of the prompts of every step, each scored by its own task.

Experience replay against forgetting (Robins 1995, "Catastrophic forgetting, rehearsal and pseudorehearsal"). The
prompts of a step follow from its number and the run's seed alone, so that a resumed run sees the same ones.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import datasets
import numpy as np

from eval.adapters import score_completions
from eval.errors import UserError
from eval.tasks import Score, Task, TaskSpec, get_task, is_own, task_spec
from eval.tasks.own_reward import Reward
from trainers.arguments import check_between


# With commas, or a list in which tasks of one's own have a place too.
Replay = str | Sequence[TaskSpec]


def check_replay(task: str, replay: Replay, replay_share: float) -> None:
    """Raise `UserError` for unknown earlier tasks, and for tasks without a share or a share without tasks."""
    names = replay_names(replay)
    for name in names:
        get_task(name)
    if len({task, *names}) <= len(names):
        raise UserError(f"replay is {replay!r}; name every earlier task once, and not {task}, which is trained")
    check_between("replay_share", replay_share, 0.0, 1.0)
    if bool(names) != bool(replay_share):
        raise UserError(f"replay is {replay!r} and replay_share {replay_share}; give both, or neither")


def replay_names(replay: Replay) -> list[str]:
    """The names in a comma list; of a list, each as `get_task` takes it."""
    names: list[str] = []
    for entry in [replay] if isinstance(replay, str) else replay:
        if is_own(entry) and "," not in entry:
            names.append(task_spec(entry))
        elif isinstance(entry, str):
            names += [name.strip() for name in entry.split(",") if name.strip()]
    return names


def replay_option(replay: Replay) -> str | list[str]:
    """As config.yaml keeps it: with commas, or a list where a task of one's own is among them."""
    names = replay_names(replay)
    return names if any(map(is_own, names)) else replay if isinstance(replay, str) else ",".join(names)


def replayed_prompts(prompts: int, replay_share: float) -> int:
    """How many of the `prompts` of a step come from earlier tasks; `UserError` if it is all or none of them."""
    replayed = round(prompts * replay_share)
    if replay_share and not 0 < replayed < prompts:
        raise UserError(
            f"replay_share {replay_share} of the {prompts} prompts of a step is {replayed} prompts; "
            "change it, or the prompts of a step, so that there are some of the new task and of the earlier ones"
        )
    return replayed


@dataclass(frozen=True)
class MixedTask:
    """A task and the earlier ones as one evaluator: the column `task` of a row says whose score it gets.

    tasks: by the name that the run's options give them, the one that is trained first.
    """

    name: str
    system_prompt: str
    tasks: dict[str, Task]

    @classmethod
    def of(cls, task: str, replay: Replay) -> "MixedTask":
        tasks = {name: get_task(name) for name in (task, *replay_names(replay))}
        return cls(tasks[task].name, tasks[task].system_prompt, tasks)

    @property
    def rewards(self) -> tuple[Reward, ...]:
        """The reward functions of those that are made of such."""
        return tuple(reward for task in self.tasks.values() for reward in getattr(task, "rewards", ()))

    def row(self, task: str, row: dict[str, Any]) -> dict[str, Any]:
        """A row of `task` in the columns that rows of all tasks share: its own are JSON, for their types differ."""
        return {"prompt": row["prompt"], "task": task, "row": json.dumps(row)}

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        """Rows of the task that is trained, in the shared columns."""
        trained = next(iter(self.tasks))
        rows = self.tasks[trained].load(split, size, seed).to_list()
        return datasets.Dataset.from_list([self.row(trained, row) for row in rows])

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        return self.score_batch([completion], [row], None)[0]

    def score_batch(
        self,
        completions: Sequence[str],
        rows: Sequence[dict[str, Any]],
        completion_ids: Sequence[list[int]] | None,
        given: Mapping[str, Any] | None = None,
    ) -> list[Score]:
        """The score of each completion by the task of its row, those of one task at once."""
        scores: list[Score | None] = [None] * len(completions)
        for name, task in self.tasks.items():
            mine = [index for index, row in enumerate(rows) if row["task"] == name]
            ids = None if completion_ids is None else [completion_ids[index] for index in mine]
            texts = [completions[index] for index in mine]
            own = [json.loads(rows[index]["row"]) for index in mine]
            for index, score in zip(mine, score_completions(task, texts, own, ids, given), strict=True):
                scores[index] = score
        return cast(list[Score], scores)


@dataclass(frozen=True)
class EarlierTasks:
    """The prompts of earlier tasks in each step of a run.

    rows: training problems of each earlier task, by name. per_step: how many of a step are replayed.
    """

    task: MixedTask
    rows: dict[str, datasets.Dataset]
    per_step: int
    seed: int

    @classmethod
    def load(cls, task: str, replay: Replay, per_step: int, size: int, data_seed: int, seed: int) -> "EarlierTasks":
        """size: training problems of each earlier task."""
        mixed = MixedTask.of(task, replay)
        rows = {name: mixed.tasks[name].load("train", size, data_seed) for name in replay_names(replay)}
        return cls(mixed, rows, per_step, seed)

    def of_step(self, step: int) -> list[dict[str, Any]]:
        """The replayed rows of `step` (0-based), as `MixedTask.row` has them.

        The tasks take turns over the whole run, and each goes through its problems in one shuffled epoch after
        another.
        """
        names, replayed = list(self.rows), []
        for place in range(step * self.per_step, (step + 1) * self.per_step):
            turn, number = divmod(place, len(names))
            name = names[number]
            epoch, problem = divmod(turn, len(self.rows[name]))
            order = np.random.default_rng([self.seed, number, epoch]).permutation(len(self.rows[name]))
            replayed.append(self.task.row(name, self.rows[name][int(order[problem])]))
        return replayed
