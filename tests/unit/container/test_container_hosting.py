from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from pelagos.container import Container, ContainerConfig
from pelagos.exchange import Handler, MemoryTransport, Receiver, Subscription
from pelagos.model.errors import Conflict, NotFound, Unavailable
from pelagos.process import (
    ChildSpec,
    Process,
    Restart,
    ServiceProcess,
    State,
    Supervisor,
    client,
    operation,
)
from pelagos.simulation import SimulatedWorld

pytestmark = pytest.mark.anyio

EVENTS: list[str] = []


@pytest.fixture(autouse=True)
def _fresh_events() -> None:
    EVENTS.clear()


class Store(ServiceProcess):
    name = "store"

    async def on_activate(self) -> None:
        EVENTS.append("store up")

    async def on_terminate(self) -> None:
        EVENTS.append("store down")

    @operation
    async def slow(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        EVENTS.append("slow done")
        return self.id

    @operation
    async def crash(self) -> None:
        async def fail() -> None:
            raise OSError("disk on fire")

        self.start_task(fail())


class Web(ServiceProcess):
    name = "web"
    depends = ("store",)

    async def on_activate(self) -> None:
        EVENTS.append("web up")

    async def on_deactivate(self) -> None:
        await client(Store, self).ping()
        EVENTS.append("web quiet")

    async def on_terminate(self) -> None:
        EVENTS.append("web down")


def config(**options: object) -> ContainerConfig:
    return ContainerConfig(id="c", system="test", **options)  # type: ignore[arg-type]


async def test_ordered_start_and_stop() -> None:
    async with Container(SimulatedWorld(), config()) as container:
        await container.spawn(Store)
        await container.spawn(Web)
    assert EVENTS == ["store up", "web up", "web quiet", "web down", "store down"]
    assert not container.snapshot().running
    assert container.snapshot().processes == ()
    assert container.snapshot().transport.queues == ()
    await container.stop()
    await container.wait()


async def test_who_serves_a_service_in_this_very_container() -> None:
    transport = MemoryTransport(world := SimulatedWorld())
    await transport.start()
    other = Container(world, ContainerConfig(id="d", system="test"), transport, shared_transport=True)
    async with Container(world, config(), transport, shared_transport=True) as container, other:
        await other.spawn(Store)
        assert container.serving("store") is None and other.serving("store") == "process:d.3"
        here = await container.spawn(Store)
        for _ in range(3):
            assert await client(Store, container.edge, address=container.serving("store")).slow(0) == here
        await container.terminate(here)
        assert container.serving("store") is None


async def test_a_dependency_that_comes_later_is_waited_for() -> None:
    async with Container(SimulatedWorld(), config()) as container, asyncio.TaskGroup() as group:
        group.create_task(container.spawn(Web))
        await asyncio.sleep(5)
        assert EVENTS == []
        await container.spawn(Store)
        await asyncio.sleep(0)
    assert EVENTS[:2] == ["store up", "web up"]


async def test_a_missing_dependency_is_named() -> None:
    class Greedy(ServiceProcess):
        name = "greedy"
        depends = ("store", "nothing", "never")

    async with Container(SimulatedWorld(), config(dependency_timeout=3.0)) as container:
        await container.spawn(Store)
        with pytest.raises(Unavailable, match=r"greedy depends on nothing, never, .* within 3 s") as raised:
            await container.spawn(Greedy)
        assert raised.value.details == {"missing": ["nothing", "never"]}
        assert [child.name for child in container.root.children()] == ["edge", "store"]


async def test_stopping_lets_requests_end_within_the_shutdown_time() -> None:
    container = Container(SimulatedWorld(), config(shutdown=10.0))
    await container.start()
    await container.spawn(Store)
    store = client(Store, container.edge, timeout=100)
    async with asyncio.TaskGroup() as group:
        quick = group.create_task(_outcome(store, 5.0))
        stuck = group.create_task(_outcome(store, 50.0))
        await asyncio.sleep(1)
        await container.stop()
    assert quick.result() == "c.3"
    assert isinstance(stuck.result(), Unavailable)
    assert EVENTS == ["store up", "slow done", "store down"]


async def _outcome(store: Store, seconds: float) -> object:
    try:
        return await store.slow(seconds)
    except Unavailable as error:
        return error


async def test_a_crashed_process_is_made_again_by_its_factory() -> None:
    async with Container(SimulatedWorld(), config()) as container:
        await container.spawn(Store)
        store = client(Store, container.edge)
        assert await store.slow(0) == "c.3"
        await store.crash()
        await asyncio.sleep(0.01)
        assert await store.slow(0) == "c.4"


async def test_an_object_that_fails_fails_the_container() -> None:
    container = Container(SimulatedWorld(), config())
    await container.start()
    await container.spawn(Store())
    await client(Store, container.edge).crash()
    with pytest.raises(Unavailable, match="root gave up"):
        await container.wait()
    assert container.snapshot().failure is not None
    with pytest.raises(Unavailable):
        await client(Store, container.edge).ping()
    await container.stop()


async def test_a_temporary_object_may_fail_alone() -> None:
    async with Container(SimulatedWorld(), config()) as container:
        pid = await container.spawn(Store(), restart=Restart.TEMPORARY)
        await client(Store, container.edge).crash()
        await asyncio.sleep(0.01)
        assert container.snapshot().running
        with pytest.raises(NotFound):
            container.process(pid)


async def test_two_containers_of_one_system_share_services_and_survive_each_other() -> None:
    world = SimulatedWorld()
    transport = MemoryTransport(world)
    await transport.start()
    first = Container(world, ContainerConfig(id="a", system="s"), transport, shared_transport=True)
    second = Container(world, ContainerConfig(id="b", system="s"), transport, shared_transport=True)
    other = Container(world, ContainerConfig(id="x", system="other"), transport, shared_transport=True)
    for container in (first, second, other):
        await container.start()
    await first.spawn(Store)
    await second.spawn(Store)
    store = client(Store, second.edge)
    assert {await store.slow(0) for _ in range(4)} == {"a.3", "b.3"}
    with pytest.raises(Unavailable):
        await client(Store, other.edge).ping()
    await first.stop()
    assert {await store.slow(0) for _ in range(4)} == {"b.3"}
    await second.stop()
    await other.stop()
    await transport.stop()


async def test_work_that_has_not_begun_moves_to_another_container() -> None:
    world = SimulatedWorld()
    transport = MemoryTransport(world)
    await transport.start()
    containers = [
        Container(world, ContainerConfig(id=name, system="s"), transport, shared_transport=True) for name in "ab"
    ]

    class Narrow(Store):
        max_concurrent = 1

    for container in containers:
        await container.start()
        await container.spawn(Narrow)
    store = client(Store, containers[1].edge, timeout=100)
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(store.slow(2.0)) for _ in range(6)]
        await asyncio.sleep(1)
        await containers[0].stop()
    answered = [call.result().partition(".")[0] for call in calls]
    assert sorted(answered) == ["a", "b", "b", "b", "b", "b"]
    await containers[1].stop()
    await transport.stop()


async def test_settings_edge_and_lookup() -> None:
    class Reads(Process):
        async def on_init(self) -> None:
            EVENTS.append(self.container.settings["greeting"])
            EVENTS.append(self.id)

    async with Container(SimulatedWorld(), config(settings={"greeting": "hi"})) as container:
        pid = await container.spawn(Reads)
        assert ["hi", pid] == EVENTS
        assert container.process(pid).state is State.ACTIVE
        assert [process.label for process in container.processes] == ["root", "edge", "Reads"]
        json.loads(msgspec.json.encode(container.snapshot()))
        with pytest.raises(NotFound):
            await container.terminate("c.99")
        with pytest.raises(Conflict):
            await container.start()


async def test_a_container_that_was_not_started() -> None:
    container = Container(SimulatedWorld(), config())
    for use in (lambda: container.root, lambda: container.edge):
        with pytest.raises(Conflict):
            use()
    await container.stop()


async def test_several_of_a_kind_get_names_of_their_own() -> None:
    async with Container(SimulatedWorld(), config()) as container:
        for _ in range(3):
            await container.spawn(Store)
        assert [child.name for child in container.root.children()] == ["edge", "store", "store-2", "store-3"]


async def test_a_cancelled_stop_cancels_what_is_left() -> None:
    class Stuck(ServiceProcess):
        name = "stuck"

        async def on_deactivate(self) -> None:
            await asyncio.sleep(3600)

        async def on_terminate(self) -> None:
            EVENTS.append("stuck down")

    world = SimulatedWorld()
    container = Container(world, config(shutdown=1000.0))
    await container.start()
    await container.spawn(Store)
    await container.spawn(Supervisor([ChildSpec("stuck", Stuck, shutdown=1000.0)]))
    begin = world.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await container.stop()
    assert world.monotonic() - begin < 3
    assert EVENTS == ["store up", "stuck down", "store down"]
    assert container.processes == ()


async def test_a_cancelled_start_leaves_nothing() -> None:
    class Slow(MemoryTransport):
        async def subscribe(self, receiver: Receiver, handler: Handler) -> Subscription:
            await asyncio.sleep(10)
            return await super().subscribe(receiver, handler)

    world = SimulatedWorld()
    container = Container(world, config(), Slow(world))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await container.start()
    assert container.processes == ()
    assert not container.snapshot().running


async def test_a_failure_while_stopping_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    class Sore(Process):
        async def on_deactivate(self) -> None:
            raise OSError("will not go")

    async with Container(SimulatedWorld(), config()) as container:
        await container.spawn(Sore)
    assert "OSError: will not go" in capsys.readouterr().err


async def test_children_are_named_after_what_makes_them() -> None:
    def make_store() -> Store:
        return Store()

    async with Container(SimulatedWorld(), config()) as container:
        for factory in (Store, make_store, lambda: Store(), lambda: Store()):
            await container.spawn(factory)
        names = [child.name for child in container.root.children()]
        assert names == ["edge", "store", "make_store", "process", "process-2"]
