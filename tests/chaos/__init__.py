"""Runs that are killed, starved of disk, stopped and started twice, and input that nobody meant to give.

    python -m tests.chaos [PART ...] [--minutes 30] [--kills 100]

Not collected by pytest. `docs/reliability.md` has what it found.
"""
