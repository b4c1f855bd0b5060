"""Checkpoints and adapters trained anywhere, beside the model that they started from: all measures in one go.

results.json is that of a comparison, without trainings, and has besides

    asked    the sections that were asked for; the page leaves out what was not
    config   every option
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from analysis.behaviour.kl import kl_drift, prompt_sets, read_prompts
from analysis.behaviour.lines import part_lines, straight_lines, task_landscape
from analysis.behaviour.written import written_section
from analysis.claims.comparison import ComparedOn, completions_of, evaluate
from analysis.geometry.checkpoints import open_checkpoints
from analysis.geometry.spectra import update_spectra
from analysis.geometry.updates import update_geometry
from analysis.resume import Measurement, changed_inputs, folder_digests, measure_sections, read_results
from eval.digests import file_digest, rows_digest
from eval.errors import UserError
from eval.results_file import Results, write_results
from eval.rollout.chat import prompt_ids
from eval.rollout.loading import has_tokenizer, load_tokenizer
from eval.tasks import TaskSpec, get_task, task_name


# What can be asked for, and the section of results.json that it makes.
SECTIONS = {
    "geometry": "geometry",
    "spectra": "spectra",
    "evaluation": "evaluation",
    "kl": "kl",
    "lines": "connectivity",
    "layers": "layer_lines",
    "kinds": "kind_lines",
}
WITH_A_TASK = ("evaluation", "lines", "layers", "kinds")
# Short questions of every day, for a KL divergence where no prompts are given.
BUILT_IN_PROMPTS = Path(__file__).parent / "behaviour" / "built-in-prompts.txt"


@dataclass(frozen=True)
class Asked:
    """What is compared, and on what.

    parts: keys of SECTIONS. task: None measures without any. texts: files of prompts for the KL. measured_on: sizes,
    as of a comparison; its test_tasks hold the task. top: singular directions that are compared.
    """

    base: Path
    checkpoints: dict[str, Path]
    parts: Sequence[str]
    task: TaskSpec | None
    texts: Sequence[Path]
    measured_on: ComparedOn
    top: int
    device: str | None

    @property
    def tasks(self) -> list[TaskSpec]:
        return [] if self.task is None else [self.task]


def measure(asked: Asked, output: Path, about: dict[str, Any], recompute: bool = False) -> None:
    """Measure what is asked for and not yet there; results.json then holds these checkpoints alone.

    about: further keys of results.json. Raises UserError, before any work, if the checkpoints do not fit each other
    or the output folder is of something else.
    """
    path = output / "results.json"
    earlier = read_results(path)
    require_own_results(output, earlier)
    check(asked)
    checksums = folder_digests({"base": asked.base, **asked.checkpoints})
    sections = measurements(asked, output)
    state_changes(earlier.get("inputs", {}), checksums, sections)
    # First what is asked for: the page on a measurement that was interrupted says what it did not reach.
    kept = of_the_same_checkpoints(earlier, checksums)
    started = about | kept | {"methods": [*asked.checkpoints], "asked": [*dict.fromkeys([*kept["inputs"], *sections])]}
    write_results(path, "comparison", started | {"digests": digests(asked, sections, checksums)})
    measure_sections(output, asked.base, asked.checkpoints, sections, recompute, checksums)


def check(asked: Asked) -> None:
    """Raise UserError for checkpoints of different models, and for what cannot be measured on these prompts."""
    open_checkpoints(asked.base, asked.checkpoints.values())
    for path in asked.checkpoints.values():
        kinds = [model_type(place) for place in (asked.base, path)]
        if None not in kinds and kinds[0] != kinds[1]:
            raise UserError(f"{path} is a {kinds[1]} and {asked.base} a {kinds[0]}; give checkpoints of one model")
    if set(asked.parts) <= {"geometry", "spectra"}:
        return
    sets = prompt_sets(asked.tasks, asked.texts, 4, asked.measured_on.data_seed)
    prompts = [prompt for some, _ in sets.values() for prompt in some]
    expected = prompt_ids(load_tokenizer(asked.base), prompts)
    for path in asked.checkpoints.values():
        if has_tokenizer(path) and prompt_ids(load_tokenizer(path), prompts) != expected:
            raise UserError(
                f"{path} encodes prompts differently than {asked.base}; give checkpoints that share base's tokenizer "
                "and chat template"
            )


def model_type(folder: Path) -> str | None:
    """What config.json calls the architecture; None for an adapter, which has none of its own."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8-sig")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None


def can_chat(base: Path) -> bool:
    """Whether prompts can be written for a model: whether its tokenizer has a chat template."""
    return has_tokenizer(base) and bool(load_tokenizer(base).chat_template)


def rows_of(task: TaskSpec, size: int | None, usual: int, seed: int, option: str) -> int:
    """How many test rows to measure on: `size`, or the usual number or as many as there are where it is None.

    Raises UserError if `size` asks for more than there are.
    """
    there = len(get_task(task).load("test", size or usual, seed))
    if size is not None and there < size:
        raise UserError(f"{option} is {size}, but the test split of {task_name(task)} has {there} rows; ask for less")
    return there


def prompts_of(texts: Sequence[Path], size: int | None, usual: int) -> int:
    """The same for files of prompts: of the longest, unless `size` says how many."""
    there = {path: len(read_prompts(path)) for path in texts}
    for path, number in there.items():
        if size is not None and number < size:
            raise UserError(f"--kl-prompts is {size}, but {path} has {number}; ask for less")
    return min(size or usual, max(there.values()))


def measurements(asked: Asked, output: Path) -> dict[str, Measurement]:
    """{section of results.json: (what it depends on beside the checkpoints, its measurement)}, in order."""
    base, checkpoints, on, device = asked.base, asked.checkpoints, asked.measured_on, asked.device
    task, tasks = asked.task, asked.tasks
    source = [getattr(get_task(one), "source", one) for one in tasks]
    generation = (on.data_seed, on.max_new_tokens, on.batch_size, device)
    sampled = {"seed": on.data_seed, "max_new_tokens": on.max_new_tokens}
    on_texts = {"texts": {path.stem: file_digest(path) for path in asked.texts}}
    on_lines = {"task": source[0] if source else None, "size": on.line_size, "points": on.line_points} | sampled

    # References are made once, and only if something is left to measure.
    @cache
    def landscape():
        assert task is not None
        return task_landscape(base, checkpoints, task, on.line_size, *generation)

    def by(part: str) -> Callable[[], dict]:
        return lambda: part_lines(landscape(), part, on.line_points)

    models, completions = {"base": base, **checkpoints}, output / "completions"
    every: dict[str, Measurement] = {
        "geometry": ({}, lambda: update_geometry(base, checkpoints)),
        "spectra": ({"top": asked.top}, lambda: update_spectra(base, checkpoints, asked.top, device or "cpu")),
        "evaluation": (
            {"tasks": source, "size": on.test_size} | sampled,
            lambda: evaluate(completions, models, on, device),
        ),
        "written": (
            {"tasks": source, "size": on.test_size} | sampled,
            lambda: written_section(output, completions_of(completions, list(models), tasks)),
        ),
        "kl": (
            {"tasks": source, "prompts": on.kl_prompts} | on_texts | sampled,
            lambda: kl_drift(base, checkpoints, tasks, on.kl_prompts, *generation, texts=asked.texts),
        ),
        "lines": (on_lines, lambda: straight_lines(landscape(), on.line_points)),
        "layers": (on_lines, by("layer")),
        "kinds": (on_lines, by("kind")),
    }
    # What was written comes with its evaluation.
    parts = {*asked.parts, *(["written"] if "evaluation" in asked.parts else [])}
    return {SECTIONS.get(part, part): measurement for part, measurement in every.items() if part in parts}


def require_own_results(output: Path, results: Results) -> None:
    """Raise UserError if the folder has results of something else: what they say of it is not to be changed."""
    if (output / "config.yaml").exists() or (results and "asked" not in results):
        raise UserError(f"{output} holds a run or the results of another command; choose another --output")


def state_changes(earlier: dict[str, Any], checksums: dict[str, str], sections: dict[str, Measurement]) -> None:
    """Say of every section that is measured again what differs from what it was measured from.

    earlier: the inputs that results.json keeps of each section.
    """
    for section, (options, _) in sections.items():
        if section in earlier:
            before = earlier[section]["options"]
            changed = [described(before, options, key) for key in changed_inputs(before, options)]
            changed = [f"another {', '.join(changed)}"] if changed else []
            if names := changed_inputs(earlier[section]["checkpoints"], checksums):
                changed.insert(0, f"other files of {', '.join(names)}")
            elif [*earlier[section]["checkpoints"]] != [*checksums]:
                changed.insert(0, "another order of the checkpoints")
            if changed:
                print(f"{section} was measured with {' and '.join(changed)}; measuring it again", flush=True)


def described(before: dict[str, Any], now: dict[str, Any], key: str) -> str:
    plain = all(isinstance(options.get(key), int | float | str) for options in (before, now))
    return f"{key} ({before[key]}, now {now[key]})" if plain else key


def of_the_same_checkpoints(results: Results, checksums: dict[str, str]) -> Results:
    """What earlier starts measured on these very checkpoints, under these names and in this order."""
    inputs = {
        section: stored
        for section, stored in results.get("inputs", {}).items()
        if section in results and json.dumps(stored["checkpoints"]) == json.dumps(checksums)
    }
    return {"inputs": inputs, **{section: results[section] for section in inputs}}


def digests(asked: Asked, sections: Collection[str], checksums: dict[str, str]) -> dict[str, Any]:
    """Of the models and of the rows that are measured on, as in results.json of a comparison."""
    on = asked.measured_on
    sizes = {"evaluation": on.test_size, "kl": on.kl_prompts, "connectivity": on.line_size}
    rows = {
        f"{task_name(task)}, {size} rows of test": rows_digest(get_task(task).load("test", size, on.data_seed))
        for section, size in sizes.items()
        if section in sections
        for task in asked.tasks
    }
    return {"models": checksums, "data": rows}
