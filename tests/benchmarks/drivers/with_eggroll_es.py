"""`EggrollTrainer` of eggroll-es, as its README drives it, with a reward that generates for all prompts at once.

Timed is what the trainer itself records of a generation (`time_sec`): drawing all members' noise, writing each member
into the model with `load_state_dict`, its answers, and the update. Its own `TextReward` would decode the first row of
a batch alone and sample at 0.7, so `CustomReward` with a function of model and batch takes its place.
"""

import sys

from eggroll import CustomReward, EggrollConfig, EggrollTrainer

from tests.benchmarks.drivers.shared import Job, answer, fitness, generate, load, padded


def main() -> None:
    job = Job.read(sys.argv[1])
    model, tokenizer = load(job)
    ids, mask = padded(job, tokenizer.pad_token_id)

    def reward(model, batch) -> float:
        tokens = generate(model, batch["input_ids"], batch["attention_mask"], job.length)
        return fitness(tokenizer.batch_decode(tokens))

    config = EggrollConfig(
        population_size=job.members // 2,  # each with its mirror image
        rank=1,
        sigma=job.sigma,
        lr=job.alpha,
        generations=job.steps + 1,
        device="cpu",
    )
    trainer = EggrollTrainer(model, config, CustomReward(reward), tokenizer)
    trainer.evolve([{"input_ids": ids, "attention_mask": mask}])
    assert [row["population_size"] for row in trainer.history] == [job.members] * (job.steps + 1)
    answer([row["time_sec"] for row in trainer.history], "eggroll-es")


if __name__ == "__main__":
    main()
