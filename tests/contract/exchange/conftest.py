"""The transports that the contract is checked against: add a factory here, change nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from pelagos.exchange import MemoryTransport, Transport
from pelagos.model import SystemWorld
from support.brokers import skip_without_broker, throw_away_system
from support.interceptors import ANY_TIME, intercepted


@contextlib.asynccontextmanager
async def _memory() -> AsyncIterator[Transport]:
    yield MemoryTransport(SystemWorld(), dead_letter_limit=50)


@contextlib.asynccontextmanager
async def _amqp() -> AsyncIterator[Transport]:
    url = skip_without_broker()
    from pelagos.exchange.amqp import AmqpConfig, AmqpTransport

    async with throw_away_system(url) as system:
        yield AmqpTransport(SystemWorld(), AmqpConfig(url, system, "test", drain=0.0, dead_letter_limit=50))


@contextlib.asynccontextmanager
async def _memory_intercepted() -> AsyncIterator[Transport]:
    world = SystemWorld()
    yield intercepted(MemoryTransport(world, dead_letter_limit=50), world, entries=ANY_TIME)


@contextlib.asynccontextmanager
async def _amqp_intercepted() -> AsyncIterator[Transport]:
    async with _amqp() as amqp:
        yield intercepted(amqp, SystemWorld(), entries=ANY_TIME)


FACTORIES: dict[str, Callable[[], AbstractAsyncContextManager[Transport]]] = {
    "memory": _memory,
    "amqp": _amqp,
    "memory behind interceptors": _memory_intercepted,
    "amqp behind interceptors": _amqp_intercepted,
}


@pytest.fixture(
    params=[
        "memory",
        pytest.param("amqp", marks=pytest.mark.amqp),
        "memory behind interceptors",
        pytest.param("amqp behind interceptors", marks=pytest.mark.amqp),
    ]
)
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
    async with FACTORIES[request.param]() as made:
        await made.start()
        yield made
        await made.stop()
