"""The streaming in-process transport: chunks, back-pressure, disconnects, failures."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from pelagos.clients import InProcessTransport

pytestmark = pytest.mark.anyio

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


def chunk(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


def client(app: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=InProcessTransport(app), base_url="http://app")


async def test_chunks_arrive_before_the_answer_is_complete() -> None:
    go_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(chunk(b"first"))
        await go_on.wait()
        await send(chunk(b"second", more=False))

    async with client(app) as http, http.stream("GET", "/") as response:
        chunks = response.aiter_raw()
        assert await anext(chunks) == b"first"
        go_on.set()
        assert [c async for c in chunks] == [b"second"]


async def test_a_slow_reader_slows_the_writer() -> None:
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send(START)
        for _ in range(100):
            await send(chunk(b"x"))
            sent += 1
        await send(chunk(b"", more=False))

    async with client(app) as http, http.stream("GET", "/") as response:
        for _ in range(50):
            await asyncio.sleep(0)
        assert sent <= 2
        assert len(await response.aread()) == 100


async def test_a_reader_who_closes_is_told_to_the_application() -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(chunk(b"x"))
        while (await receive())["type"] != "http.disconnect":
            pass
        await send(chunk(b"to nobody"))
        ended.append("by itself")

    transport = InProcessTransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://app") as http:
        async with http.stream("GET", "/") as response:
            assert await anext(response.aiter_raw()) == b"x"
            assert ended == []
        await transport.idle()
        assert ended == ["by itself"]


async def test_a_cancelled_request_is_told_to_the_application() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    async with client(app) as http:
        async with asyncio.TaskGroup() as group:
            request = group.create_task(http.get("/"))
            await begun.wait()
            request.cancel()
        async with asyncio.timeout(5):
            await ended.wait()


async def test_closing_the_transport_cancels_what_does_not_end() -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send(START)
            await send(chunk(b"x"))
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with client(app) as http:
        response = await http.send(http.build_request("GET", "/"), stream=True)
        assert await anext(response.aiter_raw()) == b"x"
    assert ended == ["cancelled"]


async def test_an_application_that_fails_is_a_failed_request() -> None:
    async def before(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("no")

    async def amid(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(chunk(b"x"))
        raise ZeroDivisionError("no")

    async def never(scope: Any, receive: Any, send: Any) -> None:
        return

    async with client(before) as http:
        with pytest.raises(ZeroDivisionError):
            await http.get("/")
    async with client(amid) as http:
        with pytest.raises(httpx2.ReadError):
            await http.get("/")
    async with client(never) as http:
        with pytest.raises(httpx2.RemoteProtocolError):
            await http.get("/")


async def test_bodies_are_streamed_to_the_application() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen = []
        while (message := await receive())["more_body"]:
            seen.append(message["body"])
        await send(START)
        await send(chunk(b"|".join(seen), more=False))

    async def parts() -> Any:
        yield b"a"
        yield b"b"

    async with client(app) as http:
        assert (await http.post("/", content=parts())).content == b"a|b"


async def test_a_time_out_while_waiting_and_while_reading() -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async def stalls(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(chunk(b"x"))
        await asyncio.Event().wait()

    for app in (silent, stalls):
        async with client(app) as http:
            with pytest.raises(httpx2.ReadTimeout):
                await http.get("/", timeout=0.01)


async def test_errors_of_the_callers_code_stay_what_they_are() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    with pytest.raises(ZeroDivisionError):
        async with client(app):
            raise ZeroDivisionError


async def test_a_transport_that_is_not_open_connects_nowhere() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    with pytest.raises(httpx2.ConnectError):
        await InProcessTransport(app).handle_async_request(httpx2.Request("GET", "http://app/"))
