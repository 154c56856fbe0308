"""The world: clock, ids, randomness, blocking calls, child processes and name look-ups, injected.

Nothing else in Pelagos asks the operating system for these (ruff bans the direct calls). So the simulation can run the
whole system on a virtual clock from one seed, where no thread, no child process and no socket exists. Waiting is
``asyncio.sleep``: the loop's clock is the world's.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, Protocol, TypeVar

from pelagos.model.ordered_ids import OrderedIds
from pelagos.model.workers import DaemonWorkers, Workers

__all__ = ["SystemWorld", "World"]

P = ParamSpec("P")
T = TypeVar("T")


class World(Protocol):
    """What a room may ask of its surroundings."""

    def now(self) -> float:
        """Wall-clock seconds since the epoch. May jump; never measure durations with it."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean something."""
        ...

    def new_id(self) -> str:
        """A new unique id: a UUID in its 36 characters form, whose first eight are chance."""
        ...

    def next_id(self) -> str:
        """A new unique id that sorts behind those made before it: a UUID of version 7 (RFC 9562, 5.7).

        For rows that are written by the hundred: under random keys they would lie all over the table's indexes, and
        the more the store holds, the more pages each commit would change. It begins with the time, so it is never
        abbreviated, and no secret."""
        ...

    def rng(self, name: str) -> random.Random:
        """The random generator of that name; the same object each time."""
        ...

    async def run_blocking(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking function without stopping the loop. Cancellation does not stop the function."""
        ...

    def workers(self, name: str, threads: int) -> Workers:
        """Threads of the caller's own, for a library that may hang; the caller closes them."""
        ...

    async def spawn(self, argv: Sequence[str], **options: Any) -> asyncio.subprocess.Process:
        """Start a child process; ``options`` are those of :func:`asyncio.create_subprocess_exec`."""
        ...

    async def resolve(self, host: str, port: int) -> list[tuple[str, int]]:
        """The addresses of a name, at least one; raises :class:`OSError` if there is none."""
        ...

    @property
    def environ(self) -> Mapping[str, str]:
        """Environment variables."""
        ...


class SystemWorld:
    """The real one."""

    # The functions themselves: each message looks at the clock half a dozen times.
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    def __init__(self, *, threads: int = 16, environ: Mapping[str, str] | None = None) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pelagos")
        self._rngs: dict[str, random.Random] = {}
        self._ordered = OrderedIds()
        self._environ = os.environ if environ is None else environ

    @property
    def environ(self) -> Mapping[str, str]:
        return self._environ

    def new_id(self) -> str:
        return str(uuid.uuid4())

    def next_id(self) -> str:
        return self._ordered.next(time.time(), int.from_bytes(os.urandom(8)))

    def rng(self, name: str) -> random.Random:
        if name not in self._rngs:
            self._rngs[name] = random.Random()  # noqa: S311 - jitter and choices, never secrets
        return self._rngs[name]

    async def run_blocking(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: function(*args, **kwargs))

    def workers(self, name: str, threads: int) -> Workers:
        return DaemonWorkers(f"pelagos-{name}", threads)

    async def spawn(self, argv: Sequence[str], **options: Any) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(*argv, **options)

    async def resolve(self, host: str, port: int) -> list[tuple[str, int]]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(str(info[4][0]), int(info[4][1])) for info in found]

    def close(self) -> None:
        """Let the threads go; a blocked one does not hold up the exit."""
        self._pool.shutdown(wait=False, cancel_futures=True)
