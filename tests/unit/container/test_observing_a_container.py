"""The tap and the observer: what they see of real processes, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from pelagos.container import Container, ContainerConfig
from pelagos.container.observer import (
    OBSERVATIONS,
    ObservationBatch,
    ObserverProcess,
    RecentRequest,
    WatchRequest,
    observer_of,
)
from pelagos.exchange import MemoryTransport, Performative, Status
from pelagos.exchange.observing import Direction, Observation, ObservationFilter, Tap
from pelagos.exchange.sequences import arrange
from pelagos.model.errors import NotFound, Unavailable
from pelagos.process import ServiceProcess, client, operation
from pelagos.simulation import SimulatedWorld

pytestmark = pytest.mark.anyio


class Greeter(ServiceProcess):
    name = "hello"

    @operation
    async def hello(self, name: str) -> str:
        await asyncio.sleep(0.5)
        return f"Hello, {name}"

    @operation
    async def lose(self, name: str) -> str:
        raise NotFound(f"no {name}")

    @operation
    async def take(self, anything: dict[str, str]) -> None: ...

    @operation
    async def swallow(self, data: bytes) -> int:
        return len(data)


class Front(ServiceProcess):
    name = "front"

    @operation
    async def greet(self, name: str) -> str:
        return await client(Greeter, self).hello(name)


class Scene:
    def __init__(self, container: Container, tap: Tap) -> None:
        self.container = container
        self.tap = tap
        self.greeter = client(Greeter, container.edge)
        self.observer = client(ObserverProcess, container.edge, address=observer_of("c-1"))
        self.batches: list[ObservationBatch] = []

    async def listen(self) -> None:
        async def take(batch: ObservationBatch) -> None:
            self.batches.append(batch)

        await self.container.edge.listen(OBSERVATIONS, take, ObservationBatch)

    @property
    def watched(self) -> list[Observation]:
        return [one for batch in self.batches for one in batch.observations]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    world = SimulatedWorld()
    tap = Tap(MemoryTransport(world), world)
    async with Container(world, ContainerConfig(system="demo", id="c-1"), tap) as container:
        await container.spawn(Greeter)
        await container.spawn(Front)
        await container.spawn(lambda: ObserverProcess(tap))
        yield Scene(container, tap)


async def recent(scene: Scene, limit: int = 100, **wanted: object) -> list[Observation]:
    found = await scene.observer.recent(RecentRequest(msgspec.convert(wanted, ObservationFilter), limit))
    return list(found)


class TestTheRing:
    async def test_a_call_is_seen_in_both_directions_with_the_time_of_its_answer(self, scene: Scene) -> None:
        await scene.greeter.hello("you")
        seen = await recent(scene)
        assert [(one.direction, one.op, one.performative) for one in seen] == [
            (Direction.SENT, "hello", Performative.REQUEST),
            (Direction.RECEIVED, "hello", Performative.REQUEST),
            (Direction.SENT, "result", Performative.INFORM_RESULT),
            (Direction.RECEIVED, "result", Performative.INFORM_RESULT),
        ]
        answer = seen[-1]
        assert (answer.answers, answer.answers_op, answer.container) == ("service:demo.hello", "hello", "c-1")
        assert answer.took == pytest.approx(500.0)
        assert (seen[0].sender_name, seen[0].bytes, seen[0].content) == ("edge", 4, "")

    async def test_the_code_of_an_error_is_told_and_not_its_text(self, scene: Scene) -> None:
        with pytest.raises(NotFound):
            await scene.greeter.lose("tooth")
        failed = (await recent(scene, errors=True))[-1]
        assert (failed.status, failed.error) == (Status.ERROR, "not_found")
        assert "tooth" not in msgspec.json.encode(failed).decode()

    async def test_what_nobody_serves_is_a_failed_message(self, scene: Scene) -> None:
        with pytest.raises(Unavailable):
            await scene.container.edge.call("service:nobody", "hello")
        (failed,) = await recent(scene, errors=True)
        assert (failed.direction, failed.error, failed.receiver) == (
            Direction.FAILED,
            "unavailable",
            "service:demo.nobody",
        )

    async def test_filters(self, scene: Scene) -> None:
        front = client(Front, scene.container.edge)
        await front.greet("you")
        await scene.greeter.swallow(b"x")
        by_service = await recent(scene, service="front")
        assert {one.answers_op or one.op for one in by_service} == {"greet", "hello"}  # it asks on, in its own name
        by_op = await recent(scene, op="swallow")
        assert [one.performative for one in by_op] == ["request", "request", "inform_result", "inform_result"]
        trace = by_service[0].trace
        assert {one.conv_id for one in await recent(scene, conversation=trace)} == {one.conv_id for one in by_service}
        assert await recent(scene, conversation="unknown") == []
        assert len(await recent(scene, limit=3)) == 3

    async def test_the_answers_to_what_a_service_asked_are_among_its_messages(self, scene: Scene) -> None:
        await client(Front, scene.container.edge).greet("you")
        await scene.greeter.hello("nobody asked front")
        seen = [(one.answers_op or one.op, one.performative) for one in await recent(scene, service="front")]
        assert seen == [
            ("greet", "request"), ("greet", "request"),
            ("hello", "request"), ("hello", "request"), ("hello", "inform_result"), ("hello", "inform_result"),
            ("greet", "inform_result"), ("greet", "inform_result"),
        ]  # fmt: skip
        rows = arrange(await recent(scene, service="front"), "demo").rows
        assert [row.is_answer for row in rows] == [False, False, True, True]

    async def test_an_error_alone_names_who_gets_it(self, scene: Scene) -> None:
        with pytest.raises(NotFound):
            await scene.greeter.lose("tooth")
        sequence = arrange(await recent(scene, errors=True), "demo")
        assert [(sequence.label(row.source), sequence.label(row.target)) for row in sequence.rows] == [
            (Greeter.name, "edge")
        ]

    async def test_questions_to_observers_are_plumbing(self, scene: Scene) -> None:
        await recent(scene)
        assert await recent(scene) == []
        asked = {one.answers_op or one.op for one in await recent(scene, plumbing=True)}
        assert asked == {"recent"}

    async def test_content_is_shown_only_to_who_asks_and_through_the_redaction(self, scene: Scene) -> None:
        scene.tap._redact = lambda value: "***" if value == "secret" else value
        await scene.greeter.hello("secret")
        await scene.greeter.swallow(b"x" * 5000)
        shown = [one.content for one in await recent(scene, content=True) if one.direction is Direction.SENT]
        assert shown == ['"***"', '"Hello, secret"', "(5003 bytes)", "5000"]
        assert {one.content for one in await recent(scene)} == {""}

    async def test_secrets_are_left_out_of_contents(self, scene: Scene) -> None:
        await scene.container.edge.call("service:hello", "take", {"password": "hunter2", "user": "eve"})
        assert "eve" in (shown := (await recent(scene, content=True, op="take"))[0].content)
        assert "hunter2" not in shown

    async def test_the_ring_is_bounded_and_holds_no_large_content(self) -> None:
        world = SimulatedWorld()
        tap = Tap(MemoryTransport(world), world, ring=10)
        async with Container(world, ContainerConfig(system="demo", id="c-1"), tap) as container:
            await container.spawn(Greeter)
            for _ in range(20):
                await client(Greeter, container.edge).swallow(b"x" * 100_000)
            assert len(tap._ring) == 10
            assert max(len(record[3].content) for record in tap._ring) <= 1024
            assert [one.bytes for one in tap.recent(ObservationFilter(op="swallow"), 2)] == [5, 5]

    async def test_without_a_ring_nothing_is_kept_until_somebody_follows(self) -> None:
        world = SimulatedWorld()
        tap = Tap(MemoryTransport(world), world, ring=0)
        async with Container(world, ContainerConfig(system="demo", id="c-1"), tap) as container:
            await container.spawn(Greeter)
            greeter = client(Greeter, container.edge)
            await greeter.swallow(b"")
            feed = tap.follow(lambda: None)
            await greeter.swallow(b"")
            assert [one.seq for one in feed.take()] == [1, 2, 3, 4]
            assert tap.recent(ObservationFilter(), 10) == []


class TestWatching:
    async def test_nothing_is_published_until_somebody_watches(self, scene: Scene) -> None:
        await scene.listen()
        await scene.greeter.hello("one")
        await asyncio.sleep(5)
        assert scene.batches == []
        await scene.observer.watch(WatchRequest())
        await scene.greeter.hello("two")
        await asyncio.sleep(5)
        assert [one.op for one in scene.watched] == ["hello", "hello", "result", "result"]
        assert scene.watched[-1].took == pytest.approx(500.0)

    async def test_watching_does_not_feed_itself(self, scene: Scene) -> None:
        await scene.listen()
        await scene.observer.watch(WatchRequest(ObservationFilter(plumbing=True)))
        await asyncio.sleep(10)
        assert len(scene.batches) <= 2
        assert {one.answers_op or one.op for one in scene.watched} <= {"watch"}

    async def test_the_lease_ends_by_itself_and_is_renewed_by_its_id(self, scene: Scene) -> None:
        await scene.listen()
        lease = await scene.observer.watch(WatchRequest())
        await asyncio.sleep(lease.seconds - 1)
        assert (await scene.observer.watch(WatchRequest(id=lease.id))).id == lease.id
        await asyncio.sleep(lease.seconds - 1)
        await scene.greeter.hello("you")
        await asyncio.sleep(1)
        assert len(scene.watched) == 4
        await asyncio.sleep(2 * lease.seconds)
        await scene.greeter.hello("nobody watches")
        await asyncio.sleep(1)
        assert len(scene.watched) == 4
        assert scene.tap._feeds == ()

    async def test_a_lease_that_is_given_back_ends_at_once(self, scene: Scene) -> None:
        lease = await scene.observer.watch(WatchRequest())
        assert len(scene.tap._feeds) == 1
        await scene.observer.unwatch(lease.id)
        await scene.observer.unwatch(lease.id)
        assert scene.tap._feeds == ()
        await scene.observer.watch(WatchRequest())
        assert len(scene.tap._feeds) == 1

    async def test_each_gets_what_any_watcher_asked_for(self, scene: Scene) -> None:
        await scene.listen()
        await scene.observer.watch(WatchRequest(ObservationFilter(op="swallow")))
        await scene.greeter.hello("you")
        await scene.greeter.swallow(b"")
        await asyncio.sleep(1)
        assert {one.answers_op or one.op for one in scene.watched} == {"swallow"}

    async def test_a_flood_drops_the_oldest_and_says_how_many(self, scene: Scene) -> None:
        await scene.listen()
        await scene.observer.watch(WatchRequest())
        await asyncio.sleep(1)  # what the asking itself left behind
        for _ in range(600):  # four observations each, all within one pause
            await scene.greeter.swallow(b"")
        await asyncio.sleep(1)
        assert len(scene.watched) == 2000
        assert scene.batches[-1].dropped == 600 * 4 - 2000


async def test_two_containers_see_one_conversation() -> None:
    world = SimulatedWorld()
    shared = MemoryTransport(world)
    taps = [Tap(shared, world), Tap(shared, world)]
    async with (
        Container(world, ContainerConfig(system="demo", id="c-1"), taps[0]) as asking,
        Container(world, ContainerConfig(system="demo", id="c-2"), taps[1], shared_transport=True) as serving,
    ):
        for container, tap in zip((asking, serving), taps, strict=True):
            await container.spawn(lambda tap=tap: ObserverProcess(tap))
        greeter = await serving.spawn(Greeter)
        await client(Greeter, asking.edge).hello("you")
        seen = [one for tap in taps for one in tap.recent(ObservationFilter(op="hello"), 10)]
        assert [(one.container, one.direction) for one in seen] == [
            ("c-1", "sent"),
            ("c-1", "received"),
            ("c-2", "received"),
            ("c-2", "sent"),
        ]
        sequence = arrange(reversed(seen), "demo")
        assert [(one.address, one.label) for one in sequence.participants] == [
            (asking.edge.address, "edge"),
            (f"process:{greeter}", "hello"),
        ]
        request, answer = sequence.rows
        assert (request.source, request.target) == (answer.target, answer.source)
        assert (request.delivered, answer.delivered, answer.took) == (True, True, pytest.approx(500.0))
