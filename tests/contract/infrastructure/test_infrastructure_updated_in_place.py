"""Changes in place: what their cloud can change of servers that run is changed so, and no instance is made anew."""

from __future__ import annotations

import msgspec
import pytest

from contract.infrastructure.test_infrastructure_builds import ON_SQLITE
from contract.infrastructure.test_infrastructure_reconfigured import ids
from pelagos.model.errors import Conflict
from pelagos.model.states import InfrastructureState, InstanceState, RunState, ServerState
from pelagos.services.infrastructure.messages import Protect
from pelagos.store.schema import instances as instance_rows
from pelagos.wire.drift import DriftRequest
from pelagos.wire.infrastructures import PlanRequest, ProtectRequest
from support.infrastructure_world import describe

pytestmark = pytest.mark.anyio

CAN = {"updates": frozenset({"flavor", "health"})}


@pytest.fixture
async def site(make_site):
    """Whose cloud changes flavors in place, and how healthy servers are."""
    return await make_site({"east": CAN})


def flavors(site, node="web"):
    """Of the node's servers that really exist, by the order of their making."""
    return [server.flavor for server in site.east.servers() if server.name.split("-")[3] == node]


def updated(plan):
    """Node -> the keys of its update in place, and the places that differ."""
    return {a.node: (a.keys, [c.path for c in a.changes]) for a in plan.actions if a.keys}


async def test_what_the_cloud_changes_is_changed_in_place(site):
    program = await site.program()
    nodes = {"store": {}, "web": {"after": ["store"], "text": "use {{ getip('store') }}", "scaling": (2, 2)}}
    await program.build(describe("shop", nodes))
    before = {node: await ids(program, node) for node in nodes}
    made = site.east.made()

    wanted = describe("shop", {**nodes, "store": {"flavor": "large"}})
    plan = await program.plan(sources=wanted)
    assert {(a.action, a.node) for a in plan.actions} == {("replace", "store"), ("replace", "web")}  # the key is new

    wanted = describe("shop", {"store": {"flavor": "small"}, "web": nodes["web"]})
    await program.build(wanted)
    before = {node: await ids(program, node) for node in nodes}
    made = site.east.made()
    wanted = describe("shop", {"store": {"flavor": "large"}, "web": nodes["web"]})
    plan = await program.plan(sources=wanted)
    assert updated(plan) == {"store": (("flavor",), ["resource.flavor"])}
    (action,) = [a for a in plan.actions if a.keys]
    assert (action.action, action.count, list(action.instances)) == ("update", 1, before["store"])
    assert [a.node for a in plan.actions if a.action == "keep"] == ["web"] and not plan.destroys
    assert flavors(site, "store") == ["small"]

    run = await program.build(wanted)
    assert {node: await ids(program, node) for node in nodes} == before
    assert site.east.made() == made and flavors(site, "store") == ["large"]
    assert not (await program.plan(sources=wanted)).changes
    kinds = await site.kinds(run_id=run.id)
    assert [k for k in kinds if k.startswith(("node.", "instance."))] == [
        "node.updating",
        "instance.updating",
        "instance.updated",
    ]
    drift = await program.ask("drift", DriftRequest(infrastructure="shop"))
    assert drift.findings == () and drift.compared == 3
    status = await program.status()
    assert status.state is InfrastructureState.READY
    assert all(not one.outdated for node in status.nodes.values() for one in node.instances.values())

    await program.build(describe("shop", {"store": {"flavor": "small"}, "web": nodes["web"]}))
    assert flavors(site, "store") == ["small"] and await ids(program, "store") == before["store"]


async def test_one_key_that_it_cannot_change_forces_a_replacement_and_is_named_alone(site):
    program = await site.program()
    await program.build(describe("shop", {"web": {"flavor": "small", "image": "one"}}))
    (before,) = await ids(program, "web")
    wanted = describe("shop", {"web": {"flavor": "large", "image": "two"}})
    (action,) = (await program.plan(sources=wanted)).actions
    assert (action.action, action.keys, [c.path for c in action.changes]) == ("replace", (), ["resource.image"])
    await program.build(wanted)
    assert await ids(program, "web") != [before] and site.east.calls["update"] == 0


async def test_a_variable_that_only_such_a_key_looks_at(site):
    program = await site.program()

    def shop(size, greeting="hello", text="echo {{ variables.greeting }}"):
        variables = f"{{size: {size}, greeting: {greeting}}}"
        return describe("shop", {"web": {"flavor": '"{{ variables.size }}"', "variables": variables, "text": text}})

    await program.build(shop("small"))
    before = await ids(program, "web")
    plan = await program.plan(sources=shop("large"))
    assert updated(plan) == {"web": (("flavor",), ["variables.size"])}
    await program.build(shop("large"))
    assert flavors(site) == ["large"] and await ids(program, "web") == before
    assert not (await program.plan(sources=shop("large"))).changes

    plan = await program.plan(sources=shop("huge", "goodbye"))
    (replaced,) = plan.actions
    assert replaced.action == "replace" and [c.path for c in replaced.changes] == ["variables.greeting"]
    both = "echo {{ variables.greeting }} {{ variables.size }}"
    await program.build(shop("large", text=both))
    (replaced,) = (await program.plan(sources=shop("small", text=both))).actions
    assert replaced.action == "replace" and [c.path for c in replaced.changes] == ["variables.size"]


@pytest.mark.parametrize(("policy", "together"), [("{}", 1), ("{max_unavailable: 2}", 2)])
async def test_no_more_at_once_than_would_be_made_anew_at_once(make_site, policy, together):
    site = await make_site({"east": {**CAN, "power_latency": 0.05}})
    program = await site.program()
    wish = {"scaling": (4, 4), "policy": policy}
    await program.build(describe("shop", {"web": {**wish, "flavor": "small"}}))
    before = await ids(program, "web")
    run = await program.up(describe("shop", {"web": {**wish, "flavor": "large"}}))
    done = await program.finish(run.id)
    assert done.state is RunState.SUCCEEDED
    assert flavors(site) == ["large"] * 4 and await ids(program, "web") == before
    under_way, most = 0, 0
    for kind in await site.kinds(run_id=run.id):
        under_way += {"instance.updating": 1, "instance.updated": -1}.get(kind, 0)
        most = max(most, under_way)
    assert most == together and site.east.calls["update"] == 4


async def test_a_change_after_which_an_instance_is_not_healthy_reaches_no_other(site):
    program = await site.program()

    def shop(health):
        check = "{ports: [80], failures: 2, timeout: 60}"
        return describe("shop", {"web": {"scaling": (3, 3), "flavor": "small", "health": health, "check": check}})

    await program.build(shop("ok"))
    before = await ids(program, "web")
    run = await program.finish((await program.up(shop("bad"))).id)
    assert run.state is RunState.FAILED and "not healthy since it was changed in place" in run.error.message
    assert site.east.calls["update"] == 2  # the first one, there and back
    assert all(site.east.healthy(server.provider_id) for server in site.east.servers())
    assert await ids(program, "web") == before and len(site.east.made()) == 3
    assert (await program.status()).state is InfrastructureState.READY
    assert not (await program.plan(sources=shop("ok"))).changes


@pytest.mark.parametrize("how", ["rollback", "stop", "keep"])
async def test_a_change_in_place_that_fails(site, how):
    program = await site.program()

    def shop(flavor):
        return describe("shop", {"web": {"scaling": (3, 3), "flavor": flavor, "policy": f"{{on_failure: {how}}}"}})

    await program.build(shop("small"))
    before = await ids(program, "web")

    site.east.inject("update", "slow", 1, delay=0.0)  # the first one succeeds
    site.east.inject("update", "rejected", 1)
    done = await program.finish((await program.up(shop("large"))).id)
    assert done.state is RunState.FAILED and "will not accept this request" in done.error.message
    assert await ids(program, "web") == before and len(site.east.made()) == 3
    status = await program.status()
    if how == "rollback":
        assert flavors(site) == ["small"] * 3 and status.state is InfrastructureState.READY
        assert not (await program.plan(sources=shop("small"))).changes
    else:
        assert "large" in flavors(site) and "small" in flavors(site)
        assert status.state is InfrastructureState.DEGRADED
        outdated = [one.outdated for one in status.nodes["web"].instances.values()]
        assert {bool(text) for text in outdated} == {True, False}
    plan = await program.plan(sources=shop("large"))
    assert {a.action for a in plan.actions} <= {"update", "keep"} and updated(plan)
    await program.build(shop("large"))
    assert flavors(site) == ["large"] * 3 and await ids(program, "web") == before
    assert (await program.status()).state is InfrastructureState.READY


async def test_what_a_failed_change_may_have_done_is_seen_to(site):
    """Its reply is lost for good: the records cannot say how the server is, so it is set again to what is wanted."""
    program = await site.program()

    def shop(flavor):
        return describe("shop", {"web": {"flavor": flavor, "policy": "{on_failure: keep}"}})

    await program.build(shop("small"))
    before = await ids(program, "web")
    site.east.inject("update", "connection_closed", 1)
    site.east.inject("update", "rejected", 1)
    run = await program.finish((await program.up(shop("large"))).id)
    assert run.state is RunState.FAILED and flavors(site) == ["large"]
    for _ in range(2):
        plan = await program.plan(sources=shop("small"))
        assert updated(plan) == {"web": (("flavor",), ["resource.flavor"])}
    await program.build(shop("small"))
    assert flavors(site) == ["small"] and await ids(program, "web") == before
    assert not (await program.plan(sources=shop("small"))).changes


@ON_SQLITE
@pytest.mark.parametrize("fault", ["reply_lost", "connection_closed", "request_lost", "error_before", "unreachable"])
async def test_an_outcome_that_is_not_known_is_repeated(site, fault):
    program = await site.program()
    await program.build(describe("shop", {"web": {"flavor": "small"}}))
    before = await ids(program, "web")
    site.east.inject("update", fault, 1)
    await program.build(describe("shop", {"web": {"flavor": "large"}}))
    assert flavors(site) == ["large"] and await ids(program, "web") == before and site.east.calls["update"] == 2


@pytest.mark.parametrize("moment", ["instance.updating", "server.updated"])
async def test_the_next_maintainer_carries_it_on(make_site, moment):
    site = await make_site({"east": {**CAN, "power_latency": 0.05}})
    one = await site.program()

    def shop(flavor):
        return describe("shop", {"web": {"scaling": (3, 3), "flavor": flavor}})

    await one.build(shop("small"))
    before = await ids(one, "web")
    run = await one.up(shop("large"))
    await site.until_event(moment, **({"run_id": run.id} if moment.startswith("instance") else {}))
    one.kill()
    two = await site.program(serves=True)
    assert (await two.finish(run.id)).state is RunState.SUCCEEDED
    assert flavors(site) == ["large"] * 3 and await ids(two, "web") == before
    site.assert_nothing_doubled()
    assert len(site.east.made()) == 3
    status = await two.status()
    assert status.state is InfrastructureState.READY
    assert not (await two.plan(sources=shop("large"))).changes


async def test_a_newer_change_supersedes_it(make_site):
    site = await make_site({"east": {**CAN, "power_latency": 0.2}})
    program = await site.program()

    def shop(flavor):
        return describe("shop", {"web": {"scaling": (3, 3), "flavor": flavor}})

    await program.build(shop("small"))
    before = await ids(program, "web")
    run = await program.up(shop("large"))
    await site.until_event("instance.updating", run_id=run.id)
    await program.build(shop("small"))
    assert (await program.finish(run.id)).state is RunState.SUPERSEDED
    assert flavors(site) == ["small"] * 3 and await ids(program, "web") == before
    run = await program.up(shop("large"))
    await site.until_event("instance.updated", run_id=run.id)
    await program.build(shop("huge"))
    assert flavors(site) == ["huge"] * 3 and await ids(program, "web") == before
    assert not (await program.plan(sources=shop("huge"))).changes


async def test_one_that_is_cancelled_stops_where_it_is(make_site):
    site = await make_site({"east": {**CAN, "power_latency": 0.2}})
    program = await site.program()

    def shop(flavor):
        return describe("shop", {"web": {"scaling": (3, 3), "flavor": flavor}})

    await program.build(shop("small"))
    before = await ids(program, "web")
    run = await program.up(shop("large"))
    await site.until_event("instance.updated", run_id=run.id)
    await program.cancel(run)
    assert (await program.finish(run.id)).state is RunState.CANCELLED
    status = await program.status()
    assert status.state is InfrastructureState.DEGRADED and await ids(program, "web") == before
    await program.build(shop("large"))
    assert flavors(site) == ["large"] * 3 and await ids(program, "web") == before
    assert (await program.status()).state is InfrastructureState.READY


@ON_SQLITE
async def test_one_that_is_cancelled_while_its_health_is_looked_at(site):
    program = await site.program(serves=True)

    def shop(flavor):
        return describe("shop", {"web": {"flavor": flavor, "check": "{ports: [80], failures: 1000, timeout: 60}"}})

    await program.build(shop("small"))
    before = await ids(program, "web")
    (address,) = [one.address for one in (await program.status()).nodes["web"].instances.values()]
    site.prober.down.add(address)
    run = await program.up(shop("large"))
    await site.until_event("instance.updated", run_id=run.id)
    await program.cancel(run)
    assert (await program.finish(run.id)).state is RunState.CANCELLED
    run = await program.up(shop("huge"))
    await site.until_event("instance.updated", run_id=run.id)
    looks = site.prober.looks[address]

    async def looked_at():
        return site.prober.looks[address] > looks + 2

    await site.until(looked_at, "its health is looked at again")
    assert (await program.ask("plan", PlanRequest(infrastructure="shop"))).state is InfrastructureState.CHANGING
    site.prober.down.clear()
    assert (await program.finish(run.id)).state is RunState.SUCCEEDED
    assert flavors(site) == ["huge"] and await ids(program, "web") == before


@ON_SQLITE
async def test_policies_protection_and_targets(site):
    program = await site.program()

    def shop(flavor):
        nodes = {"kept": {"policy": "{change: keep}"}, "safe": {}, "other": {}}
        return describe("shop", {name: {**wish, "flavor": flavor} for name, wish in nodes.items()})

    await program.build(shop("small"))
    (safe,) = await ids(program, "safe")
    await program.ask("protect", Protect(infrastructure="shop", request=ProtectRequest(node="safe")))
    plan = await program.plan(sources=shop("large"))
    assert set(updated(plan)) == {"safe", "other"}
    (kept,) = [a for a in plan.actions if a.node == "kept"]
    assert kept.action == "keep" and kept.instances and "policy" in kept.reason
    plan = await program.plan(sources=shop("large"), only=("other",))
    assert set(updated(plan)) == {"other"}
    await program.build(shop("large"), only=("other",))
    assert (flavors(site, "other"), flavors(site, "safe")) == (["large"], ["small"])
    await program.build(shop("large"))
    assert (flavors(site, "kept"), flavors(site, "safe")) == (["small"], ["large"])
    assert await ids(program, "safe") == [safe]
    (one,) = (await program.status()).nodes["safe"].instances.values()
    assert one.protected and not one.outdated


async def test_a_saved_plan_is_carried_out_exactly(site):
    program = await site.program()

    def shop(flavor):
        return describe("shop", {"web": {"scaling": (2, 2), "flavor": flavor}})

    await program.build(shop("small"))
    before = await ids(program, "web")
    plan = (await program.plan(sources=shop("large"), save=True)).saved
    stale = (await program.plan(sources=shop("huge"), save=True)).saved
    done = await program.finish((await program.start_run("up", plan=plan)).id)
    assert done.state is RunState.SUCCEEDED
    assert flavors(site) == ["large"] * 2 and await ids(program, "web") == before
    with pytest.raises(Conflict, match="stale"):
        await program.start_run("up", plan=stale)
    assert flavors(site) == ["large"] * 2


async def test_a_saved_plan_that_changes_in_place_never_replaces(make_site):
    """The account's owner has forbidden it meanwhile."""
    site = await make_site({"east": CAN})
    program = await site.program()
    await program.build(describe("shop", {"web": {"flavor": "small"}}))
    before = await ids(program, "web")
    plan = (await program.plan(sources=describe("shop", {"web": {"flavor": "large"}}), save=True)).saved
    await program.stop()
    site.east.options = msgspec.structs.replace(site.east.options, updates=frozenset())
    other = await site.program()
    with pytest.raises(Conflict, match="the plan says update, now it would be replace"):
        await other.start_run("up", plan=plan)
    assert await ids(other, "web") == before


async def test_a_server_that_is_gone_is_healed_as_described(make_site):
    site = await make_site({"east": {**CAN, "power_latency": 0.1}})
    program = await site.program()
    await program.build(describe("shop", {"web": {"scaling": (2, 2), "flavor": "small"}}))
    before = await ids(program, "web")
    run = await program.up(describe("shop", {"web": {"scaling": (2, 2), "flavor": "large"}}))
    event = await site.until_event("instance.updating", run_id=run.id)
    (row,) = await site.rows(instance_rows, id=event.instance_id)
    doomed = [s for s in site.east.servers() if row.id[:8] in s.name]
    assert len(doomed) == 1
    site.east.vanish(doomed[0].provider_id)
    done = await program.finish(run.id)
    assert done.state is RunState.SUCCEEDED, done
    assert flavors(site) == ["large"] * 2
    after = await ids(program, "web")
    assert len(after) == 2 and len(set(before) & set(after)) == 1
    living = [s for s in site.east.servers() if s.state is ServerState.ACTIVE]
    assert len(living) == 2
    status = await program.status()
    assert {one.state for one in status.nodes["web"].instances.values()} == {InstanceState.READY}
