"""How much of an update of evolution strategies is rounding: the released loop beside loops that round less.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/precision.py \\
        --config recipes/tiny/precision.yaml

The same steps (same noise, same random fitness) are made with the rounding of the released code, with one rounding
after the other taken away, and without any, once with independent noise and once with one stream for all tensors. No
completions are generated. results.json and report.md hold length, direction and sparsity of each update.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from analysis.geometry.checkpoints import Checkpoint
from analysis.geometry.rounding import PrecisionStudy, artefacts, kind_of, markdown
from analysis.resume import stage
from analysis.theory.random_walk import effective_dimension
from eval.digests import run_digests
from eval.errors import UserError, exit_with_one_line
from eval.results_file import write_results
from eval.storage import write_text
from trainers.arguments import check_between, parse
from trainers.dry_run import announce, folder_line
from trainers.es.memory import model_shape
from trainers.es.noise import Noise
from trainers.es.rounding_study import WITHOUT_UPDATE, Steps, round_in_every_way
from trainers.launch import make_accelerator
from trainers.options import PositiveFloat, PositiveInt, Processes, Rows, Seed, StartOptions, check_bounds, option
from trainers.run_folder import start_run


# Of the weights that a simulated model is given, by kind: standard deviation of matrices and embeddings, range of the
# norms' weights. Of the size that released 3B models have, but assumed, not measured on one.
DEVIATIONS = {"embeddings": 0.02, "attention": 0.03, "mlp": 0.02}
NORMS = (0.2, 1.0)
# Each is drawn and added in turn, in every step.
MOST_MEMBERS = 1_000_000


@dataclass
class PrecisionConfig:
    """Rounding in evolution strategies, on checkpoints and on random weights of a large model's shapes."""

    output_dir: str = field(metadata={"help": "run folder; results.json and report.md are in it at the end"})
    models: list[str] = field(metadata={"help": "checkpoint folders"})
    simulated: str = option("", "folder with the config.json of a model to simulate; none")
    simulated_layers: PositiveInt = option(2, "layers of it that are simulated and stand for all")
    sample: Rows = option(4096, "numbers of each of its tensors that are simulated")
    steps: PositiveInt = option(100, "updates")
    population: PositiveInt = option(30, "members per step, N")
    engines: Processes = option(3, "engines of the released loop")
    sigma: PositiveFloat = option(1e-3, "standard deviation of a member's perturbation")
    alpha: PositiveFloat = option(5e-4, "step size")
    seed: Seed = option(0, "fixes noise, fitness and simulated weights")

    def __post_init__(self):
        check_bounds(self)
        check_between("population", self.population, 2, MOST_MEMBERS)
        if not (self.models or self.simulated):
            raise UserError("models is empty and nothing is simulated; give a checkpoint folder")
        names = [Path(folder).name for folder in self.models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"two models are called {twice[0]}; give folders of different names")


CONFIG_TYPES = (PrecisionConfig, StartOptions)


def main() -> None:
    config, start = parse(*CONFIG_TYPES)
    run = Path(config.output_dir)
    sources = {Path(folder).name: Checkpoint(Path(folder)) for folder in config.models}
    if config.simulated:
        shapes = model_shape(config.simulated).shapes
    if start.dry_run:
        length = f"{config.steps:,} updates of {config.population:,} members, with independent and with shared noise"
        models = ", ".join([*sources, *[f"simulated {config.simulated}"] * bool(config.simulated)])
        announce("precision", {"models": models, "length": length, "folder": folder_line(run, config)})
        return
    accelerator = make_accelerator()
    start_run(run, config)
    if not accelerator.is_main_process:
        return
    results = {}
    for name, checkpoint in sources.items():
        tensors = [(tensor, 1, weight.bfloat16().float()) for tensor, weight in checkpoint.items()]
        results[name] = study_both(config, name, tensors, [weight.shape for _, _, weight in tensors])
    if config.simulated:
        name = f"simulated {Path(config.simulated).name}"
        results[name] = study_both(config, name, list(simulate(config, shapes)), list(shapes.values()))

    settings = vars(settings_of(config, False))
    digests = run_digests(run, {Path(folder).name: folder for folder in config.models}, {})
    write_results(run / "results.json", "rounding", {"models": results, "settings": settings, "digests": digests})
    write_text(run / "report.md", markdown(results))
    print(f"report: {run / 'report.md'}")


def study_both(config: PrecisionConfig, name: str, tensors: list, shapes: list) -> dict[str, Any]:
    """The figures of one model with independent and with shared noise, each a stage of the run folder."""
    figures = {}
    for noise in ("independent", "shared"):
        settings = settings_of(config, noise == "shared")
        compute = partial(study, settings, tensors, shapes, f"{name}, {noise}")
        figures[noise] = stage(Path(config.output_dir), f"{name}-{noise}", vars(settings), compute)
    return figures


def settings_of(config: PrecisionConfig, shared: bool) -> Steps:
    return Steps(config.steps, config.population, config.sigma, config.alpha, config.engines, config.seed, shared)


def study(
    settings: Steps, tensors: list[tuple[str, float, torch.Tensor]], shapes: list[torch.Size], title: str
) -> dict[str, Any]:
    """Every way of rounding beside the one without.

    tensors: (name, how many numbers of the model each of its numbers stands for, weights). shapes: of all tensors of
    the model, for the dimension of its noise.
    """
    totals = PrecisionStudy()
    for name, share, weight in tqdm(tensors, desc=title, unit="tensor"):
        after = round_in_every_way(name, weight, settings)
        reference = after["fp32_master"] - weight
        stored = after["fp32_master"].bfloat16().float() - weight
        walk = after.pop(WITHOUT_UPDATE) - weight
        for way, value in after.items():
            still = walk if way == "released" else torch.zeros_like(walk)
            totals.at(way, kind_of(name)).add(value - weight, reference, stored, still, share)
        totals.compare_with_first_of_shape(reference)
    nominal = settings.alpha * (settings.steps / settings.members) ** 0.5  # of one weight
    ways = totals.report(nominal)
    return {
        "ways": ways,
        "artefacts": artefacts({way: kinds["all"] for way, kinds in ways.items()}),
        "same_shape_cosine": totals.same_shape_cosine(),
        "effective_dimension": effective_dimension(shapes, settings.shared_noise, across_sizes=False),
        "parameters": sum(shape.numel() for shape in shapes),
    }


def simulate(config: PrecisionConfig, shapes: dict[str, torch.Size]) -> Iterator[tuple[str, float, torch.Tensor]]:
    """A sample of random numbers of some layers' tensors, and how many of the model's weights each stands for."""
    layers = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("model.layers."))
    for name, shape in shapes.items():
        in_layer = name.startswith("model.layers.")
        if in_layer and int(name.split(".")[2]) >= config.simulated_layers:
            continue
        size = min(config.sample, shape.numel())
        drawn = Noise().draw(config.seed, f"weights of {name}", torch.empty(size))
        kind = kind_of(name)
        if kind == "norms":
            low, high = NORMS
            weight = low + (high - low) * torch.special.ndtr(drawn)
        else:
            weight = DEVIATIONS[kind] * drawn
        stands_for = shape.numel() / size * (layers / min(layers, config.simulated_layers) if in_layer else 1)
        yield name, stands_for, weight.bfloat16().float()


if __name__ == "__main__":
    exit_with_one_line(main)
