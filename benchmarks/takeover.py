"""Take-over: how long an infrastructure is without a maintainer when the one it has dies on another host.

Nobody here can tell such a death but by the lease, so the lease's time is the floor; what is above it is the pause
until the next one looks. On the simulation's clock, where it is exact: the program is the real one.
"""

from __future__ import annotations

import asyncio

import structlog

from benchmarks.report import Row
from pelagos.simulation.loop import VirtualLoop, run_virtual
from pelagos.simulation.story import Story
from pelagos.store.keeper import DEFAULT_TTL

__all__ = ["measure"]

DEATHS = 5
_BEYOND = 2.0


def measure() -> list[Row]:
    slowest = max(_one(seed) for seed in range(1, DEATHS + 1))
    return [
        Row(
            name="take-over after a death on another host",
            measured=slowest,
            floor=DEFAULT_TTL,
            floor_name="lease",
            aim=DEFAULT_TTL + _BEYOND,
            aim_text=f"<= lease + {_BEYOND:g} s",
            note=f"the slowest of {DEATHS}, virtual time",
        )
    ]


def _one(seed: int) -> float:
    """Seconds from a maintainer's death to its lease in other hands."""
    seconds = 0.0

    async def main(loop: VirtualLoop) -> None:
        nonlocal seconds
        story = Story(seed, loop)
        universe = story.universe
        doomed = await universe.incarnate(serves=True, host="there")
        await story.ended(await story.up(doomed))
        heir = await universe.incarnate(serves=True, host="here")
        await asyncio.sleep(20.0 + seed)
        doomed.kill()
        began = loop.time()
        held = "SELECT holder FROM leases WHERE name LIKE 'infrastructure:%'"
        taken = lambda: universe.query(held) == [(heir.holder_id,)]  # noqa: E731
        await universe.until("the heir has it", taken, 100.0, look=0.01)
        seconds = loop.time() - began
        await heir.stop()
        universe.close()

    structlog.configure(processors=[_drop])
    try:
        run_virtual(main)
    finally:
        structlog.reset_defaults()
    return seconds


def _drop(*_: object) -> str:
    raise structlog.DropEvent
