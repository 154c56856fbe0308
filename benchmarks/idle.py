"""The idle pass: a resident maintainer looks at ten thousand healthy instances and finds nothing to do.

Its interval is set to nothing, so that pass follows pass; each lists the account anew, compares it with the store, and
decides. The floor is one bulk read of the very rows that a pass reads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Connection, select

from benchmarks.report import Row
from benchmarks.scene import Scene
from pelagos.model import DEFAULT_SCOPE
from pelagos.process import Context, Process
from pelagos.services.compute.messages import RefreshAccounts, Refreshed
from pelagos.services.infrastructure.faces import MaintainersCompute
from pelagos.services.infrastructure.health import NetworkProber
from pelagos.services.infrastructure.maintainer import Maintainer
from pelagos.services.infrastructure.metrics import NetworkMetrics
from pelagos.services.infrastructure.rendering import Renderer
from pelagos.services.infrastructure.settings import MaintainerSettings
from pelagos.store.schema import instances, servers

__all__ = ["measure"]

PASSES = 5


class _Counting(MaintainersCompute):
    """The maintainer's compute service; rings when a listing was asked for so often."""

    def __init__(self, edge: Process, enough: int, done: Callable[[], None]) -> None:
        super().__init__(edge, Context(DEFAULT_SCOPE), 120.0)
        self._left = enough
        self._done = done
        self.began = 0.0

    async def refresh(self, request: RefreshAccounts) -> Refreshed:
        if not self.began:
            self.began = time.perf_counter()
        elif self._left == 0:
            self._done()
        self._left -= 1
        return await super().refresh(request)


def _bulk_read(connection: Connection, infrastructure_id: str) -> int:
    rows = connection.execute(
        select(
            servers.c.id,
            servers.c.state,
            servers.c.provider_id,
            servers.c.addresses,
            servers.c.private_addresses,
            instances.c.state,
        )
        .join(instances, instances.c.server_id == servers.c.id)
        .where(instances.c.infrastructure_id == infrastructure_id, instances.c.deleted_at.is_(None))
    ).all()
    return len(rows)


async def measure(scene: Scene, infrastructure_id: str, nodes: int) -> list[Row]:
    """``scene``: a runtime that has built the infrastructure. Health checks are none; they are counted apart."""
    runtime = scene.runtime
    floors = []
    for _ in range(PASSES):
        begin = time.perf_counter()
        count = await runtime.store.read(partial(_bulk_read, infrastructure_id=infrastructure_id))
        floors.append(time.perf_counter() - begin)
        if count != nodes:
            raise RuntimeError(f"{count} instances live, not {nodes}")
    ended = 0.0

    def done() -> None:
        nonlocal ended
        ended = time.perf_counter()
        maintainer.stop()

    compute = _Counting(runtime.container.edge, PASSES, done)
    maintainer = Maintainer(
        infrastructure_id,
        store=runtime.store,
        world=runtime.world,
        compute=compute,
        accounts=runtime.pool,
        prober=NetworkProber(runtime.world, _never, _never),
        metrics=NetworkMetrics(_never),
        renderer=Renderer(runtime.pool),
        settings=MaintainerSettings(interval=0.0),
        resident=True,
    )
    lease = await runtime.keeper.acquire(f"infrastructure:{infrastructure_id}", "a benchmark", wait=30.0)
    try:
        async with asyncio.timeout(300):
            await maintainer.work(lease.fence)
    finally:
        await runtime.keeper.release(lease)
    each = (ended - compute.began) / (PASSES)
    return [
        Row(
            name=f"idle pass, {nodes:,} healthy nodes, a node",
            measured=each / nodes,
            floor=min(floors) / nodes,
            floor_name="bulk read, a node",
            aim=50e-6,
            aim_text="<= 50 us",
        )
    ]


async def _never(*_: Any) -> Any:
    raise AssertionError("an instance without a health check is not probed")
