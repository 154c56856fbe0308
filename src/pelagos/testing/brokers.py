"""A real broker for tests: where one answers, and a system of one's own on it that leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pelagos.exchange import Handler, Names, Receiver, Subscription, Transport
from pelagos.model.world import SystemWorld, World
from pelagos.testing.harness import Harness

if TYPE_CHECKING:
    from pelagos.exchange.amqp import AmqpConfig

__all__ = ["Broker", "broker_problem", "broker_url", "throw_away_broker"]

_DEFAULT = "amqp://guest:guest@127.0.0.1:5672"
_PATIENCE = 20.0


def broker_url() -> str:
    """The server that tests may use: ``PELAGOS_TEST_AMQP``, or the local one."""
    return os.environ.get("PELAGOS_TEST_AMQP", _DEFAULT)


def broker_problem(url: str) -> str:
    """Why no test can use that server, empty if one can. Blocks for some seconds at the most."""
    try:
        import aio_pika  # noqa: F401 - whether it is there
    except ImportError:
        return "aio-pika is not installed"
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 5672), timeout=3).close()
    except OSError as error:
        return f"no RabbitMQ server answers at {parts.hostname}:{parts.port or 5672}: {error}"
    return ""


class Broker:
    """A server, and the name of a system on it that nobody else uses."""

    def __init__(self, url: str, system: str) -> None:
        self.url = url
        self.system = system
        self._durable: dict[str, None] = {}

    @asynccontextmanager
    async def harness(self, **options: Any) -> AsyncIterator[Harness]:
        """A harness whose containers are each connected to the broker; ``options`` as :class:`Harness` takes them."""
        world = SystemWorld()
        try:
            async with Harness(world, transport=self.transport(world), system=self.system, **options) as harness:
                yield harness
        finally:
            world.close()

    def transport(self, world: World) -> Callable[[Names], Transport]:
        """For :class:`pelagos.container.Container` as its ``transport``."""
        from pelagos.exchange.amqp import AmqpTransport

        durable = self._durable

        class Noting(AmqpTransport):
            async def subscribe(self, receiver: Receiver, handler: Handler) -> Subscription:
                if receiver.durable:
                    durable[receiver.address] = None
                return await super().subscribe(receiver, handler)

        return lambda names: Noting(world, self._config(names.container))

    def _config(self, container: str) -> AmqpConfig:
        from pelagos.exchange.amqp import AmqpConfig

        return AmqpConfig(self.url, self.system, container)

    def also_delete(self, address: str) -> None:
        """Note the full address of a durable service that other programs receive from: its queues go at the end."""
        self._durable[address] = None

    async def clean(self) -> None:
        """Delete the system's exchanges, its shared queues, and the durable ones that were received from or noted."""
        from pamqp import commands

        from pelagos.exchange.amqp.topology import Topology
        from pelagos.exchange.amqp.wire import Wire

        config = self._config("cleaner")
        topology = Topology(self.system, "cleaner", 1)
        queues = [name for name, _ in topology.shared_queues()]
        for address in self._durable:
            for queue in (topology.service_queue(address), topology.work_queue(address)):
                queues += [queue, f"{queue}.nested"]
        async with asyncio.timeout(_PATIENCE):
            wire = await Wire.open(config, config.connection_url(), config.tls())
            channel = await wire.channel()
            for queue in queues:
                await channel.call(commands.Queue.Delete(queue=queue))
            for exchange in topology.exchanges:
                await channel.call(commands.Exchange.Delete(exchange=exchange))
            await wire.close()


@asynccontextmanager
async def throw_away_broker(url: str = "") -> AsyncIterator[Broker]:
    """The server of :func:`broker_url` under a name of its own; what is declared there is deleted at the end.

    Raises :class:`pelagos.model.errors.Unavailable` when containers cannot reach it: ask :func:`broker_problem`
    first."""
    world = SystemWorld(threads=1)
    broker = Broker(url or broker_url(), f"t{world.new_id().replace('-', '')[:12]}")
    world.close()
    try:
        yield broker
    finally:
        await broker.clean()
