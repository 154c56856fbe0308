"""list, status, explain, logs, events, maintain, attach, definitions, doctor, completion, serve's options."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import msgspec
import pytest

from pelagos.model.diagnostics import Diagnostic, Position, Severity
from pelagos.model.errors import NotFound, Unauthenticated, Unavailable
from pelagos.model.states import InfrastructureState, InstanceState, RunState
from pelagos.wire.doctor import DoctorView, Fact
from pelagos.wire.infrastructures import DefinitionView, ExplainStep, ExplainView, LogView, StatusView
from support.fake_client import (
    BUILD_EVENTS,
    SHOP,
    WEB_1,
    WEB_2,
    FakeServer,
    Terminal,
    event,
    instance,
    run_view,
    shop,
    summary,
)


class TestList:
    def test_a_row_an_infrastructure(self, pelagos: Terminal, server: FakeServer) -> None:
        server.known = (summary(), summary("other", state=InfrastructureState.DEGRADED, ready=1, reason="web is gone"))
        result = pelagos("list")
        rows = [line.split() for line in result.out.splitlines()]
        assert rows[1][:7] == ["shop", "ready", "3/3", "2", "yes", "2m", SHOP]
        assert rows[2][-3:] == ["web", "is", "gone"]

    def test_those_of_which_only_the_record_is_left_are_gone(self, pelagos: Terminal, server: FakeServer) -> None:
        server.known = (summary(),)
        server.tombstones = (summary("old", id="old-id", state=InfrastructureState.DESTROYING, ready=0),)
        rows = [line.split() for line in pelagos("list", "--all").out.splitlines()]
        assert [row[:2] for row in rows[1:]] == [["shop", "ready"], ["old", "gone"]]
        states = [one["state"] for one in pelagos("list", "--all", "-o", "json").json]
        assert states == ["ready", "destroying"]

    def test_none_says_what_to_do_and_leaves_stdout_empty(self, pelagos: Terminal) -> None:
        result = pelagos("list")
        assert (result.code, result.out) == (0, "")
        assert "pelagos up" in result.err
        assert pelagos("list", "-o", "json").json == []


class TestStatus:
    def test_json_is_exactly_the_contract(self, pelagos: Terminal) -> None:
        document = pelagos("status", "shop", "-o", "json").json
        assert list(document) == ["name", "id", "state", "observed_at", "nodes"]
        assert msgspec.convert(document, StatusView) == shop()

    def test_is_0_whatever_the_state_is(self, pelagos: Terminal, server: FakeServer) -> None:
        broken = instance(InstanceState.FAILED, reason="exit\x1b[2J code 3", address="")
        server.status = shop(InfrastructureState.FAILED, {"web": {WEB_1: broken}, "db": {}})
        result = pelagos("status", "shop")
        assert result.code == 0
        assert "exit [2J code 3" in result.out
        assert "\x1b" not in result.out
        assert "none of 1" in result.out

    @pytest.mark.parametrize(
        ("reason", "told"),
        [
            ("detached: nobody maintains it", "shop is detached (nobody maintains it): 3 of 3 instances ready"),
            ("suspended: the cloud is moved", "shop is suspended (the cloud is moved): 3 of 3 instances ready"),
            ("suspended", "shop is suspended: 3 of 3 instances ready"),
        ],
    )
    def test_detached_is_not_suspended(self, pelagos: Terminal, server: FakeServer, reason: str, told: str) -> None:
        server.status = msgspec.structs.replace(shop(InfrastructureState.SUSPENDED), reason=reason)
        assert pelagos("status", "shop").out.splitlines()[0] == told
        assert pelagos("status", "shop", "-o", "json").json["reason"] == reason
        server.known = (summary(state=InfrastructureState.SUSPENDED, reason=reason),)
        assert pelagos("list").out.splitlines()[1].split()[1] == reason.partition(":")[0]

    def test_not_found_is_66_with_advice(self, pelagos: Terminal, server: FakeServer) -> None:
        server.status = NotFound("there is no infrastructure 'shp'")
        server.known = (summary(),)
        result = pelagos("status", "shp")
        assert (result.code, result.out) == (66, "")
        assert result.err == "error: there is no infrastructure 'shp'\n  help: Did you mean shop?\n"

    def test_watch_prints_each_change_until_it_is_gone(self, pelagos: Terminal, server: FakeServer) -> None:
        server.later = [shop(InfrastructureState.DEGRADED), NotFound("gone")]
        server.endless = True
        result = pelagos("status", "shop", "--watch", "-o", "json")
        assert result.code == 0
        assert "shop is gone." in result.err
        states = [msgspec.json.decode(line)["state"] for line in result.out.splitlines()]
        assert states == ["ready", "degraded"]


class TestExplain:
    VIEW = ExplainView(
        name="shop",
        id=SHOP,
        state=InfrastructureState.BUILDING,
        summary="building; 2 of 3 nodes lack ready instances: web, lb",
        steps=(
            ExplainStep(depth=0, subject="node lb", state="waiting", why="waits for web"),
            ExplainStep(
                depth=1,
                subject="instance web/aaaaaaaa",
                state="pending",
                last_answer="429 too many requests",
                next_try="2023-11-14T22:13:24.000Z",
            ),
        ),
    )

    def test_the_chain_is_indented(self, pelagos: Terminal, server: FakeServer) -> None:
        server.explained = self.VIEW
        assert pelagos("explain", "shop/lb").out.splitlines() == [
            "shop is building; 2 of 3 nodes lack ready instances: web, lb",
            "  node lb is waiting: waits for web",
            "    instance web/aaaaaaaa is pending",
            "      last answer: 429 too many requests",
            "      next try: in 4.0 s",
        ]
        assert pelagos("explain", "shop", "-o", "json").json["steps"][1]["depth"] == 1

    def test_not_found(self, pelagos: Terminal) -> None:
        assert pelagos("explain", "shop").code == 66


class TestLogs:
    def test_each_line_is_behind_its_instance(self, pelagos: Terminal, server: FakeServer) -> None:
        server.consoles = (
            LogView(node="web", instance_id=WEB_1, text="one\n  two\n"),
            LogView(node="store", instance_id=WEB_2, error="this cloud has no console"),
        )
        result = pelagos("logs", "shop")
        assert result.out == "web/aaaaaaaa   | one\nweb/aaaaaaaa   |   two\n"
        assert result.err == "store/bbbbbbbb: this cloud has no console\n"
        assert result.code == 0

    def test_no_console_at_all_is_a_failure(self, pelagos: Terminal, server: FakeServer) -> None:
        server.consoles = (LogView(node="store", instance_id=WEB_2, error="away"),)
        assert pelagos("logs", "shop").code == 1


class TestEvents:
    def test_a_line_an_event(self, pelagos: Terminal, server: FakeServer) -> None:
        server.history = (*BUILD_EVENTS, event(20, "server.building"), event(21, "moon.phase", phase="full"))
        lines = pelagos("events", "shop").out.splitlines()
        assert "waits for store" in lines[1]
        assert "web/aaaaaaaa" in lines[4]
        assert "moon.phase phase=full" in lines[-1]
        more = pelagos("events", "shop", "--all").out.splitlines()
        assert [line for line in more if line not in lines] == [more[-2]] and "builds the server" in more[-2]

    def test_json_lines_carry_the_position(self, pelagos: Terminal) -> None:
        result = pelagos("events", "shop", "--after", "17", "-o", "json")
        assert [msgspec.json.decode(line)["position"] for line in result.out.splitlines()] == [18, 19]

    def test_yaml_is_a_stream_of_documents(self, pelagos: Terminal) -> None:
        from ruamel.yaml import YAML

        out = pelagos("events", "shop", "-o", "yaml").out
        assert [one["position"] for one in YAML(typ="safe").load_all(out)] == [one.position for one in BUILD_EVENTS]


class TestMaintain:
    HEAL = (
        event(11, "run.started"),
        event(12, "instance.failed", "web", WEB_1, reason="no answer"),
        event(13, "instance.destroyed", "web", WEB_1),
        event(14, "instance.building", "web", "dddddddd-1"),
        event(15, "instance.ready", "web", "dddddddd-1"),
        event(16, "run.succeeded"),
    )

    def test_once_says_what_it_did(self, pelagos: Terminal, server: FakeServer) -> None:
        server.run_events = self.HEAL
        result = pelagos("maintain", "shop", "--once")
        assert result.code == 0
        assert result.out == "shop is ready: 3 of 3 instances ready; made 1 instance and destroyed 1 instance\n"
        assert server.started[0].kind == "maintain"
        assert pelagos("maintain", "shop", "--once", "-o", "json").json["did"] == [
            "made 1 instance",
            "destroyed 1 instance",
        ]

    def test_once_is_3_when_something_is_not_ready_yet(self, pelagos: Terminal, server: FakeServer) -> None:
        server.run_events = ()
        server.status = shop(InfrastructureState.DEGRADED)
        server.explained = ExplainView(
            name="shop",
            id=SHOP,
            state=InfrastructureState.DEGRADED,
            summary="degraded",
            steps=(
                ExplainStep(depth=0, subject="node web", state="1 of 2 ready"),
                ExplainStep(depth=1, subject="instance web/aaaaaaaa", state="temp_failed", why="no answer"),
                ExplainStep(
                    depth=0,
                    subject="node store",
                    state="0 of 1 ready",
                    why="backs off after 3 failures in a row",
                    next_try="2023-11-14T22:13:24.000Z",
                ),
            ),
        )
        result = pelagos("maintain", "shop", "--once")
        assert result.code == 3
        assert "nothing was to do" not in result.out
        assert "web/aaaaaaaa is not healthy and is replaced if it stays so" in result.out
        assert re.search(r"node store backs off until \d\d:\d\d:24", result.out)
        waiting = pelagos("maintain", "shop", "--once", "-o", "json").json["waits"]
        assert waiting[0] == "web/aaaaaaaa is not healthy and is replaced if it stays so"

    def test_once_is_1_when_the_pass_failed(self, pelagos: Terminal, server: FakeServer) -> None:
        server.final = run_view(RunState.FAILED, error=Unavailable("the cloud is away").payload())
        result = pelagos("maintain", "shop", "--once")
        assert result.code == 1
        assert "the cloud is away" in result.err

    def test_goes_on_until_interrupted(self, pelagos: Terminal, server: FakeServer) -> None:
        server.passes = [(), (), (signal.SIGINT,)]
        server.finals = [run_view(RunState.SUCCEEDED), run_view(RunState.SUCCEEDED), run_view(RunState.CANCELLED)]
        result = pelagos("maintain", "shop", "--interval", "0.1")
        assert result.code == 130
        assert len(server.started) == 3
        assert len({request.request_id for request in server.started}) == 3
        assert server.cancelled == [("run-1", False)]

    def test_all_takes_those_that_are_to_be_kept_alive(self, pelagos: Terminal, server: FakeServer) -> None:
        server.known = (summary(), summary("other", id="other-id", maintained=False))
        assert pelagos("maintain", "--all", "--once").code == 0
        assert [request.infrastructure for request in server.started] == [SHOP]

    @pytest.mark.parametrize("arguments", [(), ("shop", "--all"), ("shop", "--interval", "0")])
    def test_usage(self, pelagos: Terminal, arguments: tuple[str, ...]) -> None:
        assert pelagos("maintain", *arguments).code == 64


def test_attach_and_detach(pelagos: Terminal, server: FakeServer) -> None:
    assert pelagos("attach", "shop").out == "shop is kept alive by the daemon from now on.\n"
    assert pelagos("detach", "shop", "-o", "json").json["maintained"] is False
    assert server.maintained == [("shop", True), ("shop", False)]


class TestDefinitions:
    VIEW = DefinitionView(
        type="web", file="nodes.yaml", implementations=2, clouds=("local", "ec2"), updated_at="2023-11-14T22:11:20Z"
    )

    def test_list(self, pelagos: Terminal, server: FakeServer) -> None:
        assert pelagos("definitions", "list").out == ""
        server.definitions = (self.VIEW,)
        rows = pelagos("definitions", "list").out.splitlines()
        assert rows[1].split() == ["web", "2", "local,", "ec2", "nodes.yaml", "2m"]

    def test_import(self, pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
        server.definitions = (self.VIEW,)
        assert pelagos("definitions", "import", files[1], "-o", "json").json[0]["type"] == "web"
        assert server.imported[0].entries == (files[1],)

    def test_what_is_odd_in_an_import_is_told_with_its_place(
        self, pelagos: Terminal, server: FakeServer, files: list[str]
    ) -> None:
        odd = Diagnostic("no account is called 'eats'", Position("nodes.yaml", 5, 7), Severity.WARNING, "there is east")
        server.definitions, server.warnings = (self.VIEW,), (odd,)
        result = pelagos("definitions", "import", files[1])
        assert result.code == 0 and "web" in result.out
        for text in ("warning: no account is called 'eats'", "nodes.yaml:5:7", "there is east"):
            assert text in result.err

    def test_delete(self, pelagos: Terminal, server: FakeServer) -> None:
        assert pelagos("definitions", "delete", "web").code == 0
        assert server.deleted == ["web"]


class TestDoctor:
    def test_degraded_is_0_and_missing_is_1(self, pelagos: Terminal, server: FakeServer) -> None:
        good = Fact(name="store", state="ok", fact="SQLite 3.40")
        poor = Fact(name="network", state="degraded", fact="the host's", advice="Install iproute2.")
        lost = Fact(name="isolation", state="missing", fact="no namespaces", advice="Run as root.")
        server.facts = DoctorView(version="1.0", facts=(good, poor))
        result = pelagos("doctor")
        assert result.code == 0
        assert "Install iproute2." in result.out
        server.facts = DoctorView(version="1.0", facts=(good, lost))
        assert pelagos("doctor").code == 1
        assert pelagos("doctor", "-o", "json").json["facts"][1]["state"] == "missing"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(pelagos: Terminal, shell: str) -> None:
    result = pelagos("completion", shell)
    assert result.code == 0
    assert "_PELAGOS_COMPLETE" in result.out


def test_completion_of_an_unknown_shell_is_a_usage_error(pelagos: Terminal) -> None:
    assert pelagos("completion", "tcsh").code == 64


@pytest.mark.parametrize("listen", ["8700", "localhost:", ":8700", "localhost:http", "localhost:99999"])
def test_serve_refuses_what_is_no_address(pelagos: Terminal, listen: str) -> None:
    assert pelagos("serve", "--listen", listen).code == 64


def test_no_token_is_77(pelagos: Terminal, server: FakeServer) -> None:
    server.status = Unauthenticated("no token")
    result = pelagos("status", "shop")
    assert result.code == 77
    assert "PELAGOS_TOKEN" in result.err


def test_the_home_flag_does_not_need_the_home(pelagos: Terminal, tmp_path: Path) -> None:
    assert pelagos("--home", str(tmp_path / "nowhere"), "list").code == 0
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("interval", ["nan", "inf", "-inf", "0", "soon"])
def test_maintain_refuses_an_interval_that_is_none(pelagos: Terminal, interval: str) -> None:
    assert pelagos("maintain", "shop", "--interval", interval).code == 64
