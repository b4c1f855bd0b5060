"""What attribution and faithfulness cost, in units of one plain forward and backward pass of the same batch.

    python -m tests.benchmarks.circuits [--model DIR] [--examples 32] [--length 48] [--repeats 7] [--threads N]
    python -m tests.benchmarks.circuits --shape llama-1b --dtype bfloat16 --device cuda

The model is loaded from DIR, or has the shape of Llama-3.2-1B with random weights. Prompts are random tokens without
padding. Each round times, one after the other,

    training   model(ids), loss from the logits of the last token, backward into every parameter: the unit
    frozen     the same with frozen parameters, backward into the embeddings only
    forward    model(ids) without gradients
    nap, nap-ig-inputs (5 steps), edges (nap)
    curve, 10 circuits     a CPR curve of ten different circuits, the tenth the whole model
    curve, MIB's grid      the curve of `faithfulness_curve`'s shares, in which small models repeat circuits
    curve, one at a time   the ten circuits, each in a pass of its own
    DFA step               one step of `train_map` on the whole batch, dense map, corrected and paper preset

and prints medians over the rounds, in seconds and in both units. A first round is thrown away.
"""

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from analysis.circuits.alignment import PRESETS, Preset, faithfulness_loss
from analysis.circuits.attribution import attribute
from analysis.circuits.batch import Batch, answer_loss
from analysis.circuits.edges import attribute_edges
from analysis.circuits.faithfulness import SHARES, faithfulness_curve
from analysis.circuits.maps import Layout, make_map
from analysis.circuits.nodes import CircuitModel
from analysis.circuits.planted import model_batch


MEDIUM = Path(__file__).parents[2] / "recipes" / "tiny" / "models" / "llama-medium"
TEN_SHARES = tuple(k / 10 for k in range(1, 11))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MEDIUM, help="a checkpoint (default: the medium tiny Llama)")
    parser.add_argument("--shape", choices=["llama-1b"], help="random weights of this shape, in place of --model")
    parser.add_argument("--examples", type=int, default=32, help="pairs of prompts (default: %(default)s)")
    parser.add_argument("--length", type=int, default=48, help="tokens of a prompt (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds; medians are printed (default: %(default)s)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--rows", type=int, default=64, help="prompts in one pass (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of torch on the CPU (default: torch's own choice)")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)

    def load() -> PreTrainedModel:
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[arguments.dtype]
        if arguments.shape is None:
            model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype)
        else:
            with torch.device(arguments.device):
                model = AutoModelForCausalLM.from_config(llama_1b(), dtype=dtype)
        return model.to(arguments.device).eval()

    model = CircuitModel(load())
    batch = model_batch(model, arguments.examples, arguments.length)
    print(
        f"{len(model.nodes)} nodes, {arguments.examples} pairs of {arguments.length} tokens, {arguments.dtype} on "
        f"{arguments.device}, medians of {arguments.repeats} rounds",
        flush=True,
    )
    timed = ways(model, load(), batch, arguments.rows)
    with contextlib.redirect_stdout(io.StringIO()):  # attributions print how complete they are
        seconds = measure(timed, arguments.repeats, arguments.device)
    report(seconds)


def llama_1b() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )


def ways(model: CircuitModel, trained: PreTrainedModel, batch: Batch, rows: int) -> dict[str, Callable[[], object]]:
    """What is timed. `trained` is a second copy of the model, with parameters that require gradients."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(len(model.nodes), generator=generator)
    batches = [batch]

    def plain(network: PreTrainedModel, embeddings: torch.Tensor) -> torch.Tensor:
        output = network(inputs_embeds=embeddings, attention_mask=batch.attention_mask, use_cache=False)
        return answer_loss(output.logits[:, -1].float(), batch).sum()

    def training() -> None:
        trained.zero_grad()
        plain(trained, trained.get_input_embeddings()(batch.clean_ids)).backward()

    def frozen() -> None:
        plain(model.model, model.embed(batch.clean_ids).requires_grad_()).backward()

    def forward() -> None:
        with torch.no_grad():
            plain(model.model, model.embed(batch.clean_ids))

    def curve(shares: tuple[float, ...], rows: int) -> object:
        return faithfulness_curve(model, batches, scores, shares=shares, rows=rows)

    layout = Layout.of(model)
    alignment = make_map("dense", layout, layout, seed=0).to(model.device)
    given = torch.rand(len(layout), generator=generator).to(model.device)
    clean = model.record(batch.clean_ids, batch.attention_mask).logits.log_softmax(-1)

    def dfa_step(preset: Preset) -> None:
        """What `train_map` does in a step; with the corrected preset it knows the clean answers already."""
        known = clean if preset.direction == "noise" else None
        optimizer = torch.optim.Adam(alignment.parameters(), lr=preset.learning_rate)
        faithfulness_loss(model, batch, alignment(given).sigmoid(), preset, known).backward()
        optimizer.step()

    return {
        "training": training,
        "frozen": frozen,
        "forward": forward,
        "nap": lambda: attribute(model, batches, "nap"),
        "nap-ig-inputs (5)": lambda: attribute(model, batches, "nap-ig-inputs", steps=5),
        "edges (nap)": lambda: attribute_edges(model, batches, "nap"),
        "curve, 10 circuits": lambda: curve(TEN_SHARES, rows),
        "curve, MIB's grid": lambda: curve(SHARES, rows),
        "curve, one at a time": lambda: curve(TEN_SHARES, 1),
        "DFA step, corrected": lambda: dfa_step(PRESETS["corrected"]),
        "DFA step, paper": lambda: dfa_step(PRESETS["paper"]),
    }


def measure(ways: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each way."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(repeats + 1):
        for name, way in ways.items():
            wait(device)
            start = time.perf_counter()
            way()
            wait(device)
            if round_number > 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def report(seconds: dict[str, float]) -> None:
    print(f"{'':24}{'seconds':>10}{'/ training':>12}{'/ frozen':>12}")
    for name, value in seconds.items():
        print(f"{name:24}{value:10.4f}{value / seconds['training']:12.2f}{value / seconds['frozen']:12.2f}")


if __name__ == "__main__":
    main()
