"""If one process of a run dies, all end at once: nobody waits for hours in a collective operation for the dead.

Every process keeps one idle TCP connection to process 0. The kernel closes it when a process ends in whatever way;
after a lost machine or network, keep-alive probes find out. Who leaves in good order says so first.

A process that is stopped (SIGSTOP) closes nothing, and its kernel answers for it. The other processes of its machine
see its state. One that is alone on its machine is not seen; a heartbeat would see it, but also end a run for a save
that holds Python's lock for a minute.
"""

import itertools
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
from torch.distributed import TCPStore

from eval.interrupts import is_interrupted


# Seconds. Together they stay below a minute.
START_LIMIT = 50  # from the first process's start to the connection of the last
PROBE_AFTER, PROBE_EVERY, PROBES = 15, 5, 4  # keep-alive on a silent connection
# Looks in a row that find a process stopped: after half a minute. Counted in looks and not in time, so that who stops
# and continues all processes together ends none.
LOOK_EVERY, LOOKS = 5, 6
SAY_WHO = 2  # for the watch to find out who has died, once a collective operation has failed

GOODBYE = b"."

# A launch may train several times; each time has a key of its own in the store.
_blocks = itertools.count()


def process_store() -> TCPStore:
    """A new client of the key-value store that `torch.distributed` was started with."""
    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)


@contextmanager
def watch_processes(stop: Callable[[str], None] | None = None) -> Iterator[None]:
    """Inside the block this process ends, with one line on stderr and exit status 1, as soon as another has died.

    Does nothing in a run of one process. Every process of the run must enter the block; to leave it by an exception
    counts as dying. stop: called with the line instead of ending the process, for tests.
    """
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1:
        yield
        return
    watch = _Watch(rank, processes, f"watch/{next(_blocks)}", stop or _end_process)
    # The store may be served by this very process, and only later: nothing here may block the main thread.
    threading.Thread(target=watch.run, name="watch", daemon=True).start()
    threading.Thread(target=watch.look, name="watch states", daemon=True).start()
    try:
        yield
    except RuntimeError:
        # A collective operation fails at the moment when another process dies. The watch knows which, and has the time
        # to end this process with a line that says so.
        time.sleep(SAY_WHO)
        raise
    watch.leave()


class _Watch:
    """The connections of one process: those of all others at process 0, one to process 0 elsewhere."""

    def __init__(self, rank: int, processes: int, key: str, stop: Callable[[str], None]):
        self.rank, self.processes, self.key, self.stop = rank, processes, key, stop
        self._lock = threading.Lock()
        self._connections: dict[int, socket.socket] = {}
        self._left = False

    def run(self) -> None:
        try:
            if self.rank == 0:
                self._accept_all()
            else:
                self._connect()
        except (OSError, RuntimeError) as error:  # the store reports a lost connection as a RuntimeError
            if not self._left:
                self.stop(f"process {self.rank} cannot reach process 0 ({error})")

    def look(self) -> None:
        """Look at the states of the other processes of this machine until this one leaves."""
        try:
            store = process_store()
            store.set(f"{self.key}/process/{self.rank}", f"{_machine()} {os.getpid()}")
            places = {
                other: store.get(f"{self.key}/process/{other}").decode().split()
                for other in range(self.processes)
                if other != self.rank
            }
        except RuntimeError:
            return  # a process has died at the start, which its connection says
        near = {other: int(process) for other, (machine, process) in places.items() if machine == _machine()}
        looks = dict.fromkeys(near, 0)
        while near and not self._left:
            time.sleep(LOOK_EVERY)
            for other, process in near.items():
                looks[other] = looks[other] + 1 if _is_stopped(process) else 0
                if looks[other] == LOOKS and not self._left:
                    self.stop(f"process {other} is stopped (process id {process}, SIGSTOP)")
                    return

    def leave(self) -> None:
        """Say goodbye; from now on nothing ends this process."""
        with self._lock:
            self._left = True
            for connection in self._connections.values():
                try:
                    connection.sendall(GOODBYE)
                except OSError:
                    pass  # the other side has left before us, and said so or is dead: both no longer matter

    def _accept_all(self) -> None:
        server = socket.create_server(("", 0), family=_family(os.environ["MASTER_ADDR"]))
        process_store().set(self.key, str(server.getsockname()[1]))
        deadline = time.monotonic() + START_LIMIT
        while len(self._connections) < self.processes - 1 and not self._left:
            server.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                missing = sorted(set(range(1, self.processes)) - set(self._connections))
                self.stop(f"process {missing[0]} has not started within {START_LIMIT} s of process 0")
                return
            connection.settimeout(None)
            other = int.from_bytes(_receive(connection, 4), "big")
            self._watch(other, connection)
        server.close()

    def _connect(self) -> None:
        port = int(process_store().get(self.key))
        connection = socket.create_connection((os.environ["MASTER_ADDR"], port), timeout=START_LIMIT)
        connection.settimeout(None)
        connection.sendall(self.rank.to_bytes(4, "big"))
        self._watch(0, connection)

    def _watch(self, other: int, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sys.platform == "linux":
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
        with self._lock:
            self._connections[other] = connection
            if self._left:
                connection.sendall(GOODBYE)
        threading.Thread(target=self._wait, args=(other, connection), name=f"watch {other}", daemon=True).start()

    def _wait(self, other: int, connection: socket.socket) -> None:
        try:
            said = connection.recv(1)
        except OSError:
            said = b""
        if said != GOODBYE and not self._left:
            self.stop(f"process {other} has stopped")


def _end_process(reason: str) -> None:
    if is_interrupted():
        return  # all of them are, one after the other, and each ends by itself
    print(
        f"error: {reason}, so process {os.environ['RANK']} stops too; start the same command again, and the run "
        "goes on from its last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _machine() -> str:
    """The name of what this process's id is unique in: the machine, or a container on it."""
    namespace = "/proc/self/ns/pid"
    return f"{platform.node() or '-'}/{os.stat(namespace).st_ino if os.path.exists(namespace) else 0}"


def _is_stopped(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False  # a dead one closes its connection


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise ConnectionError("it closed the connection at once")
        received += part
    return received


def _family(address: str) -> socket.AddressFamily:
    return socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][0]
