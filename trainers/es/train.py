"""Post-training with evolution strategies: the run around the search."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list
from safetensors.torch import load_file

from eval.digests import data_digests, rows_digest, run_digests
from eval.harness import evaluate_task
from eval.results_file import write_results
from eval.rollout.base import RolloutEngine, Sampling
from eval.rollout.loading import save_model
from eval.storage import (
    append_jsonl,
    new_folder,
    read_json,
    read_jsonl,
    require_free_space,
    truncate_jsonl,
    write_json,
)
from eval.tasks import get_task, own_data
from trainers.dead_signal import DeadSignal
from trainers.ending import diverged, ended_by
from trainers.es.checksum import require_equal_weights
from trainers.es.config import ESConfig
from trainers.es.engine import check_memory, make_engine
from trainers.es.memory import Plan
from trainers.es.rollout import MemberRollout, TrainingRows
from trainers.es.search import EvolutionStrategy, SeedProblem
from trainers.es.subspace import Subspace
from trainers.es.update import Weights
from trainers.es.vector_search import VectorProblem, VectorSearch, check_length, make_algorithm
from trainers.launch import make_accelerator, refuse_sharded_launch, refuse_sharding
from trainers.run_folder import checkpoint_folder, end_run, last_complete_step, save_checkpoint, start_run
from trainers.tracking import Tracking, tracker_names
from trainers.watch import watch_processes


LOGS = ("metrics.jsonl", "evaluations.jsonl", EvolutionStrategy.log, VectorSearch.log)


def train_es(config: ESConfig) -> dict[str, Any]:
    """Train, or finish training, with evolution strategies; returns what is written to `results.json`.

    Files in `output_dir`: config.yaml, environment.json, metrics.jsonl (one row a step), evaluations.jsonl (greedy
    accuracy on validation problems), seeds.jsonl (with the starting model a complete checkpoint of every step),
    completions/, checkpoints/step_N/, model/ (the finished checkpoint), results.json (written last).

    An interrupted run continues from its newest checkpoint and ends with the same weights. Several processes share the
    members of a step, exchange only rewards, and each rebuilds the same update; only the first reads and writes the
    run folder, so that machines need not share it. If one of them dies, all end. Not with ZeRO or FSDP.

    With `dry_run` nothing is trained or written: the memory plan is printed, and the result is empty.
    """
    refuse_sharded_launch("evolution strategies")
    with watch_processes():
        accelerator = make_accelerator()
        refuse_sharding(accelerator, "evolution strategies")
        plan = check_memory(config, accelerator)
        if config.dry_run:
            return {}
        start_run(Path(config.output_dir), config, may_change=("report_to",))
        file = Path(config.output_dir) / "results.json"
        [finished] = broadcast_object_list([read_json(file) if file.exists() else None])
        results = ESRun(config, accelerator, plan).train() if finished is None else finished
        end_run(Path(config.output_dir))
        return results


class ESRun:
    """A run on every process, from the starting model or the newest checkpoint to the results.

    engine: generates, for members and for evaluations. search: what makes the steps, and holds the weights.
    progress: `completions` and `tokens` generated and `seconds` of training so far.
    """

    def __init__(self, config: ESConfig, accelerator: Accelerator, plan: Plan):
        self.config, self.accelerator, self.plan = config, accelerator, plan
        self.folder = Path(config.output_dir)
        self.engine = make_engine(config, accelerator)
        self.task = get_task(config.task)
        self.rows = TrainingRows(config)
        base = starting_weights(config, self.engine, accelerator)
        self.parameters = sum(weight.numel() for weight in base.values())
        needed = 4 * self.parameters * (config.keep + 2)
        require_free_space(self.folder, needed, "the checkpoints and the model of this run")
        done = self._resume()
        self.tracking = Tracking(tracker_names(config.report_to) if accelerator.is_main_process else [], self.folder)
        rollout = MemberRollout(config, self.engine, self.rows, accelerator, self.folder)
        if config.on_subspace:
            rows = read_jsonl(self.folder / VectorSearch.log) if accelerator.is_main_process else []
            [recorded] = broadcast_object_list([[row["fitness"] for row in rows]])
            self.search = vector_search(config, rollout, base, recorded)
        else:
            self.search = evolution_strategy(config, rollout, base, accelerator, done)
        require_equal_weights(accelerator, self.search.weights, done)

    def train(self) -> dict[str, Any]:
        """Make the steps that are left; returns the results."""
        config = self.config
        if self.search.steps_count == 0:
            self.engine.set_weights(self.search.weights.items())
            self._evaluate(0)
        ended = None
        while ended is None:
            ended = self._step()
            step = self.search.steps_count
            self._log(step)
            if (config.eval_every and step % config.eval_every == 0) or ended is not None:
                self._evaluate(step)
            saving = step % config.save_every == 0 or ended is not None
            if saving or (config.check_every and step % config.check_every == 0):
                require_equal_weights(self.accelerator, self.search.weights, step)
            if saving and ended is None:
                save_checkpoint(self.folder, step, self._save, keep=config.keep)
                self.accelerator.wait_for_everyone()
        self.tracking.close()
        return self._finish(ended)

    def _resume(self) -> int:
        """The steps of the newest checkpoint; `progress` and the logs are set back to it."""
        done, self.progress = 0, {"completions": 0, "tokens": 0, "seconds": 0.0}
        self.signal = DeadSignal()
        if self.accelerator.is_main_process:
            if done := last_complete_step(self.folder) or 0:
                self.progress = read_json(checkpoint_folder(self.folder, done) / "progress.json")
            for log in LOGS:
                truncate_jsonl(self.folder / log, done)
            self.signal.resume(self.folder / "metrics.jsonl")
        done, self.progress = broadcast_object_list([done, self.progress])
        return done

    def _step(self) -> str | None:
        """Make one step, with its weights in the engine afterwards; returns what ends the run, if anything does."""
        config, search, progress = self.config, self.search, self.progress
        began = time.perf_counter()
        self.engine.set_weights(search.pristine.items())
        search.step()
        if not math.isfinite(search.update_norm):
            what = f"the norm of the update of step {search.steps_count} is {search.update_norm}"
            raise diverged(what, "lower the step size (alpha, center_learning_rate) or sigma")
        progress["completions"] += search.evaluation.completions
        progress["tokens"] += search.evaluation.tokens
        reached = progress | {"seconds": progress["seconds"] + time.perf_counter() - began}
        ended = ended_by(search.steps_count, config.steps, reached, config.stop_at_tokens, config.stop_at_seconds)
        [ended] = broadcast_object_list([ended])  # the clocks of the processes differ
        if ended is not None:
            search.finish()
        self.engine.set_weights(search.weights.items())
        progress["seconds"] += time.perf_counter() - began
        return ended

    def _log(self, step: int) -> None:
        if not self.accelerator.is_main_process:
            return
        evaluation = self.search.evaluation
        metrics = self.search.metrics() | {
            "empty_completions": evaluation.empty,
            "unfinished_completions": evaluation.unfinished,
            "mean_tokens": evaluation.tokens / evaluation.completions,
        }
        self.signal.step(evaluation.rewards.ravel().tolist(), evaluation.examples)
        metrics |= self.signal.flags()
        append_jsonl(self.folder / self.search.log, self.search.log_row())
        append_jsonl(self.folder / "metrics.jsonl", {"step": step, **self.progress, **metrics})
        self.tracking.log(self.progress | metrics)
        reward = math.nan if metrics["reward"] is None else metrics["reward"]
        seconds = self.progress["seconds"] / step
        print(f"es step {step}/{self.config.steps}  reward {reward:.3f}  {seconds:.2f} s/step", flush=True)

    def _evaluate(self, step: int) -> None:
        """The greedy accuracy of the weights that are in the engine."""
        config = self.config
        if not (config.eval_every and self.accelerator.is_main_process):
            return
        # No more completions at once than the plan reckons with.
        at_once = min(1024, self.plan.rows)
        sampling = Sampling(config.max_new_tokens)
        accuracy = evaluate_task(
            self.engine, self.task, "validation", config.eval_size, config.data_seed, sampling, at_once
        )
        kept = {key: accuracy[key] for key in ("correct", "total", "accuracy", "low", "high")}
        row = {"step": step, "completions": self.progress["completions"], **kept}
        append_jsonl(self.folder / "evaluations.jsonl", row)
        self.tracking.log(row)

    def _save(self, folder: Path) -> None:
        save_model(folder, self.engine.model, self.engine.tokenizer, self.search.weights)
        write_json(folder / "progress.json", self.progress)

    def _finish(self, ended: str) -> dict[str, Any]:
        """Write model/ and results.json; returns what stands there."""
        results = {}
        if self.accelerator.is_main_process:
            with new_folder(self.folder / "model") as folder:
                save_model(folder, self.engine.model, self.engine.tokenizer, self.search.weights)
            rows = read_jsonl(self.folder / "metrics.jsonl")
            results = {
                "method": "es",
                "task": self.config.task,
                "parameters": self.parameters,
                "steps": self.search.steps_count,
                "ended_by": ended,
                "updates": sum(not row["members_tied"] for row in rows),
                **self.progress,
                **own_data([self.config.task]),
                "digests": self._digests(),
            }
            write_results(self.folder / "results.json", "training", results)
            results = read_json(self.folder / "results.json")
        return broadcast_object_list([results])[0]

    def _digests(self) -> dict[str, Any]:
        config = self.config
        data = {f"{self.rows.task.name}, {len(self.rows.rows)} rows of train": rows_digest(self.rows.rows)}
        if config.eval_every:
            data |= data_digests([(config.task, config.eval_size)], "validation", config.data_seed)
        return run_digests(self.folder, {"start": config.model, "model": self.folder / "model"}, data)


def starting_weights(config: ESConfig, engine: RolloutEngine, accelerator: Accelerator) -> Weights:
    """The model that the run starts from, float32 by parameter name, where the master is kept."""
    keep_on = "cpu" if config.master_on_cpu else accelerator.device
    weights = {
        name: weight.detach().to(keep_on, torch.float32, copy=True) for name, weight in engine.named_weights().items()
    }
    if config.precision != "fp32_master":
        weights = {name: weight.to(torch.bfloat16).float() for name, weight in weights.items()}
    return weights


def evolution_strategy(
    config: ESConfig, rollout: MemberRollout, base: Weights, accelerator: Accelerator, done: int
) -> EvolutionStrategy:
    """The search over all weights, from the checkpoint after `done` steps if there is one."""
    weights = {name: weight.clone() for name, weight in base.items()}
    if done:
        saved = {}
        if accelerator.is_main_process:
            saved = load_file(checkpoint_folder(Path(config.output_dir), done) / "model.safetensors")
        for name, weight in weights.items():
            # The others get them over the network: their machines may lack the run folder.
            here = (saved[name] if saved else weight).to(accelerator.device, copy=True)
            weight.copy_(broadcast(here))
    return EvolutionStrategy(
        SeedProblem(rollout, config.make_noise(), config.prompt_baseline, config.precision, config.released_engines),
        weights,
        base,
        run_seed=config.seed,
        members=config.population,
        shaping=config.fitness_shaping,
        alpha=config.alpha_at,
        sigma=config.sigma_at,
        antithetic=config.antithetic,
        anchor=config.anchor,
        steps_done=done,
        device=accelerator.device,
    )


def vector_search(
    config: ESConfig,
    rollout: MemberRollout,
    base: Weights,
    recorded: list[list[float]],
) -> VectorSearch:
    """One of evotorch's algorithms on a subspace, brought to where it was by the fitnesses of the steps so far."""
    space = Subspace(base, config.space, config.space_rank, config.seed)
    check_length(config.algorithm, space)
    problem = VectorProblem(rollout, space, config.prompt_baseline, config.fitness_shaping, config.seed, recorded)
    algorithm = make_algorithm(
        config.algorithm,
        problem,
        members=config.population,
        stdev=config.sigma,
        optimizer=config.optimizer,
        center_learning_rate=config.center_learning_rate,
        stdev_learning_rate=config.stdev_learning_rate,
        parenthood_ratio=config.parenthood_ratio,
    )
    return VectorSearch(problem, base, algorithm)
