"""RPC over RabbitMQ against bare aio-pika: the same broker, queue types, codec, confirms and acknowledgements.

The peer is what one writes with aio-pika without Pelagos: a request queue of the same kind and arguments, published to
mandatory and confirmed, consumed with acknowledgement; an exclusive queue for replies, consumed without, matched by
correlation id; no deadline, no identity, no error handling. Both sides of both live in this process, in two
connections, one for the caller and one for the service.

Ours run behind the whole default stack of interceptors: policy, identity, and signatures, which each side makes and
checks for every message. Beside them is nameko's RPC on the same broker, see :mod:`benchmarks.nameko_peer`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import msgspec

from benchmarks import nameko_peer
from benchmarks.report import Row
from benchmarks.rpc import REQUEST, Compute, Created, CreateServers, handle

ROUNDS = 5
REQUESTS = {1: 500, 256: 5_120}
NAMEKO_REQUESTS = {1: 200, 256: 768}


def url() -> str:
    return os.environ.get("PELAGOS_TEST_AMQP", "amqp://guest:guest@127.0.0.1:5672")


def absent() -> str | None:
    """Why it cannot be measured; None if it can."""
    try:
        import aio_pika  # noqa: F401
    except ModuleNotFoundError:
        return "aio-pika is not installed"
    parts = urlsplit(url())
    try:
        socket.create_connection((parts.hostname or "", parts.port or 5672), timeout=3).close()
    except OSError as error:
        return f"no RabbitMQ server answers at {parts.hostname}:{parts.port or 5672}: {error}"
    return None


async def _peer(in_flight: int, requests: int) -> float:
    import aio_pika

    encode = msgspec.msgpack.Encoder().encode
    decode_request = msgspec.msgpack.Decoder(CreateServers).decode
    decode_reply = msgspec.msgpack.Decoder(Created).decode
    name = f"pelagos.bench.{uuid.uuid4().hex[:8]}"
    futures: dict[str, asyncio.Future[bytes]] = {}
    async with await aio_pika.connect(url()) as there, await aio_pika.connect(url()) as here:
        serving = await there.channel()
        await serving.set_qos(prefetch_count=512)
        answering = await there.channel(publisher_confirms=False)
        queue = await serving.declare_queue(
            name,
            durable=True,
            auto_delete=True,
            arguments={"x-max-length": 1024, "x-overflow": "reject-publish", "x-expires": 60_000},
        )

        async def serve(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            body = encode(await handle(decode_request(message.body)))
            assert message.reply_to is not None
            await answering.default_exchange.publish(
                aio_pika.Message(body, correlation_id=message.correlation_id), message.reply_to
            )
            await message.ack()

        await queue.consume(serve)
        calling = await here.channel()
        replies = await calling.declare_queue(exclusive=True)

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            assert message.correlation_id is not None
            futures.pop(message.correlation_id).set_result(message.body)

        await replies.consume(take, no_ack=True)
        loop = asyncio.get_running_loop()
        count = 0

        async def call() -> None:
            nonlocal count
            count += 1
            conversation = str(count)
            futures[conversation] = loop.create_future()
            future = futures[conversation]
            await calling.default_exchange.publish(
                aio_pika.Message(
                    encode(REQUEST), correlation_id=conversation, reply_to=replies.name, message_id=conversation
                ),
                name,
            )
            decode_reply(await future)

        await call()
        return await _time(call, in_flight, requests)


async def _rpc(in_flight: int, requests: int) -> float:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pelagos.container import Container, ContainerConfig
    from pelagos.container.keys import KeyExchangeProcess
    from pelagos.exchange.amqp import AmqpConfig, AmqpTransport
    from pelagos.exchange.interceptors import InterceptedTransport, KeyRing, ServiceNames, Surroundings, build_stack
    from pelagos.model import SystemWorld
    from pelagos.process import client

    system = f"bench{uuid.uuid4().hex[:8]}"
    rings = {name: KeyRing(Ed25519PrivateKey.generate()) for name in ("here", "there")}
    for name, other in (("here", "there"), ("there", "here")):
        rings[name].believe(rings[other].public_key)

    @asynccontextmanager
    async def member(name: str) -> AsyncIterator[Container]:
        world = SystemWorld()
        services = ServiceNames(system=system, container=name)
        stack = build_stack(None, Surroundings(world, name, system, services, local=False, ring=rings[name]))
        assert stack.names[-1] == "signature" and stack.sessions is not None
        amqp = AmqpTransport(world, AmqpConfig(url(), system, name))
        transport = InterceptedTransport(amqp, stack.interceptors, world)
        config = ContainerConfig(id=name, system=system)
        async with Container(world, config, transport, service_names=services) as container:
            await container.spawn(KeyExchangeProcess(stack.sessions))
            yield container
            assert transport.snapshot().refused == 0
            assert transport.interceptors()["signature"]["verified"] >= requests
        world.close()

    try:
        async with member("there") as there, member("here") as here:
            await there.spawn(Compute)
            compute = client(Compute, here.edge)

            async def call() -> None:
                await compute.create_servers(REQUEST)

            await call()
            return await _time(call, in_flight, requests)
    finally:
        await tidy(system)


async def _time(call: Callable[[], Awaitable[None]], in_flight: int, requests: int) -> float:
    async def caller() -> None:
        for _ in range(requests // in_flight):
            await call()

    gc.collect()
    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(caller())
    return (time.perf_counter() - begin) / requests


async def tidy(system: str) -> None:
    """Delete what a system leaves on the broker."""
    import aio_pika

    async with await aio_pika.connect(url()) as connection:
        channel = await connection.channel()
        for queue in ("returned", "failed", "dead"):
            await channel.queue_delete(f"{system}.{queue}")
        for exchange in ("calls", "events", "streams"):
            await channel.exchange_delete(f"{system}.{exchange}")


def measure(quick: bool = False) -> list[Row]:
    """A row for one in flight and one for many; each the best of some rounds taken in turn with its peer."""
    reason = absent()
    if reason is not None:
        print(f"RPC over RabbitMQ: not measured, {reason}")
        return []
    rows = []
    for in_flight, aim in ((1, 1.15), (256, 1 / 0.9)):
        requests = REQUESTS[in_flight] // (4 if quick else 1)
        measured, peer = [], []
        for _ in range(2 if quick else ROUNDS):
            peer.append(asyncio.run(_peer(in_flight, requests)))
            measured.append(asyncio.run(_rpc(in_flight, requests)))
        best = min(measured)
        nameko, why = nameko_peer.measure(
            url(), in_flight, NAMEKO_REQUESTS[in_flight] // (4 if quick else 1), rounds=1 if quick else 2
        )
        rows.append(
            Row(
                name=f"RPC over RabbitMQ, signed, {in_flight} in flight",
                measured=best,
                floor=min(peer),
                floor_name="bare aio-pika",
                aim=aim,
                aim_text="<= 1.15 x" if in_flight == 1 else "<= 1.11 x",
                judged=best / min(peer),
                note=f"{1 / best:,.0f}/s against {1 / min(peer):,.0f}/s" + (f"; nameko: {why}" if why else ""),
            )
        )
        if nameko is not None:
            rows.append(
                Row(
                    name=f"the same by nameko {nameko_peer.VERSION}, {in_flight} in flight",
                    measured=nameko,
                    floor=best,
                    floor_name="Pelagos, signed",
                    note=f"{1 / nameko:,.0f}/s, no signatures",
                )
            )
    return rows


if __name__ == "__main__":
    from benchmarks.report import as_line, heading

    print(heading())
    for row in measure():
        print(as_line(row))
