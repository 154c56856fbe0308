"""An event loop whose clock jumps to the next timer instead of waiting, and a world on it: minutes cost nothing."""

from __future__ import annotations

import asyncio
import random
import selectors
import time
from collections.abc import Mapping
from typing import Any

from pelagos.model.world import SystemWorld

EPOCH = 1_750_000_000.0


class _Jumping(selectors.DefaultSelector):
    """Moves the loop's clock on in place of waiting, unless some file descriptor is ready."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            return super().select(1.0)
        self.loop.jump(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop in virtual time, beginning at 0."""

    def __init__(self) -> None:
        self._virtual = 0.0
        selector = _Jumping()
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        return self._virtual

    def jump(self, seconds: float) -> None:
        """On to the next timer's very time: adding up differences would make times depend on the stops between."""
        if seconds <= 0:
            return
        timers = self._scheduled  # type: ignore[attr-defined]  # asyncio's own heap of timers
        due = timers[0].when() if timers else self._virtual + seconds
        self._virtual = max(self._virtual, due)


class VirtualWorld(SystemWorld):
    """Clock of the running virtual loop, and generators from one seed."""

    def __init__(self, seed: int = 1, environ: Mapping[str, str] | None = None) -> None:
        super().__init__(threads=1, environ=environ or {})
        self._seed = seed
        self._seeded: dict[str, random.Random] = {}
        self._ids = 0

    def now(self) -> float:
        return EPOCH + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def new_id(self) -> str:
        self._ids += 1
        return f"{self._ids:036d}"

    def rng(self, name: str) -> random.Random:
        if name not in self._seeded:
            self._seeded[name] = random.Random(f"{self._seed}/{name}")
        return self._seeded[name]

    async def run_blocking(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)


def elapsed() -> float:
    """Real seconds, for tests that bound what a run costs."""
    return time.perf_counter()
