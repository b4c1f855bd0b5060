"""Run every recipe of recipes/tiny and of recipes/rules for two steps, each as its own command: `make smoke`.

Those in folders below recipes/rules, which need a GPU, are left out.
Recipes for vLLM run where it is installed; elsewhere they are named and left out. Results go to a temporary folder.
The first failure ends the run with that command's status.
"""

import importlib.util
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.recipe_files import ROOT, needs_vllm, recipe_yamls, script_of


# What makes each script short. A script without an entry fails: add one when you add a recipe.
SHORT = {
    # One comparison, of two ES steps of 512 completions.
    "recipes/claims.py": "--tasks countdown --seeds 1 --budgets matched --precisions fp32 --completions 1024 "
    "--test_size 8 --kl_prompts 4 --line_points 3 --line_size 8 --probe_size 4 --random_directions 1".split(),
    # The shipped models, which know other tasks: none is left out for that.
    "recipes/circuits.py": [
        "--models",
        "[{name: small, source: recipes/tiny/models/llama-small}, "
        "{name: medium, source: recipes/tiny/models/llama-medium}]",
        "--transfers",
        "[{small: small, large: medium}]",
        "--change_base",
        "small",
        *(
            "--tasks ioi_short docstring_short --change_tasks docstring_short --smallest_share 0 --examples 8 "
            "--test_examples 8 --train_examples 8 --alignment_seeds 1 --resamples 20 --completions 4096"
        ).split(),
    ],
    # Two ES steps of 2,048 completions.
    "recipes/compare.py": "--completions 4096 --test_size 8 --kl_prompts 4 --line_points 3 --line_size 8".split(),
    "recipes/es.py": ["--steps", "2"],
    "recipes/grpo.py": ["--max_steps", "2", "--save_steps", "1"],
    "recipes/precision.py": ["--steps", "2"],
    "recipes/pretrain.py": ["--steps", "2"],
    "recipes/rules.py": ["--steps", "2"],
    # Two steps of evolution strategies for each of two tasks, and as many completions for the other arms.
    "recipes/sequential.py": "--tasks countdown yes_no --seeds 1 --budget 1024 --test_size 8 --kl_prompts 4".split(),
    "recipes/sft.py": ["--problems", "64", "--num_train_epochs", "1"],
    "recipes/rules_sweep.py": [
        "--runs",
        "[{config: recipes/rules/parity-mlp.yaml, options: {steps: 2, seed: [0, 1]}}]",
    ],
}


def main() -> None:
    yamls = recipe_yamls("recipes/tiny")
    yamls += [path for path in recipe_yamls("recipes/rules") if Path(path).parent == Path("recipes/rules")]
    without_entry = sorted({script_of(path) for path in yamls} - SHORT.keys())
    if without_entry:
        sys.exit(f"error: {', '.join(without_entry)} has no entry in SHORT of tests/smoke.py; add one")
    has_vllm = importlib.util.find_spec("vllm") is not None
    with tempfile.TemporaryDirectory(prefix="posttrain-lab-smoke-") as output:
        for number, path in enumerate(yamls, start=1):
            if needs_vllm(path) and not has_vllm:
                print(
                    f"[{number}/{len(yamls)}] {path} left out: vLLM is not installed (make test installs it on "
                    "Linux on x86-64)",
                    flush=True,
                )
                continue
            script = script_of(path)
            launch = [Path(sys.executable).with_name("accelerate"), "launch", "--quiet"]
            launch += ["--config_file", "accelerate_configs/cpu.yaml", script, "--config", path, *SHORT[script]]
            launch += ["--output_dir", f"{output}/{number}"]
            command = [str(word) for word in launch]
            print(f"[{number}/{len(yamls)}] {shlex.join(command)}", flush=True)
            status = subprocess.run(command, cwd=ROOT, check=False).returncode
            if status != 0:
                sys.exit(status)


if __name__ == "__main__":
    main()
