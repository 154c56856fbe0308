"""Scaling, taking down, clouds that refuse, and what waits when an infrastructure is gone."""

from __future__ import annotations

import pytest

from contract.infrastructure.test_infrastructure_builds import CHAIN, ON_SQLITE, spans, states
from pelagos.model import DEFAULT_SCOPE
from pelagos.model.errors import Ambiguous, Conflict, InvalidInput, NotFound
from pelagos.model.states import InfrastructureState, InstanceState, RunState, ServerState
from pelagos.services.infrastructure import queries
from pelagos.services.infrastructure.messages import RefreshLive, SetMaintained
from pelagos.store.schema import events as event_rows
from pelagos.store.schema import runs as run_rows
from support.infrastructure_world import describe

pytestmark = pytest.mark.anyio


def gone(cloud):
    """Nodes in the order in which their servers went."""
    return [h.name.split("-")[3] for h in cloud.history() if h.state is ServerState.DELETING]


async def test_scaling_up_and_down_within_the_limits(site):
    program = await site.program()
    await program.build(describe("shop", {"store": {}, "web": {"after": ["store"], "scaling": (0, 4)}}))
    for text, count in (("+1", 1), ("3", 3), ("-1", 2), ("0", 0), ("4", 4)):
        assert (await program.run("scale", scale={"web": text})).state is RunState.SUCCEEDED
        scaling = (await program.status()).nodes["web"].scaling
        assert (scaling.target, scaling.actual) == (count, count)
        assert site.alive() == ["store"] + ["web"] * count
    for text, said in (("5", "0 to 4 instances, not 5"), ("-5", "not -1"), ("many", "no number")):
        with pytest.raises(InvalidInput, match=said):
            await program.start_run("scale", infrastructure="shop", scale={"web": text})
    with pytest.raises(NotFound, match="no node 'wep'") as caught:
        await program.start_run("scale", infrastructure="shop", scale={"wep": "1"})
    assert "store, web" in caught.value.advice
    await program.build(describe("shop", {"store": {}, "web": {"after": ["store"], "scaling": (0, 4)}}))
    assert (await program.status()).nodes["web"].scaling.target == 4, "an up keeps what was scaled"
    await program.build(describe("shop", {"store": {}, "web": {"after": ["store"], "scaling": (0, 2)}}))
    assert site.alive() == ["store", "web", "web"], "within the new limits"


@ON_SQLITE
async def test_surplus_is_the_youngest_and_the_unready_first(site):
    program = await site.program()
    await program.build(describe("shop", {"web": {"scaling": (1, 5)}}))
    oldest = list((await program.status()).nodes["web"].instances)
    await program.run("scale", scale={"web": "3"})
    await program.run("scale", scale={"web": "1"})
    assert list((await program.status()).nodes["web"].instances) == oldest


@ON_SQLITE
async def test_nodes_no_longer_described_go_in_reverse_order_when_all_else_is_ready(site):
    program = await site.program()
    await program.build(describe("shop", {"old": {}, "older": {"after": ["old"]}, "web": {"after": ["older"]}}))
    await program.build(describe("shop", {"web": {}, "new": {"boot_seconds": 0.2}}))
    history = site.east.history()
    ready_at = spans(site.east)["new"][0][1]
    deleted = [(h.name.split("-")[3], h.at) for h in history if h.state is ServerState.DELETING]
    assert [name for name, _ in deleted] == ["older", "old"] and min(at for _, at in deleted) >= ready_at
    assert site.alive() == ["new", "web"] and len(spans(site.east)["web"]) == 1
    assert set((await program.status()).nodes) == {"new", "web"}


@pytest.mark.parametrize("by", ["cancel", "down-cancel"])
async def test_a_run_that_removes_what_was_there_is_not_taken_back(make_site, by):
    site = await make_site({"east": {"delete_seconds": 0.5}})
    program = await site.program()
    await program.build(describe("shop", {"a": {}, "old": {"scaling": (2, 2)}}))
    if by == "cancel":
        run = await program.up(describe("shop", {"a": {}, "new": {"scaling": (2, 2)}}))
    else:
        run = await program.start_run("down", infrastructure="shop")
    await site.until_event("instance.destroying", run_id=run.id)
    await program.cancel(run)
    assert (await program.finish(run.id)).state is RunState.CANCELLED
    assert "run.rolling_back" not in await site.kinds()
    status = await program.status()
    left = [instance.state for node in status.nodes.values() for instance in node.instances.values()]
    assert InstanceState.DESTROYING not in left
    if by == "cancel":
        assert site.alive() == ["a", "new", "new"] and states(status)["new"] == ["ready", "ready"]
        (view,) = await site.read(lambda c: queries.list_infrastructures(c, DEFAULT_SCOPE))
        assert (view.nodes, view.target, view.ready) == (2, 3, 3), "what is no longer described does not count"
    assert (await program.run("down")).state is RunState.SUCCEEDED and site.alive() == []


@ON_SQLITE
async def test_attaching_looks_before_it_calls_anything_ready(site):
    program = await site.program()
    await program.build(describe("shop", {"a": {}, "b": {"after": ["a"]}}))
    for victim in await site.provider_ids("b", await program.status()):
        site.east.kill(victim)
    await program.ask("refresh_live", RefreshLive(infrastructure="shop"))
    view = await program.ask("set_maintained", SetMaintained(infrastructure="shop", maintained=False))
    assert view.state == "suspended"
    status = await program.status()
    assert (status.state, status.reason) == ("suspended", "detached: nobody maintains it")
    assert (await program.explain()).summary.startswith("detached: nobody maintains it")
    view = await program.ask("set_maintained", SetMaintained(infrastructure="shop", maintained=True))
    assert (view.state, view.reason) == ("degraded", "not as many ready instances as wanted: b")


class TestSuspension:
    async def suspend(self, program, reason=""):
        request = SetMaintained(infrastructure="shop", maintained=False, suspend=True, reason=reason)
        return await program.ask("set_maintained", request)

    async def resume(self, program):
        return await program.ask("set_maintained", SetMaintained(infrastructure="shop", maintained=True, resume=True))

    async def set(self, program, maintained, **more):
        return await program.ask("set_maintained", SetMaintained(infrastructure="shop", maintained=maintained, **more))

    async def test_its_end_brings_back_what_was_before(self, site):
        program = await site.program()
        await program.build(describe("shop", {"a": {}}))
        view = await self.suspend(program, "a move: of the cloud")
        assert (view.state, view.reason, view.maintained) == ("suspended", "suspended: a move: of the cloud", False)
        view = await self.resume(program)
        assert (view.state, view.reason, view.maintained) == ("ready", "", True)

        await self.set(program, False)
        view = await self.suspend(program, "a move: of the cloud")
        assert (view.state, view.reason) == ("suspended", "suspended and detached: a move: of the cloud")
        assert (await self.suspend(program)).reason == "suspended and detached", "a second one forgets nothing"
        with pytest.raises(Conflict, match="suspended and detached"):
            await program.up(describe("shop", {"a": {}, "b": {}}))
        for _ in range(2):
            view = await self.resume(program)
            assert (view.state, view.reason, view.maintained) == (
                "suspended",
                "detached: nobody maintains it",
                False,
            )
        await program.build(describe("shop", {"a": {}, "b": {}}))
        view = await self.set(program, True)
        assert (view.state, view.maintained) == ("ready", True)

    async def test_meanwhile_it_is_detached_or_attached(self, site):
        program = await site.program()
        await program.build(describe("shop", {"a": {}}))
        await self.suspend(program, "why")
        assert (await self.set(program, False)).reason == "suspended and detached: why"
        assert (await self.resume(program)).maintained is False
        await self.suspend(program)
        view = await self.set(program, True)
        assert (view.state, view.maintained) == ("ready", True)
        assert await site.kinds(kind="infrastructure.maintained") == ["infrastructure.maintained"] * 5

    async def test_strictly_nothing_is_detached_twice(self, site):
        program = await site.program()
        await program.build(describe("shop", {"a": {}}))
        assert (await self.set(program, False, strict=True)).maintained is False
        with pytest.raises(Conflict, match="'shop' is not attached"):
            await self.set(program, False, strict=True)
        assert (await self.set(program, False)).maintained is False

    async def test_what_is_not_suspended_is_not_resumed(self, site):
        program = await site.program()
        await program.build(describe("shop", {"a": {}}))
        assert (await self.resume(program)).maintained is True
        assert await site.kinds(kind="infrastructure.maintained") == []

    async def test_not_even_the_present_number_is_wanted_of_it(self, site):
        program = await site.program()
        await program.build(describe("shop", {"a": {"scaling": (1, 2)}}))
        [instance] = (await program.status()).nodes["a"].instances
        await self.suspend(program)
        for wanted in ({"scale": {"a": "1"}}, {"remove": (instance,)}):
            with pytest.raises(Conflict, match="suspended") as caught:
                await program.plan(infrastructure="shop", **wanted)
            assert "pelagos resume shop" in caught.value.advice
        await self.resume(program)
        assert (await program.plan(infrastructure="shop", scale={"a": "1"})).changes is False


async def test_status_tells_the_ids_that_the_cloud_knows(site):
    program = await site.program()
    await program.build(describe("shop", {"a": {}, "b": {}}))
    status = await program.status()
    for node in ("a", "b"):
        told = [one.provider_id for one in status.nodes[node].instances.values()]
        assert told == await site.provider_ids(node, status)
        assert all(told)


async def test_an_infrastructure_without_nodes_is_made_and_its_plan_says_so(site):
    program = await site.program()
    sources = {"infra.yaml": "infra_name: shop\nuser_id: me\nnodes: []\n"}
    plan = await program.plan(sources=sources, entries=("infra.yaml",))
    assert (plan.id, plan.actions, plan.changes) == (None, (), True)
    run = await program.start_run("up", sources=sources, entries=("infra.yaml",))
    assert (await program.finish(run.id)).state is RunState.SUCCEEDED
    status = await program.status()
    assert (status.state, status.nodes) == ("ready", {})
    assert (await program.plan(sources=sources, entries=("infra.yaml",))).changes is False


async def test_down_goes_in_reverse_order_and_leaves_nothing(site):
    program = await site.program()
    run = await program.build(describe("shop", CHAIN))
    done = await program.run("down")
    assert done.state is RunState.SUCCEEDED and site.alive() == []
    assert gone(site.east) == ["lb", "web", "web", "store"]
    with pytest.raises(NotFound, match="no infrastructure 'shop'"):
        await program.status()
    listed = await site.read(lambda c: queries.list_infrastructures(c, DEFAULT_SCOPE, deleted=True))
    assert [one.id for one in listed] == [run.infrastructure_id], "a tombstone stays"
    assert (await site.kinds(infrastructure_id=run.infrastructure_id))[-1] == "infrastructure.destroyed"
    new = await program.build(describe("shop", CHAIN))
    assert new.infrastructure_id != run.infrastructure_id


async def test_runs_that_wait_for_one_that_is_gone_end_with_it(site):
    program = await site.program()
    await program.build(describe("shop", {"web": {"scaling": (1, 3)}}))
    site.east.inject("delete", "slow", times=1, delay=0.3)
    first = await program.start_run("down", infrastructure="shop")
    second = await program.start_run("down", infrastructure="shop")
    assert second.id != first.id
    with pytest.raises(Conflict, match="being taken down"):
        await program.up(describe("shop", {"web": {}}))
    with pytest.raises(Conflict, match="being taken down"):
        await program.start_run("scale", infrastructure="shop", scale={"web": "2"})
    assert (await program.finish(first.id)).state is RunState.SUCCEEDED
    assert (await program.finish(second.id)).state is RunState.SUCCEEDED
    assert "run.succeeded" in await site.kinds(run_id=second.id)
    assert await site.rows(run_rows, finished_at=None) == []


@ON_SQLITE
async def test_a_down_ends_what_is_under_way_and_what_waits(site):
    program = await site.program()
    await program.build(describe("shop", {"web": {"scaling": (1, 3)}}))
    slow = await program.up(describe("shop", {"web": {"scaling": (1, 3)}, "slow": {"boot_seconds": 30}}))
    await site.until_event("instance.pending", node="slow")
    scale = await program.start_run("scale", infrastructure="shop", scale={"web": "2"})
    down = await program.start_run("down", infrastructure="shop")
    assert (await program.finish(down.id)).state is RunState.SUCCEEDED
    assert (await program.finish(slow.id)).state is RunState.CANCELLED
    assert (await program.finish(scale.id)).state is RunState.CANCELLED
    assert site.alive() == [] and len(spans(site.east)["web"]) == 1


@ON_SQLITE
async def test_a_cloud_that_refuses_to_delete_is_told_and_asked_again_later(site):
    program = await site.program()
    await program.build(describe("shop", CHAIN))
    site.east.inject("delete", "busy", times=1, delay=3600.0)
    down = await program.run("down")
    assert down.state is RunState.FAILED and down.error is not None
    (left,) = down.error.details["remaining"]
    assert left["node"] == "lb" and left["cloud"] == "east" and left["reason"]
    assert "lb/" in down.error.message and down.error.advice
    status = await program.status()
    assert status.state is InfrastructureState.DESTROYING and states(status)["lb"] == ["destroying"]
    assert site.alive() == ["lb", "store", "web", "web"], "what it depends on stays as long as it does"
    with site.east.datacenter.access():
        for server in site.east.datacenter.living.values():
            server.refuses_until = 0.0
    for _ in range(20):  # each has patience for less than a second, and the machine may be busy
        if (await program.run("down")).state is RunState.SUCCEEDED:
            break
    assert site.alive() == [] and gone(site.east) == ["lb", "web", "web", "store"]


async def test_a_name_that_means_several_lists_their_ids(site):
    program = await site.program()
    sources = describe("shop", {"web": {}})
    made = [await program.build(sources, new=True) for _ in range(2)]
    ids = {run.infrastructure_id for run in made}
    assert len(ids) == 2
    for attempt in (
        lambda: program.up(sources),
        lambda: program.start_run("down", infrastructure="shop"),
        lambda: program.status(),
        lambda: program.plan(infrastructure="shop", down=True),
    ):
        with pytest.raises(Ambiguous) as caught:
            await attempt()
        assert set(caught.value.details["ids"]) == ids and all(i in caught.value.message for i in ids)
    one = made[0].infrastructure_id
    await program.build(sources, infrastructure=one)
    assert (await program.run("down", one)).state is RunState.SUCCEEDED
    assert (await program.status()).id == made[1].infrastructure_id


@ON_SQLITE
async def test_the_status_contract_has_these_keys_and_no_others(site):
    import json

    import msgspec

    program = await site.program()
    await program.build(describe("shop", {"web": {"scaling": (1, 2)}}))
    document = json.loads(msgspec.json.encode(await program.status()))
    assert list(document) == ["name", "id", "state", "observed_at", "nodes"]
    (node,) = document["nodes"].values()
    assert list(node) == ["scaling", "instances"] and list(node["scaling"]) == ["min", "max", "target", "actual"]
    ((instance_id, instance),) = node["instances"].items()
    assert list(instance) == ["state", "address", "cloud", "server_id", "provider_id", "created_at", "reason"]
    assert len(instance_id) == 36 and instance["state"] == "ready" and instance["cloud"] == "east"
    assert instance["address"] == site.east.servers()[0].addresses[0]
    assert document["observed_at"].endswith("Z") and instance["created_at"].endswith("Z")


@ON_SQLITE
async def test_explain_tells_the_chain_of_what_waits_for_what(make_site):
    site = await make_site({"east": {}})
    program = await site.program()
    site.east.inject("create", "unreachable", times=1000)
    run = await program.up(describe("shop", CHAIN))
    await site.until_event("operation.retrying")
    told = await program.explain(node="lb")
    chain = [(step.depth, step.subject.split("/")[0], step.state) for step in told.steps if "node" in step.subject]
    assert chain == [
        (0, "node lb", "0 of 1 ready"),
        (1, "node web", "0 of 2 ready"),
        (2, "node store", "0 of 1 ready"),
    ]
    by_subject = {step.subject.split("/")[0]: step for step in told.steps}
    assert by_subject["node lb"].why == "waits for web" and by_subject["node web"].why == "waits for store"
    store = by_subject["instance store"]
    assert store.depth == 3 and "refused the connection" in store.last_answer and "server.create" in store.why
    assert by_subject["maintainer"].state == "at work" and by_subject["run up"].state == "running"
    assert told.state is InfrastructureState.BUILDING and "3 of 3 nodes lack" in told.summary
    whole = await program.explain()
    assert {step.subject for step in whole.steps} >= {"node lb", "node web", "node store"}
    with pytest.raises(NotFound, match="no node 'nix'"):
        await program.explain(node="nix")
    site.east.calm()
    assert (await program.finish(run.id)).state is RunState.SUCCEEDED
    told = await program.explain()
    assert told.summary.startswith("ready") and {step.subject for step in told.steps} <= {"maintainer"}


async def test_events_of_a_run_tell_its_story_in_order(site):
    program = await site.program()
    run = await program.build(describe("shop", {"store": {}, "web": {"after": ["store"]}}))
    rows = await site.rows(event_rows, infrastructure_id=run.infrastructure_id)
    story = [(row.node, row.kind) for row in sorted(rows, key=lambda row: row.position)]
    for node, waits in (("store", []), ("web", ["node.waiting"])):
        kinds = [kind for at, kind in story if at == node]
        assert kinds == [*waits, "instance.pending", "instance.checking", "instance.ready"]
    assert story.index(("store", "instance.ready")) < story.index(("web", "instance.pending"))
    listed = await site.read(lambda c: queries.events(c, DEFAULT_SCOPE, after=run.position, run=run.id))
    assert [event.kind for event in listed if event.kind.startswith("run.")] == [
        "run.accepted",
        "run.started",
        "run.succeeded",
    ]
