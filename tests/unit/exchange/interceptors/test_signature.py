"""What a container believes: malformed, unsigned, changed, replayed, misdirected, old and foreign messages."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from pelagos.exchange import Envelope, MemoryTransport, Performative, Receiver, decode_error
from pelagos.exchange.interceptors import InterceptedTransport, Mode, Sessions, Signature, SignatureOptions, Undecided
from pelagos.exchange.interceptors.replay import SeenMessages
from pelagos.exchange.interceptors.retrying import ResigningDeadLetters
from pelagos.exchange.transport import DeadLetter
from pelagos.model import Scope
from pelagos.model.errors import PelagosError
from pelagos.simulation import SimulatedWorld
from support.interceptors import ring

pytestmark = pytest.mark.anyio

SERVICE = Receiver("service:test.store")
DURABLE = Receiver("service:test.store", durable=True)
MAILBOX = Receiver("process:b.1")


class Side:
    """One container's signature."""

    def __init__(self, name: str, **options: Any) -> None:
        self.world = SimulatedWorld(name)
        self.ring = ring()
        self.sessions = Sessions(
            self.ring, self.world, container=name, system="test", lifetime=options.pop("life", 3600)
        )
        self.sessions.mailbox = f"process:{name}.keys"
        self.signature = Signature(self.world, self.sessions, SignatureOptions(**options))

    def meet(self, other: Side) -> None:
        """Trust each other and exchange keys."""
        for here, there in ((self, other), (other, self)):
            here.ring.believe(there.ring.public_key)
        for here, there in ((self, other), (other, self)):
            here.sessions.accept(there.sessions.offer(there.sessions.check(here.sessions.announce())))


def sides(**options: Any) -> tuple[Side, Side]:
    a, b = Side("a", **options), Side("b", **options)
    a.meet(b)
    return a, b


def message(side: Side, to: str = "service:test.store", *, remaining_ms: int | None = 5000, **more: Any) -> Envelope:
    return Envelope(
        to,
        "process:a.1",
        more.pop("op", "put"),
        more.pop("performative", Performative.REQUEST),
        "a.1#1",
        b"\x01",
        ts=int(side.world.now() * 1000),
        remaining_ms=remaining_ms,
        identity=Scope("p", "u"),
        reply_to="process:a.1",
        **more,
    )


def refused(side: Side, envelope: Envelope, receiver: Receiver = SERVICE, *, redelivered: bool = False) -> str:
    with pytest.raises(PelagosError) as raised:
        side.signature.inbound(envelope, receiver, redelivered)
    assert raised.value.code == "unauthenticated"
    return str(raised.value)


async def test_a_signed_message_arrives_as_it_was_before_it_was_signed() -> None:
    a, b = sides()
    sent = message(a)
    signed = a.signature.outbound(sent)
    assert signed.signer and len(signed.signature) == 32
    assert b.signature.inbound(signed, SERVICE, False) == sent


@pytest.mark.parametrize("remaining_ms", [5000, None])
async def test_no_header_and_no_content_can_be_changed(remaining_ms: int | None) -> None:
    a, b = sides()
    signed = a.signature.outbound(message(a, remaining_ms=remaining_ms))
    changes: dict[str, Any] = {
        "sender": "process:a.2",
        "op": "delete",
        "performative": Performative.INFORM,
        "conv_id": "a.1#2",
        "content": b"\x02",
        "conv_seq": 2,
        "protocol": "request",
        "reply_to": "process:evil.1",
        "ts": signed.ts + 1,
        "remaining_ms": 50_000,
        "depth": 1,
        "identity": Scope("p", "root"),
        "trace": "t",
        "request_id": "r",
        "assertion": b"a",
        "expiry": 7,
        "sender_name": "boss",
    }
    for field, value in changes.items():
        changed = msgspec.structs.replace(signed, **{field: value})
        assert "signature" in refused(b, changed) or "never made" in refused(b, changed), field
    untouched = {"receiver", "status", "signer", "signature", "v"}
    assert {*changes, *untouched} == set(Envelope.__struct_fields__), "a new header must be tried here too"
    assert refused(b, msgspec.structs.replace(signed, signature=signed.signature[:-1] + b"!"))
    assert b.signature.inbound(signed, SERVICE, False).content == b"\x01"


async def test_a_message_for_one_receiver_is_nothing_to_another() -> None:
    a, b = sides()
    signed = a.signature.outbound(message(a))
    assert "came to process:b.1" in refused(b, signed, MAILBOX)
    moved = msgspec.structs.replace(signed, receiver=MAILBOX.address)
    assert "wrong" in refused(b, moved, MAILBOX)


async def test_a_topics_message_is_believed_by_the_patterns_that_match() -> None:
    a, b = sides()
    signed = a.signature.outbound(message(a, "topic:test.server.created", performative=Performative.INFORM))
    assert b.signature.inbound(signed, Receiver("topic:test.server.*"), False)
    assert "came to" in refused(b, signed, Receiver("topic:test.quota.*"))


async def test_unsigned_messages_by_mode() -> None:
    a, b = sides()
    assert "not signed" in refused(b, message(a))
    going_over = Side("c", mode=Mode.SIGN)
    going_over.meet(a)
    assert going_over.signature.inbound(message(a), SERVICE, False)
    assert going_over.signature.outbound(message(a)).signature
    forged = msgspec.structs.replace(a.signature.outbound(message(a)), op="delete")
    assert "wrong" in refused(going_over, forged)
    off = Side("d", mode=Mode.OFF)
    assert off.signature.outbound(sent := message(a)) is sent
    assert off.signature.inbound(sent, SERVICE, False) is sent


async def test_the_same_message_again_is_a_replay_and_a_redelivery_is_none() -> None:
    a, b = sides()
    signed = a.signature.outbound(message(a))
    b.signature.inbound(signed, SERVICE, False)
    assert "replay" in refused(b, signed)
    b.signature.inbound(signed, SERVICE, True)
    assert "replay" in refused(b, signed)
    first_seen_again = a.signature.outbound(message(a, op="other"))
    b.signature.inbound(first_seen_again, SERVICE, True)  # b restarted meanwhile and remembers nothing
    assert "replay" in refused(b, first_seen_again)


async def test_a_replay_to_another_receiver_of_the_same_service_is_one() -> None:
    """Two workers of a service in one container, or one in its next life."""
    a, b = sides()
    signed = a.signature.outbound(message(a))
    b.signature.inbound(signed, Receiver("service:test.store"), False)
    assert "replay" in refused(b, signed, Receiver("service:test.store"))


async def test_each_subscriber_of_a_fanout_gets_its_copy_once() -> None:
    a, b = sides()
    signed = a.signature.outbound(message(a, "fanout:test.news", performative=Performative.INFORM))
    one, other = Receiver("fanout:test.news"), Receiver("fanout:test.news")
    b.signature.inbound(signed, one, False)
    b.signature.inbound(signed, other, False)
    assert "replay" in refused(b, signed, one)


async def test_clocks_may_differ_by_the_window_and_no_more() -> None:
    a, b = sides(window=60.0)
    for skew, believed in ((-59, True), (59, True), (61, False), (-66, False)):
        sent = msgspec.structs.replace(message(a, op=f"op{skew}"), ts=int((a.world.now() + skew) * 1000))
        signed = a.signature.outbound(sent)  # its deadline leaves it 5 s of waiting besides
        if believed:
            b.signature.inbound(signed, SERVICE, False)
        else:
            assert "s ago" in (said := refused(b, signed)) or "from now" in said


async def test_what_waited_within_its_deadline_is_not_too_old() -> None:
    a, b = sides(window=60.0, max_wait=600.0)
    patient = a.signature.outbound(message(a, remaining_ms=300_000))
    hasty = a.signature.outbound(message(a, op="hasty", remaining_ms=1000))
    await asyncio.sleep(200)
    b.signature.inbound(patient, SERVICE, False)
    assert "too old" in refused(b, hasty)
    b.signature.inbound(hasty, SERVICE, True)  # the broker says it was here in time


async def test_lasting_work_is_believed_days_later_by_who_never_met_its_sender() -> None:
    """It waited in a durable queue while everybody restarted."""
    a = Side("a")
    sent = message(a, remaining_ms=None)
    signed = a.signature.outbound(sent)
    assert signed.signer.startswith("ed25519:")
    await asyncio.sleep(3 * 86400)
    later = Side("b")
    assert "not trusted" in refused(later, signed, DURABLE)
    later.ring.believe(a.ring.public_key)
    assert later.signature.inbound(signed, DURABLE, False) == sent
    assert later.signature.inbound(signed, DURABLE, False) == sent  # at least once, as durable queues deliver
    assert "too old" in refused(later, signed, SERVICE)


async def test_one_way_messages_to_mailboxes_and_fanouts_use_the_session() -> None:
    a, _ = sides()
    for to in ("process:b.1", "fanout:test.news", "topic:test.x"):
        assert not a.signature.outbound(message(a, to, remaining_ms=None)).signer.startswith("ed25519:")


async def test_an_unknown_session_is_undecided_until_its_key_comes() -> None:
    a, b = Side("a"), Side("b")
    signed = a.signature.outbound(message(a))
    wanted: list[str] = []
    b.sessions.on_unknown = wanted.append
    with pytest.raises(Undecided) as raised:
        b.signature.inbound(signed, SERVICE, False)
    assert wanted == [a.sessions.newest]
    with pytest.raises(Undecided):
        b.signature.inbound(a.signature.outbound(message(a)), SERVICE, False)
    assert wanted == [a.sessions.newest] * 2, "the question or its answer may have been lost"
    a.meet(b)
    assert raised.value.until.done()
    assert b.signature.inbound(signed, SERVICE, False)


async def test_a_revoked_identity_is_believed_no_more() -> None:
    a, b = sides()
    short, lasting = message(a), message(a, remaining_ms=None)
    b.ring.disbelieve(a.ring.fingerprint)
    b.sessions.prune()
    with pytest.raises(Undecided):
        b.signature.inbound(a.signature.outbound(short), SERVICE, False)
    assert "not trusted" in refused(b, a.signature.outbound(lasting))


async def test_a_renewed_message_is_signed_now_and_a_forgery_never() -> None:
    a, b = sides()
    old = a.signature.outbound(message(a, remaining_ms=None))
    await asyncio.sleep(86400)
    renewed = b.signature.renew(old)
    assert renewed is not None
    assert b.signature.inbound(renewed, SERVICE, False)
    assert b.signature.renew(msgspec.structs.replace(old, content=b"\x02")) is None
    assert b.signature.renew(message(a)) is None


async def test_a_letter_that_came_to_another_address_does_not_become_genuine_by_a_retry() -> None:
    """Somebody copied a signed message for one service into the queue of another, where it became a dead letter."""
    a, b = sides()
    signed = a.signature.outbound(message(a, "service:test.store"))
    letter = DeadLetter("l1", 0.0, "service:test.other", "it is meant for another address", 1, signed)
    letters = _Letters(letter)
    await ResigningDeadLetters(letters, [b.signature]).retry("l1")  # type: ignore[arg-type]
    assert (letters.retried, letters.published) == (["l1"], [])
    letters.letter = msgspec.structs.replace(letter, address="service:test.store")
    await ResigningDeadLetters(letters, [b.signature]).retry("l1")  # type: ignore[arg-type]
    assert [one.signature != signed.signature for one in letters.published] == [True]


class _Letters:
    """As much of a transport, and of its dead letters, as a retry needs."""

    def __init__(self, letter: DeadLetter) -> None:
        self.letter = letter
        self.retried: list[str] = []
        self.published: list[Envelope] = []
        self.dead_letters = self

    async def get(self, letter_id: str) -> DeadLetter:
        return self.letter

    async def retry(self, letter_id: str) -> None:
        self.retried.append(letter_id)

    async def drop(self, letter_id: str) -> None:
        pass

    async def publish(self, envelope: Envelope) -> None:
        self.published.append(envelope)


@asynccontextmanager
async def behind_require(side: Side) -> AsyncIterator[tuple[InterceptedTransport, list[str], list[Envelope]]]:
    """(a transport that requires signatures, what its service got, what its caller got)"""
    transport = InterceptedTransport(MemoryTransport(side.world), [side.signature], side.world)
    await transport.start()
    ops: list[str] = []
    replies: list[Envelope] = []
    await transport.subscribe(SERVICE, lambda delivery: (ops.append(delivery.envelope.op), delivery.ack())[1])
    await transport.subscribe(
        Receiver("process:a.1"), lambda delivery: (replies.append(delivery.envelope), delivery.ack())[1]
    )
    yield transport, ops, replies
    await transport.stop()


async def test_an_unsigned_request_on_the_wire_is_answered_with_a_signed_error_and_settled() -> None:
    side = Side("b")
    async with behind_require(side) as (transport, ops, replies):
        await transport.inner.publish(message(side))
        assert ops == []
        [reply] = replies
        assert decode_error(reply.content).code == "unauthenticated"
        assert "not signed; this container" in decode_error(reply.content).message  # not: the answer was refused
        assert transport.snapshot().refused == 1
        assert all(queue.unsettled == 0 for queue in transport.snapshot().queues)


async def test_what_the_transport_says_itself_is_believed() -> None:
    side = Side("b")
    async with behind_require(side) as (transport, _, replies):
        leaving = await transport.subscribe(Receiver("service:test.gone", prefetch=1), lambda delivery: None)
        for op in ("held", "waits"):
            await transport.publish(message(side, "service:test.gone", op=op))
        await leaving.close()
        assert [decode_error(reply.content).code for reply in replies] == ["unavailable", "unavailable"]
        assert transport.snapshot().refused == 0


async def test_rotation_under_load_refuses_nothing() -> None:
    a, b = sides(life=100.0)
    sent = 0
    for turn in range(400):
        if turn % 40 == 20:
            for here, there in ((a, b), (b, a)):
                for peer in here.sessions.prepare_next():
                    there.sessions.accept(here.sessions.offer(peer))
                here.sessions.prune()
        if turn % 40 == 22:
            a.sessions.switch()
            b.sessions.switch()
        signed = [a.signature.outbound(message(a, op=f"{turn}.{number}")) for number in range(5)]
        await asyncio.sleep(1.0)
        for one in signed:
            b.signature.inbound(one, SERVICE, False)
            sent += 1
    assert sent == 2000
    assert b.signature.snapshot()["verified"] == 2000
    assert len(b.sessions.snapshot().peers) < 24
    await asyncio.sleep(2000)
    b.sessions.prune()
    assert b.sessions.snapshot().peers == {}


# -- the memory of what was here -------------------------------------------------------------------------------


def test_seen_messages_are_forgotten_when_they_could_not_be_accepted_any_more() -> None:
    seen = SeenMessages()
    now = 1000.0
    for number in range(10_000):
        now += 0.1
        assert seen.add(number, now + 60, now)
        assert not seen.add(number, now + 60, now)
    assert len(seen) <= 710


def test_beyond_its_limit_it_refuses_rather_than_forgets() -> None:
    seen = SeenMessages(limit=100)
    for number in range(100):
        assert seen.add(number, 1000.0 + number, 990.0)
    assert seen.add(100, 1101.0, 990.0)
    assert len(seen) <= 100
    assert not any(seen.add(number, 1000.0 + number, 990.0) for number in range(100))


async def test_a_field_that_holds_its_default_is_signed_whichever_object_holds_it() -> None:
    """msgspec leaves out a field that *is* its default, and whether equal bytes are one object is the interpreter's."""
    a, b = sides()
    default = Envelope("", "", "", Performative.INFORM, "").content
    equal = [default, bytes(bytearray(default)), msgspec.msgpack.encode(None), struct.pack("B", 0xC0)]
    assert len({id(each) for each in equal}) > 1
    for signed, arrived in itertools.product(equal, equal):
        sent = a.signature.outbound(msgspec.structs.replace(message(a), content=signed))
        b.signature.inbound(msgspec.structs.replace(sent, content=arrived), DURABLE, False)
