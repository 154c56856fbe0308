"""Calls of a blocking library: deadlines, late answers, the circuit, and one object a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pelagos.clouds import CloudError, CloudRejected, CloudUncertain, CloudUnreachable
from pelagos.clouds.libcloud.calls import LibraryCalls
from pelagos.clouds.libcloud.late import LateServers
from pelagos.clouds.libcloud.wire import Ledger
from pelagos.clouds.values import CloudServer
from pelagos.model import SystemWorld
from pelagos.model.errors import PelagosError, Retry, Unavailable
from pelagos.model.states import ServerState
from pelagos.simulation import SimulatedWorld

pytestmark = pytest.mark.anyio

PATIENCE = 20.0
SHORT = 0.05


class Scene:
    """Calls of a library whose objects are numbers, and an event that lets hanging calls go on."""

    def __init__(self) -> None:
        self.world = SystemWorld()
        self.go_on = threading.Event()
        self.made: list[str] = []
        self.open: list[LibraryCalls[Any]] = []

    def calls(self, threads: int = 2, stuck_limit: int = 0) -> LibraryCalls[str]:
        def make() -> str:
            self.made.append(threading.current_thread().name)
            return threading.current_thread().name

        def judge(error: Exception, ledger: Ledger, effect: bool, what: str) -> PelagosError:
            return CloudRejected(f"{what}: {type(error).__name__}")

        calls = LibraryCalls(self.world, "acc", make, judge, threads=threads, stuck_limit=stuck_limit)
        self.open.append(calls)
        return calls

    def hang(self, _: str) -> str:
        """Until told to go on."""
        self.go_on.wait(PATIENCE)
        return "late"


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.go_on.set()
    for calls in scene.open:
        calls.close()
    scene.world.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in a thread
            await asyncio.sleep(0.005)


async def test_each_thread_has_one_object_of_the_library(scene: Scene) -> None:
    calls = scene.calls(threads=2)
    both = threading.Barrier(2, timeout=PATIENCE)

    def call(library: str) -> str:
        both.wait()
        assert library == threading.current_thread().name
        return library

    for _ in range(3):
        used = await asyncio.gather(*(calls.read(call, timeout=PATIENCE, what="x") for _ in range(2)))
        assert len(set(used)) == 2
    assert sorted(scene.made) == ["pelagos-cloud-acc-1", "pelagos-cloud-acc-2"]


async def test_errors_are_judged_and_those_of_the_family_pass(scene: Scene) -> None:
    calls = scene.calls()

    def family(_: str) -> None:
        raise CloudError("as it is")

    with pytest.raises(CloudRejected, match="read it: ZeroDivisionError"):
        await calls.read(lambda _: 1 / 0, timeout=PATIENCE, what="read it")
    with pytest.raises(CloudError, match="as it is"):
        await calls.write(family, timeout=PATIENCE, what="x")


async def test_a_deadline_ends_the_wait_and_a_late_answer_is_heard(scene: Scene) -> None:
    calls = scene.calls()
    heard: list[str] = []
    with pytest.raises(CloudUncertain, match="no answer within"):
        await calls.write(scene.hang, timeout=SHORT, what="create", late=heard.append)
    with pytest.raises(CloudUnreachable, match="no answer within"):
        await calls.read(scene.hang, timeout=SHORT, what="list")
    assert heard == []
    scene.go_on.set()
    await until(lambda: calls.snapshot()["given_up_and_running"] == 0)
    assert heard == ["late"]
    assert calls.snapshot()["late_answers"] == 2


async def test_a_cancelled_call_is_heard_of_too(scene: Scene) -> None:
    calls = scene.calls()
    begun = threading.Event()
    heard: list[str] = []

    def hang(library: str) -> str:
        begun.set()
        return scene.hang(library)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(calls.write(hang, timeout=PATIENCE, what="create", late=heard.append))
        await until(begun.is_set)
        task.cancel()
    scene.go_on.set()
    await until(lambda: heard == ["late"])


async def test_a_call_that_never_began_certainly_had_no_effect(scene: Scene) -> None:
    calls = scene.calls(threads=1, stuck_limit=1)
    ran: list[str] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(calls.read(scene.hang, timeout=PATIENCE, what="first"))
        await asyncio.sleep(0)
        with pytest.raises(CloudUnreachable, match="busy") as caught:
            await calls.write(lambda library: ran.append(library), timeout=SHORT, what="create")
        scene.go_on.set()
    assert caught.value.retry is Retry.TRANSIENT
    await calls.read(lambda _: None, timeout=PATIENCE, what="after")
    assert ran == []


async def test_threads_that_do_not_come_back_open_the_circuit_until_one_does(scene: Scene) -> None:
    calls = scene.calls(threads=4, stuck_limit=2)
    for number in range(2):
        assert not calls.circuit_open
        with pytest.raises(CloudUncertain):
            await calls.write(scene.hang, timeout=SHORT, what=f"create {number}")
    assert calls.circuit_open
    assert calls.snapshot()["circuit"] == "open"
    with pytest.raises(CloudUnreachable, match="not sent") as caught:
        await calls.read(lambda _: "fine", timeout=PATIENCE, what="list")
    assert "firewall" in caught.value.advice
    assert calls.snapshot()["refused_by_circuit"] == 1
    scene.go_on.set()
    await until(lambda: not calls.circuit_open)
    assert await calls.read(lambda _: "fine", timeout=PATIENCE, what="list") == "fine"


async def test_a_closed_driver_refuses(scene: Scene) -> None:
    calls = scene.calls()
    calls.close()
    calls.close()
    with pytest.raises(Unavailable):
        await calls.read(lambda _: None, timeout=PATIENCE, what="list")


async def test_in_simulation_no_thread_is_needed() -> None:
    class World(SimulatedWorld):
        def monotonic(self) -> float:
            return 0.0

    calls: LibraryCalls[str] = LibraryCalls(World(), "acc", lambda: "library", lambda *_: CloudError("x"), threads=4)
    assert await calls.read(lambda library: (library, threading.current_thread()), timeout=1.0, what="x") == (
        "library",
        threading.main_thread(),
    )
    calls.close()


async def test_late_servers_count_until_they_are_shown_or_old() -> None:
    class Clock(SystemWorld):
        time = 0.0

        def monotonic(self) -> float:  # type: ignore[override]
            return self.time

    clock = Clock()
    late = LateServers(clock, keep=30.0)

    def server(token: str) -> CloudServer:
        return CloudServer(provider_id=f"id-{token}", name=token, state=ServerState.BUILD, token=token)

    for token in ("a", "b", "c"):
        late.arrived(server(token))
    assert late.get("a") == server("a")
    assert [one.token for one in late.merge([server("b"), server("d")])] == ["b", "d", "a", "c"]
    assert late.get("b") is None, "the cloud shows it: the listing is the truth"
    late.forget("id-c")
    assert [one.token for one in late.merge([])] == ["a"]
    clock.time = 31.0
    assert (late.get("a"), len(late)) == (None, 0)
    clock.close()


async def test_a_close_ends_the_wait_of_those_that_have_not_begun(scene: Scene) -> None:
    calls = scene.calls(threads=1)
    begun = threading.Event()

    def hang(library: str) -> str:
        begun.set()
        return scene.hang(library)

    async with asyncio.TaskGroup() as group:
        first = group.create_task(calls.read(hang, timeout=PATIENCE, what="first"))
        await until(begun.is_set)
        second = asyncio.ensure_future(calls.write(lambda _: "never", timeout=PATIENCE, what="second"))
        await asyncio.sleep(0)
        calls.close()
        with pytest.raises(Unavailable):
            await second
        scene.go_on.set()
    assert first.result() == "late"
