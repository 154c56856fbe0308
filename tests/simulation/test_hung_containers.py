"""Two daemons of one system, each with all services, on one exchange: one hangs, and only its leases tell of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from pelagos.exchange import Delivery, MemoryTransport, Receiver, Subscription
from pelagos.model import DEFAULT_SCOPE
from pelagos.model.states import RunState
from pelagos.process import client
from pelagos.services.infrastructure import InfrastructureService, queries
from pelagos.simulation import VirtualLoop, run_virtual
from pelagos.simulation.loop import VirtualProcess
from pelagos.store import open_simulated_store
from pelagos.store.keeper import DEFAULT_TTL
from pelagos.store.schema import operations
from pelagos.wire.infrastructures import RunRequest
from simulation.test_spread_services import Site
from support.infrastructure_world import describe
from support.operations_world import rows

SLACK = 2.0


class _Wire:
    """The common exchange as one program reaches it: what is delivered to a program that hangs waits there, as it does
    in its socket. The broker does not miss it."""

    def __init__(self, exchange: MemoryTransport, process: VirtualProcess, loop: VirtualLoop) -> None:
        self._exchange, self._process, self._loop = exchange, process, loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange, name)

    async def subscribe(self, receiver: Receiver, handler: Callable[[Delivery], None]) -> Subscription:
        def deliver(delivery: Delivery) -> None:
            self._process.call_at(self._loop.time(), handler, delivery)

        return await self._exchange.subscribe(receiver, deliver)


@pytest.mark.parametrize("seed", range(1, 7))
def test_a_server_that_vanishes_while_its_maintainer_hangs_is_made_anew_within_the_lease(seed: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        site = Site(loop, seed)
        await site.transport.start()
        eye = open_simulated_store(site.world, database=site.database, name="eye")
        await eye.start()
        over = asyncio.Event()
        programs = {name: loop.process(name) for name in ("one", "two")}
        keepers: dict[str, Any] = {}
        started = {name: asyncio.Event() for name in programs}

        async def program(name: str) -> None:
            exchange: Any = _Wire(site.transport, programs[name], loop)
            async with site.container(name, ["compute", "infrastructure"], exchange) as (container, keeper):
                keepers[name] = container, keeper
                started[name].set()
                await over.wait()

        tasks = [process.start(program(name)) for name, process in programs.items()]
        for event in started.values():
            await event.wait()
        sources = describe("shop", {"web": {"scaling": (3, 3)}})
        request = RunRequest(kind="up", sources=sources, entries=("infra.yaml", "nodes.yaml"))
        run = await programs["one"].start(client(InfrastructureService, keepers["one"][0].edge).start_run(request))
        read_run = partial(queries.run, scope=DEFAULT_SCOPE, run_id=run.id)
        while not (now := await eye.read(read_run)).state.final:  # noqa: ASYNC110 - a row
            await asyncio.sleep(0.1)
        assert now.state is RunState.SUCCEEDED, now.error
        await asyncio.sleep(30.0 + seed)

        lease = f"infrastructure:{run.infrastructure_id}"
        [holder] = [name for name, (_, keeper) in keepers.items() if keeper.held(lease)]
        [other] = set(programs) - {holder}
        began, hung = site.world.now(), loop.time()
        programs[holder].pause()
        [gone, *_] = site.east.servers()
        site.east.vanish(gone.provider_id)

        async def creates() -> list[Any]:
            found = await rows(eye, operations, kind="server.create")
            return [row for row in found if row.created_at >= began]

        while not await creates():
            assert loop.time() - hung <= DEFAULT_TTL + SLACK, "another one is asked for within the lease and a little"
            await asyncio.sleep(0.05)
        assert keepers[other][1].held(lease)

        await asyncio.sleep(40.0)
        assert await _state(eye) == "ready", "it is healed though the other one still hangs"
        programs[holder].resume()
        await asyncio.sleep(60.0)
        assert len(await creates()) == 1 and await _state(eye) == "ready"
        assert len([server for server in site.east.servers() if site.east.healthy(server.provider_id)]) == 3
        assert Counter(server.token for server in site.east.servers()).most_common(1)[0][1] == 1
        assert [name for name, (_, keeper) in keepers.items() if keeper.held(lease)] == [other]
        over.set()
        await asyncio.gather(*tasks)
        await eye.stop()
        await site.transport.stop()

    with capture_logs():  # the one that hung says what it lost
        run_virtual(main)


async def _state(eye: Any) -> str:
    return str((await eye.read(lambda c: queries.status(c, DEFAULT_SCOPE, "shop"))).state)
