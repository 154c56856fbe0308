"""Stand-ins and spies: what they answer is what the service could have answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pelagos.container import Container
from pelagos.model.errors import InternalError, InvalidInput, NotFound, Unsupported
from pelagos.process import Process, client, operation
from pelagos.testing import Harness, Stub, running_container, spy, stub
from support.testing_services import Book, Librarian, Library

pytestmark = pytest.mark.anyio


@pytest.fixture
async def container() -> AsyncIterator[Container]:
    async with running_container() as running:
        yield running


async def stand_in(container: Container, **answers: Any) -> Stub:
    made = stub(Library, **answers)
    await container.spawn(made)
    return made


async def test_a_stub_stands_in_for_a_service(container: Container) -> None:
    library = await stand_in(container, lend=lambda title: Book(title, len(title)), count=7)
    await container.spawn(Librarian)
    assert await client(Librarian, container.edge).pages(["ab", "cde"]) == 5
    assert await client(Library, container.edge).count() == 7
    assert library.arguments("lend") == ["ab", "cde"]
    assert [call.op for call in library.calls] == ["lend", "lend", "count"]
    assert (await client(Library, container.edge).describe()).name == "library"


async def test_asynchronous_answers_errors_and_changes_of_mind(container: Container) -> None:
    async def slowly(title: str) -> Book:
        await asyncio.sleep(1)
        return Book(title)

    made = await stand_in(container, lend=slowly, count=NotFound("no catalogue", advice="Look again."))
    library = client(Library, container.edge)
    assert await library.lend("a") == Book("a")
    for _ in range(2):
        with pytest.raises(NotFound, match="no catalogue") as raised:
            await library.count()
        assert raised.value.advice == "Look again."
    made.answer(count=1)
    assert await library.count() == 1


async def test_an_operation_without_an_answer(container: Container) -> None:
    made = await stand_in(container)
    with pytest.raises(Unsupported, match="the stub of library has no answer to count"):
        await client(Library, container.edge).count()
    assert [call.op for call in made.calls] == ["count"]


async def test_an_answer_of_another_type_is_found_in_the_stub(container: Container) -> None:
    await stand_in(container, count="many")
    with pytest.raises(InternalError, match=r"the stub's answer to library.count, 'many', is not what it declares"):
        await client(Library, container.edge).count()


async def test_names_that_are_no_operations() -> None:
    with pytest.raises(InvalidInput, match="no operation 'lent'"):
        stub(Library, lent=1)
    with pytest.raises(InvalidInput, match="no operation 'lent'"):
        stub(Library).answer(lent=1)
    with pytest.raises(InvalidInput, match="no service name"):
        stub(Process)


async def test_subscriptions(container: Container) -> None:
    made = await stand_in(container, news=lambda about: [f"{about} is back", "all well"])
    async with await container.edge.converse("subscribe", "service:library", "news", "Dune") as news:
        assert [value async for value in news.values(str)] == ["Dune is back", "all well"]
    assert made.arguments("news") == ["Dune"]


async def test_a_spy_notes_what_the_service_does(container: Container) -> None:
    spied = spy(Library)
    await container.spawn(spied)
    await container.spawn(Librarian)
    assert await client(Librarian, container.edge).pages(["a"]) == 200
    assert await client(Library, container.edge).count() == 1
    assert spied.arguments("lend") == ["a"]
    assert [call.op for call in spied.calls] == ["lend", "count"]
    assert spied.process.lent == ["a"]
    async with await container.edge.converse("subscribe", "service:library", "news", "Dune") as news:
        assert [value async for value in news.values(str)] == ["nothing about Dune"]


async def test_a_service_may_have_operations_of_any_name(container: Container) -> None:
    class Oracle(Library):
        name = "oracle"

        @operation
        async def answer(self, calls: str) -> str:
            return calls

        @operation
        async def arguments(self) -> int:
            return 0

    made = stub(Oracle, answer="42", arguments=7)
    await container.spawn(made)
    oracle = client(Oracle, container.edge)
    assert (await oracle.answer("why"), await oracle.arguments()) == ("42", 7)
    made.answer(answer="43")
    assert await oracle.answer("why") == "43"
    assert made.arguments("answer") == ["why", "why"]


async def test_a_spy_is_there_again_after_a_restart() -> None:
    async with Harness() as harness:
        harness.expect_failure("library", RuntimeError)
        container = await harness.container("c")
        spied = spy(Library)
        with pytest.raises(NotFound):
            assert spied.process
        await container.spawn(spied)
        first = spied.process
        await client(Library, container.edge).burn()
        await harness.failed("library")
        await harness.served("library")
        assert await client(Library, container.edge).count() == 0
        assert spied.process is not first
        assert [call.op for call in spied.calls] == ["burn", "count"]
