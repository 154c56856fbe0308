"""Who waits for room in a queue in memory: in their order, and nobody is quicker."""

from __future__ import annotations

import asyncio

import pytest

from pelagos.exchange import Delivery, Envelope, MemoryTransport, Performative, Receiver
from pelagos.model.errors import Unavailable
from pelagos.simulation import SimulatedWorld, VirtualLoop

pytestmark = pytest.mark.anyio

SERVICE = "service:test.store"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return ("asyncio", {"loop_factory": VirtualLoop})


def message(name: str, remaining_ms: int = 5000) -> Envelope:
    return Envelope(SERVICE, "process:a.1", "put", Performative.INFORM, name, remaining_ms=remaining_ms)


async def full() -> tuple[MemoryTransport, list[Delivery]]:
    """A transport whose service has one message in hand and one in its queue, which is full so."""
    transport = MemoryTransport(SimulatedWorld())
    await transport.start()
    hand: list[Delivery] = []
    await transport.subscribe(Receiver(SERVICE, prefetch=1, capacity=1), hand.append)
    await transport.publish(message("1"))
    await transport.publish(message("2"))
    return transport, hand


async def test_nobody_overtakes_who_was_promised_room() -> None:
    transport, hand = await full()
    third = asyncio.ensure_future(transport.publish(message("3")))
    await asyncio.sleep(0)
    hand[-1].ack()
    fourth = asyncio.ensure_future(transport.publish(message("4")))
    for _ in range(4):
        await asyncio.sleep(0)
        if len(hand) < 4:
            hand[-1].ack()
    await asyncio.gather(third, fourth)
    assert [delivery.envelope.conv_id for delivery in hand] == ["1", "2", "3", "4"]


async def test_who_gives_up_waiting_sends_nothing_and_holds_up_nobody() -> None:
    transport, hand = await full()
    third = asyncio.ensure_future(transport.publish(message("3")))
    late = asyncio.ensure_future(transport.publish(message("late", remaining_ms=100)))
    fourth = asyncio.ensure_future(transport.publish(message("4")))
    await asyncio.sleep(0)
    third.cancel()
    with pytest.raises(Unavailable):
        await late
    hand[-1].ack()
    await fourth
    hand[-1].ack()
    assert [delivery.envelope.conv_id for delivery in hand] == ["1", "2", "4"]
    assert third.cancelled() and transport.snapshot().queues[0].waiting == 0
