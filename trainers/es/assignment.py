"""Which process evaluates which members: whoever is free takes the next ones."""

import uuid
from collections.abc import Iterator

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.distributed import PrefixStore, Store

from trainers.watch import process_store


def portions(members: int, processes: int) -> list[range]:
    """The members of a step in the portions in which they are handed out, in order.

    Each portion is half of an even share of what is left, at least one member (guided self-scheduling, by
    Polychronopoulos and Kuck, 1987): large batches first, single members last, so that all processes end within about
    one member's time of each other. The portions do not depend on who takes them, and so neither does a batch that an
    engine sees. One process takes everything at once.
    """
    if processes == 1:
        return [range(members)]
    handed_out, start = [], 0
    while start < members:
        size = -(-(members - start) // (2 * processes))
        handed_out.append(range(start, start + size))
        start += size
    return handed_out


class Assignment:
    """Hands out the members of a step to the processes as they ask for them.

    The processes share one counter per step, in the key-value store that torch.distributed was started with. Must be
    made on all processes of a run in the same order.
    """

    def __init__(self, accelerator: Accelerator):
        self.processes = accelerator.num_processes
        self._store: Store | None = None
        if self.processes > 1:
            # Two trainings of one launch must not share counters.
            name = broadcast_object_list([uuid.uuid4().hex])[0]
            self._store = PrefixStore(f"members/{name}", process_store())

    def take(self, step: int, members: int) -> Iterator[range]:
        """Portions for this process, until all members of the step are taken. To be called once per step."""
        handed_out = portions(members, self.processes)
        if self._store is None:
            yield from handed_out
            return
        while (number := self._store.add(str(step), 1) - 1) < len(handed_out):
            yield handed_out[number]
