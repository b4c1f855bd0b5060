"""Model cards: README.md of a finished model and adapter, made from the run's own record and from nothing else.

What was not measured, or is not known, does not stand there.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from eval.ownership import files_in, run_at, unfinished_file, write_marker
from eval.storage import read_json, read_jsonl, read_yaml_mapping, write_text
from eval.tasks import task_name
from trainers.step_line import duration


METHODS = {
    "es": ("evolution strategies", "Evolution Strategies at Scale, arXiv 2509.24372"),
    "grpo": ("GRPO, through TRL", "DeepSeekMath, arXiv 2402.03300"),
    "sft": ("supervised fine-tuning on the base model's own right answers, through TRL", "arXiv 2308.01825"),
    "pretrain": ("pre-training from random weights", ""),
}
BIBTEX = """```bibtex
@software{posttrain_lab,
  title = {posttrain-lab},
  author = {{The posttrain-lab authors}}
}
```"""
# Tasks whose rows are a data set of the hub.
HUB_DATA = {
    "gsm8k": "openai/gsm8k",
    "boolq": "google/boolq",
    "countdown_hub": "Jiayi-Pan/Countdown-Tasks-3to4",
    "math": "nlile/hendrycks-MATH-benchmark",
}
# Of config.yaml, what says how a method went about it.
SETTINGS = {
    "es": "algorithm population sigma alpha prompts_per_step samples temperature max_new_tokens fitness_shaping "
    "noise precision engine".split(),
    "grpo": "learning_rate lr_scheduler_type num_generations generation_batch_size per_device_train_batch_size beta "
    "loss_type temperature max_completion_length lora_rank lora_alpha".split(),
    "sft": "learning_rate num_train_epochs per_device_train_batch_size problems samples temperature "
    "max_completion_length".split(),
    "pretrain": "architecture hidden_size layers heads tasks careless_share batch_size learning_rate".split(),
}


def write_cards(run: Path, results: dict[str, Any]) -> None:
    """Put README.md into model/, and into adapter/ if there is one. results: what results.json will hold."""
    for name in ("model", "adapter"):
        folder = run / name
        if folder.is_dir():
            file = folder / "README.md"
            # It counts as one of the files that the run has made before it is there: a start after a kill, at whatever
            # moment, may replace the folder.
            write_marker(folder, run_at(run), sorted({*files_in(folder), file.name, unfinished_file(file).name}))
            write_text(file, str(card(run, results, adapter=name == "adapter")))


def card(run: Path, results: dict[str, Any], adapter: bool = False) -> ModelCard:
    """The card of the model, or of the adapter, of the training in folder `run`."""
    config, environment = read_yaml_mapping(run / "config.yaml"), read_json(run / "environment.json")
    method = results.get("method", "pretrain")
    evaluations = read_jsonl(run / "evaluations.jsonl")
    data = front_matter(run, config, method, evaluations, adapter)
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {run.absolute().name}",
        introduction(config, results, method, adapter, data),
        "## Results\n\n" + measured(config, results, evaluations),
        "## Training\n\n" + "\n".join(f"- {line}" for line in training(config, results, method)),
        "## How to make it again\n\n" + replay(run, config, environment, results, method),
        "## Versions\n\n" + ", ".join(f"{name} {version}" for name, version in versions(environment).items()),
        "## Citation\n\n" + citation(method),
    ]
    return ModelCard("\n\n".join(parts) + "\n", ignore_metadata_errors=False)


def front_matter(
    run: Path, config: dict[str, Any], method: str, evaluations: list[dict[str, Any]], adapter: bool
) -> ModelCardData:
    name = run.absolute().name
    results = None
    if evaluations and evaluations[-1].get("accuracy") is not None:
        task, dataset = task_name(config["task"]), hub_dataset(config["task"])
        results = [
            EvalResult(
                task_type="text-generation",
                dataset_type=dataset or task,
                dataset_name=task,
                dataset_split="validation",
                metric_type="accuracy",
                metric_name="greedy accuracy",
                metric_value=evaluations[-1]["accuracy"],
            )
        ]
    dataset = hub_dataset(config["task"]) if "task" in config else None
    model = config.get("model")
    return ModelCardData(
        model_name=name,
        base_model=str(model) if model and not Path(str(model)).is_dir() else None,
        license=base_license(model),
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["posttrain-lab", method, *(["lora"] if adapter else [])],
        datasets=[dataset] if dataset else None,
        eval_results=results,
    )


def introduction(
    config: dict[str, Any], results: dict[str, Any], method: str, adapter: bool, data: ModelCardData
) -> str:
    words, _ = METHODS[method]
    size = f"{results['parameters']:,} parameters"
    if method == "pretrain":
        return f"A small language model of {size}, made by {words} on {', '.join(config['tasks'])}."
    what = "A LoRA adapter for" if adapter else f"A language model of {size}, post-trained from"
    licence = f" (licence of the base: {data.license})" if data.license else ""
    return f"{what} `{config['model']}`{licence} by {words} on the task {task_name(config['task'])}."


def measured(config: dict[str, Any], results: dict[str, Any], evaluations: list[dict[str, Any]]) -> str:
    """Greedy accuracies with their intervals."""
    if "validation" in results:
        rows = [f"| {task} | {100 * share:.1f} % |" for task, share in results["validation"]["accuracy"].items()]
        head = f"Greedy accuracy on {config['evaluate_size']} validation problems of each task, last evaluation."
        return "\n".join([head, "", "| task | accuracy |", "| --- | ---: |", *rows])
    known = [row for row in evaluations if row.get("accuracy") is not None]
    if not known:
        return "The run had no evaluation (`eval_every: 0`)."
    rows = []
    for row in [known[0], known[-1]] if known[0]["step"] == 0 else [known[-1]]:
        accuracy, low, high = (100 * row[key] for key in ("accuracy", "low", "high"))
        rows.append(f"| after {row['step']} steps | {accuracy:.1f} % | {low:.1f}–{high:.1f} |")
    head = (
        f"Greedy accuracy on {known[-1]['total']} validation problems of {task_name(config['task'])}. Intervals: "
        "95 %, over the choice of problems alone; they do not cover what another training seed would give."
    )
    return "\n".join([head, "", "| model | accuracy | interval |", "| --- | ---: | ---: |", *rows])


def training(config: dict[str, Any], results: dict[str, Any], method: str) -> list[str]:
    words, _ = METHODS[method]
    lines = [f"Method: {words}."]
    settings = [f"{name} {config[name]}" for name in SETTINGS[method] if config.get(name) not in (None, [], "")]
    lines.append(f"Settings: {', '.join(settings)}.")
    if "task" in config:
        lines.append(f"Reward: {reward(config)}.")
    for name, digest in results.get("digests", {}).get("data", {}).items():
        lines.append(f"Data: {name}, SHA-256 `{digest}`.")
    spent = [f"{results['steps']:,} steps"]
    spent += [f"{results[key]:,} {key} generated" for key in ("completions", "tokens") if key in results]
    spent += [f"{duration(results['seconds'])} of training"] if "seconds" in results else []
    lines.append(f"Budget: {', '.join(spent)}.")
    seeds = [f"{name} {config[name]}" for name in ("seed", "data_seed") if config.get(name) is not None]
    lines.append(f"Seeds: {', '.join(seeds)}.")
    return lines


def reward(config: dict[str, Any]) -> str:
    """Whose reward: the user's own functions by name, or the task's score."""
    task = config["task"] if isinstance(config["task"], dict) else {}
    own = config.get("reward") or task.get("reward")
    if not own:
        return f"the score of the task {task_name(config['task'])}"
    entries = own if isinstance(own, list) else [own]
    return ", ".join(str(one.get("reward", one)) if isinstance(one, dict) else str(one) for one in entries)


def replay(
    run: Path, config: dict[str, Any], environment: dict[str, Any], results: dict[str, Any], method: str
) -> str:
    lines = ["The command of the run:", "", f"```\n{environment['command']}\n```", ""]
    if environment.get("git_commit"):
        changed = ", with uncommitted changes" if environment.get("git_uncommitted_changes") else ""
        lines += [f"Commit of posttrain-lab: {environment['git_commit']}{changed}.", ""]
    lines.append("`posttrain-lab verify RUN` compares the files of the run folder with the digests in results.json.")
    # The start of an adapter is not in the base model.
    if method == "es" and config.get("algorithm", "es") == "es" and not (run / "adapter").is_dir():
        lines.append(
            "With the base model its seeds.jsonl is a complete record of the weights: `python -m trainers.es.replay "
            f"--base {config['model']} --seeds seeds.jsonl --step {results['steps']} --output DIR` makes them again."
        )
    return "\n".join(lines)


def versions(environment: dict[str, Any]) -> dict[str, str]:
    return {"python": environment["python"]} | environment["packages"]


def citation(method: str) -> str:
    _, paper = METHODS[method]
    return BIBTEX + (f"\n\nThe method: {paper}." if paper else "")


def hub_dataset(task: Any) -> str | None:
    """The data set on the hub that a task reads its rows from; None for generated and for the user's own files."""
    if isinstance(task, dict):
        data = str(task.get("data", ""))
        return data if data.count("/") == 1 and not Path(data).exists() else None
    return HUB_DATA.get(task)


def base_license(model: Any) -> str | None:
    """What the base's own card says, if it is here."""
    if not model:
        return None
    file = Path(str(model)) / "README.md"
    if not Path(str(model)).is_dir():
        try:
            cached = try_to_load_from_cache(str(model), "README.md")
        except HFValidationError:
            return None
        file = Path(cached) if isinstance(cached, str) else file
    if not file.is_file():
        return None
    try:
        return ModelCard.load(file, ignore_metadata_errors=True).data.get("license")
    except ValueError:
        return None
