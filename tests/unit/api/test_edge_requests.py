"""Requests through the trusted face: bodies, codes, problems, headers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from pelagos.clients import InProcessTransport
from pelagos.model.diagnostics import Diagnostic, Position
from pelagos.model.errors import DescriptionError, LeaseHeld, Unavailable
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.services.infrastructure.messages import CancelRun, RefreshLive, SetMaintained
from pelagos.wire.infrastructures import RunRequest
from support.edge_scene import INFRA, INSTANCE, RUN, Scene, edge_scene

pytestmark = pytest.mark.anyio


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with edge_scene(tmp_path, body_bytes=2048) as scene:
        yield scene


@pytest.fixture
async def http(scene: Scene) -> AsyncIterator[httpx2.AsyncClient]:
    transport = InProcessTransport(scene.application.trusted)
    async with httpx2.AsyncClient(transport=transport, base_url="http://pelagos") as http:
        yield http


def assert_problem(response: httpx2.Response, status: int, code: str) -> dict[str, object]:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["title"]
    return body


async def test_raw_yaml_starts_a_run_of_a_new_infrastructure(http: httpx2.AsyncClient, scene: Scene) -> None:
    text = "infra_name: shop\n"
    response = await http.post("/infrastructures/", content=text, headers={"Content-Type": "text/plain"})
    assert response.status_code == 202
    assert response.json() == {"infraid": INFRA, "run": RUN}
    [(request, context)] = scene.domain.sent
    assert request == RunRequest(
        kind="up", sources={"infrastructure.yaml": text}, entries=("infrastructure.yaml",), new=True
    )
    assert context.scope == DEFAULT_SCOPE
    assert context.deadline is not None


async def test_a_bundle_starts_a_run(http: httpx2.AsyncClient, scene: Scene) -> None:
    bundle = {"sources": {"a.yaml": "x", "b.yaml": "y"}, "entries": ["a.yaml", "b.yaml"]}
    response = await http.put("/infrastructures/shop", json=bundle)
    assert response.status_code == 202
    request = scene.domain.sent[0][0]
    assert (request.infrastructure, request.entries, request.new) == ("shop", ("a.yaml", "b.yaml"), False)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"sources": {}, "entries": []}, 422),
        ({"sources": {}, "entries": ["x"]}, 422),
        ({"sources": {"a": 1}, "entries": ["a"]}, 422),
        ({"sources": {"a": ""}, "entries": ["a"], "more": 1}, 422),
    ],
)
async def test_wrong_bundles_are_refused(http: httpx2.AsyncClient, body: object, status: int) -> None:
    assert_problem(await http.post("/infrastructures/", json=body), status, "invalid_input")


async def test_bodies_that_are_no_descriptions(http: httpx2.AsyncClient, scene: Scene) -> None:
    assert_problem(await http.post("/infrastructures/"), 400, "invalid_input")
    assert_problem(await http.post("/infrastructures/", content=b"\xff\xfe\x00"), 400, "invalid_input")
    json_type = {"Content-Type": "application/json"}
    assert_problem(await http.post("/runs", content=b"{", headers=json_type), 400, "invalid_input")
    assert_problem(await http.post("/runs", content=b"a: b", headers={"Content-Type": "text/x"}), 415, "invalid_input")
    assert_problem(await http.post("/runs", content=b"[" * 1500, headers=json_type), 422, "invalid_input")
    assert scene.domain.sent == []


async def test_both_spellings_of_the_list(http: httpx2.AsyncClient) -> None:
    for path in ("/infrastructures", "/infrastructures/"):
        body = (await http.get(path)).json()
        assert body["infrastructures"] == body["infrastuctures"] == [INFRA]
        assert body["items"][0]["name"] == "shop"


async def test_the_ancestors_view_of_an_infrastructure(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/infrastructures/shop")).json() == {
        "web": {
            "instances": {INSTANCE: {"resource_address": "127.1.2.3", "state": "ready"}},
            "scaling": {"min": 1, "max": 3, "target": 1, "actual": 1},
        }
    }
    nodes = {"web": {INSTANCE: 0.25, "y": 0.5}, "nodes": {"z": 1.0}}
    assert (await http.get("/infrastructures/shop/cost")).json() == {
        "totalcost": 1.75,
        "web": nodes["web"],
        "currency": "EUR",
        "nodes": nodes,
    }


@pytest.mark.parametrize(
    ("path", "change", "answer"),
    [
        ("scaleup/web", "+1", {"method": "scaleup", "nodename": "web", "count": 1}),
        ("scaleup/web/3", "+3", {"method": "scaleup", "nodename": "web", "count": 3}),
        ("scaledown/web", "-1", {"method": "scaledown", "nodename": "web", "nodeid": None}),
        ("scaleto/web/0", "0", {"method": "scaleto", "nodename": "web", "count": 0}),
    ],
)
async def test_scaling_starts_runs(
    http: httpx2.AsyncClient, scene: Scene, path: str, change: str, answer: dict[str, object]
) -> None:
    response = await http.post(f"/infrastructures/shop/{path}")
    assert response.status_code == 202
    assert response.json() == {"infraid": INFRA, "run": RUN, **answer}
    request = scene.domain.sent[0][0]
    assert (request.kind, request.scale) == ("scale", {"web": change})


@pytest.mark.parametrize("count", ["0", "-1", "x", "1.5", "99999999999", "%C2%B2"])
async def test_counts_that_are_none(http: httpx2.AsyncClient, scene: Scene, count: str) -> None:
    assert_problem(await http.post(f"/infrastructures/shop/scaleup/web/{count}"), 422, "invalid_input")
    assert scene.domain.sent == []


async def test_sinks_are_told_of_an_infrastructure(http: httpx2.AsyncClient, scene: Scene) -> None:
    answer = await http.post("/infrastructures/shop/notify", json={"sinks": ["ops"]})
    assert (answer.status_code, answer.json()) == (200, {"infraid": INFRA, "sinks": ["ops"]})
    assert scene.domain.routes == {INFRA: ("ops",)}
    assert_problem(await http.post("/infrastructures/shop/notify", json={"sinks": ["none"]}), 404, "not_found")
    old = {"type": "fcm", "fcm": {"api_key": "k", "reg_id": "r"}}
    body = assert_problem(await http.post("/infrastructures/shop/notify", json=old), 422, "invalid_input")
    assert "webhook" in str(body["advice"])
    assert_problem(await http.post("/infrastructures/none/notify", json={"sinks": ["ops"]}), 404, "not_found")


async def test_the_instance_that_goes_can_be_named(http: httpx2.AsyncClient, scene: Scene) -> None:
    for name in (INSTANCE, "127.1.2.3"):
        response = await http.post(f"/infrastructures/shop/scaledown/web/{name}")
        assert response.status_code == 202
        assert response.json()["nodeid"] == name
        request = scene.domain.sent.pop()[0]
        assert (request.kind, request.scale, request.remove) == ("scale", {}, (name,))
    assert_problem(await http.post("/infrastructures/shop/scaledown/web/127.9.9.9"), 404, "not_found")
    assert_problem(await http.post(f"/infrastructures/shop/scaledown/db/{INSTANCE}"), 404, "not_found")


async def test_info_answers_harmless_keys_only(http: httpx2.AsyncClient) -> None:
    answers = {
        "infrastructure.name": "shop",
        "infrastructure.state": {"web": {INSTANCE: {"state": "ready", "resource_address": "127.1.2.3"}}},
    }
    for key, result in answers.items():
        assert (await http.get(f"/info/{key}", params={"infra_id": "shop"})).json() == {"result": result}
    found = (await http.get("/info/node.find", params={"infra_id": "shop", "name": "web"})).json()["result"]
    assert [node["node_id"] for node in found] == [INSTANCE]
    found = (await http.get("/info/node.find", params={"infra_id": "shop", "name": "db"})).json()["result"]
    assert found == []
    for key in ("backends.auth_data", "infrastructure.static_description", "node.definition.all"):
        assert_problem(await http.get(f"/info/{key}", params={"infra_id": "shop"}), 404, "not_found")


async def test_unknown_things_are_not_found(http: httpx2.AsyncClient) -> None:
    for path in (
        "/infrastructures/nothing",
        "/infrastructures/nothing/status",
        "/infrastructures/nothing/events",
        "/infrastructures/shop/explain?node=none",
        "/runs/nothing",
        "/runs/nothing/events",
        "/definitions/nothing",
        "/servers/nothing",
        "/nowhere",
        "/",
    ):
        body = assert_problem(await http.get(path), 404, "not_found")
        assert body["instance"] == path.split("?")[0]
    assert_problem(await http.delete("/infrastructures/nothing"), 404, "not_found")


async def test_a_wrong_method_says_which_are_right(http: httpx2.AsyncClient) -> None:
    response = await http.patch("/infrastructures/shop")
    assert_problem(response, 405, "invalid_input")
    assert response.headers["allow"] == "DELETE, GET, HEAD, PUT"


async def test_query_parameters_are_checked(http: httpx2.AsyncClient) -> None:
    for query in ("after=x", "after=-1", "limit=0", "aftr=1", "after=1&after=2", f"after={2**63}"):
        assert_problem(await http.get(f"/events?{query}"), 422, "invalid_input")
    assert_problem(await http.get("/events?after=%00"), 422, "invalid_input")
    assert_problem(await http.get("/infrastructures/a%00b/status"), 422, "invalid_input")


async def test_a_body_that_is_too_large_is_refused_declared_or_not(http: httpx2.AsyncClient, scene: Scene) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"#" * 100

    assert_problem(await http.post("/infrastructures/", content=b"#" * 4000), 413, "invalid_input")
    assert_problem(await http.post("/infrastructures/", content=chunks()), 413, "invalid_input")
    assert scene.domain.sent == []


async def test_a_defect_shows_a_trace_and_nothing_else(
    http: httpx2.AsyncClient, scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.domain.failure = ZeroDivisionError("secret inside")
    response = await http.post("/plan", json={"infrastructure": "shop"}, headers={"X-Request-Id": "trace-17"})
    body = assert_problem(response, 500, "internal_error")
    assert body["details"] == {"trace": "trace-17"}
    assert "secret inside" not in response.text
    assert "secret inside" in capsys.readouterr().err


async def test_errors_of_the_family_keep_what_they_know(http: httpx2.AsyncClient, scene: Scene) -> None:
    diagnostic = Diagnostic("no such type", Position("a.yaml", 3, 5), advice="Write another.", source="  type: x")
    scene.domain.failure = DescriptionError("1 mistake", diagnostics=(diagnostic,))
    body = assert_problem(await http.post("/plan", json={"infrastructure": "shop"}), 422, "description_error")
    assert body["diagnostics"] == [
        {
            "summary": "no such type",
            "position": {"file": "a.yaml", "line": 3, "column": 5},
            "advice": "Write another.",
            "source": "  type: x",
        }
    ]
    scene.domain.failure = LeaseHeld("held", retry_after=2.2, details={"pid": 7})
    response = await http.post("/plan", json={"infrastructure": "shop"})
    assert assert_problem(response, 409, "lease_held")["details"] == {"pid": 7}
    assert response.headers["retry-after"] == "3"
    scene.domain.failure = Unavailable("not now")
    assert (await http.post("/plan", json={"infrastructure": "shop"})).headers["retry-after"] == "1"


async def test_headers_of_request_and_answer(http: httpx2.AsyncClient, scene: Scene) -> None:
    response = await http.post(
        "/plan", json={"infrastructure": "shop"}, headers={"X-Request-Id": "abc.1", "Pelagos-Timeout": "5"}
    )
    assert response.headers["x-request-id"] == "abc.1"
    assert response.headers["pelagos-version"] == "0.1.0"
    context = scene.domain.sent[0][1]
    assert context.trace == "abc.1"
    assert context.deadline is not None
    assert context.deadline <= scene.edge.world.monotonic() + 5
    other = await http.get("/health", headers={"X-Request-Id": "bad id\t!"})
    assert other.headers["x-request-id"] != "bad id\t!"
    for wrong in ("x", "0", "-1", "nan", "inf"):
        assert_problem(await http.get("/health", headers={"Pelagos-Timeout": wrong}), 400, "invalid_input")


async def test_commands_reach_the_service(http: httpx2.AsyncClient, scene: Scene) -> None:
    assert (await http.post(f"/runs/{RUN}/cancel", json={"keep": True})).status_code == 202
    assert (await http.post(f"/runs/{RUN}/cancel")).status_code == 202
    assert (await http.get("/infrastructures/shop/status?live=1")).json()["name"] == "shop"
    for verb, maintained in (("attach", True), ("detach", False), ("detach?repeatable=true", False)):
        answer = (await http.post(f"/infrastructures/shop/{verb}")).json()
        assert (answer["infraid"], answer["id"], answer["maintained"]) == (INFRA, INFRA, maintained)
    assert (await http.get("/infrastructures/shop/logs")).json()["items"][0]["text"] == "hello\n"
    assert (await http.delete("/definitions/web")).status_code == 204
    assert scene.domain.deleted_types == ["web"]
    assert [request for request, _ in scene.domain.sent][:6] == [
        CancelRun(run_id=RUN, keep=True),
        CancelRun(run_id=RUN),
        RefreshLive(infrastructure="shop"),
        SetMaintained(infrastructure="shop", maintained=True),
        SetMaintained(infrastructure="shop", maintained=False, strict=True),
        SetMaintained(infrastructure="shop", maintained=False),
    ]


async def test_head_has_no_body(http: httpx2.AsyncClient) -> None:
    response = await http.head("/health")
    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["content-length"]) > 0


async def test_the_document_lists_every_path(http: httpx2.AsyncClient) -> None:
    document = json.loads((await http.get("/openapi.json")).content)
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]["/infrastructures/{infrastructure}"]) == {"get", "put", "delete"}
    assert document["paths"]["/runs"]["post"]["responses"]["202"]
    ids = [op["operationId"] for methods in document["paths"].values() for op in methods.values()]
    assert len(ids) == len(set(ids))


async def test_a_plan_or_run_of_nothing_says_what_to_name(http: httpx2.AsyncClient, scene: Scene) -> None:
    assert "nothing is to be planned" in str(assert_problem(await http.post("/plan", json={}), 422, "invalid_input"))
    assert_problem(await http.post("/plan", json={"down": True}), 422, "invalid_input")
    assert scene.domain.sent == []
