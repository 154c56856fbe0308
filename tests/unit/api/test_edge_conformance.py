"""No input makes the edge fail, and every answer is what the document says: schemathesis over the whole document."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from pelagos.clients import InProcessTransport
from support.edge_scene import Scene, edge_scene

EXAMPLES = 8


class Served:
    """The edge on a portal's loop, called from this thread."""

    def __init__(self, portal: BlockingPortal, scene: Scene, http: httpx2.AsyncClient) -> None:
        self.portal, self.scene, self.http = portal, scene, http

    def request(self, method: str, url: str, **options: Any) -> httpx2.Response:
        async def send() -> httpx2.Response:
            async with asyncio.timeout(10):
                return await self.http.request(method, url, **options)

        return self.portal.call(send)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory: Path = tmp_path_factory.mktemp("edge")
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(_Serving(directory, portal)) as s,
    ):
        yield s


class _Serving:
    def __init__(self, directory: Path, portal: BlockingPortal) -> None:
        self._stack = AsyncExitStack()
        self._directory, self._portal = directory, portal

    async def __aenter__(self) -> Served:
        scene = await self._stack.enter_async_context(edge_scene(self._directory))
        transport = InProcessTransport(scene.application.trusted)
        client = httpx2.AsyncClient(transport=transport, base_url="http://pelagos")
        return Served(self._portal, scene, await self._stack.enter_async_context(client))

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.aclose()


def _operations(document: dict[str, Any]) -> list[Any]:
    schema = schemathesis.openapi.from_dict(document)
    return [
        result.ok() for result in schema.get_all_operations() if "501" not in result.ok().definition.raw["responses"]
    ]


def test_every_operation_conforms_to_the_document(served: Served) -> None:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    operations = _operations(served.request("GET", "/openapi.json").json())
    assert len(operations) > 30
    refuted = 0
    for operation in operations:
        _check(served, operation, schemathesis.GenerationMode.POSITIVE, checks)
        try:
            _check(served, operation, schemathesis.GenerationMode.NEGATIVE, checks)
        except Unsatisfiable:
            continue  # nothing that this operation takes can be wrong in its type
        refuted += 1
    assert refuted > 10


def _check(served: Served, operation: Any, mode: Any, checks: list[Any]) -> None:
    cases = operation.as_strategy(generation_mode=mode)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def run(case: Any) -> None:
        options = case.as_transport_kwargs(base_url="http://pelagos")
        query = {k: v for k, v in (case.query or {}).items() if k != "follow"}
        headers = {str(k): str(v) for k, v in (options.get("headers") or {}).items()}
        sent: dict[str, Any] = {"headers": headers, "params": query or None}
        if options.get("json") is not None or "json" in options:
            sent["json"] = options.get("json")
        elif options.get("data") is not None:
            data = options["data"]
            sent["content"] = data if isinstance(data, bytes | str) else str(data)
        answer = served.request(options["method"], options["url"], **sent)
        assert answer.status_code < 500, (options, answer.text)
        case.validate_response(answer, checks=checks)

    run()


@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "X"]),
    path=st.lists(
        st.sampled_from(
            ["infrastructures", "shop", "status", "events", "runs", "info", "definitions", "..", "%2F", "ü"]
        )
        | st.text(max_size=8),
        max_size=5,
    ),
    query=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    body=st.binary(max_size=64),
    media=st.sampled_from(["application/json", "text/yaml", "application/x-www-form-urlencoded", "\x80", ""]),
)
def test_no_request_makes_the_edge_fail(
    served: Served, method: str, path: list[str], query: dict[str, str], body: bytes, media: str
) -> None:
    query.pop("follow", None)
    url = "http://pelagos/" + "/".join(quote(part, safe="%") for part in path)
    answer = served.request(method, url, params=query, content=body, headers={"Content-Type": media.encode("latin-1")})
    assert answer.status_code < 500 or answer.json().get("code") == "unsupported", answer.text
    if answer.status_code >= 400 and method != "HEAD":
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
