"""Perplexity of free text under a model, with its 95 % interval.

The text is in passages with blank lines between them. The builtin one, 100 kB of prose in the public domain, has
nothing to do with any task. Writes results.json.
"""

import argparse
from pathlib import Path

from eval.command_line import at_least, device, seed
from eval.folders import check_writable
from eval.ownership import claim_files
from eval.storage import write_json


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="Hugging Face checkpoint folder, or the name of a model"
    )
    parser.add_argument("--text", default="builtin", metavar="FILE", help="text in UTF-8 (default: %(default)s)")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder to write to; made if it does not exist"
    )
    parser.add_argument(
        "--max_tokens",
        type=at_least(2),
        default=512,
        help="longer passages are predicted in pieces of so many tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--batch_size", type=at_least(1), default=8, help="pieces that run together (default: %(default)s)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the bootstrap (default: %(default)s)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="precision (default: %(default)s)"
    )
    parser.add_argument("--device", type=device, help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")


def run(arguments: argparse.Namespace) -> None:
    check_writable(arguments.output, "--output")
    import torch

    from eval.digests import file_digest, model_digest
    from eval.perplexity import perplexity, read_passages, text_file
    from eval.rollout.hf import HFEngine

    passages = read_passages(arguments.text)
    engine = HFEngine.from_pretrained(arguments.model, arguments.device, getattr(torch, arguments.dtype))
    claim_files(arguments.output, ["results.json"])
    result = perplexity(engine, passages, arguments.batch_size, arguments.max_tokens, arguments.seed)
    results = {
        "model": arguments.model,
        "text": arguments.text,
        "max_tokens": arguments.max_tokens,
        "seed": arguments.seed,
        "dtype": arguments.dtype,
        **result,
        "digests": {
            "models": {"model": model_digest(arguments.model)},
            "data": {arguments.text: file_digest(text_file(arguments.text))},
        },
    }
    write_json(arguments.output / "results.json", results)
    print(
        f"perplexity {result['perplexity']:.3f}, 95 % interval {result['perplexity_low']:.3f} to "
        f"{result['perplexity_high']:.3f}, {result['tokens']} tokens of {result['passages']} passages"
    )
    print(f"results in {arguments.output / 'results.json'}")
