"""Whoever does not wait for a receiver's end, or for the dead letters, leaves nothing behind that holds up others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from pamqp import commands as spec

from e2e.exchange.conftest import MakeTransport
from pelagos.exchange import Delivery, Envelope, Performative, Receiver

pytestmark = [pytest.mark.anyio, pytest.mark.amqp, pytest.mark.e2e]

SERVICE = "service:test.store"
WORK = "service:test.work"


async def _given_up(awaitable: Awaitable[Any], turns: int) -> bool:
    """Whether it was cancelled, after so many turns of the loop, before its end."""
    task = asyncio.ensure_future(awaitable)
    for _ in range(turns):
        await asyncio.sleep(0.0003)
    task.cancel()
    await asyncio.wait([task])
    return task.cancelled()


async def test_a_receiver_whose_cancellation_is_cut_short_takes_nothing_from_others(make: MakeTransport) -> None:
    one, other = await make("one"), await make("other")
    cut_short = 0
    for turns in range(1, 6):
        taken: list[str] = []

        def slowly(delivery: Delivery, taken: list[str] = taken) -> None:
            taken.append(delivery.envelope.conv_id)
            asyncio.get_running_loop().call_later(0.002, delivery.ack)

        leaving = await one.subscribe(Receiver(SERVICE), lambda delivery: None)
        staying = await other.subscribe(Receiver(SERVICE, prefetch=1), slowly)
        cut_short += await _given_up(leaving.cancel(), turns)
        for number in range(20):
            await other.publish(
                Envelope(SERVICE, "process:other.1", "x", Performative.INFORM, f"c{number}", protocol="none")
            )
        async with asyncio.timeout(5):
            while len(taken) < 20:  # noqa: ASYNC110 - the broker tells nobody
                await asyncio.sleep(0.01)
        await staying.close()
    assert cut_short


async def test_dead_letters_can_be_read_after_somebody_gave_up_reading(make: MakeTransport) -> None:
    one, other = await make("one"), await make("other")
    for turns in range(1, 14):
        await _given_up(one.dead_letters.list(), turns)
        async with asyncio.timeout(3):
            assert await other.dead_letters.list() == []


async def test_a_receiver_in_conflict_with_others_keeps_no_container_from_its_work(make: MakeTransport) -> None:
    """While it was away, others began to receive at its address in another way."""
    one, other = await make("one"), await make("other")
    ours = await one.subscribe(Receiver(WORK, durable=True, delivery_limit=5), lambda delivery: delivery.ack())
    await one.subscribe(Receiver(SERVICE), lambda delivery: delivery.ack())
    channel = await (await other.wire()).channel()
    one._link.wire.abort()
    for queue in (other.topology.work_queue(WORK), other.topology.work_queue(WORK) + ".nested"):
        await channel.call(spec.Queue.Delete(queue=queue))
    theirs = await other.subscribe(Receiver(WORK, durable=True, delivery_limit=9), lambda delivery: delivery.ack())
    assert await other.wait_served(SERVICE, 5)
    await asyncio.sleep(1)
    assert one.snapshot().connected and one.snapshot().disconnects == 1
    assert not ours.attached
    await theirs.close()
    for queue in (other.topology.work_queue(WORK), other.topology.work_queue(WORK) + ".nested"):
        await channel.call(spec.Queue.Delete(queue=queue))
    async with asyncio.timeout(10):
        while not ours.attached:  # noqa: ASYNC110 - it tries again by itself
            await asyncio.sleep(0.05)


async def test_a_transport_whose_stop_is_cut_short_has_stopped_all_the_same(make: MakeTransport) -> None:
    one = await make("one", drain=30.0)
    taken = asyncio.Event()
    await one.subscribe(Receiver(SERVICE), lambda delivery: taken.set())
    await one.publish(Envelope(SERVICE, "process:one.1", "x", Performative.INFORM, "c", protocol="none"))
    await taken.wait()
    wire = one._link.wire
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await one.stop()
    assert wire.lost.done() and not one.snapshot().connected
    assert one._keeper.done()
