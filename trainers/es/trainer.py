"""Post-training with evolution strategies, in the shape of TRL's `GRPOTrainer`: a GRPO script with two names changed.

trainer = ESTrainer(model, reward_funcs, args=ESConfig(output_dir="runs/mine"), train_dataset=rows)
trainer.train()
"""

import math
import time
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerState
from transformers.trainer_utils import TrainOutput

from eval.errors import UserError
from eval.harness import evaluate_task
from eval.rollout.base import RolloutEngine, Sampling
from eval.rollout.loading import save_model
from eval.storage import append_jsonl, new_folder, read_json, read_jsonl, require_free_space, write_json
from eval.tasks import own_data
from trainers.cards import write_cards
from trainers.dead_signal import DeadSignal
from trainers.earlier_tasks import replayed_prompts
from trainers.ending import diverged, ended_by
from trainers.es.adapter import (
    merged_weights,
    read_adapter,
    refuse_with_adapter,
    save_adapter,
    searched_names,
    with_adapter,
)
from trainers.es.checksum import require_equal_weights
from trainers.es.config import ESConfig
from trainers.es.engine import check_memory, make_engine, resolve_engine_dtype
from trainers.es.events import Events
from trainers.es.folder import (
    MAY_CHANGE,
    checkpoint_to_start_from,
    is_complete,
    may_grow,
    reopen,
    run_digests_of,
    truncate_logs,
)
from trainers.es.memory import ModelShape
from trainers.es.objects import resolve_model, resolve_task
from trainers.es.rollout import MemberRollout, TrainingRows
from trainers.es.start import evolution_strategy, starting_weights, stored_weights, vector_search
from trainers.es.update import Weights
from trainers.es.vector_search import VectorSearch
from trainers.finish import finish_again, finish_training
from trainers.hub import check_hub, push
from trainers.launch import make_accelerator, refuse_sharded_launch, refuse_sharding
from trainers.run_folder import (
    checkpoint_folder,
    end_run,
    first_and_last_evaluation,
    keep_newest,
    save_checkpoint,
    start_run,
)
from trainers.step_line import step_line
from trainers.tracking import Tracking, tracker_names
from trainers.watch import watch_processes


class ESTrainer:
    """Evolution strategies on a language model; the constructor and the methods of TRL's `GRPOTrainer`.

    model: a checkpoint folder or hub name, or a loaded transformers model, which is trained in place. reward_funcs: a
    function of TRL's signature or a list of them; or a `Task` of the lab, by itself or by its name. args: the options,
    also under the names of `GRPOConfig` (see `trainers.es.names`). train_dataset, eval_dataset: rows with a `prompt`,
    for reward functions; without eval_dataset nothing is evaluated. callbacks: transformers' own. peft_config: LoRA,
    whose matrices alone are searched, and saved as an adapter.

    Files in `output_dir`: config.yaml, environment.json, metrics.jsonl (one row a step), evaluations.jsonl (greedy
    accuracy on validation problems), seeds.jsonl (with the starting model a complete checkpoint of every step),
    completions/, checkpoints/step_N/, model/ (the finished checkpoint), adapter/ (with peft_config; model/ is merged
    with it), README.md, results.json (written last).

    Several processes share the members of a step, exchange only rewards, and each rebuilds the same update; only the
    first reads and writes the run folder, so that machines need not share it. If one of them dies, all end. Not with
    ZeRO or FSDP.
    """

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel | None = None,
        reward_funcs: Any = None,
        args: ESConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        peft_config: PeftConfig | None = None,
    ):
        refuse_sharded_launch("evolution strategies")
        config, self._loaded, weights = resolve_model(args, model)
        self.args, self.task, objects = resolve_task(config, reward_funcs, train_dataset, eval_dataset)
        self.objects = objects.of_model(weights, peft_config)
        self.processing_class, self.peft_config = processing_class, peft_config
        if peft_config is not None or isinstance(self._loaded, PeftModel):
            refuse_with_adapter(self.args)
        with watch_processes():
            self.accelerator = make_accelerator(**({"cpu": True} if self.args.use_cpu else {}))
            refuse_sharding(self.accelerator, "evolution strategies")
            resolve_engine_dtype(self.args, self.accelerator, self._loaded is None and peft_config is None)
            self.events = Events(self.args, self.accelerator, callbacks or [], self._loaded, processing_class)
        self.folder = Path(self.args.output_dir)
        self.results: dict[str, Any] = {}
        self.tracking: Tracking | None = None
        self._peft: PeftModel | None = None

    # --- What it holds ---

    @property
    def state(self) -> TrainerState:
        """transformers' state: `global_step`, `log_history` and the rest."""
        return self.events.state

    @cached_property
    def engine(self) -> RolloutEngine:
        """Generates, for members and for evaluations; made when it is first needed."""
        loaded: Any = self._loaded
        if loaded is None and self.peft_config is None:
            engine = make_engine(self.args, self.accelerator, self.task, None, self.processing_class)
        else:
            if loaded is None:
                loaded = make_engine(self.args, self.accelerator, self.task, None, self.processing_class).model
            if self.peft_config is not None or isinstance(loaded, PeftModel):
                self._peft = with_adapter(loaded, self.peft_config, self.args.seed)
                inside: Any = self._peft.base_model
                loaded = inside.model
            engine = make_engine(self.args, self.accelerator, self.task, loaded, self.processing_class)
        self.processing_class = self.processing_class or engine.tokenizer
        self.events.handler.model, self.events.handler.processing_class = self._peft or engine.model, engine.tokenizer
        if self.results:
            self._take_finished_weights(engine)
        return engine

    @property
    def model(self) -> Any:
        """The model with the weights of the last step made, or those that it started from; with LoRA peft's model.

        They are the engine's, rounded to `engine_dtype`; `weights` and what is saved are not.
        """
        engine = self.engine
        return self._peft or engine.model

    @cached_property
    def only(self) -> frozenset[str] | None:
        """The parameters that are searched, of the adapter; None for all."""
        return None if self.engine is None or self._peft is None else searched_names(self._peft)

    @property
    def weights(self) -> Weights:
        """The float32 weights after the last step, or those of the start, of the parameters that are searched."""
        if hasattr(self, "search"):
            return self.search.weights
        if self.results:
            return self._read_weights(self.folder / ("model" if self._peft is None else "adapter"))
        return self._starting_weights()

    # --- As transformers' Trainer ---

    def train(self, resume_from_checkpoint: str | bool | None = None) -> TrainOutput:
        """Train, or finish training; a complete run returns at once.

        resume_from_checkpoint: None and True go on from the newest checkpoint of the run in `output_dir`, True raises
        `UserError` if there is none; a path of one of its checkpoints goes on from that one. A run goes on from where
        it was with the same weights, bit for bit. A complete run with more `steps` goes on from its end.

        With `dry_run` nothing is trained or written: the memory plan is printed.
        """
        with watch_processes():
            loaded = None
            if self._loaded is not None or self.peft_config is not None:
                named = self.engine.named_weights()
                shapes = {name: weight.shape for name, weight in named.items()}
                loaded = ModelShape(self.engine.model.config, shapes, self.only)
            self.plan = check_memory(self.args, self.accelerator, self.task, loaded, self.processing_class)
            if self.args.dry_run:
                return self._output()
            check_hub(self.args)
            configs = [self.args, *([self.objects] if self.objects.given else [])]
            growing = may_grow(self.folder, self.args)
            start_run(self.folder, *configs, may_change=MAY_CHANGE, may_grow=growing)
            file = self.folder / "results.json"
            [finished] = broadcast_object_list([read_json(file) if file.exists() else None])
            if finished is not None and not is_complete(finished, self.args):
                if self.accelerator.is_main_process:
                    reopen(self.folder, finished, self.args)
                self.accelerator.wait_for_everyone()
                finished = None
            if finished is None:
                self._prepare(resume_from_checkpoint)
                finished = self._train()
            else:
                self._recall(finished)
                finish_again(self.folder, self.args)
            self.results = finished
            end_run(self.folder)
        return self._output()

    def evaluate(self, metric_key_prefix: str = "eval") -> dict[str, Any]:
        """Greedy answers to `eval_size` validation problems: {"eval_reward": their mean reward, ...}, and on_evaluate.

        The main process generates; all get the same. Raises `UserError` without problems to evaluate on.
        """
        metrics = self._greedy(metric_key_prefix)
        self.events.evaluated(metrics)
        return metrics

    def save_model(self, output_dir: str | None = None) -> None:
        """A checkpoint folder with the model as it is now; with LoRA the adapter's. Default: `output_dir`/model."""
        if self.accelerator.is_main_process:
            with new_folder(Path(output_dir or self.folder / "model")) as folder:
                self._write_weights(folder)

    def create_model_card(self) -> None:
        """README.md in model/, and in adapter/, of a complete run: base, data, reward, budget, seed, results."""
        if self.accelerator.is_main_process:
            write_cards(self.folder, self._complete())

    def push_to_hub(self) -> str:
        """Push model/ and adapter/ of a complete run with their cards to `hub_model_id`; returns the address."""
        self.create_model_card()
        asked = copy(self.args)
        asked.push_to_hub = True
        check_hub(asked)
        return push(self.folder, asked) if self.accelerator.is_main_process else ""

    def _complete(self) -> dict[str, Any]:
        """The results of the run. Raises `UserError` if it is not complete."""
        if not self.results:
            raise UserError(f"the run in {self.folder} is not complete; train first")
        return self.results

    def add_callback(self, callback: Any) -> None:
        self.events.handler.add_callback(callback)

    def remove_callback(self, callback: Any) -> None:
        self.events.handler.remove_callback(callback)

    def pop_callback(self, callback: Any) -> Any:
        return self.events.handler.pop_callback(callback)

    def is_world_process_zero(self) -> bool:
        return self.accelerator.is_main_process

    # --- The run ---

    def _recall(self, finished: dict[str, Any]) -> None:
        """The state, and the weights of a loaded model, at the end of a run that was complete already."""
        self.state.global_step, self.state.epoch = finished["steps"], self._epoch(finished["steps"])
        self.state.log_history = self._logged_before()
        if "engine" in vars(self):
            self._take_finished_weights(self.engine)

    def _starting_weights(self) -> Weights:
        engine, by_name = self.engine, self._loaded is None and self.peft_config is None
        stored = stored_weights(self.args, engine) if by_name else engine.named_weights()
        return starting_weights(self.args, stored, self.accelerator, self.only)

    def _take_finished_weights(self, engine: RolloutEngine) -> None:
        folder = self.folder / ("model" if self._peft is None else "adapter")
        if folder.exists():  # which another machine may lack
            engine.set_weights(self._read_weights(folder).items())

    def _prepare(self, resume_from_checkpoint: str | bool | None) -> None:
        """The search, at the starting model or at a checkpoint; `progress` and the logs are set back to it."""
        config, accelerator = self.args, self.accelerator
        base = self._starting_weights()
        self.rows = TrainingRows(config, self.task)
        self.parameters = sum(weight.numel() for weight in base.values())
        kept = min(config.keep, -(-config.steps // config.save_every)) + 2
        require_free_space(self.folder, 4 * self.parameters * kept, "the checkpoints and the model of this run")
        done, self.progress, recorded = 0, {"completions": 0, "tokens": 0, "seconds": 0.0}, []
        self.signal = DeadSignal()
        saved: Weights = {}
        if accelerator.is_main_process:
            if done := checkpoint_to_start_from(self.folder, resume_from_checkpoint):
                checkpoint = checkpoint_folder(self.folder, done)
                self.progress = read_json(checkpoint / "progress.json")
                saved = self._read_weights(checkpoint)
                keep_newest(self.folder, config.keep)
            truncate_logs(self.folder, done)
            self.signal.resume(self.folder / "metrics.jsonl")
            recorded = [row["fitness"] for row in read_jsonl(self.folder / VectorSearch.log)]
        done, self.progress, recorded = broadcast_object_list([done, self.progress, recorded])
        names = tracker_names(config.report_to) if accelerator.is_main_process else []
        self.tracking = Tracking(names, self.folder)
        rollout = MemberRollout(config, self.engine, self.rows, accelerator, self.folder, lambda: self.search.pristine)
        if config.on_subspace:
            self.search = vector_search(config, rollout, base, recorded)
        else:
            self.search = evolution_strategy(config, rollout, base, accelerator, done, saved, self.only)
        require_equal_weights(accelerator, self.search.weights, done)
        self.state.global_step, self.state.epoch = done, self._epoch(done)
        self.state.log_history = self._logged_before()

    def _train(self) -> dict[str, Any]:
        """Make the steps that are left; returns the results."""
        config, events = self.args, self.events
        events.fire("on_train_begin")
        step = self.search.steps_count
        if self._evaluation_is_due(step):
            self.engine.set_weights(self.search.weights.items())
            self._evaluate(step)
        ended = None
        while ended is None:
            ended = self._step()
            step = self.search.steps_count
            self._log(step)
            if events.control.should_evaluate or (config.eval_every and ended is not None):
                self._evaluate(step)
            saving = events.control.should_save or ended is not None
            if saving or (config.check_every and step % config.check_every == 0):
                require_equal_weights(self.accelerator, self.search.weights, step)
            if saving and ended is None:
                save_checkpoint(self.folder, step, self._save, keep=config.keep)
                self.accelerator.wait_for_everyone()
                events.fire("on_save")
        assert self.tracking is not None
        self.tracking.close()
        results = self._finish(ended)
        events.fire("on_save")
        events.fire("on_train_end")
        return results

    def _step(self) -> str | None:
        """Make one step, with its weights in the engine afterwards; returns what ends the run, if anything does."""
        config, search, progress = self.args, self.search, self.progress
        self.events.fire("on_step_begin")
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
        self.engine.set_weights(search.weights.items())
        progress["seconds"] += time.perf_counter() - began
        self.state.global_step, self.state.epoch = search.steps_count, self._epoch(search.steps_count)
        self.events.fire("on_step_end")
        ended = self.events.agree(ended)
        if ended is not None:
            search.finish()
            self.engine.set_weights(search.weights.items())
        return ended

    def _epoch(self, step: int) -> float:
        """Passes over the training problems so far."""
        config = self.args
        new = config.prompts_per_step - replayed_prompts(config.prompts_per_step, config.replay_share)
        return step * new / config.train_size

    def _log(self, step: int) -> None:
        """The step's row in metrics.jsonl, and its line; on_log where it is due."""
        evaluation = self.search.evaluation
        metrics = self.search.metrics() | {
            "empty_completions": evaluation.empty,
            "unfinished_completions": evaluation.unfinished,
            "mean_tokens": evaluation.tokens / evaluation.completions,
            "max_tokens": evaluation.longest,
            **{f"rewards/{name}/mean": value for name, value in evaluation.parts.items()},
            **evaluation.gap,
        }
        if self.accelerator.is_main_process:
            assert self.tracking is not None
            self.signal.step(evaluation.rewards.ravel().tolist(), evaluation.examples)
            metrics |= self.signal.flags()
            append_jsonl(self.folder / self.search.log, self.search.log_row())
            append_jsonl(self.folder / "metrics.jsonl", {"step": step, **self.progress, **metrics})
            self.tracking.log({"step": step, **self.progress, **metrics})
            done, seconds = self.progress["completions"], self.progress["seconds"]
            line = step_line("es", step, self.args.steps, seconds=seconds, done=done, reward=metrics["reward"])
            print(line, flush=True)
        if self.events.control.should_log:
            self.events.log(self.progress | metrics)

    def _logged_before(self) -> list[dict[str, Any]]:
        """The log of the steps before a resume, of the run's own files."""
        metrics = [
            row for row in read_jsonl(self.folder / "metrics.jsonl") if row["step"] % self.args.logging_steps == 0
        ]
        evaluations = [_as_metrics(row, "eval") for row in read_jsonl(self.folder / "evaluations.jsonl")]
        rows = sorted([*metrics, *evaluations], key=lambda row: row["step"])
        return [{**row, "epoch": self._epoch(row["step"])} for row in rows]

    def _evaluation_is_due(self, step: int) -> bool:
        """Whether there is none yet of the weights that the run starts, or goes on, from."""
        every = self.args.eval_every
        due = bool(every) and step % every == 0
        if due and self.accelerator.is_main_process:
            due = step not in [row["step"] for row in read_jsonl(self.folder / "evaluations.jsonl")]
        return broadcast_object_list([due])[0]

    def _evaluate(self, step: int) -> None:
        """The greedy accuracy of the weights that are in the engine, logged as of `step`."""
        metrics = self._greedy("eval")
        if self.accelerator.is_main_process:
            assert self.tracking is not None
            kept = {key: metrics[f"eval_{key}"] for key in KEPT}
            row = {"step": step, "completions": self.progress["completions"], **kept}
            append_jsonl(self.folder / "evaluations.jsonl", row)
            self.tracking.log(row)
            self.tracking.log_completions(self._records, row["completions"])
            print(step_line("es", step, self.args.steps, accuracy=row["accuracy"]), flush=True)
        self.events.evaluated(metrics)

    def _greedy(self, prefix: str) -> dict[str, Any]:
        config, metrics = self.args, {}
        if self.accelerator.is_main_process:
            # No more completions at once than the plan reckons with.
            at_once = min(1024, self.plan.rows) if hasattr(self, "plan") else config.prompts_per_step
            sampling = Sampling(config.max_new_tokens)
            accuracy = evaluate_task(
                self.engine, self.task, "validation", config.eval_size, config.data_seed, sampling, at_once
            )
            self._records = accuracy["records"]
            metrics = _as_metrics({key: accuracy[key] for key in KEPT}, prefix)
        return broadcast_object_list([metrics])[0]

    # --- Files ---

    def _write_weights(self, folder: Path) -> None:
        engine = self.engine
        if self._peft is None:
            save_model(folder, engine.model, engine.tokenizer, self.weights)
        else:
            save_adapter(folder, self._peft, self.weights)
            engine.tokenizer.save_pretrained(folder)

    def _read_weights(self, folder: Path) -> Weights:
        return load_file(folder / "model.safetensors") if self._peft is None else read_adapter(folder, self._peft)

    def _save(self, folder: Path) -> None:
        self._write_weights(folder)
        write_json(folder / "progress.json", self.progress)

    def _finish(self, ended: str) -> dict[str, Any]:
        """Write model/ and results.json; returns what stands there."""
        results = {}
        if self.accelerator.is_main_process:
            with new_folder(self.folder / "model") as folder:
                weights = self.search.weights
                if self._peft is not None:
                    weights = merged_weights(self._peft, weights)
                save_model(folder, self.engine.model, self.engine.tokenizer, weights)
            if self._peft is not None:
                self.save_model(str(self.folder / "adapter"))
            rows = read_jsonl(self.folder / "metrics.jsonl")
            results = {
                "method": "es",
                "task": self.args.task,
                "parameters": self.parameters,
                "steps": self.search.steps_count,
                "ended_by": ended,
                "updates": sum(not row["members_tied"] for row in rows),
                **self.progress,
                **first_and_last_evaluation(self.folder),
                **({} if self.objects.reward_funcs else own_data([self.args.task])),
                "digests": run_digests_of(self.folder, self.args, self.task, self.rows, self.objects),
            }
            if ended == "callback":
                results["steps_asked"] = self.args.steps
            finish_training(self.folder, self.args, results)
            results = read_json(self.folder / "results.json")
        return broadcast_object_list([results])[0]

    def _output(self) -> TrainOutput:
        """What transformers' Trainer returns; evolution strategies have no loss."""
        results = self.results
        metrics = {f"train_{key}": results[key] for key in ("completions", "tokens", "updates") if key in results}
        metrics |= {"train_runtime": results["seconds"]} if results else {}
        return TrainOutput(results.get("steps", 0), math.nan, metrics)


# Of an evaluation, what evaluations.jsonl keeps.
KEPT = ("correct", "total", "accuracy", "low", "high")


def _as_metrics(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    """A row of evaluations.jsonl in the names of transformers' metrics; the accuracy is the mean reward."""
    named = {f"{prefix}_{key}": row[key] for key in KEPT}
    rest = {key: value for key, value in row.items() if key not in KEPT}
    return {**rest, f"{prefix}_reward": row["accuracy"], **named}
