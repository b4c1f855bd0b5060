"""What a complete sequential run holds, so that the page can name what a run lacks."""

from collections.abc import Mapping

from analysis.report.results import Location, Results, lookup
from analysis.report.studies.sequential.arms import columns


GENERAL = ("tasks", "columns", "arms", "match", "base_model", "command", "environment", "config")


def needs(results: Results) -> list[Location]:
    """What stands outside the sections of the page, chain by chain."""
    general: list[Location] = [(key,) for key in GENERAL]
    return [*general, *_chains(results), *_divergences(results), ("continual", "budget")]


def _chains(results: Results) -> list[Location]:
    """The last rows and the last stage of every chain.

    A seed that any arm has is expected of all arms, and so is every arm of the configuration.
    """
    arms = lookup(results, "arms") or {}
    seeds = list(dict.fromkeys(seed for arm in arms.values() for seed in arm["seeds"]))
    stages = len(lookup(results, "tasks") or [])
    last_rows = [("scores", column, str(stages)) for column in columns(results)]
    return [
        ("arms", arm, "seeds", seed, *location)
        for arm in dict.fromkeys([*arms, *_planned(results)])
        for seed in seeds
        for location in (*last_rows, ("stages", str(stages - 1)))
    ]


def _planned(results: Results) -> list[str]:
    """The arms of the configuration. Older files hold each as one string that begins with its name."""
    planned = lookup(results, "config", "arms") or []
    return [arm["name"] if isinstance(arm, Mapping) else arm.split()[0] for arm in planned]


def _divergences(results: Results) -> list[Location]:
    """Of each arm the first stage whose divergence is not there, unless the configuration asks for none."""
    if lookup(results, "config", "kl_prompts") == 0:
        return []
    locations: list[Location] = []
    for arm, run in (lookup(results, "arms") or {}).items():
        lacking = [
            ("arms", arm, "seeds", seed, "stages", str(k), "kl_step")
            for seed, chain in run["seeds"].items()
            for k, stage in enumerate(chain["stages"])
            if stage["kl_step"] is None
        ]
        locations += lacking[:1]
    return locations
