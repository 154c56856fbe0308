"""Server-sent events through the in-process transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from pelagos.clients import InProcessTransport
from pelagos.clients.streams import ServerSentEvent, parse
from pelagos.model.states import RunState
from support.edge_scene import OTHER, RUN, Scene, edge_scene

pytestmark = pytest.mark.anyio


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with edge_scene(tmp_path, heartbeat=0.05) as scene:
        yield scene


@pytest.fixture
async def http(scene: Scene) -> AsyncIterator[httpx2.AsyncClient]:
    transport = InProcessTransport(scene.application.trusted)
    async with httpx2.AsyncClient(transport=transport, base_url="http://pelagos") as http:
        yield http


@asynccontextmanager
async def listening(
    http: httpx2.AsyncClient, path: str, **headers: str
) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
    given = {"Accept": "text/event-stream", **{k.replace("_", "-"): v for k, v in headers.items()}}
    async with asyncio.timeout(10), http.stream("GET", path, headers=given) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield parse(response.aiter_bytes())


async def test_events_come_as_they_happen(http: httpx2.AsyncClient, scene: Scene) -> None:
    [first] = await scene.happen("run.accepted")
    async with listening(http, "/infrastructures/shop/events") as events:
        assert (await anext(events)).id == str(first)
        [second] = await scene.happen("run.started")
        event = await anext(events)
        assert (event.event, event.id) == ("run.started", str(second))


async def test_a_stream_goes_on_after_a_position(http: httpx2.AsyncClient, scene: Scene) -> None:
    positions = await scene.happen("a", "b", "c")
    async with listening(http, "/events?after=0", Last_Event_ID=str(positions[1])) as events:
        assert (await anext(events)).id == str(positions[2])
    async with listening(http, f"/events?after={positions[0]}") as events:
        assert (await anext(events)).id == str(positions[1])
    for wrong in ("x", "-1", "9" * 30):
        assert (await http.get("/events", headers={"Last-Event-ID": wrong})).status_code == 400


async def test_a_runs_stream_ends_with_the_run(http: httpx2.AsyncClient, scene: Scene) -> None:
    await scene.happen("run.started", "run.succeeded")
    async with listening(http, f"/runs/{RUN}/events") as events:
        assert [(await anext(events)).event, (await anext(events)).event] == ["run.started", "run.succeeded"]
        scene.domain.run_state = RunState.SUCCEEDED
        await scene.happen("instance.ready", run=None)  # any commit makes the stream look again
        end = await anext(events)
        assert end.event == "end"
        assert '"succeeded"' in end.data
        with pytest.raises(StopAsyncIteration):
            await anext(events)
    assert scene.edge.snapshot()["streams_closed"] == 1


async def test_events_of_other_projects_do_not_appear(http: httpx2.AsyncClient, scene: Scene) -> None:
    await scene.happen("theirs", scope=OTHER)
    [own] = await scene.happen("ours")
    async with listening(http, "/events") as events:
        assert (await anext(events)).id == str(own)
    page = (await http.get("/events")).json()
    assert [item["kind"] for item in page["items"]] == ["ours"]
    assert page["next"] == own


async def test_an_idle_stream_says_that_it_lives(http: httpx2.AsyncClient) -> None:
    async with asyncio.timeout(10), http.stream("GET", "/events?follow=1") as response:
        seen = b""
        async for chunk in response.aiter_bytes():
            seen += chunk
            if seen.count(b": still here\n\n") == 2:
                break
        assert b"data:" not in seen


async def test_a_reader_who_leaves_frees_the_stream(scene: Scene) -> None:
    transport = InProcessTransport(scene.application.trusted)
    await scene.happen("a")
    async with httpx2.AsyncClient(transport=transport, base_url="http://pelagos") as http:
        async with listening(http, "/events") as events:
            await anext(events)
            assert transport.snapshot()["in_flight"] == 1
            assert len(scene.store._bells) == 1  # type: ignore[attr-defined]
        await transport.idle()
    assert len(scene.store._bells) == 0  # type: ignore[attr-defined]


async def test_a_closing_server_ends_streams(http: httpx2.AsyncClient, scene: Scene) -> None:
    async with listening(http, "/events") as events:
        scene.edge.closing.set()
        assert [event async for event in events] == []


async def test_pages_are_bounded(http: httpx2.AsyncClient, scene: Scene) -> None:
    positions = await scene.happen(*("e" * 5))
    page = (await http.get("/events?limit=2")).json()
    assert [item["position"] for item in page["items"]] == positions[:2]
    page = (await http.get(f"/events?limit=10&after={page['next']}")).json()
    assert [item["position"] for item in page["items"]] == positions[2:]


async def test_events_of_other_runs_in_between_hide_nothing(tmp_path: Path) -> None:
    async with edge_scene(tmp_path, event_batch=2) as scene:
        await scene.happen(*("noise" for _ in range(7)), run=None)
        await scene.happen("run.started")
        await scene.happen(*("noise" for _ in range(5)), run=None)
        await scene.happen("run.succeeded")
        scene.domain.run_state = RunState.SUCCEEDED
        transport = InProcessTransport(scene.application.trusted)
        async with httpx2.AsyncClient(transport=transport, base_url="http://pelagos") as http:
            async with listening(http, f"/runs/{RUN}/events") as events:
                assert [event.event async for event in events] == ["run.started", "run.succeeded", "end"]
            page = (await http.get(f"/runs/{RUN}/events?limit=3")).json()
            assert (page["items"], page["next"]) == ([], 3)
