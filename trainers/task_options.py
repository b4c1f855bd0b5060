"""What a run is rewarded for, as options: a task by name, or data and rewards of one's own (docs/own-data.md)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from eval.errors import UserError
from eval.tasks import OwnTask, Task, TaskSpec, get_task, is_own, own_mapping, task_spec
from eval.tasks.own import say
from trainers.options import option


# What the parser takes for a task, and for a list of tasks. To a type checker it is what `fold_task` makes of it.
if TYPE_CHECKING:
    TaskOption = str
else:
    TaskOption = str | dict[str, Any]
TaskOptionList = list[TaskOption]


@dataclass(kw_only=True)
class TaskOptions:
    """Data and rewards of one's own, in place of the name of a task. `fold_task` puts them into `task`."""

    FOLDED: ClassVar[tuple[str, ...]] = ("data", "prompt_column", "answer_column", "reward", "system_prompt")

    data: str = option("", "rows of your own: a .jsonl, .json, .parquet or .csv file, or hub/name[:configuration]")
    prompt_column: str = option("", "column of data with the prompt, a text or a list of messages; prompt")
    answer_column: str = option("", "column with the right answer; answer, if there is one")
    reward: str | list[TaskOption] = option(
        "", "file.py:function in TRL's signature, or boxed-number, choice, exact, contains, math; several: name=weight"
    )
    system_prompt: str = option("", "system message before every prompt of data")


def fold_task(config: Any) -> None:
    """Put `data` and its options into `config.task`, which becomes what `get_task` takes; checks it on the way.

    Raises UserError for everything that is wrong with the task, before a model loads.
    """
    given = {name: getattr(config, name) for name in TaskOptions.FOLDED}
    given = {name: value for name, value in given.items() if value}
    if given:
        before = own_mapping(config.task) if is_own(config.task) else {}
        if "data" not in given and not before:
            raise UserError(f"{next(iter(given))} is for data of your own; give data as well")
        if "data" in given:
            before = {key: value for key, value in before.items() if key not in ("sha256", "name")}
        config.task = {**before, **given}
        for name in given:
            setattr(config, name, "")
    if not config.task:
        raise UserError("task missing; give a task's name, or data and reward of your own")
    config.task = rewarded_task(config.task)


def rewarded_task(spec: TaskSpec) -> str:
    """`spec` as `eval.tasks.task_spec` has it. Raises UserError if it cannot be scored."""
    task = get_task(spec)
    if isinstance(task, OwnTask) and not task.rewards:
        raise UserError(f"task {task.name} has no reward; give one, such as reward: reward.py:score")
    return task_spec(spec)


def prompts_there_are(task: Task, asked: int, option: str) -> int:
    """`asked` prompts for one step, or fewer if data of one's own has fewer in train, which is said in one line.

    Fewer is the largest divisor of `asked` that there is, so that a budget still holds whole steps; all rows, where
    that is less than half of them.
    """
    rows = training_rows(task, asked)
    if rows >= asked:
        return asked
    divisor = max(number for number in range(1, rows + 1) if asked % number == 0)
    prompts = divisor if 2 * divisor >= rows else rows
    say(f"task {task.name}: train has {rows} rows, so a step takes {prompts} prompts, not {asked} ({option})")
    return prompts


def training_rows(task: Task, asked: int) -> int:
    """`asked` rows of train, or all of them if data of one's own has fewer."""
    return min(asked, len(task.rows["train"])) if isinstance(task, OwnTask) else asked
