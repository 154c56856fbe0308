"""The clients against a real edge, and against servers that fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from pelagos.clients import Client, InProcessTransport, connect
from pelagos.clouds.errors import CloudUnreachable
from pelagos.model.diagnostics import Diagnostic, Position
from pelagos.model.errors import (
    DeadlineExceeded,
    DescriptionError,
    InternalError,
    InvalidInput,
    NotFound,
    Unavailable,
    Unsupported,
)
from pelagos.model.states import RunState
from pelagos.services.compute.messages import CloudServersRequest
from pelagos.wire.infrastructures import DefinitionsRequest, PlanRequest, RunRequest
from pelagos.wire.problem import PROBLEM_TYPE, Problem
from support.edge_scene import INFRA, RUN, Scene, edge_scene, run_view

pytestmark = pytest.mark.anyio


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with edge_scene(tmp_path) as scene:
        yield scene


@pytest.fixture
async def client(scene: Scene) -> AsyncIterator[Client]:
    async with connect(InProcessTransport(scene.application.trusted)) as client:
        yield client


async def test_every_call_reaches_its_service(client: Client, scene: Scene) -> None:
    assert [item.id for item in await client.infrastructures.list()] == [INFRA]
    assert await client.infrastructures.list("other") == ()
    assert (await client.infrastructures.status("shop", live=True)).id == INFRA
    assert (await client.infrastructures.explain("shop", "web")).summary == "all is well"
    assert (await client.infrastructures.logs(INFRA))[0].text == "hello\n"
    assert (await client.infrastructures.runs("shop"))[0].id == RUN
    assert (await client.infrastructures.detach("shop")).maintained is False
    assert (await client.infrastructures.attach("shop")).maintained is True
    assert (await client.plan(PlanRequest(infrastructure="shop"))).changes
    assert (await client.runs.get(RUN)).state is RunState.RUNNING
    assert (await client.runs.cancel(RUN, keep=True)).keep is True
    assert (await client.definitions.import_(DefinitionsRequest(sources={"a": "x"}, entries=("a",)))).items[
        0
    ].type == "web"
    assert (await client.definitions.list())[0].type == "web"
    assert (await client.definitions.get("web")).implementations == 1
    await client.definitions.delete("web")
    assert await client.servers.list() == ()
    assert [cloud.name for cloud in await client.clouds.list()] == ["east"]
    assert (await client.clouds.get("east")).state == "ok"
    assert [check.ok for check in await client.clouds.check()] == [True]
    assert [image.id for image in await client.clouds.images("east")] == ["default"]
    assert await client.clouds.flavors("east") == await client.clouds.servers("east", all=True) == ()
    assert (await client.clouds.reload("east")).kept == ("east",)
    assert scene.domain.sent[-2][0] == CloudServersRequest(cloud="east", foreign=True)
    for name in ("", "a/b"):
        with pytest.raises(InvalidInput):
            await client.clouds.get(name)
    assert (await client.health()).status == "ok"
    assert (await client.doctor()).ok


async def test_a_run_gets_a_request_id(client: Client, scene: Scene) -> None:
    await client.runs.start(RunRequest(kind="up", sources={"a": ""}, entries=("a",)))
    await client.runs.start(RunRequest(kind="down", infrastructure="shop", request_id="mine"))
    first, second = (request for request, _ in scene.domain.sent)
    assert len(first.request_id) == 36
    assert second.request_id == "mine"


async def test_errors_are_the_same_on_this_side(client: Client, scene: Scene) -> None:
    with pytest.raises(NotFound, match="nothing"):
        await client.infrastructures.status("nothing")
    for odd in ("..", ".", "ü?#%", " "):
        with pytest.raises(NotFound):
            await client.infrastructures.status(odd)
    diagnostic = Diagnostic("wrong", Position("a.yaml", 1, 2), source="x: y")
    scene.domain.failure = DescriptionError("a mistake", advice="do", diagnostics=(diagnostic,))
    with pytest.raises(DescriptionError) as caught:
        await client.plan(PlanRequest(infrastructure="shop"))
    assert (caught.value.diagnostics, caught.value.advice) == ((diagnostic,), "do")
    scene.domain.failure = Unsupported("not here")
    with pytest.raises(Unsupported):
        await client.runs.start(RunRequest(kind="up"))


@pytest.mark.parametrize("what", ["images", "flavors", "servers"])
async def test_a_cloud_that_is_away_is_asked_once_and_is_no_trouble_of_the_edge(
    client: Client, scene: Scene, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.domain.failure = CloudUnreachable("the connection was refused")
    with pytest.raises(CloudUnreachable, match="the connection was refused"):
        await getattr(client.clouds, what)("east")
    assert len(scene.domain.sent) == 1
    assert "[warning" not in capsys.readouterr().out


async def test_pages_of_events_are_read_to_the_end(client: Client, scene: Scene) -> None:
    positions = await scene.happen(*("e" for _ in range(5)))
    assert [event.position async for event in client.events()] == positions
    assert [event.position async for event in client.events("shop", after=positions[2])] == positions[3:]


async def test_a_run_is_followed_to_its_end(client: Client, scene: Scene) -> None:
    [accepted] = await scene.happen("run.accepted")
    kinds = []
    async for event in client.runs.follow(RUN, after=accepted - 1):
        kinds.append(event.kind)
        if event.kind == "run.accepted":
            scene.domain.run_state = RunState.SUCCEEDED
            await scene.happen("run.succeeded")
    assert kinds == ["run.accepted", "run.succeeded"]


class Scripted(httpx2.AsyncBaseTransport):
    """Answers with what the script says, one thing a request."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.requests: list[httpx2.Request] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step if isinstance(step, httpx2.Response) else step(request)


def problem(error: Exception) -> httpx2.Response:
    payload = error.payload()  # type: ignore[attr-defined]
    body = msgspec.json.encode(Problem.of(payload))
    return httpx2.Response(payload.status, content=body, headers={"Content-Type": PROBLEM_TYPE})


def answer(value: Any, status: int = 200) -> httpx2.Response:
    return httpx2.Response(status, content=msgspec.json.encode(value), headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    "trouble",
    [
        lambda: problem(Unavailable("not now")),
        lambda: httpx2.ConnectError("refused"),
        lambda: httpx2.ReadError("reset"),
        lambda: httpx2.Response(502, content=b"<html>"),
    ],
)
async def test_what_may_be_repeated_is_sent_again(trouble: Callable[[], Any]) -> None:
    transport = Scripted(trouble(), trouble(), answer(run_view(), 202))
    async with connect(transport) as client:
        assert (await client.runs.start(RunRequest(kind="up"))).id == RUN
    bodies = {request.content for request in transport.requests}
    assert len(transport.requests) == 3
    assert len(bodies) == 1  # the same request id each time


async def test_what_may_not_be_repeated_is_not() -> None:
    transport = Scripted(httpx2.ReadError("reset"))
    async with connect(transport) as client:
        with pytest.raises(DeadlineExceeded, match="lost"):
            await client.definitions.delete("web")
    assert len(transport.requests) == 1


async def test_what_cannot_succeed_is_not_sent_again() -> None:
    transport = Scripted(problem(NotFound("no")))
    async with connect(transport) as client:
        with pytest.raises(NotFound):
            await client.runs.get("x")
    assert len(transport.requests) == 1


async def test_patience_ends() -> None:
    transport = Scripted(*[httpx2.ConnectError("refused") for _ in range(50)])
    async with connect(transport, patience=0.3) as client:
        with pytest.raises(Unavailable, match="nobody answers"):
            await client.health()
    assert 1 < len(transport.requests) < 50


async def test_answers_that_are_none_of_ours() -> None:
    transport = Scripted(
        httpx2.Response(200, content=b"<html>"), answer({"status": "great"}), httpx2.Response(404, content=b"nginx")
    )
    async with connect(transport) as client:
        for _ in range(3):
            with pytest.raises(InternalError):
                await client.health()


class Cut(httpx2.AsyncByteStream):
    """A body that breaks off."""

    def __init__(self, *chunks: bytes, error: Exception | None = None) -> None:
        self._chunks, self._error = chunks, error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        if self._error is not None:
            raise self._error


def stream(*chunks: bytes, error: Exception | None = None) -> httpx2.Response:
    return httpx2.Response(200, stream=Cut(*chunks, error=error), headers={"Content-Type": "text/event-stream"})


def frame(position: int) -> bytes:
    return b'id: %d\nevent: e\ndata: {"position":%d,"at":"","kind":"e"}\n\n' % (position, position)


async def test_following_goes_on_where_the_stream_broke_off() -> None:
    transport = Scripted(
        stream(frame(4)[:20], frame(4)[20:] + frame(5)[:9], error=httpx2.ReadError("reset")),
        httpx2.ConnectError("refused"),
        stream(b": hello\n\n", frame(5), frame(6)),
        problem(Unavailable("starting")),
        stream(frame(6), frame(7), b"event: end\ndata: {}\n\n"),
    )
    async with connect(transport) as client:
        assert [event.position async for event in client.runs.follow(RUN, after=3)] == [4, 5, 6, 7]
    asked = [request.headers["last-event-id"] for request in transport.requests]
    assert asked == ["3", "4", "4", "6", "6"]


async def test_following_what_is_not_there_ends_at_once() -> None:
    transport = Scripted(problem(NotFound("no such run")))
    async with connect(transport) as client:
        with pytest.raises(NotFound):
            await anext(client.runs.follow("x"))


@pytest.mark.parametrize("target", ["", "nonsense", "ftp://x", "unix://", "unix://host/path", "http://"])
def test_addresses_that_are_none(target: str) -> None:
    with pytest.raises(InvalidInput, match="address"):
        connect(target)


async def test_a_token_is_sent_and_not_shown() -> None:
    transport = Scripted(problem(Unavailable("x")))
    async with connect(transport, "plg_secret", patience=0) as client:
        with pytest.raises(Unavailable) as caught:
            await client.health()
        assert transport.requests[0].headers["authorization"] == "Bearer plg_secret"
        assert "plg_secret" not in f"{client!r} {client.snapshot()} {caught.value!r}"


@pytest.mark.parametrize("ref", ["", "shop/web", "/"])
async def test_what_can_be_no_name_is_refused_before_any_request(client: Client, scene: Scene, ref: str) -> None:
    asked = dict(scene.edge.counters)
    calls: list[Callable[[], Any]] = [
        lambda: client.infrastructures.status(ref),
        lambda: client.infrastructures.explain(ref),
        lambda: client.plan(PlanRequest(infrastructure=ref, down=True)),
        lambda: client.runs.start(RunRequest(kind="down", infrastructure=ref)),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match="is not an infrastructure's name or id"):
            await call()
    assert dict(scene.edge.counters) == asked
