"""The end of a training: cards beside the weights, results.json, and the model on the hub if that was asked for."""

from pathlib import Path
from typing import Any

from eval.results_file import write_results
from eval.storage import read_json
from trainers.cards import write_cards
from trainers.hub import push
from trainers.launch import is_main_process


def finish_training(folder: Path, config: Any, results: dict[str, Any]) -> None:
    """Write cards and results.json, which is the last file of a run. On the main process, with model/ complete.

    config: with the options of `trainers.hub`.
    """
    write_cards(folder, results)
    write_results(folder / "results.json", "training", results)
    if config.push_to_hub:
        print(f"uploaded to {push(folder, config)}", flush=True)


def finish_again(folder: Path, config: Any) -> None:
    """Upload the models of a run that was complete before, with cards made anew, if its options ask for it now.

    Every process may call this; the main one uploads.
    """
    if config.push_to_hub and is_main_process():
        write_cards(folder, read_json(folder / "results.json"))
        print(f"uploaded to {push(folder, config)}", flush=True)
