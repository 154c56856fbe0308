"""Policies of healing, protection and scale-down, on a virtual clock."""

from __future__ import annotations

import asyncio

import pytest

from pelagos.model.errors import Conflict, NotFound
from pelagos.model.states import InfrastructureState, InstanceState, RunState
from pelagos.services.infrastructure.messages import Protect
from pelagos.store.schema import events as event_rows
from pelagos.store.schema import instances as instance_rows
from pelagos.wire.infrastructures import ProtectRequest
from support.infrastructure_world import describe
from support.virtual_site import anyio_backend, make_site, site

__all__ = ["anyio_backend", "make_site", "site"]

pytestmark = pytest.mark.anyio

CHECK = "{ports: [80], failures: 2, timeout: 20}"


def shop(policy="{}", *, scaling=(1, 3), **more):
    return describe("shop", {"web": {"scaling": scaling, "check": CHECK, "policy": policy, **more}})


async def ready(site, program, count=1, node="web"):
    """Wait until the node has so many ready instances, of servers that run; their ids."""

    async def well():
        status = await program.status()
        shown = status.nodes[node].instances
        return list(shown) if [i.state for i in shown.values()] == [InstanceState.READY] * count else None

    return await site.until(well, f"{count} ready instances of {node}")


async def ids(site, program, node="web"):
    return await site.provider_ids(node, await program.status())


async def protect(program, on=True, node="web", instance=""):
    request = ProtectRequest(node=node, instance=instance, protected=on)
    return await program.ask("protect", Protect(infrastructure="shop", request=request))


async def event_data(site, kind):
    import json

    found = sorted(await site.rows(event_rows, kind=kind), key=lambda row: row.position)
    return [json.loads(row.data) for row in found]


# -- healing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asks", ["scale", "remove"])
async def test_scaling_a_node_heals_the_others_whose_breakers_are_closed(site, asks):
    program = await site.program()
    await program.build(
        describe(
            "shop",
            {
                "db": {"check": CHECK, "policy": "{heal: {shutdown: restart}}"},
                "web": {"check": CHECK, "scaling": (1, 4)},
            },
        )
    )
    assert (await program.run("scale", scale={"web": "3"})).state is RunState.SUCCEEDED
    nodes = (await program.status()).nodes
    ((db, _),) = nodes["db"].instances.items()
    (stopped,) = [server for server in site.east.servers() if "-db-" in server.name]
    site.east.stop(stopped.provider_id)
    asked = {"scale": {"web": "2"}} if asks == "scale" else {"remove": (next(iter(nodes["web"].instances)),)}
    assert (await program.run("scale", **asked)).state is RunState.SUCCEEDED
    assert site.alive() == ["db", "web", "web"]
    assert [row.instance_id for row in await site.rows(event_rows, kind="instance.restarting")] == [db]
    assert (await program.status()).nodes["db"].instances[db].state is InstanceState.READY


async def test_a_stopped_server_is_started_again_where_the_policy_says_so(site):
    program = await site.program(serves=True)
    await program.build(shop("{heal: {shutdown: restart}}"))
    (instance,) = await ready(site, program)
    (server,) = await ids(site, program)
    site.east.stop(server)
    await site.until_event("instance.restarting")
    assert await ready(site, program) == [instance]
    assert [s.provider_id for s in site.east.servers()] == [server]
    assert [d["verb"] for d in await event_data(site, "instance.restarting")] == ["start"]
    assert (await program.status()).state is InfrastructureState.READY


async def test_an_unhealthy_server_is_rebooted_and_then_replaced(site):
    program = await site.program(serves=True)
    await program.build(shop("{heal: {failed: restart, restarts: 2, backoff: 30}}"))
    (instance,) = await ready(site, program)
    (server,) = await ids(site, program)
    site.east.set_health(server, "bad")
    await site.until_event("instance.destroyed")
    assert await ready(site, program) != [instance]
    told = await event_data(site, "instance.restarting")
    assert [(d["verb"], d["attempt"]) for d in told] == [("reboot", 1), ("reboot", 2)]
    first, second = sorted(row.at for row in await site.rows(event_rows, kind="instance.restarting"))
    assert second - first >= 30.0
    assert server not in {s.provider_id for s in site.east.servers()}


async def test_a_restart_outlives_its_maintainer(site):
    first = await site.program(serves=True)
    await first.build(shop("{heal: {shutdown: restart}}"))
    (instance,) = await ready(site, first)
    (server,) = await ids(site, first)
    site.east.inject("start", "unreachable", times=2)
    site.east.stop(server)
    await site.until_event("instance.restarting")
    first.kill()
    second = await site.program(serves=True)
    assert await ready(site, second) == [instance]
    assert len(await site.rows(event_rows, kind="instance.restarting")) == 1
    assert [s.provider_id for s in site.east.servers()] == [server]


async def test_what_cannot_be_restarted_is_replaced(make_site):
    site = await make_site({"east": {"power": False}})
    program = await site.program(serves=True)
    await program.build(shop("{heal: {shutdown: restart}}"))
    (instance,) = await ready(site, program)
    (server,) = await ids(site, program)
    site.east.stop(server)
    await site.until_event("instance.destroyed")
    assert await ready(site, program) != [instance]
    assert len(site.east.servers()) == 1


async def test_what_is_to_be_kept_is_kept_and_told(site):
    program = await site.program(serves=True)
    await program.build(shop("{heal: {shutdown: keep}}"))
    (instance,) = await ready(site, program)
    (server,) = await ids(site, program)
    site.east.stop(server)
    await site.until_event("instance.shutdown")
    await asyncio.sleep(120.0)
    status = await program.status()
    assert [(k, i.state) for k, i in status.nodes["web"].instances.items()] == [(instance, InstanceState.SHUTDOWN)]
    assert status.state is InfrastructureState.DEGRADED
    assert [s.provider_id for s in site.east.servers()] == [server]
    told = "; ".join(step.why for step in (await program.explain()).steps)
    assert "its policy keeps it" in told
    # The plan promises what is done, and a run says what it waits for in vain.
    plan = await program.plan(sources=shop("{heal: {shutdown: keep}}"))
    assert [(a.action, a.reason) for a in plan.actions] == [("keep", "its server is stopped; its policy keeps it")]
    done = await program.run("scale", scale={"web": "2"})
    assert done.state is RunState.FAILED
    assert "its policy keeps it" in done.error.message
    assert len(site.east.servers()) == 2


async def test_a_breaker_opens_and_is_closed_by_command(site):
    program = await site.program(serves=True)
    await program.build(shop("{heal: {attempts: 3, window: 10000, temp_failed: replace}}"))
    await ready(site, program)

    async def opened():
        for server in site.east.servers():
            if server.state == "active":
                site.east.kill(server.provider_id)
        return await site.rows(event_rows, kind="node.breaker_opened")

    (event,) = await site.until(opened, "the breaker opens")
    assert event.node == "web"
    (data,) = await event_data(site, "node.breaker_opened")
    assert data["failures"] == 3
    made = len(site.east.made())
    await asyncio.sleep(400.0)
    assert len(site.east.made()) == made
    status = await program.status()
    assert status.state is InfrastructureState.DEGRADED
    assert status.nodes["web"].breaker.startswith("3 failures")
    explained = "; ".join(step.why for step in (await program.explain()).steps)
    assert "its breaker is open" in explained and "pelagos heal shop web" in explained
    assert (await program.run("maintain", reset=("web",))).state is RunState.SUCCEEDED
    await ready(site, program)
    assert (await program.status()).nodes["web"].breaker == ""
    assert len(await site.rows(event_rows, kind="node.breaker_closed")) == 1
    with pytest.raises(NotFound, match="no node 'wbe'"):
        await program.start_run("maintain", infrastructure="shop", reset=("wbe",))


async def test_a_new_description_closes_the_breaker(site):
    program = await site.program(serves=True)
    text = "{heal: {attempts: 1, window: 10000}}"
    await program.build(shop(text))
    await ready(site, program)
    (server,) = await ids(site, program)
    site.east.vanish(server)
    await site.until_event("node.breaker_opened")
    assert site.east.servers() == []
    await program.build(shop("{heal: {attempts: 2, window: 10000}}"))
    await ready(site, program)


async def test_instances_of_a_silent_cloud_are_made_elsewhere(make_site):
    site = await make_site({"east": {}, "west": {}})
    program = await site.program(serves=True)
    await program.build(shop("{heal: {unreachable: replace, unreachable_after: 60}}", clouds=("east", "west")))
    await ready(site, program)
    site.east.inject("list", "unreachable", times=30)
    await site.until_event("instance.failed")
    assert [row.at > 60.0 for row in await site.rows(event_rows, kind="instance.failed")] == [True]

    async def moved():
        return len(site.clouds["west"].servers()) == 1 and site.east.servers() == []

    await site.until(moved, "the instance is in the west, and the one in the east is gone")
    await ready(site, program)


# -- protection --------------------------------------------------------------------------------------------------------


async def test_nobody_destroys_what_is_protected(site):
    program = await site.program(serves=True)
    await program.build(shop(scaling=(2, 3)))
    first, second = await ready(site, program, 2)
    done = await protect(program, instance=first[:8])
    assert (done.instances, done.changed) == ((first,), (first,))
    assert (await protect(program, instance=first)).changed == ()
    status = await program.status()
    assert [i.protected for i in status.nodes["web"].instances.values()] == [True, False]
    with pytest.raises(Conflict, match="is protected"):
        await program.start_run("scale", infrastructure="shop", remove=(first,))
    done = await program.run("down")
    assert done.state is RunState.FAILED
    assert f"web/{first[:8]} (protected)" in done.error.message
    assert "pelagos protect shop web off" in done.error.advice
    assert list((await program.status()).nodes["web"].instances) == [first]
    assert len(site.east.servers()) == 1
    with pytest.raises(Conflict, match="half taken down"):
        await program.start_run("maintain", infrastructure="shop")
    # And it comes up again around what stayed.
    await program.build(shop(scaling=(2, 3)))
    assert first in await ready(site, program, 2)
    await protect(program, on=False)
    assert (await program.run("down")).state is RunState.SUCCEEDED
    assert site.east.servers() == []
    assert second not in {row.id for row in await site.rows(instance_rows, deleted_at=None)}


async def test_a_protected_node_keeps_what_it_depends_on(site):
    nodes = {
        "db": {"check": CHECK},
        "web": {"check": CHECK, "after": ["db"], "policy": "{protect: true}"},
        "cron": {"check": CHECK, "after": ["web"]},
    }
    program = await site.program()
    await program.build(describe("shop", nodes))
    done = await program.run("down")
    assert done.state is RunState.FAILED
    assert "(protected)" in done.error.message and "(web, which depends on it, stays)" in done.error.message
    assert site.alive() == ["db", "web"]
    plan = await program.plan(infrastructure="shop", down=True)
    assert [(a.action, a.node, a.reason) for a in plan.actions if a.node == "web"] == [("keep", "web", "protected")]
    await protect(program, on=False)
    assert (await program.run("down")).state is RunState.SUCCEEDED
    assert site.alive() == []


async def test_a_failed_protected_instance_is_not_replaced_but_a_vanished_one_is(site):
    program = await site.program(serves=True)
    await program.build(shop("{protect: true}"))
    (instance,) = await ready(site, program)
    (server,) = await ids(site, program)
    site.east.kill(server)
    await site.until_event("instance.failed")
    await asyncio.sleep(300.0)
    assert [s.provider_id for s in site.east.servers()] == [server]
    assert "it is protected" in "; ".join(step.why for step in (await program.explain()).steps)
    site.east.boot(server)  # mended by hand: it is well again
    assert await ready(site, program) == [instance]
    site.east.kill(server)
    await site.until_event("instance.failed")
    site.east.vanish(server)

    async def replaced():
        return [s.provider_id for s in site.east.servers() if s.state == "active"] not in ([], [server])

    await site.until(replaced, "what vanished is replaced, since nothing of it is left")
    assert await ready(site, program) != [instance]


async def test_an_unhealthy_instance_that_is_kept_may_recover(site):
    program = await site.program(serves=True)
    await program.build(shop("{heal: {failed: keep}}"))
    (instance,) = await ready(site, program)
    (server,) = await ids(site, program)
    site.east.set_health(server, "bad")
    await site.until_event("instance.failed")
    await asyncio.sleep(60.0)
    site.east.set_health(server, "ok")
    assert await ready(site, program) == [instance]
    assert [s.provider_id for s in site.east.servers()] == [server]


async def test_a_roll_back_and_a_new_description_leave_what_is_protected(site):
    program = await site.program()
    await program.build(describe("shop", {"web": {"check": CHECK}, "db": {"check": CHECK}}))
    await protect(program, node="db")
    assert (await program.build(describe("shop", {"web": {"check": CHECK}}))).state is RunState.SUCCEEDED
    assert site.alive() == ["db", "web"]
    await protect(program, on=False, node="db")
    assert (await program.run("maintain")).state is RunState.SUCCEEDED
    await program.build(describe("shop", {"web": {"check": CHECK}}))
    assert site.alive() == ["web"]


async def test_what_is_protected_while_a_run_destroys_is_decided_by_the_store(site):
    """The maintainer has read it as free, and finds at its write that it is not any more."""
    program = await site.program()
    await program.build(shop(scaling=(3, 3)))
    kept = (await ready(site, program, 3))[0]
    run = await program.start_run("down", infrastructure="shop")
    try:
        await protect(program, instance=kept)
    except Conflict:
        assert (await program.finish(run.id)).state is RunState.SUCCEEDED
        assert site.east.servers() == []
        return
    assert (await program.finish(run.id)).state is RunState.FAILED
    assert list((await program.status()).nodes["web"].instances) == [kept]
    assert len(site.east.servers()) == 1


# -- scaling -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "choice", "left"),
    [
        ("{scale_down: oldest}", None, [1, 2]),
        ("{scale_down: youngest}", None, [0, 1]),
        ("{}", "oldest", [1, 2]),
        ("{scale_down: oldest}", "youngest", [0, 1]),
    ],
)
async def test_which_instances_go(site, policy, choice, left):
    program = await site.program()
    await program.build(shop(policy, scaling=(0, 3)))
    for number in ("1", "2", "3"):
        assert (await program.run("scale", scale={"web": number})).state is RunState.SUCCEEDED
        await asyncio.sleep(5.0)
    rows = sorted(await site.rows(instance_rows, deleted_at=None), key=lambda row: row.created_at)
    plan = await program.plan(infrastructure="shop", scale={"web": "2"}, choice=choice)
    (gone,) = [a.instances for a in plan.actions if a.action == "destroy"]
    assert (await program.run("scale", scale={"web": "2"}, choice=choice)).state is RunState.SUCCEEDED
    now = {row.id for row in await site.rows(instance_rows, deleted_at=None)}
    assert now == {rows[index].id for index in left}
    assert set(gone) == {row.id for row in rows} - now


async def test_unhealthy_ones_go_first_and_zero_is_allowed(site):
    program = await site.program()
    await program.build(shop("{heal: {shutdown: keep}}", scaling=(0, 3)))
    assert (await program.run("scale", scale={"web": "3"})).state is RunState.SUCCEEDED
    await ready(site, program, 3)
    oldest, *_ = sorted(await ids(site, program))
    site.east.stop(oldest)
    assert (await program.run("maintain")).state is RunState.SUCCEEDED
    assert (await program.run("scale", scale={"web": "2"})).state is RunState.SUCCEEDED
    assert oldest not in {s.provider_id for s in site.east.servers()}
    assert (await program.run("scale", scale={"web": "0"})).state is RunState.SUCCEEDED
    assert site.east.servers() == []


async def test_a_number_below_the_protected_ones_is_refused_at_once(site):
    program = await site.program()
    await program.build(shop(scaling=(2, 3)))
    await ready(site, program, 2)
    await protect(program)
    assert (await program.run("scale", scale={"web": "3"})).state is RunState.SUCCEEDED
    await protect(program)
    with pytest.raises(Conflict, match="3 protected instances, more than 2"):
        await program.start_run("scale", infrastructure="shop", scale={"web": "2"})
    for number in ("2", "-1"):
        with pytest.raises(Conflict, match="3 protected instances, more than 2"):
            await program.plan(infrastructure="shop", scale={"web": number})
    assert site.alive() == ["web"] * 3
    assert (await program.status()).nodes["web"].scaling.target == 3


# -- plan and deed -----------------------------------------------------------------------------------------------------


async def with_an_open_breaker(site, *, policy="{heal: {attempts: 1, window: 100000}}", befalls="kill"):
    """Three instances of web, one of them not well, and nothing of it is healed."""
    program = await site.program(serves=True)
    await program.build(shop(policy, scaling=(0, 6)))
    assert (await program.run("scale", scale={"web": "3"})).state is RunState.SUCCEEDED
    await ready(site, program, 3)
    getattr(site.east, befalls)((await ids(site, program))[0])
    await site.until_event("node.breaker_opened")
    assert (await program.status()).nodes["web"].breaker
    return program


async def deed(site, program, **asked):
    """(what the plan destroys, how many it makes, what it closes) and the same of what a scaling really did."""
    plan = await program.plan(infrastructure="shop", **asked)
    there = {row.id: row.server_id for row in await site.rows(instance_rows, deleted_at=None)}
    made = len(site.east.made())
    alive = {server.provider_id for server in site.east.servers()}
    await program.run("scale", **asked)
    left = {row.id for row in await site.rows(instance_rows, deleted_at=None)}
    gone = set(there) - left
    assert len(alive - {server.provider_id for server in site.east.servers()}) <= len(gone)
    planned = {key for a in plan.actions if a.action in ("destroy", "replace") for key in a.instances}
    makes = sum(a.count for a in plan.actions if a.action in ("create", "replace"))
    closed = len(await site.rows(event_rows, kind="node.breaker_closed"))
    return (planned, makes, len(plan.closes)), (gone, len(site.east.made()) - made, closed)


@pytest.mark.parametrize("befalls", ["kill", "stop", "vanish"])
@pytest.mark.parametrize("number", ["+1", "-1", "3", "0"])
async def test_a_scaling_of_a_node_with_an_open_breaker_does_what_its_plan_says(site, befalls, number):
    program = await with_an_open_breaker(site, befalls=befalls)
    planned, done = await deed(site, program, scale={"web": number})
    assert planned == done and planned[2] == 1
    assert (await program.status()).nodes["web"].breaker == ""
    await asyncio.sleep(300.0)
    target = (await program.status()).nodes["web"].scaling.target
    assert site.alive() == ["web"] * target


async def test_removing_an_instance_leaves_the_breaker_as_it_is(site):
    program = await with_an_open_breaker(site)
    status = await program.status()
    well = next(key for key, i in status.nodes["web"].instances.items() if i.state is InstanceState.READY)
    planned, done = await deed(site, program, remove=(well,))
    assert planned == done == ({well}, 0, 0)
    assert (await program.status()).nodes["web"].breaker


async def test_a_plan_tells_that_a_description_closes_breakers(site):
    program = await with_an_open_breaker(site)
    sources = shop("{heal: {attempts: 2, window: 100000}}", scaling=(0, 6))
    assert (await program.plan(sources=sources)).closes == ("web",)
    await program.build(sources)
    assert len(await site.rows(event_rows, kind="node.breaker_closed")) == 1
    assert (await program.plan(sources=sources)).closes == ()


@pytest.mark.parametrize("act", ["scale", "up"])
async def test_a_command_waits_for_what_is_ill_and_heals_it_in_the_end(site, act):
    program = await site.program()
    sources = shop(scaling=(0, 6))
    await program.build(sources)
    assert (await program.run("scale", scale={"web": "3"})).state is RunState.SUCCEEDED
    (sick, *_) = (await program.status()).nodes["web"].instances.values()
    site.prober.down.add(sick.address)
    assert (await program.run("maintain")).state is RunState.SUCCEEDED
    states = [i.state for i in (await program.status()).nodes["web"].instances.values()]
    assert states.count(InstanceState.TEMP_FAILED) == 1
    if act == "up":
        done = await program.finish((await program.up(sources)).id)
    else:
        done = await program.run("scale", scale={"web": "4"})
    assert done.state is RunState.SUCCEEDED
    status = await program.status()
    assert [i.state for i in status.nodes["web"].instances.values()] == [InstanceState.READY] * (3 + (act == "scale"))
    assert sick.address not in [i.address for i in status.nodes["web"].instances.values()]
