"""plan, apply, graph: what is shown, what is written, what is asked of the server."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import msgspec
import pytest

from pelagos.model.errors import Conflict
from pelagos.model.states import InfrastructureState, RunState
from pelagos.wire.infrastructures import (
    CostDoubt,
    CostEstimate,
    DescriptionChange,
    GraphNode,
    GraphView,
    PlanAction,
    QuotaNeed,
    SavedPlan,
)
from pelagos.wire.plans import PLAN_VERSION, checksum_of, read_plan, written
from support.fake_client import (
    KEEP_PLAN,
    SHOP,
    WEB_1,
    WEB_2,
    FakeServer,
    Terminal,
    event,
    instance,
    plan_view,
    run_view,
    shop,
)

REPLACE = PlanAction(
    action="replace",
    node="web",
    count=2,
    instances=(WEB_1, WEB_2),
    reason="described anew",
    changes=(
        DescriptionChange(change="changed", path="variables.port", old=80, new=8080),
        DescriptionChange(change="added", path="resource.flavor", new="large"),
        DescriptionChange(change="removed", path="resource.image", old="x" * 100),
    ),
)


def saved(*actions: PlanAction) -> SavedPlan:
    plan = SavedPlan(
        version=PLAN_VERSION,
        name="shop",
        infrastructure=SHOP,
        generation=3,
        position=7,
        made_at="2023-11-14T22:13:20.000Z",
        digest="d" * 64,
        entries=("shop.yaml",),
        sources={"shop.yaml": "infra_name: shop\n"},
        definitions={},
        strategy="parallel",
        map_clouds="",
        only=(),
        without=(),
        replace=(),
        targets={"web": 2},
        actions=actions,
    )
    return msgspec.structs.replace(plan, checksum=checksum_of(plan))


class TestPlan:
    def test_names_keys_quota_and_cost(self, pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
        server.plan = plan_view(
            REPLACE,
            id=SHOP,
            quota=(QuotaNeed(resource="servers", needed=3, left=2, limit=5),),
            cost=(CostEstimate(currency="EUR", before=0.1, after=0.25),),
            unpriced=("far",),
        )
        result = pelagos("plan", *files)
        assert result.code == 2
        assert "variables.port: 80 -> 8080" in result.out
        assert "resource.flavor: now large" in result.out
        assert "resource.image: was " + "x" * 59 + "…" in result.out
        assert "3 more servers needed at most, 2 of 5 left; it will be exceeded" in result.out
        assert "Cost: 0.1 -> 0.25 EUR an hour (no price known of far)" in result.out

    @pytest.mark.parametrize(
        ("cost", "unpriced", "told"),
        [
            ({"before": 0.1, "after": 0.1}, (), ["Cost: 0.1 EUR an hour, as before"]),
            ({"before": 0.1, "after": 0.1}, ("far",), ["Cost: 0.1 EUR an hour, as before (no price known of far)"]),
            ({"before": 0.0, "after": 0.0}, ("far", "web"), []),
            (
                {"before": 0.0, "after": 0.0, "after_least": 0.0, "after_most": 0.05},
                ("far",),
                [
                    "Cost: no price known of far; made elsewhere, up to 0.05 EUR an hour",
                    "      far: local; should that cloud refuse, another",
                ],
            ),
            (
                {"before": 0.1, "after": 0.1, "after_least": 0.1, "after_most": 0.2},
                (),
                [
                    "Cost: 0.1 -> 0.1 EUR an hour, between 0.1 and 0.2",
                    "      far: local; should that cloud refuse, another",
                ],
            ),
        ],
    )
    def test_a_cost_that_stays_or_is_not_known_is_told_in_sense(
        self,
        pelagos: Terminal,
        server: FakeServer,
        files: list[str],
        cost: dict[str, float],
        unpriced: tuple[str, ...],
        told: list[str],
    ) -> None:
        doubts = (CostDoubt(node="far", count=1, why="local; should that cloud refuse, another"),)
        server.plan = plan_view(
            REPLACE,
            id=SHOP,
            cost=(CostEstimate(currency="EUR", **cost),),  # type: ignore[arg-type]
            unpriced=unpriced,
            cost_doubts=doubts if "after_most" in cost else (),
        )
        lines = pelagos("plan", *files).out.splitlines()
        assert [line for line in lines if "EUR" in line or "should that cloud" in line] == told

    def test_tells_a_range_of_costs_and_why(self, pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
        server.plan = plan_view(
            REPLACE,
            id=SHOP,
            cost=(CostEstimate(currency="EUR", before=0.1, after=0.25, after_least=0.2, after_most=0.9),),
            cost_doubts=(CostDoubt(node="web", count=2, why="east; should that cloud refuse, another one"),),
        )
        result = pelagos("plan", *files)
        assert "Cost: 0.1 -> 0.25 EUR an hour, between 0.2 and 0.9\n" in result.out
        assert "      web: east; should that cloud refuse, another one\n" in result.out
        document = pelagos("plan", *files, "-o", "json").json
        assert document["cost"][0]["after_most"] == 0.9 and document["cost_doubts"][0]["node"] == "web"

    def test_tells_which_breakers_are_closed(self, pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
        server.plan = plan_view(REPLACE, id=SHOP, closes=("web", "db"))
        assert "\nCloses the breaker of web and db\n" in pelagos("plan", *files).out
        server.plan = msgspec.structs.replace(KEEP_PLAN, closes=("web",))
        assert "Closes the breaker of web\n" in pelagos("plan", *files).out

    def test_names_the_keys_that_are_changed_in_place(
        self, pelagos: Terminal, server: FakeServer, files: list[str]
    ) -> None:
        change = DescriptionChange(change="changed", path="variables.size", old="small", new="large")
        server.plan = plan_view(
            PlanAction(
                action="update",
                node="web",
                count=2,
                instances=(WEB_1, WEB_2),
                reason="changed in place",
                changes=(change,),
                keys=("flavor", "memory_mb"),
            ),
            id=SHOP,
        )
        result = pelagos("plan", *files)
        assert result.code == 2 and "shop: 2 to update" in result.out
        assert "changed in place: flavor and memory_mb" in result.out and "variables.size: small -> large" in result.out
        document = json.loads(pelagos("plan", *files, "-o", "json").out)
        assert document["actions"][0]["keys"] == ["flavor", "memory_mb"]
        assert document["actions"][0]["instances"] == [WEB_1, WEB_2]

    def test_a_new_infrastructure_without_nodes_is_a_change(
        self, pelagos: Terminal, server: FakeServer, files: list[str]
    ) -> None:
        server.plan = plan_view(critical_path=(), estimated_seconds=None)
        result = pelagos("plan", *files)
        assert (result.code, result.out) == (2, "shop: a new infrastructure without nodes\n")
        server.plan = plan_view(critical_path=(), id=SHOP, state=InfrastructureState.READY)
        result = pelagos("plan", *files)
        assert (result.code, result.out) == (0, "shop: nothing to do\n")

    def test_shows_what_is_kept_although_it_is_not_as_described(
        self, pelagos: Terminal, server: FakeServer, files: list[str]
    ) -> None:
        kept = msgspec.structs.replace(REPLACE, action="keep", reason="described anew; kept by its policy")
        server.plan = msgspec.structs.replace(KEEP_PLAN, actions=(kept,))
        result = pelagos("plan", *files)
        assert result.code == 0
        assert "shop: nothing to do (2 instances stay)" in result.out
        assert "kept by its policy" in result.out and "variables.port" in result.out

    def test_asks_for_some_nodes_only(self, pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
        pelagos("plan", *files, "--target", "web", "--exclude", "db", "--exclude", "lb", "--replace", "web/1f")
        (request,) = server.planned
        assert (request.only, request.without, request.replace) == (("web",), ("db", "lb"), ("web/1f",))
        assert not request.save

    def test_out_writes_it_for_the_owner_alone(
        self, pelagos: Terminal, server: FakeServer, files: list[str], tmp_path: Path
    ) -> None:
        server.plan = plan_view(REPLACE, id=SHOP, saved=saved(REPLACE))
        out = tmp_path / "shop.plan"
        out.write_text("old")
        result = pelagos("plan", *files, "--out", str(out), "-o", "json")
        assert result.code == 2 and server.planned[0].save
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        assert read_plan(out.read_bytes(), "shop.plan") == saved(REPLACE)
        assert result.json["saved"] is None, "it is in the file"
        assert [path.name for path in tmp_path.iterdir() if "plan" in path.name] == ["shop.plan"]

    def test_out_into_a_directory_that_is_not_there_names_the_path_as_given(
        self, pelagos: Terminal, server: FakeServer, files: list[str], tmp_path: Path
    ) -> None:
        server.plan = plan_view(REPLACE, id=SHOP, saved=saved(REPLACE))
        out = tmp_path / "none" / "shop.plan"
        result = pelagos("plan", *files, "--out", str(out))
        assert (result.code, result.out) == (74, "")
        assert f"error: {out} cannot be written: No such file or directory" in result.err
        assert f"There is no directory {out.parent}" in result.err
        assert not out.parent.exists() and ".shop.plan" not in result.err

    def test_out_that_cannot_be_written_leaves_what_was_there(
        self, pelagos: Terminal, server: FakeServer, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.plan = plan_view(REPLACE, id=SHOP, saved=saved(REPLACE))
        out = tmp_path / "shop.plan"
        out.write_text("old")

        def full(self: Path, target: Path) -> None:
            raise OSError(28, "No space left on device", str(self))

        monkeypatch.setattr(Path, "replace", full)
        result = pelagos("plan", *files, "--out", str(out))
        assert result.code == 74 and f"{out} cannot be written: No space left on device" in result.err
        assert out.read_text() == "old"
        assert [path.name for path in tmp_path.iterdir() if "plan" in path.name] == ["shop.plan"]

    def test_says_what_is_left_out(self, pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
        server.plan = plan_view(REPLACE, id=SHOP, left_out=("db", "lb"))
        assert "Left as it is (--target, --exclude): db, lb" in pelagos("plan", *files, "--exclude", "db").out
        server.plan = msgspec.structs.replace(KEEP_PLAN, left_out=("web",))
        assert "Left as it is (--target, --exclude): web" in pelagos("plan", *files, "--exclude", "web").out


class TestApply:
    @pytest.fixture
    def plan(self, tmp_path: Path) -> Path:
        path = tmp_path / "shop.plan"
        path.write_bytes(written(saved(REPLACE)))
        return path

    def test_shows_it_asks_and_sends_it_as_it_stands(self, pelagos: Terminal, server: FakeServer, plan: Path) -> None:
        pelagos.answer = "no"
        refused = pelagos("apply", str(plan))
        assert refused.code == 1 and "variables.port: 80 -> 8080" in refused.err and server.started == []
        assert pelagos("apply", str(plan), "--yes", "--on-failure", "stop").code == 0
        (request,) = server.started
        assert request.plan == saved(REPLACE) and request.on_failure == "stop" and request.kind == "up"
        assert server.planned == [], "nothing is planned anew"

    def test_json_is_ups_document(self, pelagos: Terminal, plan: Path) -> None:
        assert list(pelagos("apply", str(plan), "--yes", "-o", "json").json) == ["id", "name", "state", "run", "status"]

    @pytest.mark.parametrize(
        ("spoil", "told"),
        [
            (lambda text: text.replace("8080", "9090"), "not as it was written: its checksum does not fit"),
            (lambda text: text[:-40], "is no saved plan"),
            (lambda text: "infra_name: shop\n", "is no saved plan"),
            (lambda text: "{}", "is no saved plan"),
            (lambda text: text.replace('"version": 2', '"version": 1'), "is a plan of version 1"),
            (lambda text: text.replace('"strategy"', '"strategie"'), "not as it was written"),
        ],
    )
    def test_a_spoiled_file_is_refused(self, pelagos: Terminal, server: FakeServer, plan: Path, spoil, told) -> None:
        plan.write_text(spoil(plan.read_text()))
        result = pelagos("apply", str(plan), "--yes")
        assert result.code == 64 and told in result.err and "pelagos plan FILE... --out PLAN" in result.err
        assert server.started == []

    def test_a_missing_file_is_a_usage_error(self, pelagos: Terminal, tmp_path: Path) -> None:
        assert pelagos("apply", str(tmp_path / "none.plan")).code == 64

    def test_a_stale_one_fails_with_what_changed(self, pelagos: Terminal, server: FakeServer, plan: Path) -> None:
        error = Conflict("the plan is stale: web is scaled to 3 now", advice="Nothing was changed.")
        server.final = run_view(RunState.FAILED, error=error.payload())
        server.run_events = (event(30, "run.failed"),)
        result = pelagos("apply", str(plan), "--yes")
        assert result.code == 1 and "the plan is stale: web is scaled to 3 now" in result.err


class TestUp:
    def test_tells_what_is_changed_in_place(self, pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
        server.run_events = (
            event(20, "node.updating", "web", count=2, reason="resource.flavor", keys=["flavor"]),
            event(21, "instance.updating", "web", WEB_1, keys=["flavor", "image"]),
            event(22, "instance.update_failed", "web", WEB_1, error={"code": "x", "message": "the cloud says no"}),
            event(23, "run.succeeded"),
        )
        result = pelagos("up", *files)
        assert "2 instances to be changed in place: resource.flavor" in result.err
        assert "changed in place: flavor and image" in result.err
        assert "not changed in place: the cloud says no" in result.err

    def test_a_superseded_run_is_1_and_names_the_newer(
        self, pelagos: Terminal, server: FakeServer, files: list[str]
    ) -> None:
        from pelagos.model.errors import ErrorPayload

        error = ErrorPayload(code="superseded", message="run run-2 (up), which came later, took its place")
        server.final = run_view(RunState.SUPERSEDED, error=error)
        server.run_events = (
            event(20, "node.replacing", "web", count=2, reason="variables.port"),
            event(30, "run.superseded", error=msgspec.to_builtins(error)),
        )
        result = pelagos("up", *files)
        assert result.code == 1
        assert "2 instances to be made anew: variables.port" in result.err
        assert "run run-2 (up), which came later, took its place" in result.err
        assert "pelagos events shop --follow" in result.err

    def test_sends_what_is_chosen(self, pelagos: Terminal, server: FakeServer, files: list[str]) -> None:
        options = ("--target", "web", "--replace", "web", "--on-failure", "keep", "--map-clouds", "simulated")
        pelagos("up", *files, *options)
        (request,) = server.started
        assert (request.only, request.replace, request.on_failure) == (("web",), ("web",), "keep")
        assert request.map_clouds == "simulated"

    def test_status_marks_what_is_not_as_described(self, pelagos: Terminal, server: FakeServer) -> None:
        server.status = shop(InfrastructureState.READY, {"web": {WEB_1: instance(outdated="variables.port (kept)")}})
        assert "not as described: variables.port (kept)" in pelagos("status", "shop").out


NODES = (
    GraphNode(name="db", type="t", clouds=("east",), min=1, max=1, target=1, depends_on=(), ready=1, instances=1),
    GraphNode(
        name="web", type='a "b" <c>', clouds=("east",), min=1, max=3, target=2, depends_on=("db",), ready=1, instances=2
    ),
    GraphNode(name="lb", type="t", clouds=(), min=1, max=2, target=1, depends_on=("web", "db")),
)


class TestGraph:
    @pytest.fixture(autouse=True)
    def graph(self, server: FakeServer) -> None:
        server.graph = GraphView(name="shop", id=SHOP, nodes=NODES)

    def test_mermaid_is_the_default(self, pelagos: Terminal) -> None:
        out = pelagos("graph", "shop").out
        assert out.startswith("flowchart TD\n")
        assert out.count(" --> ") == 3 and "n1 --> n0" in out
        assert 'n1["web<br/>a #34;b#34; #60;c#62;<br/>1 of 2 ready"]:::changing' in out
        assert pelagos("graph", "shop", "--mermaid").out == out

    def test_dot(self, pelagos: Terminal) -> None:
        out = pelagos("graph", "shop", "--dot").out
        assert '"lb" -> "web";' in out and out.startswith('digraph "shop" {') and out.rstrip().endswith("}")
        assert r'label="web\na \"b\" <c>\n1 of 2 ready"' in out

    def test_svg_is_a_document_that_stands_for_itself(self, pelagos: Terminal, tmp_path: Path) -> None:
        from xml.etree import ElementTree

        out = tmp_path / "shop.svg"
        result = pelagos("graph", "shop", "--svg", "--out", str(out))
        assert result.code == 0 and f"The graph of shop is in {out}." in result.err and result.out == ""
        root = ElementTree.fromstring(out.read_text())
        titles = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
        assert {"web depends on db", "lb depends on web", "lb depends on db"} <= set(titles)
        assert 'web: a "b" <c>, 1 of 2 ready' in titles and "lb: t, 1 to 2" in titles

    @pytest.mark.parametrize("forms", [("--svg", "--dot"), ("--mermaid", "--svg"), ("--svg", "--mermaid", "--dot")])
    def test_two_forms_at_once_are_refused(self, pelagos: Terminal, tmp_path: Path, forms: tuple[str, ...]) -> None:
        out = tmp_path / "shop.out"
        result = pelagos("graph", "shop", *forms, "--out", str(out))
        assert (result.code, result.out, out.exists()) == (64, "", False)
        assert "exclude each other" in result.err

    def test_out_that_cannot_be_written_is_named(self, pelagos: Terminal, tmp_path: Path) -> None:
        out = tmp_path / "none" / "shop.svg"
        result = pelagos("graph", "shop", "--svg", "--out", str(out))
        assert result.code == 74 and f"{out} cannot be written" in result.err

    def test_files_need_not_be_built(self, pelagos: Terminal, files: list[str]) -> None:
        assert pelagos("graph", *files, "-o", "json").json["id"] is None
        assert json.loads(pelagos("graph", "shop", "-o", "json").out)["nodes"][1]["depends_on"] == ["db"]

    def test_what_is_neither_is_told(self, pelagos: Terminal, files: list[str]) -> None:
        assert pelagos("graph", "shpo").code == 66
        assert pelagos("graph", "none.yaml").code == 64
        assert pelagos("graph", "shop", "other").code == 64
