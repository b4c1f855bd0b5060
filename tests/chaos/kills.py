"""Kills at random moments and inside saves: what is finished afterwards is the run that nobody killed, bit for bit."""

import importlib.util
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.digests import differences, digests
from tests.chaos.findings import Report
from tests.chaos.scenarios import scenarios
from tests.chaos.starts import Process, Start, import_for_forks, run


# Shares of the kills. Those with a launcher or several trainings take longest.
SHARES = {
    "es": 16,
    "grpo": 14,
    "sft": 14,
    "rules": 16,
    "pretrain": 14,
    "compare": 8,
    "sequential": 8,
    "es, two ranks": 6,
    "es, vllm": 4,
}
# Kills of one run before it may finish.
KILLS_OF_A_RUN = 4
# A start that takes so much longer than the reference hangs.
PATIENCE = 10


def kills(report: Report, folder: Path, count: int, seed: int, only: Sequence[str] = ()) -> None:
    """`count` kills over all scenarios or those named, by their shares, as far as the time goes."""
    known = {name: start for name, start in scenarios(folder / "methods").items() if not only or name in only}
    if importlib.util.find_spec("vllm") is None and "es, vllm" in known:
        report.note("es, vllm", "left out: vLLM is not installed")
        del known["es, vllm"]
    import_for_forks([start.script for start in known.values()])
    total = sum(SHARES[name] for name in known)
    done = 0
    generator = random.Random(seed)
    for number, (name, start) in enumerate(known.items()):
        wanted = round(count * sum(SHARES[each] for each in list(known)[: number + 1]) / total) - done
        if report.left < 60:
            report.note(name, f"0 of {wanted} kills, no time")
            continue
        killed, runs = kills_of(
            report, name, start, folder / name.replace(", ", "-").replace(" ", "-"), wanted, generator
        )
        done += wanted
        report.note(name, f"{killed} kills of {runs} runs")


def kills_of(
    report: Report, name: str, start: Start, folder: Path, wanted: int, generator: random.Random
) -> tuple[int, int]:
    """The kills and the finished runs of one scenario. Counts a case for each run that was killed and finished."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    reference = run(start.on(folder / "reference"), folder / "reference.log", count_in=folder / "operations")
    if reference.status != 0:
        report.case(False, f"{name}: the reference did not finish, {reference.told()}")
        return 0, 0
    operations, seconds = (folder / "operations").stat().st_size, reference.seconds
    expected = digests(folder / "reference")
    killed, runs = 0, 0
    while killed < wanted and report.left > 2 * seconds:
        target = folder / f"run-{runs}"
        before = killed
        for _ in range(min(KILLS_OF_A_RUN, wanted - killed)):
            inside = generator.random() < 0.5
            limit = None if inside else generator.uniform(0.2, 1) * seconds
            at = generator.randint(1, operations) if inside else None
            process = Process(start.on(target), folder / f"run-{runs}.log", kill_at=at)
            ending = process.wait(PATIENCE * seconds if limit is None else limit)
            if ending is None:
                process.kill()
                killed += 1
            elif ending.status in (-9, 137) or (inside and "SIGKILL" in ending.text):
                killed += 1
            else:
                if ending.status != 0:
                    report.case(False, f"{name}: after {killed - before} kills it did not go on, {ending.told()}")
                break  # it was finished before its kill
        runs += 1
        if killed == before:
            continue
        ending = run(start.on(target), folder / f"run-{runs - 1}.log", seconds=PATIENCE * seconds)
        if ending.status != 0:
            report.case(False, f"{name}: after {killed - before} kills it did not finish, {ending.told()}")
            continue
        different = differences(expected, digests(target))
        report.case(
            not different, f"{name}: after {killed - before} kills {len(different)} files differ: {different[:4]}"
        )
        leftovers = [str(path.relative_to(target)) for path in target.rglob(".unfinished-*")]
        if leftovers:
            report.case(False, f"{name}: left after the end: {leftovers[:3]}")
        shutil.rmtree(target)
    return killed, runs
