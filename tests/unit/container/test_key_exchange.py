"""Two containers that require signatures, on one exchange: they meet, talk, renew, and shut strangers out."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from pelagos.container import Container, ContainerConfig
from pelagos.container.keys import KeyExchangeProcess
from pelagos.exchange import Envelope, MemoryTransport, Performative, Transport
from pelagos.exchange.interceptors import InterceptedTransport, KeyRing, Stack
from pelagos.model.errors import Unavailable
from pelagos.process import Process, ServiceProcess, client, operation
from pelagos.simulation import SimulatedWorld
from support.interceptors import ring, stack

pytestmark = pytest.mark.anyio


class Greeter(ServiceProcess):
    name = "greeter"

    @operation
    async def greet(self, name: str) -> str:
        return f"hello {name}"


class Member:
    """A container with a key ring."""

    def __init__(self, name: str, shared: Transport, keys: KeyRing, seed: int = 1) -> None:
        world = SimulatedWorld(f"{seed}/{name}")
        self.stack: Stack = stack(world, container=name, keys=keys)
        self.transport = InterceptedTransport(shared, self.stack.interceptors, world)
        config = ContainerConfig(id=name, system="test")
        self.container = Container(world, config, self.transport, shared_transport=True)
        assert self.stack.sessions is not None
        self.sessions = self.stack.sessions

    async def __aenter__(self) -> Member:
        await self.container.start()
        self.keys_id = await self.container.spawn(KeyExchangeProcess(self.sessions))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.container.stop()

    @property
    def counters(self) -> dict[str, Any]:
        return self.transport.interceptors()["signature"]


def rings() -> tuple[KeyRing, KeyRing]:
    a, b = ring(), ring()
    a.believe(b.public_key)
    b.believe(a.public_key)
    return a, b


async def shared() -> MemoryTransport:
    transport = MemoryTransport(SimulatedWorld())
    await transport.start()
    return transport


async def test_two_containers_meet_and_talk() -> None:
    a_keys, b_keys = rings()
    exchange = await shared()
    async with Member("a", exchange, a_keys) as a, Member("b", exchange, b_keys) as b:
        await b.container.spawn(Greeter)
        greeter = client(Greeter, a.container.edge)
        assert await greeter.greet("you") == "hello you"
        assert (a.counters["unsigned"], a.counters["forged"], b.counters["forged"]) == (0, 0, 0)
        assert (a.counters["verified"], b.counters["verified"]) >= (1, 1)
        assert set(a.sessions.snapshot().peers.values()) == {"b"}


async def test_a_call_made_before_the_keys_are_there_waits_for_them() -> None:
    """The service's container has lost its keys: it asks, and the call goes through."""
    a_keys, b_keys = rings()
    exchange = await shared()
    async with Member("a", exchange, a_keys) as a, Member("b", exchange, b_keys) as b:
        await b.container.spawn(Greeter)
        b.sessions._peers.clear()
        assert await client(Greeter, a.container.edge).greet("you") == "hello you"
        assert set(b.sessions.snapshot().peers.values()) == {"a"}


async def test_a_container_with_a_key_that_nobody_trusts_is_answered_with_an_error() -> None:
    _, b_keys = rings()
    exchange = await shared()
    stranger = ring(b_keys)
    async with Member("b", exchange, b_keys) as b, Member("x", exchange, stranger) as x:
        await b.container.spawn(Greeter)
        await asyncio.sleep(1)
        began = x.container.world.monotonic()
        with pytest.raises(Unavailable, match="the answer was refused"):  # b gives the stranger no key either
            await client(Greeter, x.container.edge).greet("you")
        assert x.container.world.monotonic() - began < 5
        assert b.sessions.snapshot().peers == {}
        process = b.container.process(b.keys_id)
        assert isinstance(process, KeyExchangeProcess)
        assert process.refused > 0
        assert b.container.snapshot().processes[-1].serving.done == 0


async def test_forged_and_replayed_messages_do_nothing() -> None:
    done: list[str] = []

    class Counter(ServiceProcess):
        name = "counter"

        @operation
        async def add(self, what: str) -> None:
            done.append(what)

    a_keys, b_keys = rings()
    exchange = await shared()
    recorded: list[Envelope] = []
    publish = exchange.publish

    async def recording(envelope: Envelope) -> None:
        recorded.append(envelope)
        await publish(envelope)

    exchange.publish = recording  # type: ignore[method-assign]
    async with Member("a", exchange, a_keys) as a, Member("b", exchange, b_keys) as b:
        await b.container.spawn(Counter)
        counter = client(Counter, a.container.edge)
        await counter.add("one")
        [genuine] = [one for one in recorded if one.op == "add"]
        for forged in (
            genuine,
            msgspec.structs.replace(genuine, content=msgspec.msgpack.encode("two"), conv_id="a#99"),
            msgspec.structs.replace(genuine, signature=b"", signer=""),
            msgspec.structs.replace(genuine, signer=b_keys.fingerprint),
            msgspec.structs.replace(genuine, performative=Performative.INFORM_RESULT, signature=b""),
        ):
            await publish(msgspec.structs.replace(forged, reply_to=None if forged is not genuine else forged.reply_to))
        await asyncio.sleep(5)
        await counter.add("three")
        assert done == ["one", "three"]
        assert b.transport.snapshot().refused == 5


async def test_keys_are_renewed_under_load_and_nothing_is_refused() -> None:
    a_keys, b_keys = rings()
    exchange = await shared()
    async with Member("a", exchange, a_keys) as a, Member("b", exchange, b_keys) as b:
        await b.container.spawn(Greeter)
        greeter = client(Greeter, a.container.edge)
        first = a.sessions.snapshot().session
        for _ in range(1500):
            assert await greeter.greet("you") == "hello you"
            await asyncio.sleep(10)
        assert a.sessions.snapshot().session != first
        assert (a.transport.snapshot().refused, b.transport.snapshot().refused) == (0, 0)
        assert len(b.sessions.snapshot().peers) <= 3
        assert a.counters["remembered"] < 200


async def test_who_leaves_is_forgotten_and_who_is_revoked_is_shut_out() -> None:
    a_keys, b_keys = rings()
    exchange = await shared()
    async with Member("b", exchange, b_keys) as b:
        async with Member("a", exchange, a_keys):
            await asyncio.sleep(1)
            assert set(b.sessions.snapshot().peers.values()) == {"a"}
        await asyncio.sleep(800)
        assert b.sessions.snapshot().peers == {}
        async with Member("a2", exchange, a_keys):
            await asyncio.sleep(1)
            assert set(b.sessions.snapshot().peers.values()) == {"a2"}
            b_keys.disbelieve(a_keys.fingerprint)
            await asyncio.sleep(6)
            assert b.sessions.snapshot().peers == {}


async def test_containers_of_one_host_share_a_ring() -> None:
    keys = ring()
    exchange = await shared()
    async with Member("a", exchange, keys) as a, Member("b", exchange, keys) as b, Member("c", exchange, keys) as c:
        await c.container.spawn(Greeter)
        for member in (a, b, c):
            assert await client(Greeter, member.container.edge).greet("you") == "hello you"
        assert set(a.sessions.snapshot().peers.values()) == {"b", "c"}


async def test_an_operation_of_the_key_exchange_is_no_way_in_for_others() -> None:
    """Unsigned messages are taken by the key exchange's own mailbox only, and only those of the exchange."""
    a_keys, b_keys = rings()
    exchange = await shared()

    class Offers(Process):
        taken = 0

        @operation
        async def offer(self, what: str) -> None:
            Offers.taken += 1

    async with Member("a", exchange, a_keys), Member("b", exchange, b_keys) as b:
        other = await b.container.spawn(Offers)
        for to, op in (
            (f"process:{other}", "offer"),
            (f"process:{b.keys_id}", "ping"),
            (f"process:{b.keys_id}", "offer"),
        ):
            exchange.post(Envelope(to, "process:evil.1", op, Performative.INFORM, "e#1", b"\xa1x"))
        await asyncio.sleep(1)
        assert Offers.taken == 0
        assert b.transport.snapshot().refused == 2
        assert set(b.sessions.snapshot().peers.values()) == {"a"}
