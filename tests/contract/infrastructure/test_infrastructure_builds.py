"""Builds: order without barriers, strategies, fall-back, roll-back, what is learned; runs that wait for each other."""

from __future__ import annotations

import itertools

import pytest

from pelagos.model import DEFAULT_SCOPE
from pelagos.model.errors import Conflict, InvalidInput
from pelagos.model.states import InfrastructureState, InstanceState, RunState, ServerState
from pelagos.services.infrastructure import queries, revisions
from pelagos.store.schema import runs as run_rows
from support.infrastructure_world import describe

pytestmark = pytest.mark.anyio

ON_SQLITE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
"""For what does not depend on the kind of store."""
CHAIN = {"store": {}, "web": {"after": ["store"], "scaling": (2, 4)}, "lb": {"after": ["web"]}}


def states(status):
    """Node -> the states of its instances."""
    return {name: [i.state.value for i in node.instances.values()] for name, node in status.nodes.items()}


def spans(cloud):
    """Node -> [(from request, to running)] by the cloud's own clock."""
    made, active = {}, {}
    for happening in cloud.history():
        if happening.cause == "create":
            made[happening.provider_id] = happening.at
        if happening.state is ServerState.ACTIVE:
            active.setdefault(happening.provider_id, (happening.name, happening.at))
    found = {}
    for provider_id, (name, at) in active.items():
        found.setdefault(name.split("-")[3], []).append((made[provider_id], at))
    return found


async def test_a_build_and_its_status(site):
    program = await site.program()
    run = await program.build(describe("shop", CHAIN))
    status = await program.status()
    assert status.state is InfrastructureState.READY and status.id == run.infrastructure_id
    assert states(status) == {"store": ["ready"], "web": ["ready", "ready"], "lb": ["ready"]}
    assert site.alive() == ["lb", "store", "web", "web"]
    times = spans(site.east)
    assert max(end for _, end in times["store"]) <= min(start for start, _ in times["web"])
    assert max(end for _, end in times["web"]) <= min(start for start, _ in times["lb"])
    site.assert_nothing_doubled()
    kinds = await site.kinds(run_id=run.id)
    assert kinds[:2] == ["run.accepted", "run.started"] and kinds[-1] == "run.succeeded"
    assert kinds.count("instance.ready") == 4


@ON_SQLITE
async def test_a_fast_branch_is_not_held_back_by_a_slow_one(site):
    program = await site.program()
    nodes = {
        "slow": {"boot_seconds": 0.6},
        "fast": {},
        "afterslow": {"after": ["slow"]},
        "afterfast": {"after": ["fast"]},
        "last": {"after": ["afterfast"]},
    }
    await program.build(describe("shop", nodes))
    times = spans(site.east)
    (_, slow_up), (last_asked, last_up) = times["slow"][0], times["last"][0]
    assert last_up < slow_up, "three levels of the fast branch are ready before the first of the slow one"
    assert times["afterslow"][0][0] >= slow_up and last_asked < slow_up


@ON_SQLITE
async def test_sequential_builds_one_instance_at_a_time(site):
    program = await site.program()
    nodes = {"a": {"boot_seconds": 0.03, "scaling": (2, 2)}, "b": {"boot_seconds": 0.03}, "c": {"boot_seconds": 0.03}}
    await program.build(describe("shop", nodes), strategy="sequential")
    one_by_one = sorted(span for found in spans(site.east).values() for span in found)
    assert len(one_by_one) == 4
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(one_by_one))


@ON_SQLITE
async def test_max_parallel_bounds_what_is_being_created(site):
    program = await site.program()
    await program.build(describe("shop", {"a": {"boot_seconds": 0.05, "scaling": (7, 9)}}), max_parallel=2)
    edges = sorted([(start, 1) for start, _ in spans(site.east)["a"]] + [(end, -1) for _, end in spans(site.east)["a"]])
    growing = most = 0
    for _, step in edges:
        growing += step
        most = max(most, growing)
    assert most == 2 and len(edges) == 14


@ON_SQLITE
@pytest.mark.parametrize("refusal", ["rejected", "no_capacity"])
async def test_the_next_implementation_is_taken_and_kept(make_site, refusal):
    site = await make_site({"east": {}, "west": {}})
    program = await site.program()
    site.east.inject("create", refusal, times=100)
    sources = describe("shop", {"web": {"clouds": ["east", "west"], "scaling": (1, 4)}})
    await program.build(sources)
    assert [len(cloud.servers()) for cloud in site.clouds.values()] == [0, 1]
    asked = site.east.calls["create"]
    site.east.calm()
    assert (await program.run("scale", scale={"web": "3"})).state is RunState.SUCCEEDED
    assert [len(cloud.servers()) for cloud in site.clouds.values()] == [0, 3], "the node stays where it can be made"
    assert site.east.calls["create"] == asked
    status = await program.status()
    assert {instance.cloud for instance in status.nodes["web"].instances.values()} == {"west"}


@ON_SQLITE
async def test_a_node_stays_with_its_implementation_when_a_scaling_fails(make_site):
    site = await make_site({"east": {}, "west": {}})
    program = await site.program()
    site.east.inject("create", "no_capacity", times=1)
    await program.build(describe("shop", {"web": {"clouds": ["east", "west"], "scaling": (1, 4)}}))
    run = await program.start_run("scale", infrastructure="shop", scale={"web": "2"})
    done = await program.finish((await program.cancel(run)).id)
    assert done.state in (RunState.CANCELLED, RunState.SUCCEEDED)
    assert (await program.run("scale", scale={"web": "3"})).state is RunState.SUCCEEDED
    assert [len(cloud.servers()) for cloud in site.clouds.values()] == [0, 3]


FAILING = {"store": {}, "web": {"after": ["store"], "flavor": "huge"}}


async def test_a_failed_build_rolls_back_exactly_what_it_made(make_site):
    site = await make_site({"east": {"flavors": ("small",)}})
    program = await site.program()
    await program.build(describe("other", {"mine": {}}))
    done = await program.finish((await program.up(describe("shop", FAILING))).id)
    assert done.state is RunState.FAILED and done.error is not None
    assert "node 'web'" in done.error.message and "huge" in done.error.message
    status = await program.status()
    assert status.state is InfrastructureState.FAILED
    assert all(not node.instances for node in status.nodes.values())
    assert site.alive() == ["mine"], "what other infrastructures have is untouched"
    assert spans(site.east)["store"], "it had got as far as the store"
    again = await program.finish((await program.up(describe("shop", FAILING))).id)
    assert again.state is RunState.FAILED
    assert (await program.status()).state is InfrastructureState.FAILED, "failing twice is no better than once"
    cancelled = await program.up(describe("shop", {"store": {"boot_seconds": 5}}))
    await site.until_event("instance.pending", run_id=cancelled.id)
    assert (await program.finish((await program.cancel(cancelled)).id)).state is RunState.CANCELLED
    assert (await program.status()).state is InfrastructureState.FAILED
    await program.build(describe("shop", {"store": {}}))
    assert (await program.run("down")).state is RunState.SUCCEEDED
    assert site.alive() == ["mine"]


@ON_SQLITE
async def test_keep_keeps_what_a_failed_build_made(make_site):
    site = await make_site({"east": {"flavors": ("small",)}})
    program = await site.program()
    done = await program.finish((await program.up(describe("shop", FAILING), keep=True)).id)
    assert done.state is RunState.FAILED
    status = await program.status()
    assert status.state is InfrastructureState.DEGRADED and states(status)["store"] == ["ready"]
    assert site.alive() == ["store"]
    await program.build(describe("shop", {"store": {}, "web": {"after": ["store"]}}))
    assert len(spans(site.east)["store"]) == 1, "the store it had made is the one that is used"


async def test_a_failed_update_leaves_the_description_and_the_targets_before(make_site):
    site = await make_site({"east": {"flavors": ("small",)}})
    program = await site.program()
    good = describe("shop", {"store": {}, "web": {"after": ["store"], "scaling": (1, 5)}})
    await program.build(good)
    assert (await program.run("scale", scale={"web": "2"})).state is RunState.SUCCEEDED
    before = await program.status()
    bad = describe("shop", {"web": {"scaling": (4, 5)}, "extra": {"after": ["web"], "flavor": "huge"}})
    done = await program.finish((await program.up(bad)).id)
    assert done.state is RunState.FAILED
    after = await program.status()
    assert after.nodes == before.nodes and after.state is InfrastructureState.READY
    assert site.alive() == ["store", "web", "web"]
    stored = await site.read(lambda c: queries.infrastructure(c, DEFAULT_SCOPE, "shop"))
    assert [node.name for node in stored.compiled.nodes] == ["store", "web"]
    _, texts = await site.read(lambda c: revisions.read_revision(c, DEFAULT_SCOPE, stored.id, "HEAD"))
    assert texts.sources == good
    told = [item.message for item in await site.read(lambda c: queries.history(c, DEFAULT_SCOPE, "shop"))]
    assert [text.partition(" run ")[0] for text in told] == ["as it was before", "up,", "up,"], "nothing is hidden"
    plan = await program.plan(sources=good)
    assert not plan.changes


async def test_cancelling_rolls_back_the_runs_own_and_a_second_run_goes_on(site):
    program = await site.program()
    await program.build(describe("shop", {"store": {}}))
    first = await program.up(describe("shop", {"store": {}, "slow": {"boot_seconds": 9}, "quick": {}}))
    await site.until_event("instance.ready", node="quick")
    await program.cancel(first)
    second = await program.up(describe("shop", {"store": {}, "web": {}}))
    assert (await program.finish(first.id)).state is RunState.CANCELLED
    assert (await program.finish(second.id)).state is RunState.SUCCEEDED
    assert site.alive() == ["store", "web"] and len(spans(site.east)["store"]) == 1
    assert states(await program.status()) == {"store": ["ready"], "web": ["ready"]}


async def test_cancelling_a_first_build_leaves_nothing_unless_another_waits(site):
    program = await site.program()
    first = await program.up(describe("shop", {"slow": {"boot_seconds": 9}, "quick": {}}))
    await site.until_event("instance.ready", node="quick")
    await program.cancel(first)
    assert (await program.finish(first.id)).state is RunState.CANCELLED
    assert site.alive() == [] and await site.read(lambda c: queries.list_infrastructures(c, DEFAULT_SCOPE)) == []
    first = await program.up(describe("shop", {"slow": {"boot_seconds": 9}}))
    await site.until_event("instance.pending", node="slow", run_id=first.id)
    second = await program.up(describe("shop", {"web": {}}))
    assert second.infrastructure_id == first.infrastructure_id
    await program.cancel(first)
    assert (await program.finish(second.id)).state is RunState.SUCCEEDED
    assert site.alive() == ["web"]
    assert states(await program.status()) == {"web": ["ready"]}


@ON_SQLITE
async def test_cancel_with_keep_leaves_what_was_made(site):
    program = await site.program()
    run = await program.up(describe("shop", {"quick": {}, "slow": {"boot_seconds": 0.4}}))
    await site.until_event("instance.ready", node="quick")
    await program.cancel(run, keep=True)
    assert (await program.finish(run.id)).state is RunState.CANCELLED
    assert "quick" in site.alive()
    await program.build(describe("shop", {"quick": {}, "slow": {"boot_seconds": 0.4}}))
    assert site.alive() == ["quick", "slow"]
    site.assert_nothing_doubled()
    assert {name: len(found) for name, found in spans(site.east).items()} == {"quick": 1, "slow": 1}


async def test_a_repeated_request_is_the_same_run(site):
    program = await site.program()
    sources = describe("shop", {"web": {}})
    first = await program.up(sources, request_id="r-1")
    again = await program.up(sources, request_id="r-1")
    assert again.id == first.id
    assert (await program.finish(first.id)).state is RunState.SUCCEEDED
    assert (await program.up(sources, request_id="r-1")).state is RunState.SUCCEEDED
    assert len(await site.rows(run_rows)) == 1 and site.alive() == ["web"]


@ON_SQLITE
async def test_the_estimate_is_learned(site):
    program = await site.program()
    sources = describe("shop", {"store": {"boot_seconds": 0.3}, "web": {"after": ["store"]}})
    plan = await program.plan(sources=sources)
    assert plan.id is None and plan.estimated_seconds is None
    assert [(a.action, a.node, a.count) for a in plan.actions] == [("create", "store", 1), ("create", "web", 1)]
    assert plan.critical_path == ("store", "web")
    await program.build(sources)
    plan = await program.plan(sources=sources)
    assert not plan.changes and {a.action for a in plan.actions} == {"keep"} and plan.estimated_seconds == 0.0
    other = describe("shop", {"store": {"boot_seconds": 0.3, "scaling": (3, 3)}, "new": {}})
    plan = await program.plan(sources=other)
    assert {(a.action, a.node, a.count) for a in plan.actions} == {
        ("update", "store", 1),
        ("create", "store", 2),
        ("create", "new", 1),
        ("destroy", "web", 1),
    }
    assert plan.critical_path == ("store",) and plan.estimated_seconds is not None
    assert 0.3 <= plan.estimated_seconds < 2.0
    assert InstanceState.READY.value in states(await program.status())["web"], "a plan changes nothing"


@ON_SQLITE
async def test_an_id_that_was_chosen_means_one_infrastructure_for_ever(make_site):
    site = await make_site()
    program = await site.program()
    sources = describe("shop", {"web": {}})
    done = await program.finish((await program.up(sources, new=True, id="my-shop")).id)
    assert (done.state, done.infrastructure_id) == (RunState.SUCCEEDED, "my-shop")
    with pytest.raises(Conflict):
        await program.up(sources, new=True, id="my-shop")
    with pytest.raises(Conflict):
        await program.up(sources, new=True, id="shop")  # somebody's name
    for wrong in ("a/b", "-a", "a" * 37, "a b"):
        with pytest.raises(InvalidInput):
            await program.up(sources, new=True, id=wrong)
    with pytest.raises(InvalidInput):
        await program.up(sources, id="other")  # not a new one
    assert (await program.run("down", "my-shop")).state is RunState.SUCCEEDED
    with pytest.raises(Conflict):
        await program.up(sources, new=True, id="my-shop")
