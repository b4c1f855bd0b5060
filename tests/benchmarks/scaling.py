"""How the time of a step grows with the model, the population and the answers, and the memory plan with the model.

    python -m tests.benchmarks.scaling [--quick] [--vllm] [--threads 2] [--output runs/scaling.json]

Steps of whole trainings with random weights in float32 and the tiny models' tokenizer, so that models differ in shape
alone: those of the tiny models (0.5 and 1.6 million parameters), one of 54 million and that of SmolLM2-135M. ES with
full noise and with members of rank 1 (norms and embeddings frozen), 8 members x 8 prompts; GRPO, 8 prompts x 8
completions; answers of at most 16 tokens. Exponents are slopes of log seconds on log size, by least squares, with 95 %
intervals from the scatter around the line: few points, and a curve that bends shows as a wide interval. The memory
part holds the peak of each process (over that of the smallest model) against the plan, and scales the plans of
recipes/llama-3.2-3b and qwen3-4b by what was found. About 8 minutes alone on 2 cores, 2 with --quick.
"""

import argparse
import math
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats
from transformers import AutoConfig

from eval.storage import write_json
from tests.benchmarks.drivers.training import Settings, measure
from tests.benchmarks.es_memory import GRPO_RUN, LOW_RANK, RUN, planned_es, planned_grpo, random_folder
from tests.recipe_files import ROOT, planned_demand
from trainers.arguments import parse
from trainers.es.config import ESConfig
from trainers.es.memory import model_shape, plan_memory, size_text


SHAPES = {
    "tiny": "recipes/tiny/models/llama-small",
    "medium": "recipes/tiny/models/llama-medium",
    "54 M": None,
    "135 M": "tests/trainers/es/configs/smollm2-135m",
}
MIDDLE = {
    "hidden_size": 640,
    "intermediate_size": 1920,
    "num_hidden_layers": 10,
    "num_attention_heads": 10,
    "num_key_value_heads": 5,
    "vocab_size": 8192,
}
COPIED = (*MIDDLE, "head_dim")
ES = RUN | {"steps": 3, "max_new_tokens": 16, "eval_every": 0, "save_every": 1000, "population_gb": 2.0}
GRPO = GRPO_RUN | {"max_steps": 3, "per_device_train_batch_size": 64, "max_completion_length": 16, "save_steps": 1000}
METHODS = {"es": ("es", ES), "es rank 1": ("es", ES | LOW_RANK), "grpo": ("grpo", GRPO)}
VLLM = {"es rank 1, vllm": ("es", ES | LOW_RANK | {"engine": "vllm", "population_gb": 0.5})}
POPULATIONS, LENGTHS = (8, 16, 32, 64), (8, 16, 32, 64)
# Folders of recipes for models that no machine here holds, with the configuration of each.
LARGE = {"llama-3.2-3b": "recipes/llama-3.2-3b", "qwen3-4b": "tests/trainers/es/configs/qwen3-4b"}
# Below it, a difference between two processes is not the model's.
LEAST_BYTES = 100e6


@dataclass(frozen=True)
class Exponent:
    """Slope of log y on log x, with its 95 % interval; the interval is infinite with two points."""

    slope: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isinf(self.low):
            return f"{self.slope:.2f}"
        return f"{self.slope:.2f} ({self.low:.2f} to {self.high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="without the largest model, and one timed step of each")
    parser.add_argument("--vllm", action="store_true", help="also ES on vLLM, where it is installed")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--output", default="runs/scaling.json", help="file for the figures")
    arguments = parser.parse_args()
    methods = METHODS | (VLLM if arguments.vllm else {})
    figures: dict[str, Any] = {"threads": arguments.threads}
    with tempfile.TemporaryDirectory(prefix="posttrain-lab-scaling-") as folder:
        names = [name for name in SHAPES if not (arguments.quick and name == "135 M")]
        models = {name: model_folder(Path(folder) / name, SHAPES[name]) for name in names}
        sizes, memory = by_size(models, methods, arguments)
        figures |= {"size": sizes, "memory": memory}
        middle = str(models["medium"])
        figures["population"] = by_option(middle, "population", POPULATIONS, methods, arguments)
        figures["length"] = by_option(middle, "length", LENGTHS, methods, arguments)
    figures["large"] = large_plans(figures["memory"])
    write_json(Path(arguments.output), figures)
    print(f"figures: {arguments.output}")


def model_folder(folder: Path, shape: str | None) -> Path:
    """A checkpoint of this shape with random weights."""
    options = MIDDLE
    if shape is not None:
        config = AutoConfig.from_pretrained(ROOT / shape)
        options = {name: getattr(config, name) for name in COPIED}
    options = dict(options)
    return random_folder(folder, options.pop("vocab_size"), **options)


def seconds_of_step(steps: list[float]) -> float:
    """The first step warms up."""
    return statistics.median(steps[1:])


def shortened(method: str, settings: Settings, quick: bool) -> Settings:
    return settings | {"steps" if method == "es" else "max_steps": 2} if quick else settings


def by_size(
    models: dict[str, Path], methods: dict[str, tuple[str, Settings]], arguments: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Seconds a step and memory of each method for each model, with the exponent in parameters and in the plan."""
    parameters = {name: model_shape(str(path)).parameters for name, path in models.items()}
    print("\nseconds a step, by parameters")
    print(f"{'':18}" + "".join(f"{count / 1e6:>10.1f} M" for count in parameters.values()) + "   exponent")
    times: dict[str, Any] = {"parameters": parameters}
    memory: dict[str, Any] = {}
    for label, (method, settings) in methods.items():
        seconds, peaks, plans = {}, {}, {}
        for name, path in models.items():
            run = shortened(method, settings, arguments.quick) | {"model": str(path)}
            [steps], peaks[name] = measure(method, [run], arguments.threads)
            seconds[name] = seconds_of_step(steps)
            plans[name] = planned_es(run) if method == "es" else planned_grpo(run)
        exponent = fitted(list(parameters.values()), list(seconds.values()))
        times[label] = {"seconds": seconds, "exponent": vars(exponent)}
        smallest = next(iter(models))
        memory[label] = {
            name: {"plan": plans[name] - plans[smallest], "measured": peaks[name] - peaks[smallest]}
            for name in models
            if plans[name] - plans[smallest] > LEAST_BYTES
        }
        print(f"{label:18}" + "".join(f"{value:12.2f}" for value in seconds.values()) + f"   {exponent}", flush=True)
    print("\npeak over that of the smallest model")
    for label, rows in memory.items():
        for name, row in rows.items():
            plan, measured = row["plan"], row["measured"]
            print(f"{label:18}{name:8}plan {size_text(plan)}, measured {size_text(measured)}, {measured / plan:.2f}")
    return times, memory


def by_option(
    model: str, option: str, values: tuple[int, ...], methods: dict[str, tuple[str, Settings]], arguments: Any
) -> dict[str, Any]:
    """Seconds a step of each method with more completions, or longer ones; all values of a method in one process."""
    values = values[:3] if arguments.quick else values
    words = "members (GRPO: prompts)" if option == "population" else "tokens of an answer"
    print(f"\nseconds a step of the medium model, by {words}")
    print(f"{'':18}" + "".join(f"{value:12}" for value in values) + "   exponent")
    found = {}
    for label, (method, settings) in methods.items():
        settings = shortened(method, settings, arguments.quick) | {"model": model}
        runs = [settings | varied(method, option, value) for value in values]
        steps, _ = measure(method, runs, arguments.threads)
        seconds = [seconds_of_step(each) for each in steps]
        exponent = fitted(values, seconds)
        found[label] = {"seconds": dict(zip(values, seconds, strict=True)), "exponent": vars(exponent)}
        print(f"{label:18}" + "".join(f"{value:12.2f}" for value in seconds) + f"   {exponent}", flush=True)
    return found


def varied(method: str, option: str, value: int) -> Settings:
    """A GRPO step of so many prompts has the completions of an ES step of so many members."""
    if option == "population":
        return {"population": value} if method == "es" else {"per_device_train_batch_size": 8 * value}
    return {"max_new_tokens": value} if method == "es" else {"max_completion_length": value}


def fitted(x: Any, y: Any) -> Exponent:
    """The exponent of y ~ x^slope over the points."""
    line = stats.linregress([math.log(value) for value in x], [math.log(value) for value in y])
    free = len(x) - 2
    reach = stats.t.ppf(0.975, free) * line.stderr if free else math.inf
    return Exponent(float(line.slope), float(line.slope - reach), float(line.slope + reach))


def large_plans(memory: dict[str, Any]) -> dict[str, Any]:
    """The plans of the large models' recipes, and the peaks if they lie as far from them as the measured ones do."""
    ratios = [
        row["measured"] / row["plan"] for label in memory if "grpo" not in label for row in memory[label].values()
    ]
    low, high = min(ratios), max(ratios)
    print(f"\nES recipes of large models; the measured peaks are {low:.2f} to {high:.2f} of their plans")
    found: dict[str, Any] = {"ratios": [low, high]}
    for name, shape in LARGE.items():
        for path in sorted((ROOT / "recipes" / name).glob("es*.yaml")):
            (config,) = parse(ESConfig, arguments=["--config", str(path.relative_to(ROOT))])
            gigabytes = int(path.read_text(encoding="utf-8").split("one GPU of ")[1].split(" GB")[0])
            plan = plan_memory(model_shape(str(ROOT / shape)), planned_demand(config)).device_bytes
            fits = "fits" if high * plan <= gigabytes * 1e9 else "does not fit"
            found[f"{name}/{path.stem}"] = {"plan": plan, "low": low * plan, "high": high * plan, "device": gigabytes}
            print(
                f"{name + '/' + path.stem:28}plan {size_text(plan)}, {size_text(low * plan)} to "
                f"{size_text(high * plan)}: {fits} its {gigabytes} GB"
            )
    return found


if __name__ == "__main__":
    main()
