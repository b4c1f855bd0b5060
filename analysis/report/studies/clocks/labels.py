"""How models, rules and runs of a sweep are called."""

from typing import Any


Entry = dict[str, Any]

MODEL_LABELS = {"mlp": "MLP", "dit": "DiT", "gpt2": "GPT-2", "llama": "Llama", "diffusers_dit": "diffusers DiT"}


def model_label(name: str) -> str:
    return MODEL_LABELS.get(name, name)


def rule_label(described: str) -> str:
    """ "parity(length=24, group=3)" -> "parity 24, G=3": the size of the strings, then what else the rule takes."""
    name, _, options = described.rstrip(")").partition("(")
    words = [name.replace("_", " ")]
    for option in filter(None, options.split(", ")):
        key, value = option.split("=")
        forms = {"length": f" {value}", "side": f" {value}x{value}", "group": f", G={value}"}
        words.append(forms.get(key, f", {key} {value}"))
    return "".join(words)


def variant_label(entry: Entry) -> str:
    """ ", width 64" of a run or setting that is not the usual one of its model, else nothing."""
    return f", {entry['variant']}" if entry["variant"] else ""


def setting_label(entry: Entry) -> str:
    """A run or setting but for its model and seed."""
    return f"{rule_label(entry['rule'])}, N={entry['N']}{variant_label(entry)}"


def run_label(run: Entry) -> str:
    return f"{model_label(run['model'])}, {setting_label(run)}"


def run_title(run: Entry) -> str:
    """A run in two short lines."""
    first, second = without_seed(run).split("\n")
    return f"{first},\n{second}, seed {run['seed']}"


def without_seed(run: Entry) -> str:
    """A run but for its seed, in two short lines."""
    return f"{model_label(run['model'])}, {rule_label(run['rule'])}\nN={run['N']}{variant_label(run)}"
