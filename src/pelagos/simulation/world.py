"""The world of a simulation: its clock is the loop's, and all its chance comes from one seed."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, ParamSpec, TypeVar

from pelagos.model.ordered_ids import OrderedIds
from pelagos.model.workers import InlineWorkers, Workers
from pelagos.simulation.loop import Forbidden, VirtualLoop

__all__ = ["EPOCH", "SimulatedWorld"]

P = ParamSpec("P")
T = TypeVar("T")

EPOCH = 1_750_000_000.0
"""Wall-clock seconds at the loop's beginning."""


class SimulatedWorld:
    """A :class:`pelagos.model.World` without threads, child processes and sockets.

    Generators are seeded by (seed, name), so that a draw more in one room changes nothing in another. ``loop``: by
    default the one that runs when the clock is read."""

    def __init__(
        self, seed: int | str = 1, loop: VirtualLoop | None = None, *, environ: Mapping[str, str] | None = None
    ) -> None:
        self.seed = seed
        self._loop = loop
        self._environ = dict(environ or {})
        self._rngs: dict[str, random.Random] = {}  # noqa: TID251 - this is the world
        self._ids = self.rng("ids")
        self._ordered = OrderedIds()

    @property
    def environ(self) -> Mapping[str, str]:
        return self._environ

    def now(self) -> float:
        return EPOCH + self.monotonic()

    def monotonic(self) -> float:
        return (self._loop or asyncio.get_running_loop()).time()

    def new_id(self) -> str:
        return str(uuid.UUID(int=self._ids.getrandbits(128), version=4))

    def next_id(self) -> str:
        return self._ordered.next(self.now(), self._ids.getrandbits(62))

    def rng(self, name: str) -> random.Random:  # noqa: TID251 - this is the world
        if name not in self._rngs:
            self._rngs[name] = random.Random(f"{self.seed}/{name}")  # noqa: S311, TID251 - seeded on purpose
        return self._rngs[name]

    async def run_blocking(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs at once: it takes no virtual time."""
        return function(*args, **kwargs)

    def workers(self, name: str, threads: int) -> Workers:
        return InlineWorkers()

    async def spawn(self, argv: Sequence[str], **options: Any) -> NoReturn:
        raise Forbidden(f"the simulation has no child processes: {' '.join(argv)}")

    async def resolve(self, host: str, port: int) -> list[tuple[str, int]]:
        """Every name has an address, the same in every run."""
        number = random.Random(host).getrandbits(24)  # noqa: S311, TID251 - a hash that PYTHONHASHSEED leaves alone
        return [(f"10.{number >> 16}.{(number >> 8) & 255}.{number & 255}", port)]
