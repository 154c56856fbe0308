"""up, plan, scale, down: what goes to which stream, what is asked, which exit code."""

from __future__ import annotations

import asyncio
import signal

import msgspec
import pytest

from pelagos.cli import runs
from pelagos.cli.progress import LogProgress
from pelagos.model.diagnostics import Diagnostic, Position
from pelagos.model.errors import DescriptionError, LeaseHeld, NotFound, Unavailable
from pelagos.model.states import InfrastructureState, InstanceState, RunState
from pelagos.wire.infrastructures import PlanAction, StatusView
from support.fake_client import (
    BUILD_EVENTS,
    BUILD_PLAN,
    CREATED,
    DESTROY_PLAN,
    DOWN_PLAN,
    KEEP_PLAN,
    SHOP,
    STORE_1,
    WEB_1,
    WEB_2,
    FakeServer,
    Terminal,
    event,
    instance,
    plan_view,
    run_view,
    shop,
    summary,
)


class TestUp:
    def test_shows_plan_and_progress_on_stderr_and_the_result_on_stdout(
        self, pelagos: Terminal, files: list[str]
    ) -> None:
        result = pelagos("up", *files)
        assert result.code == 0
        assert "shop: a new infrastructure, 3 to create" in result.err
        assert "Critical path: store -> web (about 12 s)" in result.err
        assert "web/aaaaaaaa" in result.err
        assert "ready after 3.0 s at 127.83.0.2" in result.err
        assert "3 instances made" in result.err
        lines = result.out.splitlines()
        assert lines[0] == "shop is ready: 3 of 3 instances ready"
        assert lines[1].split() == ["NODE", "INSTANCE", "STATE", "ADDRESS", "CLOUD", "AGE"]
        assert lines[2].split() == ["store", "cccccccc", "ready", "127.83.0.2", "local", "2m"]
        assert lines[-1] == SHOP

    def test_the_addresses_are_those_of_nodes_nobody_waited_for(self, pelagos: Terminal, files: list[str]) -> None:
        tried = [line for line in pelagos("up", *files).out.splitlines() if line.startswith("Try: ")]
        assert tried == ["Try: http://127.83.0.2:8080/", "Try: http://127.83.0.3:8080/"]

    def test_sends_the_bundle_with_a_request_id(self, pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
        pelagos("up", *files, "--strategy", "sequential", "--keep")
        (request,) = server.started
        assert request.kind == "up"
        assert request.request_id
        assert request.entries == tuple(files)
        assert request.sources[files[0]] == "infra_name: shop\n"
        assert (request.strategy, request.keep) == ("sequential", True)

    def test_json_is_one_document_with_the_status_contract_inside(self, pelagos: Terminal, files: list[str]) -> None:
        document = pelagos("up", *files, "-o", "json").json
        assert list(document) == ["id", "name", "state", "run", "status"]
        assert (document["id"], document["name"], document["state"]) == (SHOP, "shop", "ready")
        assert document["run"]["state"] == "succeeded"
        assert msgspec.convert(document["status"], StatusView) == shop()

    def test_yaml_holds_the_same(self, pelagos: Terminal, files: list[str]) -> None:
        from ruamel.yaml import YAML

        document = YAML(typ="safe").load(pelagos("up", *files, "-o", "yaml").out)
        assert document == pelagos("up", *files, "-o", "json").json

    def test_again_says_that_nothing_is_to_do(self, pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
        server.plan = KEEP_PLAN
        result = pelagos("up", *files)
        assert result.code == 0
        assert "shop: nothing to do" in result.err
        assert "Try: http://127.83.0.2:8080/" in result.out
        assert result.out.splitlines()[-1] == SHOP
        assert server.started == []
        assert pelagos("up", *files, "-o", "json").json["run"] is None

    def test_what_is_not_ready_is_run_even_without_changes(
        self, pelagos: Terminal, server: FakeServer, files: list[str]
    ) -> None:
        server.plan = msgspec.structs.replace(KEEP_PLAN, state=InfrastructureState.DEGRADED)
        assert pelagos("up", *files).code == 0
        assert len(server.started) == 1

    def test_asks_before_it_destroys(self, pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
        server.plan = DESTROY_PLAN
        pelagos.answer = "no"
        result = pelagos("up", *files)
        assert result.code == 1
        assert "- web  destroy 1  (bbbbbbbb; no longer described)" in result.err
        assert pelagos.questions == ["Destroy 1 instance of shop?"]
        assert server.started == []
        pelagos.answer = "y"
        assert pelagos("up", *files).code == 0
        assert len(server.started) == 1

    def test_with_nobody_to_ask_it_is_a_usage_error_that_names_yes(
        self, pelagos: Terminal, server: FakeServer, files: list[str]
    ) -> None:
        server.plan = DESTROY_PLAN
        result = pelagos("up", *files)
        assert result.code == 64
        assert "--yes" in result.err
        assert server.started == []
        assert pelagos("up", *files, "--yes").code == 0

    def test_a_failed_run_is_1_and_tells_why(self, pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
        error = Unavailable("the cloud is away", advice="Wait.").payload()
        server.final = run_view(RunState.FAILED, error=error)
        server.run_events = (
            *BUILD_EVENTS[:5],
            event(30, "instance.failed", "web", WEB_1, reason="no health"),
            event(31, "run.failed"),
        )
        result = pelagos("up", *files, "-o", "json")
        assert result.code == 1
        assert "error: the cloud is away" in result.err
        assert "help: Wait." in result.err
        assert "web/aaaaaaaa: failed: no health" in result.err
        assert result.json["run"]["error"]["code"] == "unavailable"

    def test_rolled_back_to_nothing_leaves_no_status(
        self, pelagos: Terminal, server: FakeServer, files: list[str]
    ) -> None:
        server.final = run_view(RunState.FAILED)
        server.status = NotFound("there is no such infrastructure")
        result = pelagos("up", *files, "-o", "json")
        assert result.code == 1
        assert result.json["status"] is None
        assert result.json["id"] == SHOP

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_first_signal_cancels_and_the_roll_back_is_followed(
        self, pelagos: Terminal, server: FakeServer, files: list[str], number: signal.Signals
    ) -> None:
        server.run_events = (*BUILD_EVENTS[:3], number)
        server.after_cancel = (
            event(40, "run.rolling_back"),
            event(41, "instance.destroyed", "store", STORE_1),
            event(42, "run.cancelled"),
        )
        server.final = run_view(RunState.CANCELLED)
        server.status = NotFound("gone")
        before = signal.getsignal(signal.SIGINT)
        result = pelagos("up", *files)
        assert result.code == 130
        assert server.cancelled == [("run-1", False)]
        assert "Cancelling. Ctrl+C again leaves at once." in result.err
        assert "what it made is rolled back; what was there before is untouched" in result.err
        assert "rolling back what this run made" in result.err
        assert result.err.index("Cancelling") < result.err.index("destroyed")
        assert signal.getsignal(signal.SIGINT) is before

    def test_with_keep_the_cancelled_run_keeps(self, pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
        server.run_events = (*BUILD_EVENTS[:3], signal.SIGINT)
        server.final = run_view(RunState.CANCELLED, keep=True, started_at=CREATED)
        result = pelagos("up", *files, "--keep")
        assert result.code == 130
        assert server.cancelled == [("run-1", True)]
        assert "what it made stays" in result.err

    def test_a_run_past_the_point_of_return_says_that_what_it_had_done_stays(
        self, pelagos: Terminal, server: FakeServer, files: list[str]
    ) -> None:
        server.run_events = (*BUILD_EVENTS[:3], signal.SIGINT)
        server.after_cancel = (event(42, "run.cancelled"),)
        server.final = run_view(RunState.CANCELLED, started_at=CREATED)
        result = pelagos("up", *files)
        assert "what it had done stays; run up again to go on" in result.err
        assert "roll" not in result.err

    def test_a_run_behind_another_says_what_it_waits_for(
        self, pelagos: Terminal, server: FakeServer, files: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runs, "_QUIET", 0.0)
        server.known_runs = (
            server.run,
            run_view(RunState.RUNNING, id="run-0", kind="scale", started_at=CREATED),
            run_view(RunState.SUCCEEDED, id="run--1", started_at=CREATED),
        )
        told = asyncio.Event()
        server.run_events = (told, *BUILD_EVENTS)
        message = LogProgress.message

        def saying(progress: LogProgress, text: str) -> None:
            message(progress, text)
            told.set()

        monkeypatch.setattr(LogProgress, "message", saying)
        result = pelagos("up", *files)
        assert result.code == 0
        assert "waits for the run before it (scale, started 2m ago)" in result.err

    def test_cancelled_by_another_command_is_a_failure(
        self, pelagos: Terminal, server: FakeServer, files: list[str]
    ) -> None:
        server.final = run_view(RunState.CANCELLED)
        result = pelagos("up", *files)
        assert result.code == 1
        assert "cancelled by another command" in result.err

    def test_an_interrupt_that_came_too_late_is_no_failure(
        self, pelagos: Terminal, server: FakeServer, files: list[str]
    ) -> None:
        server.run_events = (*BUILD_EVENTS[:-1], signal.SIGINT)
        assert pelagos("up", *files).code == 0

    def test_a_lost_daemon_is_69_and_says_that_the_run_may_go_on(
        self, pelagos: Terminal, server: FakeServer, files: list[str]
    ) -> None:
        server.run_events = (*BUILD_EVENTS[:3], Unavailable("nobody answers"))
        result = pelagos("up", *files)
        assert result.code == 69
        assert "It may go on" in result.err

    def test_detached_at_a_daemon_returns_when_accepted(
        self, pelagos: Terminal, server: FakeServer, files: list[str]
    ) -> None:
        pelagos.embedded = False
        pelagos.home = None
        result = pelagos("up", *files, "--detach")
        assert result.code == 0
        assert result.out == f"{SHOP}\n"
        assert "pelagos events shop --follow" in result.err
        assert pelagos("up", *files, "--detach", "-o", "json").json["run"]["id"] == "run-1"

    def test_mistakes_in_files_are_shown_with_place_line_and_caret(
        self, pelagos: Terminal, server: FakeServer, files: list[str]
    ) -> None:
        diagnostic = Diagnostic(
            "there is no node 'wbe'", Position("shop.yaml", 7, 14), advice="Did you mean 'web'?", source="  - [lb, wbe]"
        )
        server.plan = DescriptionError("a mistake in the description", diagnostics=(diagnostic,))
        result = pelagos("up", *files)
        assert result.code == 65
        assert result.out == ""
        assert "--> shop.yaml:7:14" in result.err
        assert "7 |   - [lb, wbe]" in result.err
        caret = next(line for line in result.err.splitlines() if line.endswith("^"))
        assert caret.index("^") == "7 |   - [lb, wbe]".index("[") + 9
        assert "help: Did you mean 'web'?" in result.err

    @pytest.mark.parametrize(("mistakes", "end"), [(1, []), (3, ["error: 3 mistakes"])])
    def test_a_mistake_is_told_once(
        self, pelagos: Terminal, server: FakeServer, files: list[str], mistakes: int, end: list[str]
    ) -> None:
        found = tuple(
            Diagnostic(f"there is no node 'n{n}'", Position("shop.yaml", n, 1), advice=f"Add n{n}.", source=f"- n{n}")
            for n in range(1, mistakes + 1)
        )
        server.plan = DescriptionError(f"{found[0]} (and more)", advice=found[0].advice, diagnostics=found)
        result = pelagos("up", *files)
        assert result.code == 65
        for n in range(1, mistakes + 1):
            assert result.err.count(f"there is no node 'n{n}'") == 1
            assert result.err.count(f"Add n{n}.") == 1
        assert [line for line in result.err.splitlines() if line.startswith("error: ") and "node" not in line] == end

    def test_a_held_lease_is_75(self, pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
        server.plan = LeaseHeld("process 12 holds it")
        assert pelagos("up", *files).code == 75

    def test_a_file_that_is_not_there_is_told(self, pelagos: Terminal) -> None:
        result = pelagos("up", "/nonexistent/shop.yaml")
        assert result.code == 64
        assert "/nonexistent/shop.yaml" in result.err


class TestPlan:
    def test_changes_are_2_and_the_plan_is_the_result(self, pelagos: Terminal, files: list[str]) -> None:
        result = pelagos("plan", *files)
        assert result.code == 2
        assert "+ store  create 1" in result.out
        assert "about 12 s" in result.out
        assert result.err == ""

    def test_nothing_to_do_is_0(self, pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
        server.plan = KEEP_PLAN
        result = pelagos("plan", *files)
        assert (result.code, result.out) == (0, "shop: nothing to do (3 instances stay)\n")

    def test_json_is_the_plan(self, pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
        server.plan = msgspec.structs.replace(
            BUILD_PLAN, warnings=(Diagnostic("no user_id", Position("shop.yaml", 1)),), estimated_seconds=None
        )
        result = pelagos("plan", *files, "-o", "json")
        assert result.json["critical_path"] == ["store", "web"]
        assert "no user_id" in result.err
        assert "no estimate before a first build" in pelagos("plan", *files).out


class TestScale:
    @pytest.mark.parametrize("number", ["3", "+1", "-1", "0"])
    def test_numbers_and_signs(self, pelagos: Terminal, server: FakeServer, number: str) -> None:
        assert pelagos("scale", "shop", "web", number, "--yes").code == 0
        assert server.planned[0].scale == {"web": number}
        (request,) = server.started
        assert (request.kind, request.scale) == ("scale", {"web": number})

    @pytest.mark.parametrize("number", ["three", "1.5", "--1", "-x", "++1", "", "1 "])
    def test_anything_else_is_a_usage_error(self, pelagos: Terminal, server: FakeServer, number: str) -> None:
        result = pelagos("scale", "shop", "web", number)
        assert result.code == 64
        assert server.planned == []

    def test_asks_where_instances_are_destroyed(self, pelagos: Terminal, server: FakeServer) -> None:
        server.plan = DESTROY_PLAN
        pelagos.answer = "n"
        assert pelagos("scale", "shop", "web", "-1").code == 1
        assert server.started == []

    def test_at_the_number_already_is_nothing_to_do(self, pelagos: Terminal, server: FakeServer) -> None:
        server.plan = KEEP_PLAN
        result = pelagos("scale", "shop", "web", "2")
        assert result.code == 0
        assert "nothing to do" in result.err
        assert server.started == []

    def test_a_number_that_moves_nothing_now_and_is_not_the_wanted_one_is_sent(
        self, pelagos: Terminal, server: FakeServer
    ) -> None:
        server.plan = KEEP_PLAN
        assert pelagos("scale", "shop", "web", "1", "--yes").code == 0
        assert [run.scale for run in server.started] == [{"web": "1"}]

    def test_an_unknown_name_is_told_with_the_ones_alike(self, pelagos: Terminal, server: FakeServer) -> None:
        server.plan = NotFound("there is no infrastructure 'shpo'")
        server.known = (summary("shop"), summary("other"))
        result = pelagos("scale", "shpo", "web", "1")
        assert result.code == 66
        assert "Did you mean shop?" in result.err

    def test_an_unknown_node_is_not_told_as_an_unknown_infrastructure(
        self, pelagos: Terminal, server: FakeServer
    ) -> None:
        server.plan = NotFound("shop has no node 'wbe'", advice="Its nodes are store and web.")
        server.known = (summary("shop"),)
        result = pelagos("scale", "shop", "wbe", "1")
        assert result.code == 66
        assert "Its nodes are store and web." in result.err


class TestDown:
    DOWN_EVENTS = (
        event(11, "run.started"),
        event(12, "instance.destroying", "web", WEB_1),
        event(13, "instance.destroyed", "web", WEB_1),
        event(14, "instance.destroyed", "web", WEB_2),
        event(15, "instance.destroyed", "store", STORE_1),
        event(16, "run.succeeded"),
    )

    def test_shows_what_is_destroyed_asks_and_destroys(self, pelagos: Terminal, server: FakeServer) -> None:
        server.plan = DOWN_PLAN
        server.run_events = self.DOWN_EVENTS
        server.final = run_view(RunState.SUCCEEDED, kind="down")
        pelagos.answer = "yes"
        result = pelagos("down", "shop")
        assert result.code == 0
        assert server.planned[0].down
        assert pelagos.questions == ["Destroy 3 instances of shop?"]
        assert result.out == "shop is gone.\n"
        assert "3 instances destroyed" in result.err
        assert server.started[0].kind == "down"

    def test_what_a_cloud_refuses_to_delete_is_listed(self, pelagos: Terminal, server: FakeServer) -> None:
        server.plan = DOWN_PLAN
        server.run_events = self.DOWN_EVENTS[:-2]
        server.final = run_view(RunState.FAILED, kind="down", error=Unavailable("a cloud refuses").payload())
        stuck = instance(InstanceState.DESTROYING, reason="volume in use")
        server.status = shop(InfrastructureState.FAILED, {"store": {STORE_1: stuck}})
        result = pelagos("down", "shop", "--yes")
        assert result.code == 1
        assert "What remains of shop:" in result.out
        assert "volume in use" in result.out
        (remaining,) = pelagos("down", "shop", "--yes", "-o", "json").json["remaining"]
        assert (remaining["node"], remaining["server_id"], remaining["reason"]) == (
            "store",
            "server-1",
            "volume in use",
        )

    def test_of_what_is_not_there_is_66(self, pelagos: Terminal, server: FakeServer) -> None:
        server.plan = NotFound("there is no infrastructure 'shop'")
        result = pelagos("down", "shop", "--yes")
        assert result.code == 66
        assert "There is none yet" in result.err


def test_a_long_list_of_instances_is_cut_in_the_plan(pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
    names = tuple(f"{number:08d}-x" for number in range(9))
    server.plan = plan_view(PlanAction(action="destroy", node="web", count=9, instances=names), id=SHOP)
    assert "00000004 and 4 more" in pelagos("plan", *files).out
