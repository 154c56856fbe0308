"""The notifications service on virtual time: each sink at its own pace, nothing lost, nobody held up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import insert, select

from pelagos.model.errors import InvalidInput, NotFound
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.process import client
from pelagos.services.notifications import CommandSink, Notification, SetRoutes, SinkRef, SinkSettings, WebhookSink
from pelagos.services.notifications.senders import SinkFailed, Undeliverable
from pelagos.services.notifications.service import NotificationsService
from pelagos.simulation import SimulatedWorld, VirtualLoop
from pelagos.store.events import append
from pelagos.store.schema import events, infrastructures
from support.services_world import Node, System, running_system, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualLoop})


@pytest.fixture
async def system() -> AsyncIterator[System]:
    async with running_system(SimulatedWorld()) as running:
        yield running


class Receiver:
    """A sender that keeps what it is told, and fails as a test says."""

    target = "here"

    def __init__(self) -> None:
        self.told: list[Notification] = []
        self.failing: type[Exception] | None = None
        self.tries = 0
        self.hanging = False

    async def send(self, notification: Notification) -> None:
        self.tries += 1
        if self.hanging:
            await asyncio.Event().wait()
        if self.failing is not None:
            raise self.failing("it does not work")
        self.told.append(notification)

    @property
    def positions(self) -> list[int]:
        return [one.position for one in self.told]


class Town:
    """The service on nodes of one system, with a receiver a sink."""

    def __init__(self, system: System, *sinks: SinkSettings) -> None:
        self.system = system
        self.sinks = sinks
        self.receivers = {sink.name: Receiver() for sink in sinks}

    async def serve(self) -> Node:
        node = await self.system.node()
        senders = lambda sink, world: self.receivers[sink.name]  # noqa: E731
        await node.container.spawn(partial(NotificationsService, node.store, node.keeper, self.sinks, senders))
        return node

    async def happen(self, node: Node, kind: str, infrastructure_id: str | None = None, **data: Any) -> None:
        await node.store.run(
            lambda connection: append(
                connection,
                DEFAULT_SCOPE,
                kind,
                at=self.system.world.now(),
                infrastructure_id=infrastructure_id,
                data=data,
            )
        )


def command(name: str, **more: Any) -> CommandSink:
    return CommandSink(name=name, argv=("true",), **more)


async def make_infrastructure(node: Node, id_: str, name: str) -> None:
    row = {
        "id": id_,
        "project_id": "default",
        "user_id": "default",
        "name": name,
        "state": "ready",
        "created_at": 0.0,
        "updated_at": 0.0,
        "compiled_blob": b"",
    }
    await node.store.run(lambda connection: connection.execute(insert(infrastructures), row) and None)


async def test_a_sink_is_told_in_order_of_what_it_asked_for_and_by_name(system: System) -> None:
    town = Town(system, command("some", events=("run_failed", "instance_failed")), command("all", events=("#",)))
    node = await town.serve()
    await make_infrastructure(node, "i-1", "guestbook")
    for kind in ("run.started", "instance.failed", "run.failed", "server.active"):
        await town.happen(node, kind, "i-1", reason=kind)
    await until(lambda: len(town.receivers["all"].told) >= 4)
    some = town.receivers["some"].told
    assert [(one.type, one.infrastructure, one.data["reason"]) for one in some] == [
        ("instance_failed", "guestbook", "instance.failed"),
        ("run_failed", "guestbook", "run.failed"),
    ]
    assert some[0].delivery == f"some/{some[0].position}"
    assert sorted(town.receivers["all"].positions) == town.receivers["all"].positions


async def test_a_sink_that_fails_or_hangs_holds_up_no_other_and_misses_nothing(system: System) -> None:
    town = Town(system, *(command(name, events=("run_failed",)) for name in ("broken", "hung", "well")))
    town.receivers["broken"].failing = SinkFailed
    town.receivers["hung"].hanging = True
    node = await town.serve()
    for number in range(5):
        await town.happen(node, "run.failed", number=number)
    await until(lambda: len(town.receivers["well"].told) == 5)
    broken = town.receivers["broken"]
    await asyncio.sleep(3600)
    assert broken.told == [] and 100 < broken.tries < 200  # at most every half a minute
    (info, *_) = await client(NotificationsService, node.container.edge).list_sinks()
    assert (info.name, info.last_error, info.lag, info.delivered) == ("broken", "it does not work", 5, 0)
    broken.failing = None
    await until(lambda: len(broken.told) == 5)
    assert [one.data["number"] for one in broken.told] == list(range(5))


async def test_what_is_refused_for_good_is_left_out_at_once_and_after_attempts_with_an_event(system: System) -> None:
    town = Town(system, command("picky", events=("run_failed",)), command("weary", events=("run_failed",), attempts=3))
    town.receivers["picky"].failing, town.receivers["weary"].failing = Undeliverable, SinkFailed
    node = await town.serve()
    await town.happen(node, "run.failed")
    await until(lambda: town.receivers["weary"].tries == 3 and town.receivers["picky"].tries == 1)
    for receiver in town.receivers.values():
        receiver.failing = None
    await town.happen(node, "run.failed", second=True)
    await until(lambda: all(len(receiver.told) == 1 for receiver in town.receivers.values()))
    assert all(receiver.told[0].data == {"second": True} for receiver in town.receivers.values())
    skipped = system.database.connection.execute(select(events.c.data).where(events.c.kind == "event_skipped"))
    assert ["sink weary" in row for row in skipped.scalars()] == [True]


async def test_sinks_that_fail_do_not_tell_each_other_of_it_for_ever(system: System) -> None:
    town = Town(system, command("a", events=("#",), attempts=2), command("b", events=("#",), attempts=2))
    for receiver in town.receivers.values():
        receiver.failing = SinkFailed
    node = await town.serve()
    await town.happen(node, "run.failed")
    await asyncio.sleep(3600)
    tries = [receiver.tries for receiver in town.receivers.values()]
    await asyncio.sleep(3600)
    assert [receiver.tries for receiver in town.receivers.values()] == tries
    kinds = system.database.connection.execute(select(events.c.kind)).scalars().all()
    assert kinds.count("event_skipped") == kinds.count("run.failed") * 2


async def test_infrastructures_by_configuration_and_by_route(system: System) -> None:
    town = Town(system, command("mine", events=("run_failed",), infrastructures=("guestbook",)))
    node = await town.serve()
    service = client(NotificationsService, node.container.edge)
    for id_, name in (("i-1", "guestbook"), ("i-2", "other")):
        await make_infrastructure(node, id_, name)
    for id_ in ("i-1", "i-2", None):
        await town.happen(node, "run.failed", id_)
    assert await service.route(SetRoutes("i-2", ("mine",))) == SetRoutes("i-2", ("mine",))
    with pytest.raises(NotFound, match="no sink 'ours'"):
        await service.route(SetRoutes("i-2", ("ours",)))
    mine = town.receivers["mine"]
    await until(lambda: len(mine.told) >= 1)
    await town.happen(node, "run.failed", "i-2", late=True)
    await until(lambda: any(one.data.get("late") for one in mine.told))
    assert mine.told[0].infrastructure == "guestbook" and mine.told[-1].infrastructure == "other"
    await service.route(SetRoutes("i-2", ()))
    count = len(mine.told)
    await town.happen(node, "run.failed", "i-2")
    await town.happen(node, "run.failed", "i-1", last=True)
    await until(lambda: mine.told[-1].data.get("last"))
    assert len(mine.told) == count + 1


async def test_another_container_goes_on_where_one_died(system: System) -> None:
    town = Town(system, command("ops", events=("run_failed",)))
    first, second = await town.serve(), await town.serve()
    ops = town.receivers["ops"]
    await town.happen(first, "run.failed", number=0)
    await until(lambda: len(ops.told) == 1)
    (info,) = await client(NotificationsService, first.container.edge).list_sinks()
    assert info.reader
    reading = first if first.container.id in info.reader else second
    await reading.container.stop()
    other = second if reading is first else first
    for number in (1, 2):
        await town.happen(other, "run.failed", number=number)
    await until(lambda: len(ops.told) >= 3)
    assert [one.data["number"] for one in ops.told] == [0, 1, 2]


async def test_a_sink_is_tested_and_mistakes_are_told(system: System) -> None:
    town = Town(system, command("ops"))
    node = await town.serve()
    service = client(NotificationsService, node.container.edge)
    assert (await service.test_sink(SinkRef("ops"))).error == ""
    assert town.receivers["ops"].told[0].type == "test"
    town.receivers["ops"].failing = SinkFailed
    assert (await service.test_sink(SinkRef("ops"))).error == "it does not work"
    with pytest.raises(NotFound, match="no sink 'opps'"):
        await service.test_sink(SinkRef("opps"))
    hook = WebhookSink(name="ops", url="https://h.example/", secret="s")
    with pytest.raises(InvalidInput, match="two sinks are called 'ops'"):
        NotificationsService(node.store, node.keeper, (command("ops"), hook))
    with pytest.raises(InvalidInput, match="not a pattern"):
        NotificationsService(node.store, node.keeper, (command("ops", events=("a..b",)),))
