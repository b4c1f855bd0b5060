"""The processes of a run under `accelerate launch`."""

import os
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType

from eval.errors import UserError
from eval.freed_memory import keep_freed_memory


SHARDED_LAUNCHES = {
    "ACCELERATE_USE_DEEPSPEED": "DEEPSPEED",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "MEGATRON_LM",
}
SHARDED = (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM)


def make_accelerator(**options: Any) -> Accelerator:
    """`Accelerator(**options)` that knows how many processes there are, also when they run on CPUs.

    Several CPU processes start through accelerate's multi-GPU launcher (see accelerate_configs/cpu_2proc.yaml), which
    does not hand `use_cpu` on; without ACCELERATE_USE_CPU each process then takes itself for the only one. Raises
    `UserError` if that happens all the same.
    """
    if not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"
        keep_freed_memory()
    accelerator = Accelerator(**options)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise UserError(
            f"{started} processes were started, but accelerate sees {accelerator.num_processes}; "
            "put ACCELERATE_USE_CPU=true before the command to run on CPUs, or start one process"
        )
    return accelerator


def is_main_process() -> bool:
    """Whether this is the process that writes files. True in a run of one process, launched or not."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_everyone() -> None:
    """Return when every process of this run has come here; at once in a run of one process."""
    if torch.distributed.is_initialized():
        PartialState().wait_for_everyone()


def refuse_sharded_launch(what: str) -> None:
    """The same as `refuse_sharding` from what `accelerate launch` tells its processes, before they start to shard."""
    for variable, name in SHARDED_LAUNCHES.items():
        if os.environ.get(variable, "false").lower() in ("1", "true"):
            raise _sharded(what, name)


def refuse_sharding(accelerator: Accelerator, what: str) -> None:
    """Raise `UserError` under ZeRO, FSDP or Megatron, where no process holds a whole weight matrix.

    what: the subject of the message, such as "evolution strategies".
    """
    if accelerator.distributed_type in SHARDED:
        raise _sharded(what, accelerator.distributed_type.value)


def _sharded(what: str, name: str) -> UserError:
    return UserError(
        f"{what} cannot run with weights sharded by {name}, because noise is drawn for whole matrices; "
        "use accelerate_configs/single_gpu.yaml or multi_gpu.yaml"
    )
