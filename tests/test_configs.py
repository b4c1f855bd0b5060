"""Every YAML in recipes/ and accelerate_configs/ is read by what takes it."""

import pytest
from accelerate.commands import launch
from accelerate.commands.config.config_args import load_config_from_file
from transformers import TrainingArguments

from tests.recipe_files import ROOT, load_script, recipe_yamls, script_of
from trainers.arguments import as_flat_dict, from_yaml, parse


# File -> the function of accelerate that starts the processes, and how many.
LAUNCHERS = {
    "cpu": ("simple_launcher", 1),
    "cpu_2proc": ("multi_gpu_launcher", 2),
    "single_gpu": ("simple_launcher", 1),
    "multi_gpu": ("multi_gpu_launcher", 8),
    "multi_node": ("multi_gpu_launcher", 16),
    "zero2": ("deepspeed_launcher", 8),
    "zero3": ("deepspeed_launcher", 8),
    "fsdp2": ("multi_gpu_launcher", 8),
}
ALL_LAUNCHERS = (
    "simple_launcher",
    "multi_gpu_launcher",
    "deepspeed_launcher",
    "tpu_launcher",
    "tpu_pod_launcher",
    "sagemaker_launcher",
)


def accelerate_files():
    return {path.stem: path for path in (ROOT / "accelerate_configs").glob("*.yaml")}


def test_the_table_of_launchers_names_every_accelerate_config():
    assert accelerate_files().keys() == LAUNCHERS.keys()


@pytest.mark.parametrize("name", LAUNCHERS)
def test_accelerate_config_is_valid_and_takes_the_launcher_of_the_table(name, monkeypatch):
    path = accelerate_files()[name]
    # Raises on a key that accelerate does not know.
    load_config_from_file(str(path))
    started = []
    for launcher in ALL_LAUNCHERS:
        monkeypatch.setattr(
            launch, launcher, lambda *args, launcher=launcher: started.append((launcher, args[-1].num_processes))
        )
    # The whole of `accelerate launch` except for starting the processes.
    launch.launch_command(launch.launch_command_parser().parse_args(["--config_file", str(path), "script.py"]))
    assert started == [LAUNCHERS[name]]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_accelerate_config_begins_with_its_own_command(name):
    header = [line for line in accelerate_files()[name].read_text().split("\n") if line.startswith("#")]
    assert any(f"accelerate launch --config_file accelerate_configs/{name}.yaml" in line for line in header)
    assert any(line.startswith("# Hardware: ") for line in header)


@pytest.mark.parametrize("yaml_path", recipe_yamls())
def test_recipe_yaml_is_read_by_its_script(yaml_path):
    config_types = load_script(script_of(yaml_path)).CONFIG_TYPES
    arguments = ["--config", yaml_path]
    if any(issubclass(type_, TrainingArguments) for type_ in config_types):
        # They look for the GPU that a recipe with bf16 needs.
        arguments += ["--use_cpu", "true"]
    configs = parse(*config_types, arguments=arguments)
    assert tuple(type(config) for config in configs) == config_types
    # A study that takes the file with values of its own reads the same.
    overrides = {"use_cpu": True} if len(arguments) > 2 else {}
    assert as_flat_dict(*from_yaml(yaml_path, config_types, overrides)) == as_flat_dict(*configs)
