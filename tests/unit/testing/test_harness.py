"""The harness's guards: each finds what it is there for, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from pelagos.model.errors import Forbidden, InvalidInput, Unauthenticated, Unavailable
from pelagos.process import Process, ServiceProcess, client, operation
from pelagos.process.conversations import subscription
from pelagos.simulation import SimulatedWorld
from pelagos.testing import Harness, running_container
from support.testing_services import Book, Librarian, Library

pytestmark = pytest.mark.anyio


async def problems(harness: Harness, work: Awaitable[object]) -> str:
    """What the harness has against it, when it is left."""
    with pytest.raises(AssertionError) as raised:
        async with harness:
            await work
    return str(raised.value)


async def test_a_container_in_which_all_goes_well() -> None:
    async with running_container() as container:
        await container.spawn(Library)
        await container.spawn(Librarian)
        assert await client(Librarian, container.edge).pages(["a", "b"]) == 400
    assert not container.snapshot().running


async def test_containers_of_a_harness_are_one_system_and_those_of_two_are_not() -> None:
    async with Harness() as harness, Harness() as other:
        one, two, stranger = await harness.container("one"), await harness.container(), await other.container("one")
        await one.spawn(Library)
        assert await client(Library, two.edge).lend("Dune") == Book("Dune", 200)
        with pytest.raises(Unavailable):
            await client(Library, stranger.edge).lend("Dune")
        assert [one.id, two.id] == ["one", "c2"]
        with pytest.raises(InvalidInput):
            await harness.container("one")


async def test_a_process_that_died_is_named() -> None:
    harness = Harness()

    async def work() -> None:
        container = await harness.container("c")
        await container.spawn(Library)
        await client(Library, container.edge).burn()
        await asyncio.sleep(1)  # it is back; nobody would have noticed

    assert "process library (c.3) failed: RuntimeError: fire" in await problems(harness, work())


async def test_a_death_that_was_announced_is_no_problem() -> None:
    async with Harness() as harness:
        harness.expect_failure("library", RuntimeError)
        container = await harness.container("c")
        await container.spawn(Library)
        await client(Library, container.edge).burn()
        await asyncio.sleep(1)
    assert harness.problems() == []


async def test_a_death_that_was_announced_must_come() -> None:
    harness = Harness()
    harness.expect_failure("library", RuntimeError)

    async def work() -> None:
        await (await harness.container("c")).spawn(Library)

    assert "library should have failed once with RuntimeError; it did so 0 times" in await problems(harness, work())


async def test_another_death_than_announced_is_a_problem() -> None:
    harness = Harness()
    harness.expect_failure("library", ValueError)

    async def work() -> None:
        container = await harness.container("c")
        await container.spawn(Library)
        await client(Library, container.edge).burn()
        await asyncio.sleep(1)

    told = await problems(harness, work())
    assert "failed: RuntimeError: fire" in told
    assert "should have failed once with ValueError" in told


async def test_a_request_in_progress_is_named_with_who_waits() -> None:
    harness = Harness()

    async def work() -> None:
        container = await harness.container("c")
        await container.spawn(Library)

        async def read() -> None:
            with pytest.raises(Unavailable):
                await client(Library, container.edge).browse()

        asyncio.get_running_loop().create_task(read())

    told = await problems(harness, work())
    assert "at the end, library (c.3) serves browse" in told
    assert "at the end, the test waits for 1 answer" in told


async def test_what_ends_within_the_grace_is_no_problem() -> None:
    class Slow(Process):
        @operation
        async def work(self) -> None:
            await asyncio.sleep(1.5)

    async with Harness() as harness:
        container = await harness.container("c")
        slow = client(Slow, container.edge, address=f"process:{await container.spawn(Slow)}")
        task = asyncio.get_running_loop().create_task(slow.work())
        await asyncio.sleep(0)
    await task


async def test_an_open_conversation_is_named() -> None:
    harness = Harness()

    class Silent(Library):
        @operation
        async def lend(self, title: str) -> Book:
            await asyncio.Event().wait()
            raise AssertionError

    async def work() -> None:
        container = await harness.container("c")
        await container.spawn(Silent)
        await container.edge.converse("request", "service:library", "lend", "Dune", timeout=600)

    assert "library (c.3) takes part in c.2" in await problems(harness, work())


class Reader(ServiceProcess):
    """Subscribes for as long as it lives, and waits for what may never come."""

    name = "reader"

    async def on_activate(self) -> None:
        self.start_task(self.read())
        self.start_task(client(Library, self, timeout=1000).browse())

    async def read(self) -> None:
        async with await self.converse("subscribe", "service:library", "endless") as news:
            async for _ in news.values():
                pass


class Endless(Library):
    @subscription
    async def endless(self) -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()


async def test_what_is_made_to_last_may_last() -> None:
    async with Harness() as harness:
        harness.may_stay_open("library.browse")
        container = await harness.container("c")
        reading = [await container.spawn(Endless), await container.spawn(Reader)]
        await asyncio.sleep(100)
        assert [len(container.process(one).snapshot().conversations) for one in reading] == [1, 1]


async def test_only_what_was_named_may_last() -> None:
    harness = Harness()
    harness.may_stay_open("library.count")

    async def work() -> None:
        container = await harness.container("c")
        await container.spawn(Endless)
        await container.spawn(Reader)

    told = await problems(harness, work())
    assert told.splitlines()[1:] == ["- at the end, library (c.3) serves browse"]


async def test_a_subscription_of_the_test_itself_must_end() -> None:
    harness = Harness()

    async def work() -> None:
        container = await harness.container("c")
        await container.spawn(Endless)
        await container.edge.converse("subscribe", "service:library", "endless")

    assert "at the end, edge (c.2) takes part in" in await problems(harness, work())


async def test_waiting_for_a_failure() -> None:
    async with Harness() as harness:
        harness.expect_failure("library", RuntimeError)
        container = await harness.container("c")
        await container.spawn(Library)
        with pytest.raises(AssertionError, match="library did not fail 1 times within 3 s, only 0 times"):
            await harness.failed("library", timeout=3)
        await client(Library, container.edge).burn()
        assert str(await harness.failed("library")) == "fire"
        assert str(await harness.failed("library")) == "fire"  # as often as one asks
        await harness.served("library")
        assert await client(Library, container.edge).count() == 0
        with pytest.raises(AssertionError, match="nobody served museum within 3 s"):
            await harness.served("museum", 3)


async def test_a_process_that_does_not_stop_in_time_is_named() -> None:
    class Stubborn(Process):
        async def on_deactivate(self) -> None:
            await asyncio.Event().wait()

    harness = Harness()

    async def work() -> None:
        await (await harness.container("c")).spawn(Stubborn, shutdown=1.0)

    assert "process Stubborn (c.3) was cancelled: it did not end within its shutdown time" in await problems(
        harness, work()
    )


async def test_what_a_test_raises_is_not_hidden_by_what_is_left_over() -> None:
    with pytest.raises(KeyError):
        async with Harness() as harness:
            container = await harness.container("c")
            await container.spawn(Library)
            await client(Library, container.edge).burn()
            await asyncio.sleep(1)
            raise KeyError("the test's own")
    assert len(harness.problems()) == 1
    assert not container.snapshot().running


async def test_without_the_check_nothing_is_raised() -> None:
    async with Harness(check=False) as harness:
        container = await harness.container("c")
        await container.spawn(Library)
        await client(Library, container.edge).burn()
        await asyncio.sleep(1)
    assert len(harness.problems()) == 1


async def test_users_roles_and_a_policy_file(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("rules:\n- {role: reader, allow: library.lend}\n- {role: authenticated, allow: library.count}\n")
    async with Harness(policy=file) as harness:
        container = await harness.container("c")
        await container.spawn(Library)
        library = client(Library, container.edge)
        with harness.user("ann", "reader"):
            assert await library.lend("Dune") == Book("Dune", 200)
        with harness.user("bob"):
            assert await library.count() == 1
            with pytest.raises(Forbidden):
                await library.lend("Dune")
        with harness.anonymous(), pytest.raises(Unauthenticated):
            await library.count()
        assert await library.count() == 1  # the system itself
        harness.set_policy("default: allow")
        with harness.anonymous():
            assert await library.count() == 1


async def test_stores_of_a_harness_share_their_database() -> None:
    async with Harness(SimulatedWorld(7)) as harness:
        one, two = await harness.store(), await harness.store()

        def write(connection):  # type: ignore[no-untyped-def]
            connection.exec_driver_sql("create table t (n integer)")
            connection.exec_driver_sql("insert into t values (42)")

        await one.run(write)
        assert await two.read(lambda connection: connection.exec_driver_sql("select n from t").scalar()) == 42
