"""recipes/grpo.py as accelerate starts it here: each process leaves in a file what it was and took."""

import os
import sys
from pathlib import Path

from accelerate.state import AcceleratorState

from eval.errors import exit_with_one_line
from eval.storage import write_json
from recipes.grpo import main
from tests.gpu_check.memory import peak_bytes, resident_bytes
from tests.gpu_check.processes import RANKS


def measured() -> None:
    before = resident_bytes()
    main()
    device = "cpu" if "--use_cpu=true" in sys.argv else "cuda"
    # Where accelerate cannot shard, it trains without a word.
    found = {"kind": AcceleratorState().distributed_type.value, "peak": peak_bytes(device, before)}
    write_json(Path(os.environ[RANKS]) / f"rank_{os.environ.get('RANK', '0')}.json", found)


if __name__ == "__main__":
    exit_with_one_line(measured)
