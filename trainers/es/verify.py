"""Verify a run of evolution strategies: its weights replayed from its log, and some of its steps made again.

Every step is replayed from the log, and its lengths compared with metrics.jsonl. The sampled steps are made again: the
same members answer the same prompts, and the rewards, the counts and the row of the log that follow are compared. The
weights after the last step are those of model/, bit for bit.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from eval.errors import UserError
from eval.storage import read_jsonl
from trainers.es.config import ESConfig
from trainers.es.engine import make_engine
from trainers.es.rollout import MemberRollout, TrainingRows
from trainers.es.search import EvolutionStrategy
from trainers.es.start import evolution_strategy, starting_weights, stored_weights, vector_search
from trainers.es.update import Update, Weights
from trainers.es.vector_search import VectorSearch
from trainers.launch import make_accelerator
from trainers.run_folder import checkpoint_folder


# (what was compared, what is wrong with it or None)
Check = tuple[str, str | None]
# What metrics.jsonl has of the whole run so far; of a step made again, the difference to the row before.
SO_FAR = ("completions", "tokens")


def sampled_steps(steps: int, number: int) -> list[int]:
    """`number` of the steps 1 to `steps`, evenly spaced, the last one among them; all if there are fewer."""
    return sorted({round(steps * (index + 1) / number) for index in range(number)} - {0})


def verify_es(config: ESConfig, folder: Path, number: int) -> Iterator[Check]:
    """The checks of the run in `folder`, one after the other. number: steps that are made again.

    Raises UserError if the run's noise is that of another kind of device.
    """
    metrics = read_jsonl(folder / "metrics.jsonl")
    log = read_jsonl(folder / (VectorSearch.log if config.on_subspace else EvolutionStrategy.log))
    steps = [row.get("step") for row in log]
    whole = bool(log) and steps == list(range(1, len(log) + 1)) == [row.get("step") for row in metrics]
    yield "every step is in the logs", None if whole else "steps are missing, twice, or in another order"
    if not whole:
        return
    replay = Replay(config, folder, log, metrics)
    replay_steps = replay.vector_steps if config.on_subspace else replay.seed_steps
    yield from replay_steps(sampled_steps(len(log), number))
    saved = load_file(folder / "model" / "model.safetensors")
    what = f"the weights after step {len(log)} are those of model/, bit for bit ({len(saved)} tensors)"
    yield what, different_weights(replay.weights, saved)


class Replay:
    """A run as it was set up, on this process alone. weights: those after the steps replayed so far."""

    weights: Weights

    def __init__(self, config: ESConfig, folder: Path, log: list[dict[str, Any]], metrics: list[dict[str, Any]]):
        self.config, self.folder, self.log, self.metrics = config, folder, log, metrics
        self.accelerator: Accelerator = make_accelerator()
        self.engine = make_engine(config, self.accelerator)
        self.base = starting_weights(config, stored_weights(config, self.engine), self.accelerator)
        # What the members answer is compared, not kept: nothing is written into the run folder.
        self.rollout = _Unwritten(config, self.engine, TrainingRows(config), self.accelerator, folder)

    def seed_steps(self, again: list[int]) -> Iterator[Check]:
        """Every step of the search over all weights: those of `again` made again, the others from the log."""
        device = self.accelerator.device.type
        if any(row["device"] != device for row in self.log):
            raise UserError(f"the run was made on {self.log[0]['device']}, whose noise {device} cannot draw")
        search = evolution_strategy(self.config, self.rollout, self.base, self.accelerator, 0, {})
        self.weights = search.weights
        wrong = []
        for step, (row, metrics) in enumerate(zip(self.log, self.metrics, strict=True), start=1):
            if step in again:
                self.engine.set_weights(search.weights.items())
                search.step()
                yield self.made_again(step, search, row)
            else:
                wrong += self.taken_from_the_log(search, step, row, metrics)
            checkpoint = checkpoint_folder(self.folder, step) / "model.safetensors"
            if checkpoint.is_file():
                what = f"the weights after step {step} are those of its checkpoint, bit for bit"
                yield what, different_weights(search.weights, load_file(checkpoint))
        left = len(self.log) - len(again)
        if left:
            yield f"the other {left} steps replayed from the log have the lengths of metrics.jsonl", several(wrong)

    def taken_from_the_log(
        self, search: EvolutionStrategy, step: int, row: dict[str, Any], metrics: dict[str, Any]
    ) -> list[str]:
        """Apply one step of the log; where it or its row of metrics.jsonl is not what the options say."""
        search.apply_logged(Update(**row))
        expected = {
            "members_tied": not any(row["coefficients"]),
            "alpha": self.config.alpha_at(step - 1),
            "sigma": self.config.sigma_at(step - 1),
            "update_norm": search.update_norm,
            "distance_from_base": search.distance_from_base(),
        }
        wrong = differences(expected, metrics)
        if row["seeds"] != search.seeds_of(step - 1):
            wrong.append("seeds")
        return [f"{name} of step {step}" for name in wrong]

    def vector_steps(self, again: list[int]) -> Iterator[Check]:
        """Steps of evotorch's algorithms, whose state is their past: those of `again` are made on top of it."""
        for step in again:
            search = self._vector_search(step - 1)
            self.engine.set_weights(search.pristine.items())
            search.step()
            if step == len(self.log):
                search.finish()
            yield self.made_again(step, search, self.log[step - 1])
        search = self._vector_search(len(self.log))
        search.finish()
        self.weights = search.weights

    def _vector_search(self, done: int) -> VectorSearch:
        recorded = [row["fitness"] for row in self.log[:done]]
        return vector_search(self.config, self.rollout, self.base, recorded)

    def made_again(self, step: int, search: EvolutionStrategy | VectorSearch, row: dict[str, Any]) -> Check:
        """One step made again beside its row of the log and its row of metrics.jsonl."""
        evaluation, logged = search.evaluation, self.metrics[step - 1]
        before = self.metrics[step - 2] if step > 1 else dict.fromkeys(SO_FAR, 0)
        expected = search.metrics() | {
            "empty_completions": evaluation.empty,
            "unfinished_completions": evaluation.unfinished,
            **{name: before[name] + getattr(evaluation, name) for name in SO_FAR},
        }
        wrong = [f"{name} of {search.log}" for name in differences(search.log_row(), row)]
        wrong += [f"{name} of metrics.jsonl" for name in differences(expected, logged)]
        what = f"step {step} made again has its rewards: {evaluation.completions} completions of "
        return f"{what}{len(evaluation.rewards)} members", several(wrong)


class _Unwritten(MemberRollout):
    def _write_table(self, step: int, table: list[dict[str, Any]]) -> None:
        pass


def differences(expected: dict[str, Any], logged: dict[str, Any]) -> list[str]:
    """Names whose values are not equal to the last bit, and those that are missing."""
    return [name for name, value in expected.items() if name not in logged or logged[name] != value]


def different_weights(weights: Weights, saved: dict[str, torch.Tensor]) -> str | None:
    """What is wrong with the saved weights; None if they are these."""
    if strangers := sorted(weights.keys() ^ saved.keys()):
        return several([f"{name} is only in one of the two" for name in strangers])
    unequal = [name for name, weight in weights.items() if not torch.equal(weight.cpu(), saved[name])]
    return several([f"{name} differs" for name in unequal])


def several(wrong: list[str]) -> str | None:
    """The first three in words; None if there are none."""
    if not wrong:
        return None
    return ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
