"""Somebody else who can write to the broker: listens to a system's messages, and sends whatever it likes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from pelagos.exchange import Envelope, Performative, encode

__all__ = ["LARGE", "Intruder", "forgeries", "garbage", "intruder"]

LARGE = 17 * 1024 * 1024


class Intruder:
    """Knows no key of the system, but its broker's password."""

    def __init__(self, channel: Any, system: str) -> None:
        self.heard: list[bytes] = []
        self.sent = 0
        self._channel = channel
        self._system = system

    async def listen(self, *keys: str) -> None:
        """Get a copy of what is sent to these keys."""
        queue = await self._channel.declare_queue(exclusive=True)
        for key in keys:
            await queue.bind(f"{self._system}.calls", key)

        async def hear(message: Any) -> None:
            self.heard.append(message.body)

        await queue.consume(hear, no_ack=True)

    async def send(self, body: bytes, key: str, exchange: str = "calls", **properties: Any) -> None:
        """Publish bytes; ``exchange`` empty: straight to the queue of that name."""
        import aio_pika

        self.sent += 1
        message = aio_pika.Message(body, **properties)
        if exchange:
            found = await self._channel.get_exchange(f"{self._system}.{exchange}", ensure=False)
        else:
            found = self._channel.default_exchange
        await found.publish(message, key, mandatory=False)

    def places(self, *services: str, durable: tuple[str, ...] = (), containers: tuple[str, ...] = ()) -> Iterator[Any]:
        """(key, exchange, address) of every kind of queue the system has."""
        system = self._system
        for name in (*services, *durable):
            yield f"service.{system}.{name}", "calls", f"service:{system}.{name}"
            yield f"nested.service.{system}.{name}", "calls", f"service:{system}.{name}"
        for name in services:
            yield f"{system}.service.{system}.{name}", "", f"service:{system}.{name}"
        for name in durable:
            yield f"{system}.work.{system}.{name}", "", f"service:{system}.{name}"
        for name in containers:
            yield f"process.{name}", "calls", f"process:{name}.2"
        yield f"fanout.{system}.pelagos.agents", "calls", f"fanout:{system}.pelagos.agents"
        yield f"{system}.news.today", "events", f"topic:{system}.news.today"
        yield f"{system}.stream.x.y", "streams", f"topic:{system}.stream.x.y"
        for queue in ("returned", "failed", "dead"):
            yield f"{system}.{queue}", "", f"service:{system}.{services[0]}"


def garbage(address: str) -> list[bytes]:
    """Bytes that are no message."""
    good = encode(Envelope(address, "process:x.1", "do", Performative.REQUEST, "x.1#1", reply_to="process:x.1"))
    return [
        b"",
        b"\x00",
        b"\xff\x00garbage",
        b"{}",
        b"\x93\x01\x02\x03",
        b"\x81\xa8receiver\xc0",
        good[: len(good) // 2],
        good + b"\x00",
        good.replace(b"request", b"sing!!!"),
        b"\x91" * 5000,
        b"\x81\xa3xyz" + b"\x91" * 5000 + b"\x00",
    ]


def forgeries(address: str, back: str) -> list[Envelope]:
    """Messages that are well formed, and wrong in one way or another; none is signed."""
    good = Envelope(
        address, "process:x.1", "do", Performative.REQUEST, "x.1#1", b"\x81\xa6number\x01", reply_to=back, ts=1
    )
    replace = msgspec.structs.replace
    return [
        good,
        replace(good, v=99),
        replace(good, op=""),
        replace(good, op="no such operation"),
        replace(good, op="x" * 100_000),
        replace(good, content=b""),
        replace(good, content=b"\xc1"),
        replace(good, content=b"\x91" * 100_000),
        replace(good, receiver="nonsense"),
        replace(good, receiver="service:other.work"),
        replace(good, sender=""),
        replace(good, reply_to="nonsense"),
        replace(good, reply_to=""),
        replace(good, reply_to=address),
        replace(good, reply_to="topic:a.#"),
        replace(good, reply_to="process:" + "y" * 1000),
        replace(good, conv_id=""),
        replace(good, conv_id="z" * 100_000),
        replace(good, conv_seq=-1),
        replace(good, conv_seq=2**62),
        replace(good, depth=-1),
        replace(good, depth=2**40),
        replace(good, remaining_ms=-1),
        replace(good, remaining_ms=0),
        replace(good, remaining_ms=2**62),
        replace(good, ts=2**62),
        replace(good, ts=-(2**62)),
        replace(good, request_id=""),
        replace(good, request_id="r" * 10_000),
        replace(good, signer="front.1", signature=b"s" * 32),
        replace(good, signer="x" * 10_000, signature=b"s" * 10_000),
        replace(good, assertion=b"\xc1\xc1", expiry=2**62),
        replace(good, expiry=1),
        *(
            replace(good, protocol=protocol, performative=performative, conv_seq=sequence)
            for protocol in ("rpc", "none", "request", "subscribe", "generic", "nonsense", "")
            for performative in Performative
            for sequence in (1, 7)
        ),
    ]


@contextlib.asynccontextmanager
async def intruder(url: str, system: str) -> AsyncIterator[Intruder]:
    import aio_pika

    async with asyncio.timeout(20):
        connection = await aio_pika.connect(url)
    async with connection:
        yield Intruder(await connection.channel(), system)
