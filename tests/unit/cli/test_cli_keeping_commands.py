"""protect, heal, drift, import, orphans, suspend and resume, and scale's ways to choose: outputs and exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelagos.model.errors import NotFound, Unavailable
from pelagos.model.states import RunState, ServerState
from pelagos.wire.drift import DriftFinding, DriftRule, OrphanList, OrphanView, SilentCloud
from pelagos.wire.infrastructures import AdoptRequest, NodeStatus, ProtectRequest, ScalingStatus
from support.fake_client import (
    DESTROY_PLAN,
    KEEP_PLAN,
    WEB_1,
    WEB_2,
    FakeServer,
    Terminal,
    drift_view,
    event,
    instance,
    run_view,
    shop,
)

CHANGED = DriftFinding(
    kind="changed",
    cloud="east",
    provider_id="i-1",
    server="pelagos-shop-web",
    infrastructure="shop",
    node="web",
    instance_id=WEB_1,
    field="flavor",
    expected="small",
    found="huge",
)
SILENT = (SilentCloud("west", Unavailable("no route").payload()),)
ORPHANS = OrphanList(
    items=tuple(
        OrphanView(
            cloud="east",
            provider_id=name,
            name=f"left-{name}",
            state=ServerState.ACTIVE,
            addresses=("10.0.0.1",),
            flavor="",
            created_at=None,
        )
        for name in ("i-7", "i-8")
    ),
    silent=(),
)


class TestProtect:
    def test_a_node_or_one_instance(self, pelagos: Terminal, server: FakeServer) -> None:
        assert pelagos("protect", "shop", "web").out == "2 instances of web are protected.\n"
        assert pelagos("protect", "shop", "web/cccc", "off").out == "2 instances of web are not protected any more.\n"
        assert [request for _, request in server.protected] == [
            ProtectRequest(node="web"),
            ProtectRequest(node="web", instance="cccc", protected=False),
        ]
        assert pelagos("protect", "shop", "web", "-o", "json").json["changed"] == [WEB_1]
        assert pelagos("protect", "shop", "web", "maybe").code == 64

    def test_status_shows_protection_and_breakers(self, pelagos: Terminal, server: FakeServer) -> None:
        web = NodeStatus(
            scaling=ScalingStatus(min=1, max=2, target=1, actual=1),
            instances={WEB_1: instance(protected=True)},
            breaker="3 failures, the last: it is gone",
        )
        server.status = shop(nodes={})
        server.status.nodes["web"] = web
        out = pelagos("status", "shop").out
        assert "protected" in out
        assert "breaker open" in out and "3 failures" in out
        document = pelagos("status", "shop", "-o", "json").json["nodes"]["web"]
        assert document["instances"][WEB_1]["protected"] is True
        assert document["breaker"].startswith("3 failures")


class TestDrift:
    def test_none_is_0_and_says_so_on_stderr(self, pelagos: Terminal) -> None:
        result = pelagos("drift", "shop")
        assert (result.code, result.out) == (0, "")
        assert result.err == "No drift: 3 servers compared.\n"

    def test_findings_are_4(self, pelagos: Terminal, server: FakeServer) -> None:
        server.drift = drift_view(CHANGED, silent=SILENT, ignored=2)
        result = pelagos("drift", "shop")
        assert result.code == 4
        assert "flavor: small became huge" in result.out
        assert "shop/web" in result.out
        assert "1 finding in 3 servers, 2 findings ignored. Nothing was changed." in result.err
        assert "nothing is known of west: no route" in result.err
        document = pelagos("drift", "shop", "-o", "json").json
        assert document["findings"][0]["field"] == "flavor"

    def test_a_silent_cloud_alone_is_5(self, pelagos: Terminal, server: FakeServer) -> None:
        server.drift = drift_view(silent=SILENT)
        assert pelagos("drift", "--all").code == 5

    def test_rules_come_from_options_and_a_file(self, pelagos: Terminal, server: FakeServer, tmp_path: Path) -> None:
        file = tmp_path / "rules.yaml"
        file.write_text("- {kind: vanished, cloud: 'e*'}\n")
        assert pelagos("drift", "shop", "--ignore", "kind=changed,node=web", "--ignore-file", str(file)).code == 0
        assert server.drifted[0].ignore == (
            DriftRule(kind="changed", node="web"),
            DriftRule(kind="vanished", cloud="e*"),
        )

    @pytest.mark.parametrize(
        ("rules", "place"),
        [
            ("- {kind: [x]}", "1:4"),
            ("- {node: web}\n- {kind: vanish}", "2:4"),
            ("- {node: web}\n- kind: '*'\n  colour: red", "3:3"),
            ("- web", "1:3"),
            ("ignore: {}", "1:1"),
            ("- {kind", "1:8"),
        ],
    )
    def test_wrong_rules_of_a_file_have_places(
        self, pelagos: Terminal, server: FakeServer, tmp_path: Path, rules: str, place: str
    ) -> None:
        file = tmp_path / "rules.yaml"
        file.write_text(rules)
        result = pelagos("drift", "shop", "--ignore-file", str(file))
        assert (result.code, server.drifted) == (65, []), result.err
        assert f"{file}:{place}" in result.err

    @pytest.mark.parametrize("rule", ["vanished", "kind=vanish", "kind=van*", "colour=red"])
    def test_wrong_rules_on_the_command_line(self, pelagos: Terminal, server: FakeServer, rule: str) -> None:
        result = pelagos("drift", "shop", "--ignore", rule)
        assert (result.code, server.drifted) == (64, [])
        assert "kind=changed" in result.err or rule in result.err

    def test_one_or_all_and_never_neither(self, pelagos: Terminal, server: FakeServer) -> None:
        assert pelagos("drift").code == 64
        assert pelagos("drift", "shop", "--all").code == 64
        server.drift = NotFound("there is no infrastructure 'shp'")
        assert pelagos("drift", "shp").code == 66
        assert pelagos("drift", "shop", "--ignore-file", "/no/such/file").code == 66


class TestImport:
    def test_is_a_run_of_its_own_kind(self, pelagos: Terminal, server: FakeServer) -> None:
        server.final = run_view(RunState.SUCCEEDED, kind="adopt")
        server.run_events = (
            event(11, "run.started"),
            event(12, "instance.adopting", "web", WEB_1, cloud="east", server="i-9"),
            event(13, "instance.ready", "web", WEB_1),
            event(14, "run.succeeded"),
        )
        told = pelagos("import", "shop", "web", "east", "i-9")
        assert told.code == 0
        assert "1 instance adopted in" in told.err and "nothing changed" not in told.err
        assert pelagos("orphans", "adopt", "shop", "web", "east", "i-9", "--unprotected").code == 0
        assert [request.adopt for request in server.started] == [
            AdoptRequest(node="web", cloud="east", server="i-9"),
            AdoptRequest(node="web", cloud="east", server="i-9", protected=False),
        ]
        server.final = run_view(RunState.FAILED, kind="adopt", error=Unavailable("no route").payload())
        assert pelagos("import", "shop", "web", "east", "i-9").code == 1


class TestOrphans:
    def test_are_listed(self, pelagos: Terminal, server: FakeServer) -> None:
        assert "There is no orphan." in pelagos("orphans", "list").err
        server.orphans = ORPHANS
        rows = [line.split() for line in pelagos("orphans", "list").out.splitlines()]
        assert [row[:3] for row in rows[1:]] == [["east", "i-7", "left-i-7"], ["east", "i-8", "left-i-8"]]
        server.orphans = OrphanList(items=(), silent=SILENT)
        result = pelagos("orphans", "list", "-o", "json")
        assert (result.code, result.json["silent"][0]["cloud"]) == (5, "west")

    def test_are_deleted_after_a_question(self, pelagos: Terminal, server: FakeServer) -> None:
        server.orphans = ORPHANS
        assert pelagos("orphans", "delete", "east", "i-7").code == 64  # nobody is there to ask
        assert pelagos("orphans", "delete", "east", "i-9", "--yes").code == 66
        assert pelagos("orphans", "delete", "east").code == 64
        assert pelagos("orphans", "delete", "east", "i-7", "--all", "--yes").code == 64
        assert server.removed == []
        result = pelagos("orphans", "delete", "east", "i-7", "--yes")
        assert (result.code, result.out) == (0, "1 server of east is gone.\n")
        assert [one.provider_id for one in server.removed] == ["i-7"]
        assert pelagos("orphans", "delete", "east", "--all", "--yes", "-o", "json").json == {
            "cloud": "east",
            "deleted": ["i-8"],
            "remaining": [],
        }
        server.orphans = OrphanList(items=(), silent=SILENT)
        assert pelagos("orphans", "delete", "west", "--all", "--yes").code == 69


class TestKeeping:
    def test_heal_resets_and_passes_once(self, pelagos: Terminal, server: FakeServer) -> None:
        server.final = run_view(RunState.SUCCEEDED, kind="maintain")
        assert pelagos("heal", "shop").code == 0
        assert pelagos("heal", "shop", "web", "store").code == 0
        assert [(request.kind, request.reset) for request in server.started] == [
            ("maintain", ("*",)),
            ("maintain", ("web", "store")),
        ]

    def test_suspend_and_resume(self, pelagos: Terminal, server: FakeServer) -> None:
        assert "is suspended until pelagos resume shop" in pelagos("suspend", "shop", "--reason", "a move").out
        assert server.suspended == [("shop", "a move")]
        assert "kept alive by the daemon" in pelagos("resume", "shop").out
        server.detached = True
        result = pelagos("resume", "shop")
        assert (result.code, "stays detached: pelagos attach shop" in result.out) == (0, True)
        assert (server.resumed, server.maintained) == (["shop", "shop"], [])

    def test_scale_by_instance_and_by_order(self, pelagos: Terminal, server: FakeServer) -> None:
        server.plan = DESTROY_PLAN
        server.final = run_view(RunState.SUCCEEDED, kind="scale")
        assert pelagos("scale", "shop", "web", "--instance", WEB_2, "--yes").code == 0
        assert pelagos("scale", "shop", "web", "-1", "--first", "oldest", "--yes").code == 0
        first, second = server.started
        assert (first.scale, first.remove, first.choice) == ({}, (WEB_2,), None)
        assert (second.scale, second.remove, second.choice) == ({"web": "-1"}, (), "oldest")
        assert server.planned[0].remove == (WEB_2,)
        server.plan = KEEP_PLAN
        assert pelagos("scale", "shop", "web").code == 64
        assert pelagos("scale", "shop", "web", "3", "--instance", WEB_2).code == 64
        assert pelagos("scale", "shop", "store", "--instance", WEB_2).code == 66
        assert len(server.started) == 2
