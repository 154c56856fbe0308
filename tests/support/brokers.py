"""RabbitMQ for tests: the server that answers, and one of a test's own that may be killed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import uuid
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

__all__ = ["amqp_url", "skip_without_broker", "throw_away_system"]


def amqp_url() -> str:
    """The server that tests may use."""
    return os.environ.get("PELAGOS_TEST_AMQP", "amqp://guest:guest@127.0.0.1:5672")


@functools.cache
def _answers(url: str) -> str | None:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 5672), timeout=3).close()
    except OSError as error:
        return str(error)
    return None


def skip_without_broker() -> str:
    """The URL of the server; skips the test where none answers."""
    pytest.importorskip("aio_pika", reason="aio-pika is not installed")
    url = amqp_url()
    problem = _answers(url)
    if problem is not None:
        parts = urlsplit(url)
        pytest.skip(f"no RabbitMQ server answers at {parts.hostname}:{parts.port or 5672}: {problem}")
    return url


@contextlib.asynccontextmanager
async def throw_away_system(url: str) -> AsyncIterator[str]:
    """A system name that nobody else uses; its exchanges and shared queues are deleted at the end."""
    from pamqp import commands as spec

    from pelagos.exchange.amqp import AmqpConfig
    from pelagos.exchange.amqp.topology import Topology
    from pelagos.exchange.amqp.wire import Wire

    system = f"t{uuid.uuid4().hex[:12]}"
    yield system
    config = AmqpConfig(url, system, "cleaner")
    async with asyncio.timeout(20):
        wire = await Wire.open(config, config.connection_url(), config.tls())
        channel = await wire.channel()
        topology = Topology(system, "cleaner", 1)
        queues = [name for name, _ in topology.shared_queues()]
        for address in ("service:test.store", "service:test.work"):
            for queue in (topology.service_queue(address), topology.work_queue(address)):
                queues += [queue, f"{queue}.nested"]
        for queue in queues:
            await channel.call(spec.Queue.Delete(queue=queue))
        for exchange in topology.exchanges:
            await channel.call(spec.Exchange.Delete(exchange=exchange))
        await wire.close()
