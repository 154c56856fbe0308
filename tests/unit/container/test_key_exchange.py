"""Two containers that require signatures, on one exchange: they meet, talk, renew, and shut strangers out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from pelagos.container import Container, ContainerConfig
from pelagos.container.keys import KeyExchangeProcess
from pelagos.exchange import Envelope, MemoryTransport, Performative, Transport
from pelagos.exchange.interceptors import InterceptedTransport, KeyRing, Stack
from pelagos.exchange.interceptors.keyring import create_identity, load_keyring, revoke, trust
from pelagos.model.errors import Retry, Unauthenticated
from pelagos.process import Process, ServiceProcess, client, operation
from pelagos.simulation import SimulatedWorld
from support.interceptors import FULL, ring, stack

pytestmark = pytest.mark.anyio


class Greeter(ServiceProcess):
    name = "greeter"

    @operation
    async def greet(self, name: str) -> str:
        return f"hello {name}"


class Member:
    """A container with a key ring."""

    def __init__(self, name: str, shared: Transport, keys: KeyRing, seed: int = 1, mode: str = "require") -> None:
        world = SimulatedWorld(f"{seed}/{name}")
        self.stack: Stack = stack(world, (*FULL[:-1], {"signature": {"mode": mode}}), container=name, keys=keys)
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
    def keys(self) -> KeyExchangeProcess:
        process = self.container.process(self.keys_id)
        assert isinstance(process, KeyExchangeProcess)
        return process

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
        with pytest.raises(Unauthenticated, match=r"the answer was refused.* keys .* do not match") as caught:
            await client(Greeter, x.container.edge).greet("you")  # b gives the stranger no key either
        assert "identity.pub" in caught.value.advice
        assert caught.value.retry is Retry.UNCERTAIN
        assert x.container.world.monotonic() - began < 5
        assert b.sessions.snapshot().peers == {}
        process = b.container.process(b.keys_id)
        assert isinstance(process, KeyExchangeProcess)
        assert process.refused > 0
        assert b.container.snapshot().processes[-1].serving.done == 0


async def test_who_finds_only_strangers_is_told_which_keys_to_look_at() -> None:
    """Whether none trusts the other, or one of them does."""
    for trusting in range(4):
        a_keys, x_keys = ring(), ring()
        if trusting & 1:
            a_keys.believe(x_keys.public_key)
        if trusting & 2:
            x_keys.believe(a_keys.public_key)
        exchange = await shared()
        async with Member("a", exchange, a_keys) as a:
            await a.keys.meet()  # alone
            async with Member("x", exchange, x_keys) as x:
                if trusting == 3:
                    await x.keys.meet()
                    continue
                with pytest.raises(Unauthenticated, match="the containers of system test use other keys") as caught:
                    await x.keys.meet()
                assert x_keys.fingerprint in caught.value.message
                assert caught.value.details["containers"] == ["a"]
                assert caught.value.details["fingerprints"] == [a_keys.fingerprint]
                assert "identity.pub" in caught.value.advice


async def test_where_signatures_are_off_other_keys_are_no_reason() -> None:
    exchange = await shared()
    async with Member("a", exchange, ring(), mode="off") as a, Member("b", exchange, ring(), mode="off") as b:
        await a.container.spawn(Greeter)
        await b.keys.meet()
        assert await client(Greeter, b.container.edge).greet("you") == "hello you"


async def test_whom_nobody_answers_starts_alone_after_a_second() -> None:
    async with Member("a", await shared(), ring()) as a:
        began = a.container.world.monotonic()
        await a.keys.meet()
        assert a.container.world.monotonic() - began == pytest.approx(1.0, abs=0.05)


async def test_who_has_a_friend_starts_at_once_and_strangers_are_warned_of_once() -> None:
    a_keys, b_keys = rings()
    exchange = await shared()
    with capture_logs() as logs:
        async with (
            Member("a", exchange, a_keys),
            Member("x", exchange, ring()) as x,
            Member("b", exchange, b_keys) as b,
        ):
            began = b.container.world.monotonic()
            await b.keys.meet()
            assert b.container.world.monotonic() - began < 0.5
            for number in range(400):
                beat = Envelope(f"process:{b.keys_id}", "process:x.9", "beat", Performative.INFORM, f"x.9#{number}")
                x.transport.post(beat)
                await asyncio.sleep(1)
            await asyncio.sleep(5)
            assert b.transport.snapshot().refused == 400
    told = [one for one in logs if one["event"].startswith("a container of this system uses other keys")]
    first = [one["container"] for one in told if "times_before" not in one]
    assert sorted(first) == ["a", "b", "x", "x"]  # x was told of both, and they of x
    refused = [one.get("times_before") for one in logs if one["event"] == "refused"]
    assert refused == [None, 299]


async def test_a_message_made_up_for_strangers_keeps_nobody_from_starting() -> None:
    """An answer counts if it was made for this session, by whom it names."""
    keys = ring()
    exchange = await shared()
    async with Member("x", exchange, ring()) as other:
        pass
    async with Member("a", exchange, keys) as a:
        meant = other.sessions.announce(asks=a.sessions.newest)
        forged = msgspec.structs.replace(meant, signature=bytes(64))
        for number, content in enumerate((other.sessions.announce(asks="of somebody else"), forged)):
            envelope = Envelope(f"process:{a.keys_id}", "process:x.1", "announce", Performative.INFORM, f"x#{number}")
            exchange.post(msgspec.structs.replace(envelope, content=msgspec.msgpack.encode(content)))
        await a.keys.meet()
        assert a.keys.refused == 2


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


async def test_a_key_that_is_trusted_while_all_run_counts_within_five_seconds(tmp_path: Path) -> None:
    """Whichever host trusts last, and also one that was revoked before."""
    places = {name: tmp_path / name for name in "ab"}
    for place in places.values():
        create_identity(place)
    exchange = await shared()
    a_keys, b_keys = (load_keyring(place) for place in places.values())
    async with Member("a", exchange, a_keys) as a, Member("b", exchange, b_keys) as b:
        await b.container.spawn(Greeter)

        async def heard() -> float:
            """Seconds until b answers a."""
            began = a.container.world.monotonic()
            while True:
                try:
                    assert await client(Greeter, a.container.edge).greet("you") == "hello you"
                except Unauthenticated:
                    await asyncio.sleep(0.1)
                else:
                    return a.container.world.monotonic() - began

        await asyncio.sleep(7)
        trust(places["b"], places["a"] / "identity.pub")
        await asyncio.sleep(7)
        assert a.sessions.snapshot().peers == b.sessions.snapshot().peers == {}
        trust(places["a"], places["b"] / "identity.pub")
        assert await heard() < 5.5
        for place, other in (("a", b_keys), ("b", a_keys)):
            revoke(places[place], other.fingerprint)
            await asyncio.sleep(7)
            with pytest.raises(Unauthenticated):
                await client(Greeter, a.container.edge).greet("you")
            trust(places[place], places["ba"[place == "b"]] / "identity.pub")
            assert await heard() < 5.5 + 2.0, place


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
