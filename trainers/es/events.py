"""What transformers' callbacks see of a run: its options as `TrainingArguments`, its state, and when it goes on."""

import math
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from transformers import DefaultFlowCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from trainers.es.config import ESConfig
from trainers.tracking import tracker_names


# Of TrainerControl: what a callback may ask for. All processes do what the main one's callbacks ask for.
FLAGS = ("should_training_stop", "should_save", "should_evaluate", "should_log")


def callback_arguments(config: ESConfig) -> TrainingArguments:
    """The options of a run under the names that callbacks read. To be made after the accelerator, which it takes."""
    return TrainingArguments(
        output_dir=config.output_dir,
        max_steps=config.steps,
        per_device_train_batch_size=config.completions_per_step,
        eval_strategy="steps" if config.eval_every else "no",
        eval_steps=config.eval_every or None,
        save_steps=config.save_every,
        save_total_limit=config.keep,
        logging_steps=config.logging_steps,
        report_to=tracker_names(config.report_to) or "none",
        run_name=config.run_name or Path(config.output_dir).name,
        seed=config.seed,
        data_seed=config.data_seed,
        hub_model_id=config.hub_model_id,
        # Of a search, higher is better; the greedy evaluations are what runs are compared by.
        metric_for_best_model="reward",
        greater_is_better=True,
        disable_tqdm=True,
        accelerator_config={"use_configured_state": True},
    )


class Events:
    """transformers' callbacks around a run, as its Trainer calls them: state, control and log are theirs."""

    def __init__(
        self, config: ESConfig, accelerator: Accelerator, callbacks: list[TrainerCallback], model: Any, tokenizer: Any
    ):
        self.arguments, self.accelerator = callback_arguments(config), accelerator
        self.handler = CallbackHandler([DefaultFlowCallback, *callbacks], model, tokenizer, None, None)
        self.state = TrainerState(
            max_steps=config.steps,
            logging_steps=config.logging_steps,
            eval_steps=config.eval_every or 0,
            save_steps=config.save_every,
            is_world_process_zero=accelerator.is_main_process,
            is_local_process_zero=accelerator.is_local_main_process,
        )
        self.control = TrainerControl()
        self.fire("on_init_end")

    def fire(self, event: str, **values: Any) -> None:
        """Call this event of every callback."""
        self.control = getattr(self.handler, event)(self.arguments, self.state, self.control, **values)

    def agree(self, ended: str | None) -> str | None:
        """What ends the run and what the callbacks ask for, by the main process: clocks and callbacks differ."""
        asked = [getattr(self.control, flag) for flag in FLAGS]
        ended, *asked = broadcast_object_list([ended, *asked])
        for flag, value in zip(FLAGS, asked, strict=True):
            setattr(self.control, flag, value)
        return "callback" if ended is None and self.control.should_training_stop else ended

    def log(self, values: dict[str, Any]) -> None:
        """One row of the log, and on_log."""
        row = {**values, "epoch": self.state.epoch}
        self.state.log_history.append({**row, "step": self.state.global_step})
        self.fire("on_log", logs=row)

    def evaluated(self, metrics: dict[str, Any]) -> None:
        self.log(metrics)
        self.fire("on_evaluate", metrics=metrics)
        value = metrics.get("eval_reward")
        if value is not None and not math.isnan(value):
            if self.state.best_metric is None or value > self.state.best_metric:
                self.state.best_metric, self.state.best_global_step = value, self.state.global_step
