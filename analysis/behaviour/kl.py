"""KL divergence between two models at the positions of sampled completions: over whole vocabularies, and sampled.

Forward is KL(base || model) averaged over completions that base sampled, reverse is KL(model || base) averaged over
completions that the model sampled, both at temperature 1. Which of the two is reported can turn a ranking of methods
round, so every result carries its direction and its sampling policy.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from analysis.geometry.checkpoints import open_checkpoints
from eval.errors import UserError
from eval.intervals import ratio_with_interval
from eval.log_probs import MAX_LOGITS, TokenPair, completion_log_probs, require_plain_output_embedding
from eval.rollout.base import Messages, Sampling
from eval.rollout.hf import HFEngine
from eval.tasks import TaskSpec, get_task, task_name


ESTIMATOR = "exact full-vocabulary sum at each position of sampled completions"
# Schulman, "Approximating KL divergence" (joschu.net/blog/kl-approx.html, 2020).
SAMPLED_ESTIMATORS = {"k1": "-log r of the sampled tokens, r = q / p", "k3": "(r - 1) - log r of the sampled tokens"}


def token_kl(log_probs_p: torch.Tensor, log_probs_q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) in nats at each position: [..., vocabulary] normalised log-probabilities -> [...].

    A token that is impossible under p adds nothing; one that is impossible under q alone makes the sum infinite.
    """
    terms = log_probs_p.exp() * (log_probs_p - log_probs_q)
    return terms.masked_fill(log_probs_p == -torch.inf, 0.0).sum(-1)


def sampled_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> dict[str, torch.Tensor]:
    """Schulman's estimators k1 and k3 of KL(p || q) in nats, from the log-probabilities of tokens sampled from p.

    With r = q(x) / p(x) and x ~ p,

        k1 = -log r,    k3 = (r - 1) - log r.

    Both are unbiased: E[-log r] is the divergence, and E[r] = 1. k1 may be negative; k3 never is, and where p and q
    are close its variance is smaller, as r - 1 then cancels most of log r. Where p is nearly certain, rare tokens
    carry most of the divergence: from few sequences, which lack them, the value and its bootstrap interval both come
    out wrong, mostly too small. The sum over the vocabulary has them all.
    """
    log_ratio = log_q - log_p
    return {"k1": -log_ratio, "k3": log_ratio.expm1() - log_ratio}


def exact_kl(
    p_model: PreTrainedModel,
    q_model: PreTrainedModel,
    token_batches: Iterable[Sequence[TokenPair]],
    max_logits: int = MAX_LOGITS,
    seed: int = 0,
) -> dict:
    """KL(p_model || q_model) at the completion positions of token sequences; the prompts only condition.

    If the completions were sampled from p_model at temperature 1, `per_sequence` estimates, without bias, the
    divergence of the two distributions over completions (cut at the length where sampling stopped): by the chain rule
    it is the expected sum over positions of the divergence at each position. `per_token` is the sum over all sequences
    divided by their number of tokens. Both come with a 95 % percentile bootstrap interval over sequences.

    Beside it stand "k1" and "k3", the same summaries of `sampled_kl` at the completion tokens: they estimate the same
    divergences if, and only if, the completions were sampled from p_model at temperature 1.

    token_batches: sequences that go through the models together.
    max_logits: no [positions, vocabulary] tensor has more scalars than this (or than one position needs).
    seed: of the bootstrap.

    Raises UserError if a model computes its logits in another way than by its output embedding alone.
    """
    for model in (p_model, q_model):
        require_plain_output_embedding(model)
    sums: dict[str, list[float]] = {"exact": [], **{name: [] for name in SAMPLED_ESTIMATORS}}
    counts: list[int] = []
    for batch in token_batches:
        counts += [len(completion) for _, completion in batch]
        for name, sequences in completion_kl(p_model, q_model, batch, max_logits).items():
            sums[name] += [divergence.sum().item() for divergence in sequences]
    sampled = {
        name: summarise(sums[name], counts, seed) | {"estimator": meaning}
        for name, meaning in SAMPLED_ESTIMATORS.items()
    }
    return summarise(sums["exact"], counts, seed) | {"estimator": ESTIMATOR} | sampled


def completion_kl(
    p_model: PreTrainedModel, q_model: PreTrainedModel, batch: Sequence[TokenPair], max_logits: int = MAX_LOGITS
) -> dict[str, tuple[torch.Tensor, ...]]:
    """KL(p_model || q_model) at each completion position: one float64 [completion length] tensor for each sequence.

    {"exact": over the whole vocabulary, "k1", "k3": by the completion's token alone, see `sampled_kl`}.
    """
    lengths = [len(completion) for _, completion in batch]
    left = torch.tensor([token for _, completion in batch for token in completion])
    p_chunks = completion_log_probs(p_model, batch, max_logits)
    q_chunks = completion_log_probs(q_model, batch, max_logits)
    values: dict[str, list[torch.Tensor]] = {}
    for p, q in zip(p_chunks, q_chunks, strict=True):
        q, chosen, left = q.to(p.device), left[: len(p), None].to(p.device), left[len(p) :]
        sampled = sampled_kl(p.gather(1, chosen)[:, 0], q.gather(1, chosen)[:, 0])
        for name, value in {"exact": token_kl(p, q), **sampled}.items():
            values.setdefault(name, []).append(value.cpu())
    return {name: torch.cat(chunks).split(lengths) for name, chunks in values.items()}


def summarise(sums: Sequence[float], counts: Sequence[int], seed: int) -> dict:
    """Mean per token and per sequence, with intervals, of a quantity summed over the tokens of each sequence."""
    summary: dict[str, Any] = {}
    for name, over in (("per_token", counts), ("per_sequence", [1] * len(sums))):
        summary[name], summary[f"{name}_low"], summary[f"{name}_high"] = ratio_with_interval(sums, over, seed)
    return summary | {"tokens": sum(counts), "sequences": len(sums)}


@dataclass(frozen=True)
class Setting:
    """The prompts on which models are compared, and how completions of them are sampled.

    base: its folder. engine: base's, in float32. prompts: each distinct one of every set. origins: where a set comes
    from. seed: of the sampling and of the bootstrap.
    """

    base: Path
    engine: HFEngine
    prompts: dict[str, list[Messages]]
    origins: dict[str, str]
    sampling: Sampling
    batch_size: int
    device: str | None

    def open(self, path: Path) -> HFEngine:
        """Another model, or an adapter of base. Raises UserError if it turns some prompts into different tokens."""
        engine = HFEngine.from_pretrained(path, device=self.device, base=self.base)
        for name, messages in self.prompts.items():
            if engine.encode(messages) != self.engine.encode(messages):
                raise UserError(
                    f"{path} encodes the prompts of {name} differently than {self.base}; give checkpoints that share "
                    "base's tokenizer and chat template"
                )
        return engine

    def sample(self, engine: HFEngine, name: str) -> list[list[TokenPair]]:
        """One completion of each prompt of a set, as token ids, in batches."""
        prompts, batches = self.prompts[name], []
        for start in range(0, len(prompts), self.batch_size):
            some = prompts[start : start + self.batch_size]
            (completions,) = engine.generate(some, self.sampling)
            encoded = engine.encode(some)
            batches.append([(ids, made[0].token_ids) for ids, made in zip(encoded, completions, strict=True)])
        return batches

    def divergence(
        self, p: HFEngine, q: HFEngine, completions: list[list[TokenPair]], name: str, of: str, reference: str
    ) -> dict:
        """KL(p || q) on completions of a set of prompts that p made, with its setting; the models' names in words."""
        return exact_kl(p.model, q.model, completions, seed=self.sampling.seed) | {
            "direction": f"KL({of} || {reference})",
            "sampled_from": of,
            "temperature": self.sampling.temperature,
            "max_new_tokens": self.sampling.max_new_tokens,
            "prompts": self.origins[name],
        }


def open_setting(
    base: Path,
    checkpoints: dict[str, Path],
    tasks: Sequence[TaskSpec],
    prompts_per_task: int,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
    device: str | None = None,
    texts: Sequence[Path] = (),
) -> Setting:
    """The first `prompts_per_task` test prompts of each task and of each file of `texts`, see `read_prompts`.

    The name of a file without its ending stands for the task. Raises UserError if the checkpoints are of different
    models.
    """
    open_checkpoints(base, checkpoints.values())
    sets = prompt_sets(tasks, texts, prompts_per_task, seed)
    engine = HFEngine.from_pretrained(base, device=device)
    prompts = {name: distinct_prompts(engine, messages) for name, (messages, _) in sets.items()}
    origins = {name: origin for name, (_, origin) in sets.items()}
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=1.0, seed=seed)
    return Setting(base, engine, prompts, origins, sampling, batch_size, device)


def kl_drift(base: Path, checkpoints: dict[str, Path], *args: Any, **options: Any) -> dict:
    """Forward and reverse KL between base and each checkpoint, on held-out prompts of each task and on free text.

    Returns {name: {task: {"forward": result, "reverse": result}}}; a result is `exact_kl`'s with "direction",
    "sampled_from", "temperature", "max_new_tokens" and "prompts" (where they come from). One completion is sampled for
    each distinct prompt. Two models are in memory at a time, in float32.

    The other arguments, and what is raised: of `open_setting`. UserError too if one encodes the prompts differently.
    """
    setting = open_setting(base, checkpoints, *args, **options)
    with tqdm(total=len(setting.prompts) * (1 + len(checkpoints)), desc="kl", unit="task") as progress:
        from_base = {}
        for name in setting.prompts:
            from_base[name] = setting.sample(setting.engine, name)
            progress.update()

        # A function of its own, so that one checkpoint is out of memory before the next is loaded.
        def drift_of(path: Path) -> dict[str, dict]:
            engine, drift = setting.open(path), {}
            for name in setting.prompts:
                from_model = setting.sample(engine, name)
                drift[name] = {
                    "forward": setting.divergence(setting.engine, engine, from_base[name], name, "base", "model"),
                    "reverse": setting.divergence(engine, setting.engine, from_model, name, "model", "base"),
                }
                progress.update()
            return drift

        return {name: drift_of(path) for name, path in checkpoints.items()}


def kl_matrices(base: Path, checkpoints: dict[str, Path], *args: Any, **options: Any) -> dict[str, Any]:
    """How far each stage of a sequence of trainings moved the model, on the prompts of every task.

    Returns {"order": ["base", names of the checkpoints],
             "incremental": {name: {task: KL(checkpoint || the one before it)}},
             "cumulative": {name: {task: KL(checkpoint || base)}}}

    where a divergence is a result as in `kl_drift`, with the models' names in its direction. Both are taken over the
    same completions, sampled from the later checkpoint. Two models are in memory at a time, in float32.

    checkpoints: in the order of training, each trained from the one before it and the first from base.
    The other arguments, and what is raised: as in `kl_drift`.
    """
    setting = open_setting(base, checkpoints, *args, **options)
    order = ["base", *checkpoints]
    weights = dict(zip(order, open_checkpoints(base, checkpoints.values()), strict=True))

    def divergences(name: str, before: str) -> tuple[dict[str, dict], dict[str, dict]]:
        engine = setting.open(checkpoints[name])
        completions = {task: setting.sample(engine, task) for task in setting.prompts}

        def against(reference: str) -> dict[str, dict]:
            # The second model takes base's weights and those of the checkpoint before by turns.
            setting.engine.set_weights(weights[reference].items())
            return {
                task: setting.divergence(engine, setting.engine, completions[task], task, name, reference)
                for task in setting.prompts
            }

        cumulative = against("base")
        return (cumulative if before == "base" else against(before)), cumulative

    matrices: dict[str, Any] = {"order": order, "incremental": {}, "cumulative": {}}
    for before, name in tqdm(list(zip(order, order[1:], strict=False)), desc="kl matrices", unit="model"):
        matrices["incremental"][name], matrices["cumulative"][name] = divergences(name, before)
    return matrices


def prompt_sets(
    tasks: Sequence[TaskSpec], texts: Sequence[Path], size: int, seed: int
) -> dict[str, tuple[list[Messages], str]]:
    """{name: (prompts, where they come from)}: the first `size` of each task's test split and of each file of prompts.

    Raises UserError if there are none, if two have one name, or if a task or a file cannot be read.
    """
    names = [*map(task_name, tasks), *(path.stem for path in texts)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"two sets of prompts are called {twice[0]!r}; rename a file or leave one of them out")
    if not names:
        raise UserError("there are no prompts to measure on; give tasks, or files of prompts")
    from_tasks = {
        task_name(task): (
            list(get_task(task).load("test", size, seed)["prompt"]),
            f"test split of {task_name(task)}, seed {seed}",
        )
        for task in tasks
    }
    of_files = {path: read_prompts(path)[:size] for path in texts}
    from_texts = {path.stem: (some, f"first {len(some)} of {path.name}") for path, some in of_files.items()}
    return from_tasks | from_texts


def read_prompts(path: Path) -> list[Messages]:
    """Prompts from a local file, as conversations.

    In a .jsonl file each line is an object whose "prompt" is the user's message or a list of {"role", "content"}
    messages; an empty message is a prompt like any other. In any other file each line that is not blank is one user's
    message. A byte order mark at the beginning is no part of the text. Raises UserError, naming the line, for what is
    neither.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read prompts from {path} ({error}); give a UTF-8 text or .jsonl file") from error
    if path.suffix == ".jsonl":
        prompts = [_prompt(line, f"line {number} of {path}") for number, line in enumerate(lines, start=1)]
    else:
        prompts = [[{"role": "user", "content": line}] for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"{path} holds no prompts; give one a line")
    return prompts


def _prompt(line: str, where: str) -> Messages:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error}); give one object a line") from error
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if isinstance(prompt, list) and prompt and all(_is_message(message) for message in prompt):
        return prompt
    raise UserError(f'{where} has no "prompt" that is a text or a list of {{"role", "content"}} messages; add it')


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def distinct_prompts(engine: HFEngine, prompts: list[Messages]) -> list[Messages]:
    """Each prompt once, in order: equal prompts would get equal completions."""
    by_tokens = {tuple(ids): prompt for ids, prompt in zip(engine.encode(prompts), prompts, strict=True)}
    return list(by_tokens.values())
