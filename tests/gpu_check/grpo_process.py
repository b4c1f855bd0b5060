"""recipes/grpo.py as `accelerate launch -m` starts it here: each process leaves its peak memory in a file."""

import os
import sys
from pathlib import Path

from eval.errors import exit_with_one_line
from eval.storage import write_json
from recipes.grpo import main
from tests.gpu_check.memory import peak_bytes, resident_bytes


PEAKS = "POSTTRAIN_LAB_GPU_CHECK"


def measured() -> None:
    before = resident_bytes()
    main()
    device = "cpu" if "--use_cpu=true" in sys.argv else "cuda"
    write_json(Path(os.environ[PEAKS]) / f"rank_{os.environ.get('RANK', '0')}.json", peak_bytes(device, before))


if __name__ == "__main__":
    exit_with_one_line(measured)
