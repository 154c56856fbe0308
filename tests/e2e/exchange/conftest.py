"""Containers' transports on one broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from pelagos.exchange import Delivery, Envelope, Performative, Receiver, decode_error, reply_to
from pelagos.exchange.amqp import AmqpConfig
from pelagos.model import SystemWorld
from pelagos.model.errors import PelagosError, Retry, Unavailable, from_payload
from support.brokers import skip_without_broker, throw_away_system

MakeTransport = Callable[..., Awaitable[Any]]


class Caller:
    """Calls over a transport, as a process does: a mailbox, open calls, deadlines."""

    def __init__(self, transport: Any, address: str) -> None:
        self.transport = transport
        self.address = address
        self._open: dict[str, asyncio.Future[Envelope]] = {}
        self._count = 0

    async def start(self) -> None:
        await self.transport.subscribe(Receiver(self.address), self._take)
        self.transport.on_disconnect(self._disconnected)

    async def call(self, to: str, op: str, *, timeout: float = 5.0, depth: int = 0) -> Envelope:
        """The answer; raises the error it carries, or :class:`TimeoutError` at the deadline."""
        self._count += 1
        conversation = f"{self.address}#{self._count}"
        future: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()
        self._open[conversation] = future
        try:
            async with asyncio.timeout(timeout + 0.5):
                await self.transport.publish(
                    Envelope(
                        to,
                        self.address,
                        op,
                        Performative.REQUEST,
                        conversation,
                        reply_to=self.address,
                        remaining_ms=int(timeout * 1000),
                        depth=depth,
                    )
                )
                reply = await future
        finally:
            self._open.pop(conversation, None)
        if reply.status == "ERROR":
            raise from_payload(decode_error(reply.content))
        return reply

    async def outcome(self, to: str, op: str, *, timeout: float = 5.0) -> str:
        """How a call ended: ``ok``, the error's code, or ``silence``."""
        try:
            await self.call(to, op, timeout=timeout)
        except PelagosError as error:
            return error.code
        except TimeoutError:
            return "silence"
        return "ok"

    def _take(self, delivery: Delivery) -> None:
        delivery.ack()
        future = self._open.get(delivery.envelope.conv_id)
        if future is not None and not future.done():
            future.set_result(delivery.envelope)

    def _disconnected(self) -> None:
        for future in self._open.values():
            if not future.done():
                error = Unavailable("the connection was lost")
                error.retry = Retry.UNCERTAIN
                future.set_exception(error)
                future.exception()


def answering(transport: Any, address: str) -> Callable[[Delivery], None]:
    """A handler that answers each request at once."""

    def handle(delivery: Delivery) -> None:
        transport.post(reply_to(delivery.envelope, Performative.INFORM_RESULT, b"\xc3", sender=address))
        delivery.ack()

    return handle


@contextlib.asynccontextmanager
async def transports(url: str, system: str) -> AsyncIterator[MakeTransport]:
    """``await make("a", **settings)``: the started transport of container ``a``; all are stopped at the end."""
    from pelagos.exchange.amqp import AmqpTransport

    made = []

    async def make(container: str, **settings: Any) -> AmqpTransport:
        settings = {"drain": 0.0, "retry_after": 0.05, "retry_at_most": 0.5, **settings}
        transport = AmqpTransport(SystemWorld(), AmqpConfig(url, system, container, **settings))
        await transport.start()
        made.append(transport)
        return transport

    yield make
    for transport in reversed(made):
        await transport.stop()


@pytest.fixture
async def make() -> AsyncIterator[MakeTransport]:
    url = skip_without_broker()
    async with throw_away_system(url) as system, transports(url, system) as maker:
        yield maker
