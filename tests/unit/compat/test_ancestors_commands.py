"""The ancestor's commands against a server that only remembers what it was asked."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from pelagos.cli.invocation import Invocation
from pelagos.cli.session import Session
from pelagos.clients import Client
from pelagos.compat import commands, configuration
from pelagos.model.errors import NotFound
from pelagos.model.states import RunState, ServerState
from pelagos.wire.infrastructures import ServerView
from support.fake_client import (
    BUILD_EVENTS,
    CREATED,
    SHOP,
    STORE_1,
    WEB_1,
    WEB_2,
    FakeClient,
    FakeServer,
    FixedWorld,
    run_view,
    shop,
    summary,
)

ROOT = Path(__file__).parents[3]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server() -> FakeServer:
    server = FakeServer()
    server.status = shop()
    server.run_events = BUILD_EVENTS
    server.final = run_view(RunState.SUCCEEDED, started_at=CREATED, finished_at=CREATED)
    server.servers = tuple(
        ServerView(
            id=f"server-of-{key}",
            name=key,
            cloud="sim",
            provider_id=None,
            state=ServerState.ACTIVE,
            reason="",
            addresses=(f"198.51.100.{number}", f"10.0.0.{number}"),
            infrastructure_id=SHOP,
            instance_id=key,
            created_at=CREATED,
        )
        for number, key in enumerate((STORE_1, WEB_1, WEB_2), 1)
    )
    return server


@pytest.fixture
def run(server: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    def call(program: Callable[..., int], *arguments: str) -> tuple[int, str, str]:
        @asynccontextmanager
        async def opener(invocation: Invocation) -> AsyncIterator[Session]:
            yield Session(cast(Client, FakeClient(server)), embedded=True, home=tmp_path)

        code = program(arguments, Invocation(opener=opener, world=FixedWorld({"HOME": str(tmp_path)})))
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def description(tmp_path: Path) -> str:
    path = tmp_path / "shop.yaml"
    path.write_text("infra_name: shop\n")
    return str(path)


class TestBuild:
    def test_the_report_and_the_id_are_all_there_is_on_stdout(self, run: Run, description: str) -> None:
        code, out, _ = run(commands.build, description)
        assert code == 0
        assert out.splitlines() == [
            "List of nodes/instances/addresses:",
            *("store:", f"  {STORE_1}:", "    198.51.100.1", "    10.0.0.1"),
            *("web:", f"  {WEB_1}:", "    198.51.100.2", "    10.0.0.2"),
            *(f"  {WEB_2}:", "    198.51.100.3", "    10.0.0.3"),
            SHOP,
        ]

    def test_each_build_is_a_new_one_that_nobody_maintains(
        self, run: Run, server: FakeServer, description: str
    ) -> None:
        run(commands.build, "--parallelize", description)
        (request,) = server.started
        assert (request.kind, request.new, request.id, request.infrastructure) == ("up", True, "", "")
        assert (request.strategy, request.maintained, request.sources) == (
            "parallel",
            False,
            {description: "infra_name: shop\n"},
        )

    def test_an_id_that_is_known_is_changed(self, run: Run, server: FakeServer, description: str) -> None:
        run(commands.build, "-i", SHOP, description)
        (request,) = server.started
        assert (request.infrastructure, request.new, request.id) == (SHOP, False, "")
        assert (request.strategy, request.maintained) == ("sequential", None)

    def test_an_id_that_is_not_known_is_given_to_a_new_one(
        self, run: Run, server: FakeServer, description: str
    ) -> None:
        server.status, server.later = NotFound("no"), [shop()]
        assert run(commands.build, "--infra_id", "mine", description)[0] == 0
        (request,) = server.started
        assert (request.infrastructure, request.new, request.id) == ("", True, "mine")

    def test_a_failed_build_says_so(self, run: Run, server: FakeServer, description: str) -> None:
        server.final = run_view(RunState.FAILED, started_at=CREATED, finished_at=CREATED)
        code, out, _ = run(commands.build, description)
        assert (code, out) == (1, "")


class TestMaintain:
    def test_the_list(self, run: Run, server: FakeServer) -> None:
        assert run(commands.maintain, "-l")[:2] == (0, "No active infrastructure!\n")
        server.known = (summary(), summary("other", id="other-id"))
        assert run(commands.maintain, "--list")[1].splitlines() == [
            "List of active infrastructure:",
            SHOP,
            "other-id",
        ]

    def test_the_report_of_some_nodes(self, run: Run) -> None:
        code, out, _ = run(commands.maintain, "-i", SHOP, "-r", "-f", "tor")
        assert code == 0
        assert out.splitlines() == [
            "Report list of nodes/instances/addresses:",
            *("store:", f"  {STORE_1}:", "    198.51.100.1", "    10.0.0.1"),
        ]

    def test_the_report_to_a_file_is_a_line_an_instance(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "report"
        assert run(commands.maintain, "--infraid", SHOP, "--report", "--output", str(path))[:2] == (0, "")
        assert path.read_text() == "198.51.100.1 10.0.0.1\n198.51.100.2 10.0.0.2\n198.51.100.3 10.0.0.3\n"

    def test_one_pass(self, run: Run, server: FakeServer) -> None:
        assert run(commands.maintain, "-i", SHOP)[0] == 0
        (request,) = server.started
        assert (request.kind, request.infrastructure, request.strategy) == ("maintain", SHOP, "sequential")


class TestScale:
    @pytest.mark.parametrize(
        ("arguments", "scale", "remove"),
        [
            (("-c", "2"), {"web": "+2"}, ()),
            (("-c", "-1"), {"web": "-1"}, ()),
            (("-s", "0"), {"web": "0"}, ()),
            (("-f", WEB_2), {}, (WEB_2,)),
            (("--filter", "10.0.0.2"), {}, (WEB_1,)),
        ],
    )
    def test_what_is_asked_for(
        self, run: Run, server: FakeServer, arguments: tuple[str, ...], scale: Any, remove: Any
    ) -> None:
        assert run(commands.scale, "-i", SHOP, "-n", "web", *arguments)[0] == 0
        (request,) = server.started
        assert (request.kind, request.scale, request.remove) == ("scale", scale, remove)

    def test_an_instance_of_another_node_is_not_taken(self, run: Run, server: FakeServer) -> None:
        code, _, err = run(commands.scale, "-i", SHOP, "-n", "web", "-f", STORE_1)
        assert (code, server.started) == (66, [])
        assert STORE_1 in err

    @pytest.mark.parametrize(
        "arguments", [(), ("-c", "1", "-s", "1"), ("-c", "0"), ("-c", "some"), ("-s", "-1"), ("-f", "a", "-s", "2")]
    )
    def test_anything_else_is_no_use(self, run: Run, server: FakeServer, arguments: tuple[str, ...]) -> None:
        assert run(commands.scale, "-i", SHOP, "-n", "web", *arguments)[0] == 64
        assert server.started == []


def test_destroy_takes_down(run: Run, server: FakeServer) -> None:
    assert run(commands.destroy, "-i", SHOP)[0] == 0
    (request,) = server.started
    assert (request.kind, request.infrastructure) == ("down", SHOP)


def test_files_of_the_ancestor_that_are_not_there_are_told(run: Run, server: FakeServer, description: str) -> None:
    assert run(commands.build, "--cfg", "/nonexistent/cfg", description)[0] == 64
    assert run(commands.build, "--auth_data_path", "/nonexistent/auth", description)[0] == 64
    assert server.started == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: [\n", "cfg.yaml:2:1"),
        ("- a\n", "cfg.yaml:1:1"),
        ("components:\n  rest: !exec 5\n", "cfg.yaml:2:9"),
        ("components: !yaml_import {url: 'file://no.yaml'}\n", "cfg.yaml:1:13"),
        (b"\xff\xfe\x00", "cfg.yaml:1:1"),
    ],
)
def test_a_configuration_with_mistakes_ends_as_one_of_pelagos(
    run: Run, server: FakeServer, tmp_path: Path, description: str, text: str | bytes, place: str
) -> None:
    file = tmp_path / "cfg.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    code, out, err = run(commands.build, "--cfg", str(file), description)
    assert (code, out, server.started) == (65, "", [])
    assert place in err


def test_a_configuration_that_cannot_be_read_is_no_use(
    run: Run, server: FakeServer, tmp_path: Path, description: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cfg.yaml"
    file.write_text("components: {}\n")

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(configuration, "read_layer", refused)
    code, _, err = run(commands.build, "--cfg", str(file), description)
    assert (code, server.started) == (64, [])
    assert "Permission denied" in err


def test_a_service_without_an_address_ends_as_a_mistake(run: Run, server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "cfg.yaml"
    file.write_text("components:\n  rest: {port: many}\n")
    code, _, err = run(commands.rest_service, "--cfg", str(file))
    assert code == 65
    assert "components.rest is no address" in err


def test_every_console_script_is_there() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    places = {name: place for name, place in scripts.items() if name.startswith("occopus-")}
    assert sorted(places) == [
        *("occopus-build", "occopus-destroy", "occopus-import", "occopus-maintain"),
        *("occopus-rest-service", "occopus-scale"),
    ]
    for place in places.values():
        module, _, name = place.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
