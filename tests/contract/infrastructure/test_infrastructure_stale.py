"""What living instances were told of others and is no longer so is told; nobody has to ask for a plan to see it."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import update

from contract.infrastructure.test_infrastructure_healing import PAIR, stays
from pelagos.model.states import InfrastructureState, InstanceState
from pelagos.store.schema import events as event_rows
from pelagos.store.schema import instances
from support.infrastructure_world import describe
from support.virtual_site import anyio_backend, make_site, site

__all__ = ["anyio_backend", "make_site", "site"]

pytestmark = pytest.mark.anyio

ASKS = {"after": ["store"], "text": "use {{ getip('store') }}"}
CHAIN = {
    "store": {"check": PAIR["store"]["check"]},
    "web": {**ASKS, "scaling": (2, 2)},
    "lb": {"after": ["web"], "text": "{{ getip('store') }}"},
    "apart": {"after": ["store"], "text": "echo"},
}


async def address(program, node="store"):
    return next(iter((await program.status()).nodes[node].instances.values())).address


async def marks(program):
    """Node -> what is said of its instances that are not as described."""
    status = await program.status()
    found = {
        name: sorted(i.outdated for i in node.instances.values() if i.outdated) for name, node in status.nodes.items()
    }
    return {name: told for name, told in found.items() if told}


async def marked(site, program, expected):
    async def so():
        return await marks(program) == expected

    await site.until(so, f"marked: {expected}")


async def lose(site, program, node="store"):
    """A server of the node vanishes; its address before."""
    before = await address(program, node)
    site.east.vanish((await site.provider_ids(node, await program.status()))[0])
    return before


async def replaced(site, program, before, count=1):
    """There are as many stores as there were, none with that address: theirs."""

    async def now():
        status = await program.status()
        return [i.address for i in status.nodes["store"].instances.values() if i.state is InstanceState.READY]

    async def so():
        found = await now()
        return len(found) == count and before not in found

    await site.until(so, "there is another one, with another address")
    return await now()


def said(before, now):
    return f"no longer true: getip('store') was {before}, is {now}"


async def test_who_was_told_the_address_of_a_healed_instance_is_marked_until_it_is_made_anew(site):
    daemon = await site.program(serves=True)
    await daemon.build(describe("shop", CHAIN))
    assert await marks(daemon) == {} and (await daemon.status()).state is InfrastructureState.READY
    before = await lose(site, daemon)
    (now,) = await replaced(site, daemon, before)
    told = said(before, now)
    await marked(site, daemon, {"web": [told, told], "lb": [told]})
    status = await daemon.status()
    assert status.state is InfrastructureState.DEGRADED
    events = await site.rows(event_rows, kind="instance.outdated")
    assert sorted(event.node for event in events) == ["lb", "web", "web"]
    explained = await daemon.explain()
    steps = {step.subject.split("/")[0]: step.why for step in explained.steps if step.subject.startswith("instance")}
    assert steps == {"instance web": f"not as described: {told}", "instance lb": f"not as described: {told}"}
    assert "not as described: lb, web" in explained.summary
    plan = await daemon.plan(sources=describe("shop", CHAIN))
    assert {a.node for a in plan.actions if a.action == "replace"} == {"web", "lb"}, "as the plan says"

    await stays(site, 120.0)
    assert len(await site.rows(event_rows, kind="instance.outdated")) == 3, "told once"
    await daemon.build(describe("shop", CHAIN))
    assert await marks(daemon) == {} and (await daemon.status()).state is InfrastructureState.READY


async def test_a_second_healing_is_told_anew_and_other_nodes_are_left_alone(site):
    daemon = await site.program(serves=True)
    await daemon.build(
        describe("shop", {**CHAIN, "cache": {}, "lb": {"after": ["cache"], "text": "{{ getip('cache') }}"}})
    )
    first = await lose(site, daemon)
    (second,) = await replaced(site, daemon, first)
    await marked(site, daemon, {"web": [said(first, second)] * 2})
    await lose(site, daemon)
    (third,) = await replaced(site, daemon, second)
    await marked(site, daemon, {"web": [said(first, third)] * 2})


async def test_a_maintenance_run_marks_as_well(site):
    program = await site.program()
    await program.build(describe("shop", {"store": {}, "web": ASKS}))
    before = await lose(site, program)
    for _ in range(5):
        await program.run("maintain")
        if await address(program) != before:
            break
        await stays(site, 10.0)
    now = await address(program)
    assert now and now != before and await marks(program) == {"web": [said(before, now)]}


async def test_what_nobody_had_time_to_mark_is_marked_by_who_maintains_next(site):
    program = await site.program()
    await program.build(describe("shop", {"store": {}, "web": ASKS}))
    before = await lose(site, program)
    daemon = await site.program(serves=True)
    (now,) = await replaced(site, daemon, before)
    await marked(site, daemon, {"web": [said(before, now)]})
    await site.run(_unmarked)
    await daemon.stop()
    assert await marks(program) == {}
    await program.run("maintain")
    assert await marks(program) == {"web": [said(before, now)]}


def _unmarked(connection):
    connection.execute(update(instances).values(outdated=None))


async def test_the_mark_goes_when_what_was_told_is_true_again(site):
    """Of two addresses one is another's since the healing; once that one goes, the other is all that was told."""
    daemon = await site.program(serves=True)
    lb = {"after": ["store"], "text": "{{ getipall('store') | join(',') }}"}
    store = {"scaling": (1, 2), "policy": "{scale_down: youngest}"}
    await daemon.build(describe("shop", {"store": {**store, "scaling": (2, 2)}, "lb": lb}))
    await daemon.build(describe("shop", {"store": store, "lb": lb}))
    first, second = [one.address for one in (await daemon.status()).nodes["store"].instances.values()]
    site.east.vanish(next(one.provider_id for one in site.east.servers() if second in one.addresses))
    now = await replaced(site, daemon, second, count=2)
    (third,) = {*now} - {first}

    async def told():
        return (await marks(daemon)).get("lb")

    (mark,) = await site.until(told, "the lb is marked")
    was, _, is_now = mark.removeprefix("no longer true: getipall('store') was ").partition(", is ")
    assert (set(was.split(", ")), set(is_now.split(", "))) == ({first, second}, {first, third})
    await daemon.run("scale", scale={"store": "1"})
    assert await marks(daemon) == {} and (await daemon.status()).state is InfrastructureState.READY
    events = await site.rows(event_rows, kind="instance.outdated")
    reasons = [json.loads(event.data)["reason"] for event in sorted(events, key=lambda event: event.position)]
    assert reasons == [mark, ""]


async def test_a_server_that_keeps_running_under_another_address_is_told_of_as_well(site):
    daemon = await site.program(serves=True)
    await daemon.build(describe("shop", {"store": {}, "web": ASKS}))
    before = await address(daemon)
    (server,) = await site.provider_ids("store", await daemon.status())
    site.east.give_addresses(server, "10.9.9.9")
    await marked(site, daemon, {"web": [said(before, "10.9.9.9")]})
    site.east.give_addresses(server)
    await marked(site, daemon, {})
    assert await address(daemon) == before


async def test_scaling_marks_only_who_was_told_an_address_that_goes(site):
    daemon = await site.program(serves=True)
    lb = {"after": ["web"], "text": "serve {{ getipall('web') | join(',') }}"}
    first = {"after": ["web"], "text": "serve {{ getip('web') }}"}
    await daemon.build(describe("shop", {"web": {"scaling": (1, 3)}, "lb": lb, "first": first}))
    before = await address(daemon, "web")
    await daemon.run("scale", scale={"web": "3"})
    await daemon.run("scale", scale={"web": "2"})
    await stays(site, 120.0)
    assert await marks(daemon) == {} and (await daemon.status()).state is InfrastructureState.READY
    await daemon.run("scale", scale={"web": "1"}, choice="oldest")
    now = await address(daemon, "web")
    told = f"no longer true: getip('web') was {before}, is {now}"
    assert now != before and (await marks(daemon))["first"] == [told]


async def test_a_node_whose_policy_keeps_it_is_marked_so_and_degrades_nothing(site):
    daemon = await site.program(serves=True)
    await daemon.build(describe("shop", {"store": {}, "web": {**ASKS, "policy": "{change: keep}"}}))
    before = await lose(site, daemon)
    (now,) = await replaced(site, daemon, before)
    await marked(site, daemon, {"web": [said(before, now) + " (kept)"]})

    async def ready():
        return (await daemon.status()).state is InfrastructureState.READY

    await site.until(ready, "it is as its policy wants it")


RENEWS = {**ASKS, "scaling": (2, 2), "policy": "{heal: {outdated: replace}}"}


async def as_described(site, program, nodes):
    """Nobody is marked, and an `up` would change nothing: all were told what is so."""

    async def so():
        return not await marks(program) and (await program.status()).state is InfrastructureState.READY

    await site.until(so, "all are as described")
    plan = await program.plan(sources=describe("shop", nodes))
    assert {action.action for action in plan.actions} == {"keep"}


async def ids(program, node):
    return set((await program.status()).nodes[node].instances)


async def test_whom_its_policy_renews_is_made_anew_in_its_turn_and_never_too_many_at_once(site):
    nodes = {**CHAIN, "web": RENEWS, "lb": {"after": ["web"], "text": "{{ getip('web') }}", "policy": RENEWS["policy"]}}
    daemon = await site.program(serves=True)
    await daemon.build(describe("shop", nodes))
    before = {node: await ids(daemon, node) for node in nodes}
    await replaced(site, daemon, await lose(site, daemon))
    fewest = []

    async def renewed():
        status = await daemon.status()
        fewest.append(sum(i.state is InstanceState.READY for i in status.nodes["web"].instances.values()))
        now = {node: set(found.instances) for node, found in status.nodes.items()}
        return not now["web"] & before["web"] and not now["lb"] & before["lb"] and len(now["web"]) == 2

    await site.until(renewed, "web and lb are others")
    assert min(fewest) >= 2
    await as_described(site, daemon, nodes)
    assert await ids(daemon, "apart") == before["apart"]
    gone = [event for event in await site.rows(event_rows, kind="instance.destroying") if event.node in ("web", "lb")]
    assert len(gone) == 3 and all("no longer true: getip(" in json.loads(event.data)["reason"] for event in gone)


async def test_whoever_maintains_next_goes_on_with_renewing(site):
    nodes = {**CHAIN, "web": RENEWS, "lb": {}}
    first = await site.program(serves=True)
    await first.build(describe("shop", nodes))
    before = await ids(first, "web")
    await replaced(site, first, await lose(site, first))

    async def half_way():
        return len(await ids(first, "web")) == 3

    await site.until(half_way, "the first of two is being made anew")
    await first.stop()
    second = await site.program(serves=True)
    await as_described(site, second, nodes)
    assert not before & await ids(second, "web") and len(await ids(second, "web")) == 2


async def test_a_maintenance_run_renews_as_well(site):
    nodes = {"store": {}, "web": RENEWS}
    program = await site.program()
    await program.build(describe("shop", nodes))
    before = await lose(site, program)
    for _ in range(5):
        await program.run("maintain")
        if await address(program) not in ("", before):
            break
        await stays(site, 10.0)
    await as_described(site, program, nodes)


async def test_what_is_protected_is_marked_and_not_renewed(site):
    nodes = {"store": {}, "web": {**ASKS, "policy": "{protect: true, heal: {outdated: replace}}"}}
    daemon = await site.program(serves=True)
    await daemon.build(describe("shop", nodes))
    web, before = await ids(daemon, "web"), await lose(site, daemon)
    (now,) = await replaced(site, daemon, before)
    await marked(site, daemon, {"web": [said(before, now)]})
    await stays(site, 60.0)
    assert await ids(daemon, "web") == web


async def test_what_is_described_anew_is_kept_and_what_was_told_wrong_is_renewed(site):
    nodes = {"store": {}, "web": {**ASKS, "policy": "{change: keep, heal: {outdated: replace}}"}}
    daemon = await site.program(serves=True)
    await daemon.build(describe("shop", nodes))
    web = await ids(daemon, "web")
    other = {**nodes, "web": {**nodes["web"], "text": "use {{ getip('store') }} now"}}
    await daemon.build(describe("shop", other))
    assert await ids(daemon, "web") == web
    await replaced(site, daemon, await lose(site, daemon))
    await as_described(site, daemon, other)
    assert not web & await ids(daemon, "web")
