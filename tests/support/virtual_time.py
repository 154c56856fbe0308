"""A loop whose clock jumps to the next timer instead of waiting for it, and a world to go with it.

Use it by overriding the backend in a test module::

    @pytest.fixture
    def anyio_backend():
        return virtual_backend()
"""

from __future__ import annotations

import asyncio
import random
import selectors
from typing import Any

from pelagos.model import SystemWorld


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("the loop waits for something that can never happen: no timer and nothing ready")
        if timeout > 0:
            self.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


class VirtualWorld(SystemWorld):
    """The clock of the running loop, counted ids, seeded randomness."""

    def __init__(self) -> None:
        super().__init__(threads=1, environ={})
        self._count = 0

    def now(self) -> float:
        return 1_700_000_000 + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def new_id(self) -> str:
        self._count += 1
        return f"{self._count:08x}-0000-4000-8000-000000000000"

    def rng(self, name: str) -> random.Random:
        if name not in self._rngs:
            self._rngs[name] = random.Random(name)
        return self._rngs[name]


def virtual_backend() -> tuple[str, dict[str, Any]]:
    """The value of an ``anyio_backend`` fixture."""
    return ("asyncio", {"loop_factory": VirtualLoop})
