"""Another description of what runs: what is made anew, in which order and bounds, and what a failure leaves."""

from __future__ import annotations

import pytest
from sqlalchemy import delete, update

from contract.infrastructure.test_infrastructure_builds import ON_SQLITE
from pelagos.model.errors import Conflict, InvalidInput, NotFound
from pelagos.model.states import InfrastructureState, InstanceState, RunState, ServerState
from pelagos.services.infrastructure.messages import RefreshLive
from pelagos.store.schema import events as event_rows
from pelagos.store.schema import instance_sources
from pelagos.store.schema import instances as instance_rows
from support.infrastructure_world import describe

pytestmark = pytest.mark.anyio


def void(_):
    """A transaction answers something that can be kept, or nothing."""


async def ids(program, node):
    """The node's ready instances, oldest first."""
    status = await program.status()
    if node not in status.nodes:
        return []
    return [key for key, one in status.nodes[node].instances.items() if one.state is InstanceState.READY]


def fewest_active(cloud, node, since):
    """The fewest servers of a node that were active at any time after ``since``."""
    active, fewest = set(), None
    for happening in cloud.history():
        if happening.name.split("-")[3] != node:
            continue
        (active.add if happening.state is ServerState.ACTIVE else active.discard)(happening.provider_id)
        if happening.at > since:
            fewest = len(active) if fewest is None else min(fewest, len(active))
    return fewest


async def test_only_what_reaches_an_instance_makes_it_anew(site):
    program = await site.program()
    told = {"text": "echo {{ variables.greeting }}", "variables": "{greeting: hello, other: 1}"}
    await program.build(describe("shop", {"store": {}, "web": {**told, "scaling": (2, 2)}}))
    store, web = await ids(program, "store"), await ids(program, "web")

    unused = {**told, "variables": "{greeting: hello, other: 2}"}
    sources = describe("shop", {"store": {"check": "{ports: [80, 81]}"}, "web": {**unused, "scaling": (2, 3)}})
    plan = await program.plan(sources=sources)
    assert {(a.action, a.node) for a in plan.actions} == {("update", "store"), ("update", "web")}
    changed = {c.path for a in plan.actions for c in a.changes}
    assert changed == {"health_check.ports[#1]", "scaling.max", "variables.other"}
    await program.build(sources)
    assert (await ids(program, "store"), await ids(program, "web")) == (store, web)
    assert not (await program.plan(sources=sources)).changes

    used = {**told, "variables": "{greeting: good day, other: 2}"}
    sources = describe("shop", {"store": {"check": "{ports: [80, 81]}"}, "web": {**used, "scaling": (2, 3)}})
    plan = await program.plan(sources=sources)
    (replaced,) = [a for a in plan.actions if a.action == "replace"]
    assert set(replaced.instances) == set(web) and [c.path for c in replaced.changes] == ["variables.greeting"]
    assert (replaced.changes[0].old, replaced.changes[0].new) == ("hello", "good day")
    await program.build(sources)
    assert await ids(program, "store") == store
    assert len(await ids(program, "web")) == 2 and not set(web) & set(await ids(program, "web"))
    assert not (await program.plan(sources=sources)).changes


def telling(port, text="{{ attributes.store.port }} at {{ attributes.store.ip }}", **more):
    """A store that declares a port, a web that is told of it and where it is, and a lb that maps it and never looks."""
    nodes = {"store": {}, "web": {"after": ["store"], "text": text}, "lb": {"after": ["store"], "text": "echo"}}
    nodes["store"].update(more)
    sources = describe("shop", nodes)
    for dependent in ("WEB", "LB"):
        edge = f"[*{dependent}, *STORE]\n"
        mapped = f"{edge}    mappings: [[port, store.port], [ip, store.ip]]\n"
        sources["infra.yaml"] = sources["infra.yaml"].replace(edge, mapped)
    check = "    health_check: {ports: [80]}\n"
    declared = f"{check}    contextualisation: {{type: basic, attributes: {{port: {port}}}}}\n"
    sources["nodes.yaml"] = sources["nodes.yaml"].replace(check, declared, 1)
    return sources


async def test_who_was_told_an_attribute_is_made_anew_when_it_is_another(site):
    program = await site.program()
    await program.build(telling(5432))
    store, web, lb = [await ids(program, node) for node in ("store", "web", "lb")]
    assert not (await program.plan(sources=telling(5432))).changes

    for sources in (telling(5433), telling(5433, flavor="large")):
        plan = await program.plan(sources=sources)
        assert {a.node for a in plan.actions if a.action == "replace"} == {"store", "web"}
        await program.build(sources)
        now = [await ids(program, node) for node in ("store", "web", "lb")]
        assert [len(one) for one in now] == [1, 1, 1] and now[2] == lb
        assert now[0] != store and now[1] != web
        store, web = now[:2]
        assert not (await program.plan(sources=sources)).changes


@pytest.mark.parametrize(("policy", "fewest", "most"), [("{}", 3, 4), ("{max_unavailable: 2}", 1, 3)])
async def test_a_node_moves_within_its_bounds(make_site, policy, fewest, most):
    site = await make_site({"east": {"boot_seconds": 0.05}})
    program = await site.program()
    await program.build(describe("shop", {"web": {"scaling": (3, 3), "policy": policy}}))
    before = await ids(program, "web")
    began = site.east.history()[-1].at
    await program.build(describe("shop", {"web": {"scaling": (3, 3), "policy": policy, "flavor": "large"}}))
    assert fewest_active(site.east, "web", began) >= fewest
    assert not set(before) & set(await ids(program, "web"))
    living, peak = set(), 0
    for happening in site.east.history():
        gone = happening.state in (ServerState.DELETING, ServerState.DELETED)
        (living.discard if gone else living.add)(happening.provider_id)
        peak = max(peak, len(living))
    assert peak == most


async def test_who_was_told_an_address_is_told_the_new_one_in_order(make_site):
    site = await make_site({"east": {"boot_seconds": 0.02}})
    program = await site.program()

    def shop(flavor):
        return describe(
            "shop",
            {
                "store": {"flavor": flavor},
                "web": {"after": ["store"], "text": "use {{ getip('store') }}", "scaling": (2, 2)},
                "lb": {"after": ["web"], "text": "serve {{ getipall('web') | join(',') }}"},
                "apart": {"after": ["store"]},
            },
        )

    await program.build(shop("small"))
    apart = await ids(program, "apart")
    plan = await program.plan(sources=shop("large"))
    replaced = {a.node: [c.path for c in a.changes] for a in plan.actions if a.action == "replace"}
    assert replaced == {"store": ["resource.flavor"], "web": ["getip('store')"], "lb": ["getipall('web')"]}
    await program.build(shop("large"))
    assert await ids(program, "apart") == apart
    history = site.east.history()
    active = [h.name.split("-")[3] for h in history if h.state is ServerState.ACTIVE][5:]
    assert active == ["store", "web", "web", "lb"]
    gone = [h.name.split("-")[3] for h in history if h.state is ServerState.DELETING]
    assert gone.index("store") > gone.index("web"), "the old one serves until all are told of the new one"
    assert not (await program.plan(sources=shop("large"))).changes


async def test_instances_of_which_it_is_not_known_what_they_are_made_from(site):
    """Made by a version that did not keep it."""
    program = await site.program()
    await program.build(describe("shop", {"web": {}}))
    before = await ids(program, "web")
    await site.run(lambda connection: void(connection.execute(update(instance_rows).values(source=None))))
    assert not (await program.plan(sources=describe("shop", {"web": {}}))).changes
    plan = await program.plan(sources=describe("shop", {"web": {"flavor": "large"}}))
    assert [(a.action, a.instances, a.changes) for a in plan.actions] == [("replace", tuple(before), ())]
    await program.build(describe("shop", {"web": {"flavor": "large"}}))
    assert await ids(program, "web") != before


async def test_scaling_makes_nobody_else_anew_and_healing_does_with_the_next_up(site):
    program = await site.program()
    told = {"after": ["web"], "text": "serve {{ getipall('web') | join(',') }}"}
    sources = describe("shop", {"web": {"scaling": (2, 4)}, "lb": told})
    await program.build(sources)
    lb = await ids(program, "lb")
    told_of = await site.provider_ids("web", await program.status())
    await program.run("scale", scale={"web": "4"})
    assert not (await program.plan(sources=sources)).changes
    await program.run("scale", scale={"web": "2"})
    assert not (await program.plan(sources=sources)).changes
    more = describe("shop", {"web": {"scaling": (3, 4)}, "lb": told})
    await program.build(more)
    assert await ids(program, "lb") == lb
    left = await site.provider_ids("web", await program.status())
    site.east.vanish(next(one for one in left if one in told_of))
    await program.run("maintain")
    replaced = [a for a in (await program.plan(sources=more)).actions if a.action == "replace"]
    assert [(a.node, [change.path for change in a.changes]) for a in replaced] == [("lb", ["getipall('web')"])]


async def test_a_policy_keeps_instances_and_marks_them(site):
    program = await site.program()
    await program.build(describe("shop", {"web": {"policy": "{change: keep}"}}))
    before = await ids(program, "web")
    sources = describe("shop", {"web": {"policy": "{change: keep}", "flavor": "large", "scaling": (1, 2)}})
    await program.build(sources)
    assert await ids(program, "web") == before
    status = await program.status()
    assert [i.outdated for i in status.nodes["web"].instances.values()] == ["resource.flavor (kept)"]
    assert status.state is InfrastructureState.READY
    plan = await program.plan(sources=sources)
    (kept,) = plan.actions
    assert kept.action == "keep" and "kept by its policy" in kept.reason and not plan.changes
    await program.run("scale", scale={"web": "2"})
    assert sorted(i.outdated for i in (await program.status()).nodes["web"].instances.values()) == [
        "",
        "resource.flavor (kept)",
    ]
    await program.build(sources, replace=("web/" + before[0][:8],))
    assert before[0] not in await ids(program, "web")
    assert not any(i.outdated for i in (await program.status()).nodes["web"].instances.values())


async def test_a_node_is_renamed_and_its_instances_stay(site):
    program = await site.program()
    web = {"after": ["store"], "text": "use {{ getip('store') }}"}
    await program.build(describe("shop", {"store": {}, "web": web}))
    store, webs = await ids(program, "store"), await ids(program, "web")
    web = {"after": ["db"], "text": "use {{ getip('db') }}"}
    sources = describe("shop", {"db": {}, "web": web}, moved="[{from: store, to: db}]")
    sources["nodes.yaml"] = sources["nodes.yaml"].replace("db_node", "store_node")
    sources["infra.yaml"] = sources["infra.yaml"].replace("db_node", "store_node")
    plan = await program.plan(sources=sources)
    assert [(a.action, a.node) for a in plan.actions] == [("update", "db"), ("update", "web")]
    run = await program.build(sources)
    (told,) = await site.rows(event_rows, kind="node.moved")
    assert told.run_id == run.id, "whoever follows the run hears it"
    assert (await ids(program, "db"), await ids(program, "web")) == (store, webs)
    assert set((await program.status()).nodes) == {"db", "web"}
    assert not (await program.plan(sources=sources)).changes, "a move that was made may stay in the description"
    del_moved = {**sources, "infra.yaml": sources["infra.yaml"].replace("moved: [{from: store, to: db}]\n", "")}
    assert not (await program.plan(sources=del_moved)).changes


async def test_another_type_of_the_same_content_changes_nothing(site):
    program = await site.program()
    await program.build(describe("shop", {"web": {}}))
    before = await ids(program, "web")
    sources = {name: text.replace("web_node", "other_node") for name, text in describe("shop", {"web": {}}).items()}
    await program.build(sources)
    assert await ids(program, "web") == before


async def test_a_filter_moves_what_no_longer_fits_and_a_further_choice_moves_nothing(make_site):
    site = await make_site({"east": {}, "west": {}})
    program = await site.program()
    await program.build(describe("shop", {"web": {}, "lb": {}}))
    web, lb = await ids(program, "web"), await ids(program, "lb")
    both = {"clouds": ["east", "west"]}
    await program.build(describe("shop", {"web": both, "lb": {"after": ["web"]}}))
    assert (await ids(program, "web"), await ids(program, "lb")) == (web, lb)
    await program.build(describe("shop", {"web": {"clouds": ["west", "east"]}, "lb": {"after": ["web"]}}))
    assert await ids(program, "web") == web, "the same choice at another place"
    moved = describe("shop", {"web": {**both, "filter": "{name: west}"}, "lb": {"after": ["web"]}})
    plan = await program.plan(sources=moved)
    (replaced,) = [a for a in plan.actions if a.action == "replace"]
    assert replaced.node == "web" and {c.path for c in replaced.changes} == {"resource.name"}
    await program.build(moved)
    assert [len(cloud.servers()) for cloud in site.clouds.values()] == [1, 1]
    assert await ids(program, "lb") == lb


@pytest.mark.parametrize("on_failure", ["rollback", "stop", "keep"])
async def test_what_a_failed_change_leaves(make_site, on_failure):
    site = await make_site({"east": {"flavors": ["small", "large"]}})
    program = await site.program()
    policy = f"{{on_failure: {on_failure}}}"
    first = describe("shop", {"store": {"policy": policy}, "web": {"policy": policy, "scaling": (2, 2)}})
    await program.build(first)
    store, web = await ids(program, "store"), await ids(program, "web")
    broken = {
        "policy": policy,
        "scaling": (2, 2),
        "after": ["store"],
        "flavor": "nosuch",
        "text": "{{ getip('store') }}",
    }
    run = await program.up(describe("shop", {"store": {"policy": policy, "flavor": "large"}, "web": broken}))
    done = await program.finish(run.id)
    assert done.state is RunState.FAILED and "nosuch" in done.error.message
    assert await ids(program, "web") == web, "what runs goes on running"
    status = await program.status()
    if on_failure == "rollback":
        assert status.state is InfrastructureState.READY
        assert not (await program.plan(sources=first)).changes, "it is as it was"
        return
    assert status.state is InfrastructureState.DEGRADED
    assert (await ids(program, "store"))[-1] not in store
    failed = [i for i in status.nodes["web"].instances.values() if i.state is not InstanceState.READY]
    assert bool(failed) is False or on_failure == "keep"
    await program.build(first)
    assert await ids(program, "web") == web


@ON_SQLITE
async def test_a_change_that_fails_half_way_goes_back(make_site):
    """The node's first instances are made anew already when its next ones cannot be made."""
    site = await make_site({"east": {"boot_seconds": 0.05}})
    program = await site.program()
    first = describe("shop", {"web": {"scaling": (3, 3)}})
    await program.build(first)
    before = await ids(program, "web")
    run = await program.up(describe("shop", {"web": {"scaling": (3, 3), "flavor": "large"}}))
    await site.until_event("instance.destroyed", run_id=run.id)
    site.east.inject("create", "rejected")
    done = await program.finish(run.id)
    assert done.state is RunState.FAILED and "run.rolling_back" in await site.kinds(run_id=run.id)
    after = await ids(program, "web")
    assert len(after) == 3 and before != after
    assert not (await program.plan(sources=first)).changes, "made anew as they were before"
    assert (await program.status()).state is InfrastructureState.READY


async def test_a_newer_change_supersedes_the_one_under_way(make_site):
    site = await make_site({"east": {"boot_seconds": 0.3}})
    program = await site.program()
    await program.build(describe("shop", {"web": {"scaling": (2, 2)}}))
    before = await ids(program, "web")
    first = await program.up(describe("shop", {"web": {"scaling": (2, 2), "flavor": "large"}, "extra": {}}))
    await site.until_event("instance.pending", run_id=first.id)
    second = await program.up(describe("shop", {"web": {"scaling": (2, 2), "flavor": "huge"}}))
    ended = await program.finish(first.id)
    assert ended.state is RunState.SUPERSEDED
    assert (
        ended.error.code == "superseded" and ended.error.details["by"] == second.id and second.id in ended.error.message
    )
    assert (await program.finish(second.id)).state is RunState.SUCCEEDED
    assert site.alive() == ["web", "web"] and not set(before) & set(await ids(program, "web"))
    huge = describe("shop", {"web": {"scaling": (2, 2), "flavor": "huge"}})
    assert not (await program.plan(sources=huge)).changes
    same = describe("shop", {"web": {"scaling": (2, 2), "flavor": "tiny"}})
    one, two = await program.up(same), await program.up(same)
    assert [(await program.finish(run.id)).state for run in (one, two)] == [RunState.SUCCEEDED] * 2, (
        "the same is no newer"
    )


async def test_a_newer_change_that_fails_goes_back_to_what_was_well(make_site):
    site = await make_site({"east": {"boot_seconds": 0.3, "flavors": ["small", "large"]}})
    program = await site.program()
    first = describe("shop", {"web": {}})
    await program.build(first)
    before = await ids(program, "web")
    older = await program.up(describe("shop", {"web": {}, "extra": {"flavor": "large"}}))
    await site.until_event("instance.pending", run_id=older.id)
    newer = await program.up(describe("shop", {"web": {"flavor": "nosuch"}, "extra": {}}))
    assert (await program.finish(newer.id)).state is RunState.FAILED
    assert await ids(program, "web") == before and site.alive() == ["web"]
    assert not (await program.plan(sources=first)).changes


async def test_some_nodes_only(site):
    program = await site.program()

    def shop(flavor, **more):
        nodes = {"store": {"flavor": flavor}, "web": {"after": ["store"], "flavor": flavor}, "lb": {"after": ["web"]}}
        return describe("shop", {**nodes, **more})

    await program.build(shop("small"))
    before = {node: await ids(program, node) for node in ("store", "web", "lb")}
    plan = await program.plan(sources=shop("large", new={}), only=("store",))
    assert {a.node for a in plan.actions if a.action not in ("keep",)} == {"store"}
    assert plan.left_out == ("web", "lb", "new"), "in the order of the description"
    await program.build(shop("large", new={}), only=("store",))
    assert (await program.status()).state is InfrastructureState.READY
    assert (await ids(program, "web"), await ids(program, "lb")) == (before["web"], before["lb"])
    assert await ids(program, "store") != before["store"] and site.alive() == ["lb", "store", "web"]
    await program.build(shop("large", new={}), without=("web",))
    assert await ids(program, "web") == before["web"] and site.alive() == ["lb", "new", "store", "web"]
    await program.build(shop("large", new={}))
    assert await ids(program, "web") != before["web"]
    with pytest.raises(NotFound, match="no node 'wep'"):
        await program.plan(sources=shop("large"), only=("wep",))
    with pytest.raises(NotFound, match="no node 'wep'"):
        await program.up(shop("large"), without=("wep",))


async def test_what_is_left_as_it_is_cannot_be_made_anew(site):
    program = await site.program()
    sources = describe("shop", {"store": {}, "web": {}})
    await program.build(sources)
    (web,) = await ids(program, "web")
    for anew in ("web", f"web/{web[:8]}"):
        for ask in (program.up, lambda sources, **fields: program.plan(sources=sources, **fields)):
            with pytest.raises(InvalidInput, match=f"'{anew}' cannot be both made anew"):
                await ask(sources, without=("web",), replace=(anew,))
            with pytest.raises(InvalidInput, match=f"'{anew}' cannot be made anew .*leaves 'web' as it is"):
                await ask(sources, only=("store",), replace=(anew,))
    assert await ids(program, "web") == [web]
    await program.build(sources, without=("store",), replace=("web",))
    assert await ids(program, "web") != [web]


async def test_who_is_told_of_what_changes_is_left_alone_if_that_is_asked_for(site):
    program = await site.program()
    nodes = {"web": {}, "lb": {"after": ["web"], "text": "serve {{ getip('web') }}"}}
    await program.build(describe("shop", nodes))
    lb = await ids(program, "lb")
    plan = await program.plan(sources=describe("shop", nodes), only=("web",), replace=("web",))
    assert [(a.action, a.node) for a in plan.actions] == [("replace", "web"), ("keep", "lb")]
    assert "left out of this change" in plan.actions[1].reason
    await program.build(describe("shop", nodes), only=("web",), replace=("web",))
    assert await ids(program, "lb") == lb
    status = await program.status()
    assert status.state is InfrastructureState.READY
    assert status.nodes["lb"].instances[lb[0]].outdated == "getip('web') (kept)"
    await program.build(describe("shop", nodes))
    assert await ids(program, "lb") != lb, "told at last"


async def test_what_depends_on_an_excluded_node_that_is_not_there_is_not_made(site):
    program = await site.program()
    sources = describe("shop", {"store": {}, "web": {"after": ["store"]}, "lb": {"after": ["web"]}, "apart": {}})
    await program.build(sources, without=("store",))
    assert site.alive() == ["apart"]
    plan = await program.plan(sources=sources, without=("store",))
    assert plan.left_out == ("store", "web", "lb"), "what depends on it, too"
    with pytest.raises(InvalidInput, match="cannot be both wanted"):
        await program.plan(sources=sources, only=("store",), without=("store",))
    with pytest.raises(InvalidInput, match="cannot be both wanted"):
        await program.up(sources, only=("store",), without=("store",))
    with pytest.raises(InvalidInput, match="depends on store, which is not there"):
        await program.plan(sources=sources, only=("web",), without=("store",))
    await program.build(sources, only=("web",))
    assert site.alive() == ["apart", "store", "web"]


async def test_what_is_left_as_it_is_keeps_what_it_depends_on(site):
    program = await site.program()
    await program.build(describe("shop", {"store": {}, "web": {"after": ["store"]}}))
    sources = describe("shop", {"web": {}, "new": {}})
    await program.build(sources, without=("web",))
    assert site.alive() == ["new", "store", "web"]
    with pytest.raises(InvalidInput, match="cannot be taken away while 'web'"):
        await program.plan(sources=describe("shop", {"web": {}}), only=("store",))
    await program.build(sources)
    assert site.alive() == ["new", "web"]


async def saved(program, sources, **fields):
    plan = await program.plan(sources=sources, save=True, **fields)
    assert plan.saved is not None and plan.saved.actions == plan.actions
    return plan.saved


async def apply(program, plan):
    return await program.finish((await program.start_run("up", plan=plan)).id)


async def test_a_saved_plan_is_carried_out_as_it_stands(site):
    program = await site.program()
    first = await saved(program, describe("shop", {"store": {}, "web": {"scaling": (2, 2)}}))
    assert (await apply(program, first)).state is RunState.SUCCEEDED
    assert site.alive() == ["store", "web", "web"]
    with pytest.raises(Conflict, match=r"stale.*was made since"):
        await program.start_run("up", plan=first)
    before = await ids(program, "store")
    web = {"scaling": (2, 2), "flavor": "large"}
    plan = await saved(program, describe("shop", {"store": {}, "web": web, "new": {}}), without=("new",))
    gone = {i for a in plan.actions if a.action == "replace" for i in a.instances}
    assert (await apply(program, plan)).state is RunState.SUCCEEDED
    assert site.alive() == ["store", "web", "web"] and await ids(program, "store") == before
    assert not gone & set(await ids(program, "web"))


async def test_a_stale_plan_is_refused_and_says_what_changed(site):
    program = await site.program()
    await program.build(describe("shop", {"web": {"scaling": (1, 3)}, "store": {}}))
    sources = describe("shop", {"web": {"scaling": (1, 3), "flavor": "large"}, "store": {}})
    plan = await saved(program, sources)
    await program.run("scale", scale={"web": "2"})
    with pytest.raises(Conflict, match="stale") as caught:
        await program.start_run("up", plan=plan)
    assert any("scale succeeded" in line for line in caught.value.details["changed"])
    plan = await saved(program, sources)
    (store,) = await site.provider_ids("store", await program.status())
    site.east.kill(store)
    with pytest.raises(Conflict, match=r"store/.*now it would be replace"):
        await program.start_run("up", plan=plan)
    assert site.alive().count("web") == 2, "nothing was done"


@ON_SQLITE
async def test_a_plan_that_was_edited_is_refused(site):
    import msgspec

    program = await site.program()
    plan = await saved(program, describe("shop", {"web": {}}))
    with pytest.raises(InvalidInput, match="not as it was written"):
        await program.start_run("up", plan=msgspec.structs.replace(plan, targets={"web": 9}))
    with pytest.raises(InvalidInput, match=r"of version 1, .*those of version 2") as caught:
        await program.start_run("up", plan=msgspec.structs.replace(plan, version=1))
    assert "pelagos plan" in caught.value.advice


async def test_what_goes_wrong_meanwhile_is_not_mended_by_a_saved_plan(make_site):
    site = await make_site({"east": {"boot_seconds": 0.4}})
    program = await site.program()
    await program.build(describe("shop", {"store": {}, "web": {}}))
    store = await ids(program, "store")
    plan = await saved(program, describe("shop", {"store": {}, "web": {}, "new": {}}))
    run = await program.start_run("up", plan=plan)
    await site.until_event("instance.pending", run_id=run.id)
    (server,) = await site.provider_ids("store", await program.status())
    site.east.kill(server)
    await program.ask("refresh_live", RefreshLive(infrastructure="shop"))
    done = await program.finish(run.id)
    assert done.state is RunState.FAILED and done.error.details["stale"]
    assert "new" not in site.alive(), "what it made is taken back"
    status = await program.status()
    assert list(status.nodes["store"].instances) == store, "what went wrong is left to healing"


async def test_the_plan_tells_quota_and_cost(make_site):
    from pelagos.quotas import set_limit

    site = await make_site({"east": {"prices": {"small": 0.05, "large": 0.2}}, "west": {}})
    program = await site.program()
    await site.run(lambda connection: set_limit(connection, "default", "servers", 5))
    web = {"scaling": (2, 2), "flavor": "small"}
    await program.build(describe("shop", {"web": web, "far": {"clouds": ["west"]}}))
    plan = await program.plan(
        sources=describe("shop", {"web": {**web, "flavor": "large"}, "far": {"clouds": ["west"]}})
    )
    (quota,) = plan.quota
    assert (quota.resource, quota.needed, quota.left, quota.limit) == ("servers", 1, 2, 5)
    (cost,) = plan.cost
    assert (cost.currency, cost.before, cost.after) == ("EUR", 0.1, 0.4)
    assert plan.unpriced == ("far",)


async def test_what_a_new_instance_is_made_from_is_kept_though_it_was_pruned(site):
    """Nothing lived that was made from it for a while; its maintainer remembers that it wrote it once."""
    program = await site.program(serves=True)
    await program.build(describe("shop", {"web": {"scaling": (1, 2), "flavor": "small"}}))
    await site.run(lambda connection: void(connection.execute(delete(instance_sources))))
    assert (await program.run("scale", scale={"web": "+1"})).state is RunState.SUCCEEDED
    kept = {row.digest for row in await site.rows(instance_sources)}
    assert {row.source for row in await site.rows(instance_rows, node="web")} == kept
