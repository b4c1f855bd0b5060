"""The weights at the evaluations of a run, so that solutions can be compared where they are equally accurate.

    evaluated/step_N/       the model after N steps as a Hugging Face folder; with LoRA the adapter alone

GRPO and SFT write them while they train (`keep_evaluated`); those of evolution strategies are replayed from the seed
log (`trainers.es.replay`). A folder has its name only when it is complete. The start, step 0, is the run's own model.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from eval.ownership import remove_made
from eval.rollout.loading import save_model
from eval.storage import new_folder, write_text


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def evaluated_folder(run: Path, step: int) -> Path:
    """Where the weights after `step` steps lie, or will lie."""
    return Path(run) / "evaluated" / f"step_{step}"


def evaluated_models(run: Path) -> dict[int, Path]:
    """{step: folder} of all that are complete, in order."""
    folders = [path for path in (Path(run) / "evaluated").glob("step_*") if re.fullmatch(r"step_\d+", path.name)]
    return dict(sorted((int(path.name.removeprefix("step_")), path) for path in folders))


def keep_evaluated(run: Path, step: int, save: Callable[[Path], None]) -> None:
    """Let `save` fill an empty folder, which becomes that of `step` only when `save` has returned."""
    with new_folder(evaluated_folder(run, step)) as unfinished:
        save(unfinished)


def drop_evaluated_after(run: Path, step: int) -> None:
    """Remove those of later steps: a run that goes on from `step` makes them again."""
    for later, folder in evaluated_models(run).items():
        if later > step:
            remove_made(folder)


def saver_of(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    generation: GenerationConfig,
    dtype: torch.dtype,
) -> Callable[[Path], None]:
    """What writes `model` as it is then into an empty folder; of a model with LoRA the adapter, in its own type.

    generation: the model's generation configuration, which a trainer may have replaced.
    """

    def save(folder: Path) -> None:
        if isinstance(model, PeftModel):
            model.save_pretrained(str(folder))
            return
        cached, model.config.use_cache = model.config.use_cache, True  # trainers turn it off
        save_model(folder, model, tokenizer, dict(model.named_parameters()), dtype)
        model.config.use_cache = cached
        write_text(folder / "generation_config.json", generation.to_json_string())

    return save


def evaluations_of(steps: int, eval_every: int) -> int:
    """How many evaluations of trained weights a run of so many steps makes: every `eval_every`, and at its end."""
    return math.ceil(steps / eval_every) if eval_every else 0


def saved_bytes(weights: int, dtype: str) -> int:
    """Of one folder: its weights, without the few small files beside them."""
    return weights * DTYPES[dtype].itemsize
