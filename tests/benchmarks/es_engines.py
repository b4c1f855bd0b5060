"""Tokens per second of a population on vLLM, as a share of one plain `LLM.generate` of the same requests.

    python -m tests.benchmarks.es_engines [--model recipes/tiny/models/llama-medium] [--threads 2] [--repeats 3]

Each round times, one after the other,

    plain     stock vLLM with one set of weights: what a population would cost if its members did not differ
    batch     low-rank members in adapter slots (`VLLMEngine`), drawing and handing over their factors included
    in turn   the loop of the code released with "Matching Accuracy, Different Geometry" (arXiv 2604.01499), on the
              same engine: a full-noise member is added to the weights in place, generates, and is subtracted again
    hf        the members of "batch" in one batch of the Hugging Face engine

and the medians over the rounds are printed with their ratios, and how long drawing and handing over took. Completions
are sampled at temperature 1 and end where the model ends them. On a CPU stock vLLM packs its weights; `--compiled`
also compiles it, which vLLM does not do with adapters on a CPU.
"""

import argparse
import statistics
import time

import torch

from eval.rollout.base import Sampling
from eval.rollout.chat import completion
from eval.rollout.hf import HFEngine
from eval.rollout.vllm import LLM, SamplingParams, VLLMEngine
from eval.rollout.vllm_worker import MemberWorker
from eval.tasks import TASKS
from trainers.es.member import SeededMember, seeded_member
from trainers.es.noise import Noise, member_seed


LENGTH = 40
SIGMA = 0.01
LIMITS = {"max_num_seqs": 1024, "max_num_batched_tokens": 8192}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="recipes/tiny/models/llama-medium", help="checkpoint folder")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the engines' weights")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=3, help="rounds after one that warms up")
    parser.add_argument("--members", type=int, default=32, help="members of the population")
    parser.add_argument("--prompts", type=int, nargs="+", default=[16, 64], help="prompts per member")
    parser.add_argument("--rank", type=int, default=1, help="of the members' factors")
    parser.add_argument("--compiled", action="store_true", help="let vLLM compile the plain engine")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dtype = getattr(torch, arguments.dtype)

    engine = VLLMEngine(arguments.model, dtype, slots=arguments.members, rank=arguments.rank, **LIMITS)
    hf = HFEngine.from_pretrained(arguments.model, dtype=dtype)
    on_cpu = not torch.cuda.is_available()
    plain = LLM(
        arguments.model,
        dtype=dtype,
        kv_cache_memory_bytes=10**9 if on_cpu else None,
        disable_log_stats=True,
        enforce_eager=on_cpu and not arguments.compiled,
        gpu_memory_utilization=0.4,
        **LIMITS,
    )
    print(
        f"{arguments.model}: {hf.model.num_parameters():,} parameters in {arguments.dtype}, {arguments.threads} "
        f"threads, {arguments.members} members of rank {arguments.rank}, medians of {arguments.repeats} rounds"
    )
    print(f"{'':8}{'tokens per second':^44}   {'batch over':^27}{'making':>9}")
    print(
        f"{'prompts':8}{'plain':>11}{'batch':>11}{'in turn':>11}{'hf':>11}   "
        f"{'plain':>9}{'in turn':>9}{'hf':>9}{'members':>9}"
    )
    for prompts in arguments.prompts:
        speed, making = measure(plain, engine, hf, arguments.members, arguments.rank, prompts, arguments.repeats)
        batch = speed["batch"]
        print(
            f"{prompts:7} {speed['plain']:11.0f}{batch:11.0f}{speed['in turn']:11.0f}{speed['hf']:11.0f}   "
            f"{batch / speed['plain']:9.2f}{batch / speed['in turn']:9.2f}{batch / speed['hf']:9.2f}"
            f"{making:8.3f}s",
            flush=True,
        )


def measure(
    plain: LLM, engine: VLLMEngine, hf: HFEngine, members: int, rank: int, prompts: int, repeats: int
) -> tuple[dict[str, float], float]:
    """Tokens per second of each way, and the seconds that making the members of "batch" takes; medians."""
    messages = TASKS["countdown"].load("train", prompts, 0)["prompt"]
    seeds = [member_seed(0, 0, index) for index in range(members)]
    noise = Noise(rank=rank, rest="frozen")
    thin = [seeded_member(index, seed, 1, SIGMA, noise) for index, seed in enumerate(seeds)]
    full = [SeededMember(index, seed, 1, SIGMA, Noise()) for index, seed in enumerate(seeds)]
    sampling = Sampling(LENGTH, temperature=1.0)

    def generate_plain() -> int:
        ids = engine.encode(messages) * members
        params = SamplingParams(temperature=1.0, max_tokens=LENGTH, stop_token_ids=engine.end_ids, detokenize=False)
        outputs = plain.generate([{"prompt_token_ids": row} for row in ids], params, use_tqdm=False)
        plain.reset_prefix_cache()
        answers = (
            completion(engine.tokenizer, list(output.outputs[0].token_ids), engine.end_ids) for output in outputs
        )
        return sum(len(answer.token_ids) for answer in answers)

    def generate_in_turn() -> int:
        tokens = 0
        for member in full:
            engine.llm.collective_rpc(add_in_place, args=(member, 1))
            tokens += generate(engine, [None])
            engine.llm.collective_rpc(add_in_place, args=(member, -1))
            engine.llm.reset_prefix_cache()
        engine.set_weights(engine.named_weights().items())  # what the rounding has changed
        return tokens

    def generate(with_engine: VLLMEngine | HFEngine, population: list[SeededMember | None]) -> int:
        completions = with_engine.generate(messages, sampling, population)
        return sum(len(answer[0].token_ids) for member in completions for answer in member)

    ways = {
        "plain": generate_plain,
        "batch": lambda: generate(engine, thin),
        "in turn": generate_in_turn,
        "hf": lambda: generate(hf, thin),
    }
    speeds, making = {name: [] for name in ways}, []
    for round_ in range(repeats + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            tokens = way()
            if round_:
                speeds[name].append(tokens / (time.perf_counter() - began))
        began = time.perf_counter()
        engine.write_slots(thin)
        making.append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in speeds.items()}, statistics.median(making)


def add_in_place(worker: MemberWorker, member: SeededMember, sign: int) -> None:
    for name, view in worker.views.items():
        view.add_(member.delta(name, view), alpha=sign)
    worker.follow_edit()


if __name__ == "__main__":
    main()
