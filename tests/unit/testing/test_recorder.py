"""The recorder: what was said, by operation; waiting for it; conformance; the chart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pelagos.exchange import Envelope, Performative
from pelagos.model.errors import Unavailable, Unsupported
from pelagos.process import client
from pelagos.testing import Harness
from support.testing_services import Book, Librarian, Library

pytestmark = pytest.mark.anyio


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    async with Harness() as running:
        yield running


async def test_each_message_once_though_two_containers_see_it(harness: Harness) -> None:
    one, two = await harness.container("one"), await harness.container("two")
    recorder = harness.recorder
    await one.spawn(Library)
    await two.spawn(Librarian)
    assert await client(Librarian, one.edge).pages(["a", "b"]) == 400
    assert [request.content for request in recorder.requests("library.lend")] == ["a", "b"]
    assert [result.read(Book) for result in recorder.results("lend")] == [Book("a", 200), Book("b", 200)]
    assert [str(one.op) for one in recorder.requests()] == ["pages", "lend", "lend"]
    assert recorder.requests("librarian.lend") == []
    assert recorder.errors() == []
    recorder.clear()
    assert recorder.sent() == []


async def test_errors_and_what_nobody_took(harness: Harness) -> None:
    container = await harness.container("c")
    recorder = harness.recorder
    with pytest.raises(Unavailable):
        await client(Library, container.edge).count()
    await container.spawn(Library)
    with pytest.raises(Unsupported):
        await container.edge.call("service:library", "burnt", result=str)
    assert [one.error for one in recorder.errors()] == ["unavailable", "unsupported"]
    assert recorder.errors("library.burnt")[0].content.code == "unsupported"


async def test_a_recorder_begins_when_it_is_asked_for(harness: Harness) -> None:
    container = await harness.container("c")
    await container.spawn(Library)
    library = client(Library, container.edge)
    await library.count()
    recorder = harness.recorder
    await library.lend("late")
    assert [one.op for one in recorder.requests()] == ["lend"]
    recorder.close()
    await library.count()
    assert [one.op for one in recorder.requests()] == ["lend"]


async def test_waiting_for_a_message_that_comes(harness: Harness) -> None:
    container = await harness.container("c")
    await container.spawn(Library)

    async def later() -> None:
        for title in ("a", "b"):
            await asyncio.sleep(30)
            await client(Library, container.edge).lend(title)

    recorder = harness.recorder
    container.edge.start_task(later())
    second = await recorder.wait_for("lend", performative=Performative.REQUEST, count=2, timeout=100)
    assert second.content == "b"
    assert (await recorder.wait_for(where=lambda one: one.content == "a")).op == "lend"  # it was there already
    await asyncio.sleep(1)


async def test_waiting_for_a_message_that_does_not_come(harness: Harness) -> None:
    container = await harness.container("c")
    await container.spawn(Library)
    recorder = harness.recorder
    await client(Library, container.edge).count()
    with pytest.raises(AssertionError) as raised:
        await recorder.wait_for("library.lend", timeout=3)
    assert "library.lend did not come 1 times within 3 s, only 0 times" in str(raised.value)
    assert "edge -> service:test.library: count request" in str(raised.value)  # what came instead


async def test_what_is_published(harness: Harness) -> None:
    container = await harness.container("c")
    recorder = harness.recorder
    container.edge.publish("topic:news.local", {"title": "Dune"})
    container.edge.publish("fanout:shelves", 3)
    assert [one.content for one in recorder.published("topic:news.local")] == [{"title": "Dune"}]
    assert [one.content for one in recorder.published("shelves")] == [3]
    assert recorder.published("topic:shelves") == []


async def test_a_conversation_that_breaks_its_protocol_is_found(harness: Harness) -> None:
    container = await harness.container("c")
    await container.spawn(Library)
    recorder = harness.recorder
    conversation = await container.edge.converse("request", "service:library", "lend", "Dune")
    assert await conversation.result(Book) == Book("Dune", 200)
    recorder.check_conversations()
    ended = recorder.requests("lend")[0].envelope
    again = Envelope(
        ended.receiver, ended.sender, "lend", Performative.CANCEL, ended.conv_id, b"\xc0", 9, protocol="request"
    )
    container.transport.post(again)
    with pytest.raises(AssertionError, match="cancel after the end"):
        recorder.check_conversations()
    await asyncio.sleep(0)


async def test_the_chart(harness: Harness) -> None:
    container = await harness.container("c")
    recorder = harness.recorder
    await container.spawn(Library)
    await client(Library, container.edge).lend("Dune")
    chart = recorder.chart("A loan")
    assert chart.startswith('---\ntitle: "A loan"\n---\nsequenceDiagram\n')
    assert "participant p1 as edge" in chart
    assert "p1->>p2: lend" in chart
    assert "p2-->>p1: lend: inform_result" in chart


async def test_contents_of_some_size_are_kept(harness: Harness) -> None:
    container = await harness.container("c")
    await container.spawn(Library)
    recorder = harness.recorder
    await client(Library, container.edge).lend("x" * 100_000)
    assert len(recorder.requests("lend")[0].read(str)) == 100_000
