"""The gate of TCP: Host, Origin, token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from pelagos.api import new_token, token_row, write_token
from pelagos.api.tokens import digest_of, forget_token, token_owner
from pelagos.clients import InProcessTransport
from pelagos.model.scope import DEFAULT_SCOPE
from support.edge_scene import OTHER, Scene, edge_scene

pytestmark = pytest.mark.anyio


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with edge_scene(tmp_path) as scene:
        yield scene


@pytest.fixture
async def http(scene: Scene) -> AsyncIterator[httpx2.AsyncClient]:
    app = scene.application.guarded(hosts=("127.0.0.1", "localhost", "::1"), origins=("https://console.example",))
    async with httpx2.AsyncClient(transport=InProcessTransport(app), base_url="http://127.0.0.1:8470") as http:
        yield http


async def give_token(scene: Scene, scope: object = DEFAULT_SCOPE, lifetime: float = 60.0) -> dict[str, str]:
    token = new_token()
    now = scene.edge.world.now()
    await scene.store.run(
        lambda c: write_token(c, token, scope, now=now, lifetime=lifetime)  # type: ignore[arg-type]
    )
    return {"Authorization": f"Bearer {token}"}


async def test_a_valid_token_is_admitted_and_brings_its_project(http: httpx2.AsyncClient, scene: Scene) -> None:
    own = await give_token(scene)
    other = await give_token(scene, OTHER)
    assert len((await http.get("/infrastructures", headers=own)).json()["items"]) == 1
    assert (await http.get("/infrastructures", headers=other)).json()["items"] == []
    assert (await http.get("/infrastructures/shop/status", headers=other)).status_code == 404
    assert (await http.get("/runs/x", headers=other)).status_code == 404


@pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic eDp5", "plg_x"])
async def test_without_a_valid_token_nothing_is_told(http: httpx2.AsyncClient, value: str | None) -> None:
    for path in ("/health", "/openapi.json", "/nowhere", "/infrastructures/shop"):
        response = await http.get(path, headers={} if value is None else {"Authorization": value})
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert response.json()["code"] == "unauthenticated"


async def test_an_expired_or_forgotten_token_is_worth_nothing(http: httpx2.AsyncClient, scene: Scene) -> None:
    expired = await give_token(scene, lifetime=-1.0)
    assert (await http.get("/health", headers=expired)).status_code == 401
    forgotten = await give_token(scene)
    assert (await http.get("/health", headers=forgotten)).status_code == 200
    token = forgotten["Authorization"].removeprefix("Bearer ")
    await scene.store.run(lambda c: forget_token(c, token))
    assert (await http.get("/health", headers=forgotten)).status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8470", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:8470", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:8470", 403),
        ("localhost@evil.example", 403),
        ("evil.example/localhost", 403),
        ("[::1", 403),
        ("localhost:x", 403),
        ("", 403),
    ],
)
async def test_the_host_must_be_known(http: httpx2.AsyncClient, scene: Scene, host: str, status: int) -> None:
    headers = {"Host": host, **await give_token(scene)}
    assert (await http.get("/health", headers=headers)).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://127.0.0.1:8470", 200),
        ("https://console.example", 200),
        ("https://evil.example", 403),
        ("http://127.0.0.1:9999", 403),
        ("null", 403),
    ],
)
async def test_foreign_pages_are_refused_even_with_a_token(
    http: httpx2.AsyncClient, scene: Scene, origin: str | None, status: int
) -> None:
    headers = await give_token(scene)
    if origin is not None:
        headers["Origin"] = origin
    assert (await http.post("/plan", json={"infrastructure": "shop"}, headers=headers)).status_code == status


async def test_only_digests_are_stored(scene: Scene) -> None:
    token = new_token()
    await scene.store.run(lambda c: write_token(c, token, OTHER, now=100.0, lifetime=10.0, description="x"))
    row = await scene.store.read(lambda c: token_row(c, token))
    assert row is not None
    assert (row.digest, row.scope, row.expires_at) == (digest_of(token), OTHER, 110.0)
    assert token.encode() not in b"".join(p.read_bytes() for p in Path(scene.store.snapshot()["path"]).parent.iterdir())
    assert await scene.store.read(lambda c: token_owner(c, token, now=109.9)) == OTHER
    assert await scene.store.read(lambda c: token_owner(c, token, now=110.0)) is None


async def test_no_gate_means_no_answer(scene: Scene) -> None:
    async with httpx2.AsyncClient(transport=InProcessTransport(scene.application._router), base_url="http://x") as http:
        with pytest.raises(RuntimeError, match="no gate"):
            await http.get("/health")
