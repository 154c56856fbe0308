"""Agents in virtual time: who is there, who is silent, who has left; processes spawned and terminated far away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from pelagos.container import AgentProcess, AgentSettings, Container, ContainerConfig
from pelagos.container.apps import AppManager, find_apps, resolve
from pelagos.container.messages import (
    ExchangeQuery,
    LogLevelRequest,
    NodeChanged,
    ProcessQuery,
    RemoveQueue,
    SpawnRequest,
    TerminateRequest,
    agent_of,
)
from pelagos.exchange import (
    Envelope,
    Handler,
    MemoryTransport,
    Receiver,
    Subscription,
)
from pelagos.model.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from pelagos.process import ServiceProcess, client, operation
from pelagos.simulation import SimulatedWorld

pytestmark = pytest.mark.anyio


class Echo(ServiceProcess):
    name = "echo"

    def __init__(self, prefix: str = "") -> None:
        super().__init__()
        self.prefix = prefix

    @operation
    async def echo(self, text: str) -> str:
        return self.prefix + text


class Node:
    """A container with agent and apps, whose wire to the others may be cut."""

    def __init__(self, world: SimulatedWorld, wire: MemoryTransport, name: str, *, spawn_any: bool = False) -> None:
        self.wire = Cut(wire)
        config = ContainerConfig(id=name, system="test", call_timeout=5.0)
        self.container = Container(world, config, self.wire, shared_transport=True)
        self.apps = AppManager(self.container, spawn_any=spawn_any)
        self.levels: list[tuple[str, str]] = []
        self.agent = AgentProcess(
            self.container, self.apps, AgentSettings(), set_log_level=lambda *a: self.levels.append(a)
        )

    async def start(self, processes: list[str]) -> None:
        await self.container.start()
        await self.container.spawn(self.agent)
        await self.apps.start(resolve(find_apps([], processes=processes)))

    async def states(self) -> dict[str, str]:
        agent = client(AgentProcess, self.container.edge, address=agent_of(self.container.id))
        return {node.id: node.state for node in await agent.nodes()}


class Cut:
    """A transport whose announcements can be stopped in both directions, as by a partition of the network."""

    def __init__(self, inner: MemoryTransport) -> None:
        self.inner = inner
        self.cut = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def post(self, envelope: Envelope) -> None:
        if not self.cut or not envelope.receiver.startswith("fanout:"):
            self.inner.post(envelope)

    async def subscribe(self, receiver: Receiver, handler: Handler) -> Subscription:
        def pass_on(delivery) -> None:  # type: ignore[no-untyped-def]
            if self.cut and receiver.address.startswith("fanout:"):
                delivery.ack()
            else:
                handler(delivery)

        return await self.inner.subscribe(receiver, pass_on)


@asynccontextmanager
async def nodes(*names: str, processes: list[str] | None = None, spawn_any: bool = False) -> AsyncIterator[list[Node]]:
    world = SimulatedWorld()
    wire = MemoryTransport(world)
    await wire.start()
    async with AsyncExitStack() as stack:
        made = []
        for name in names:
            node = Node(world, wire, name, spawn_any=spawn_any)
            await node.start([f"echo={__name__}:Echo*0"] if processes is None else processes)
            stack.push_async_callback(node.container.stop)
            made.append(node)
        await asyncio.sleep(1.0)
        yield made


async def test_containers_find_one_another_within_a_second() -> None:
    async with nodes("a", "b", "c") as (a, b, c):
        for node in (a, b, c):
            assert await node.states() == {"a": "alive", "b": "alive", "c": "alive"}


async def test_silence_is_suspicion_then_death_and_a_healed_partition_is_life() -> None:
    async with nodes("a", "b", "c") as (a, b, c):
        seen: list[tuple[str, str, str]] = []

        async def note(change: NodeChanged) -> None:
            seen.append((change.seen_by, change.container, change.state))

        await a.agent.listen("topic:event.container_lifecycle.#", note, NodeChanged)
        c.wire.cut = True
        await asyncio.sleep(4.0)
        assert (await a.states())["c"] == "alive"
        await asyncio.sleep(3.5)
        assert (await a.states()) == {"a": "alive", "b": "alive", "c": "suspect"}
        assert (await b.states())["c"] == "suspect"
        await asyncio.sleep(4.0)
        assert (await a.states())["c"] == "dead"
        assert (await c.states()) == {"a": "dead", "b": "dead", "c": "alive"}
        c.wire.cut = False
        await asyncio.sleep(3.0)
        assert (await a.states())["c"] == "alive"
        assert (await c.states())["a"] == "alive"
        # Both of the others tell each change; which of them first is left to chance.
        for observer in ("a", "b"):
            assert [state for by, which, state in seen if (by, which) == (observer, "c")] == [
                "suspect",
                "dead",
                "alive",
            ]


async def test_a_good_bye_is_no_death_and_is_forgotten_after_a_while() -> None:
    async with nodes("a", "b") as (a, b):
        await b.container.stop()
        await asyncio.sleep(0.01)
        assert await a.states() == {"a": "alive", "b": "left"}
        await asyncio.sleep(30)
        assert await a.states() == {"a": "alive", "b": "left"}
        await asyncio.sleep(600)
        assert await a.states() == {"a": "alive"}


async def test_nothing_is_asked_of_the_dead() -> None:
    async with nodes("a", "b") as (a, b):
        b.wire.cut = True
        await asyncio.sleep(12.5)
        agent = client(AgentProcess, a.container.edge, address=agent_of("a"))
        for request in (SpawnRequest("echo", on="b"), SpawnRequest("echo", on="b", count=2)):
            with pytest.raises(Unavailable, match="container b is gone"):
                await agent.spawn(request)
        assert (await agent.spawn(SpawnRequest("echo", on="any"))).container == "a"
        everyone = await agent.all_processes(ProcessQuery())
        assert {p.container for p in everyone.processes} == {"a"} and everyone.silent == ()


async def test_spawn_here_there_and_anywhere_with_arguments() -> None:
    async with nodes("a", "b") as (a, _):
        agent = client(AgentProcess, a.container.edge, address=agent_of("a"))
        here = await agent.spawn(SpawnRequest("echo", arguments={"prefix": "a: "}))
        assert here.container == "a" and len(here.processes) == 1
        echo = client(Echo, a.container.edge, address=f"process:{here.processes[0]}")
        assert await echo.echo("hi") == "a: hi"
        there = await agent.spawn(SpawnRequest("echo", on="b", count=3))
        assert there.container == "b" and len(there.processes) == 3
        assert all(process.startswith("b.") for process in there.processes)
        await asyncio.sleep(2.5)  # a heartbeat: how many processes a container has is what it last said
        any_ = await agent.spawn(SpawnRequest("echo", on="any"))
        assert any_.container == "a"
        everyone = await agent.all_processes(ProcessQuery("echo"))
        assert {p.id for p in everyone.processes} == {*here.processes, *there.processes, *any_.processes}
        assert {p.app for p in everyone.processes} == {"processes"} and everyone.silent == ()
        (service,) = [s for s in await agent.services() if s.name == "echo"]
        assert set(service.containers) == {"a", "b"} and {"echo", "ping"} <= {*service.operations}


async def test_what_cannot_be_spawned_is_said_and_nothing_is_left() -> None:
    async with nodes("a", "b") as (a, _):
        agent = client(AgentProcess, a.container.edge, address=agent_of("a"))
        with pytest.raises(NotFound) as missing:
            await agent.spawn(SpawnRequest("ecco"))
        assert missing.value.advice == "Did you mean 'echo'?"
        with pytest.raises(NotFound, match="no container 'z'"):
            await agent.spawn(SpawnRequest("echo", on="z"))
        with pytest.raises(NotFound, match="no container that is alive can start 'ecco'"):
            await agent.spawn(SpawnRequest("ecco", on="any"))
        with pytest.raises(Forbidden, match="starts no classes that are not of its apps"):
            await agent.spawn(SpawnRequest("os:system"))
        with pytest.raises(InvalidInput, match="0 processes"):
            await agent.spawn(SpawnRequest("echo", count=0))
        with pytest.raises(InvalidInput, match="no kind of restart"):
            await agent.spawn(SpawnRequest("echo", restart="often"))
        for arguments in ({"prefx": "x"}, {"prefix": 7}):
            with pytest.raises(Exception, match="spawn of echo"):
                await agent.spawn(SpawnRequest("echo", arguments=arguments))
        assert (await agent.processes(ProcessQuery("echo"))) == []


async def test_any_class_only_where_it_is_allowed() -> None:
    async with nodes("a", processes=[f"{__name__}:Echo*0"], spawn_any=True) as (a,):
        agent = client(AgentProcess, a.container.edge, address=agent_of("a"))
        made = await agent.spawn(SpawnRequest("pelagos.process.process:Process"))
        assert [p.kind for p in await agent.processes(ProcessQuery()) if p.id in made.processes] == [
            "pelagos.process.process:Process"
        ]


async def test_terminate_wherever_it_is_and_not_what_the_container_needs() -> None:
    async with nodes("a", "b") as (a, b):
        agent = client(AgentProcess, a.container.edge, address=agent_of("a"))
        made = await agent.spawn(SpawnRequest("echo", on="b", count=2))
        await agent.terminate(TerminateRequest(made.processes[0]))
        left = await agent.all_processes(ProcessQuery("echo"))
        assert [p.id for p in left.processes] == [made.processes[1]]
        await agent.terminate(TerminateRequest(made.processes[1], shutdown=0.5))
        assert (await agent.all_processes(ProcessQuery("echo"))).processes == ()
        with pytest.raises(NotFound):
            await agent.terminate(TerminateRequest(made.processes[0]))
        for process in (a.agent.id, a.container.edge.id, b.container.edge.id, b.agent.id):
            with pytest.raises(Conflict):
                await agent.terminate(TerminateRequest(process))
        with pytest.raises(InvalidInput, match="not the id of a process"):
            await agent.terminate(TerminateRequest("echo"))


async def test_who_does_not_answer_is_named() -> None:
    async with nodes("a", "b") as (a, b):
        await b.container.root.stop_child("agent")
        a.agent.inventory.hear(_announcement(b), a.container._world.monotonic())
        agent = client(AgentProcess, a.container.edge, address=agent_of("a"))
        answer = await agent.all_processes(ProcessQuery())
        assert answer.silent == ("b",)
        assert {p.container for p in answer.processes} == {"a"}
        assert (await agent.all_services()).silent == ("b",)


async def test_a_silent_container_costs_a_list_less_than_two_seconds() -> None:
    async with nodes("a", "b") as (a, b):
        await b.container.root.stop_child("agent")
        deaf = Receiver(b.container.names.full(agent_of("b")))
        await b.container.transport.subscribe(deaf, lambda delivery: None)
        a.agent.inventory.hear(_announcement(b), a.container._world.monotonic())
        started = asyncio.get_running_loop().time()
        agent = client(AgentProcess, a.container.edge, address=agent_of("a"))
        assert (await agent.all_processes(ProcessQuery())).silent == ("b",)
        assert 1.0 < asyncio.get_running_loop().time() - started < 2.0


def _announcement(node: Node):  # type: ignore[no-untyped-def]
    from pelagos.container.messages import Announcement, NodeInfo

    info = NodeInfo("b", "test", "", 0, "", "alive", 2e9, 0.0, 1)
    return Announcement(info, "another boot")


async def test_log_levels_here_and_everywhere() -> None:
    async with nodes("a", "b") as (a, b):
        agent = client(AgentProcess, a.container.edge, address=agent_of("a"))
        assert await agent.set_log_level(LogLevelRequest("exchange", "debug")) == ["a"]
        assert b.levels == []
        assert await agent.set_log_level(LogLevelRequest("exchange", "info", everywhere=True)) == ["a", "b"]
        assert a.levels == [("exchange", "debug"), ("exchange", "info")]
        assert b.levels == [("exchange", "info")]


async def test_apps_are_stopped_and_reloaded_from_afar() -> None:
    async with nodes("a", "b", processes=[f"echo={__name__}:Echo*2"]) as (a, _):
        from pelagos.container.messages import AppRequest

        agent = client(AgentProcess, a.container.edge, address=agent_of("b"))
        (before,) = await agent.apps()
        assert len(before.processes) == 2
        after = await agent.reload_app(AppRequest("processes"))
        assert len(after.processes) == 2 and not {*after.processes} & {*before.processes}
        await agent.stop_app(AppRequest("processes"))
        assert await agent.apps() == []
        with pytest.raises(NotFound):
            await agent.stop_app(AppRequest("processes"))


async def test_who_is_asked_at_once_answers_when_the_others_had_time_to_speak() -> None:
    async with nodes("a", "b") as (a, _):
        late = Container(
            a.container.world, ContainerConfig(id="late", system="test"), a.wire.inner, shared_transport=True
        )
        async with late:
            await late.spawn(AgentProcess(late, settle=0.6))
            agent = client(AgentProcess, late.edge, address=agent_of("late"))
            assert [node.id for node in await agent.nodes()] == ["a", "b", "late"]


async def test_the_names_a_container_receives_at() -> None:
    async with nodes("a", "b") as (a, b):
        await a.container.spawn(Echo())
        asked = client(AgentProcess, b.container.edge, address=agent_of("a"))
        found = await asked.exchange_names(ExchangeQuery(part="echo"))
        assert [(one.address, one.consumers) for one in found.names] == [("service:test.echo", 1)]
        assert (found.container, found.left_off, found.connected) == ("a", 0, True)
        assert found.counters["published"] > 0
        every = await asked.exchange_names(ExchangeQuery())
        assert not any(one.address.startswith("process:") for one in every.names)
        assert [one.address for one in every.names] == sorted(one.address for one in every.names)
        full = await asked.exchange_names(ExchangeQuery(processes=True, limit=3))
        assert len(full.names) == 3
        assert full.left_off > len(every.names)


class Printer(ServiceProcess):
    name = "printer"
    durable = True

    @operation
    async def print(self, text: str) -> None: ...


async def test_a_durable_queue_that_nobody_serves_is_removed_on_request() -> None:
    async with nodes("a") as (a,):
        printer = Printer()
        await a.container.spawn(printer)
        agent = client(AgentProcess, a.container.edge)
        with pytest.raises(Conflict):
            await agent.remove_queue(RemoveQueue("service:printer"))
        await a.container.terminate(printer.id)
        await a.container.edge.send("service:printer", "print", "page")
        await asyncio.sleep(0.1)
        assert await agent.remove_queue(RemoveQueue("service:printer")) == 1
        [letter] = await agent.dead_letters(10)
        assert (letter.address, letter.reason) == ("service:test.printer", "its queue was removed")
        assert await agent.remove_queue(RemoveQueue("service:printer")) == 0


async def test_announcements_are_short_however_many_processes_there_are() -> None:
    async with nodes("a", "b", processes=[f"echo={__name__}:Echo*150"]) as (a, _):
        agent = client(AgentProcess, a.container.edge, address=agent_of("a"))
        (app,) = await agent.apps()
        assert len(app.processes) == 150
        await asyncio.sleep(3)
        for node in await agent.nodes():
            assert node.processes > 150 and len(node.apps[0].processes) == 100


async def test_what_is_vital_is_not_terminated() -> None:
    class Held(Echo):
        vital = True

    async with nodes("a") as (a,):
        held = await a.container.spawn(Held())
        agent = client(AgentProcess, a.container.edge, address=agent_of("a"))
        with pytest.raises(Conflict, match="cannot live without"):
            await agent.terminate(TerminateRequest(held))
        assert a.container.process(held).vital
