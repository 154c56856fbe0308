"""Changes of what runs, beside what is protected, healed otherwise or adopted: each feature holds with the others."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from pelagos.model.errors import Conflict
from pelagos.model.states import InfrastructureState, InstanceState, RunState
from pelagos.services.infrastructure.messages import Protect
from pelagos.wire.infrastructures import AdoptRequest, ProtectRequest
from support.infrastructure_world import describe
from support.virtual_site import anyio_backend, make_site, site

__all__ = ["anyio_backend", "make_site", "site"]

pytestmark = pytest.mark.anyio

CHECK = "{ports: [80], failures: 2, timeout: 20}"


def shop(policy="{}", *, scaling=(3, 3), **more):
    return describe("shop", {"web": {"scaling": scaling, "check": CHECK, "policy": policy, **more}})


async def web(program):
    """Instance -> its status."""
    return dict((await program.status()).nodes["web"].instances)


async def server_of(site, program, instance):
    """Its server's id in the cloud."""
    status = await program.status()
    node = status.nodes["web"]
    alone = msgspec.structs.replace(node, instances={instance: node.instances[instance]})
    (server,) = await site.provider_ids("web", msgspec.structs.replace(status, nodes={"web": alone}))
    return server


async def protect(program, *, instance="", on=True):
    request = ProtectRequest(node="web", instance=instance, protected=on)
    return await program.ask("protect", Protect(infrastructure="shop", request=request))


async def saved(program, sources, **fields):
    return (await program.plan(sources=sources, save=True, **fields)).saved


async def apply(program, plan):
    return await program.finish((await program.start_run("up", plan=plan)).id)


def said(plan):
    return [(action.action, set(action.instances)) for action in plan.actions]


# -- protected ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["{}", "{max_unavailable: 2}"])
async def test_a_rolling_change_goes_around_what_is_protected(site, policy):
    program = await site.program()
    await program.build(shop(policy))
    kept, *others = await web(program)
    await protect(program, instance=kept)
    large = shop(policy, flavor="large")
    plan = await program.plan(sources=large)
    assert said(plan) == [("replace", set(others)), ("keep", {kept})]
    assert plan.actions[1].reason == "described anew; protected"
    await program.build(large)
    after = await web(program)
    assert len(after) == 3 and set(after) & {kept, *others} == {kept}
    assert after[kept].outdated == "resource.flavor (kept)"
    assert (await program.status()).state is InfrastructureState.READY
    assert not (await program.plan(sources=large)).changes
    with pytest.raises(Conflict, match=r"not made anew, since protected: web/"):
        await program.up(large, replace=("web",))
    # Once that is lifted, the next change reaches it.
    await protect(program, on=False)
    await program.build(large)
    assert len(await web(program)) == 3 and kept not in await web(program)


async def test_what_is_protected_while_it_was_to_be_made_anew_stays(site):
    program = await site.program()
    await program.build(shop())
    before = set(await web(program))
    run = await program.up(shop(flavor="large"))
    first = await site.until_event("instance.destroying", run_id=run.id)
    await protect(program)
    done = await program.finish(run.id)
    assert done.state is RunState.SUCCEEDED, done
    after = await web(program)
    assert len(after) == 3
    assert set(after) & before, "it was protected in time"
    assert first.instance_id not in after


async def test_a_policy_that_protects_comes_before_the_change_it_comes_with(site):
    program = await site.program()
    await program.build(shop())
    before = list(await web(program))
    large = shop("{protect: true}", flavor="large")
    plan = await program.plan(sources=large)
    assert not [action for action in plan.actions if action.action not in ("keep", "update")]
    await program.build(large)
    after = await web(program)
    assert list(after) == before and all(one.protected for one in after.values())
    # Of one that is let go by hand, the policy's next change takes hold; what takes its place is protected again.
    await protect(program, instance=before[0], on=False)
    await program.build(large)
    after = await web(program)
    assert before[0] not in after and set(before[1:]) < set(after) and all(one.protected for one in after.values())


async def test_a_newer_change_takes_nothing_protected_with_it(site):
    program = await site.program()
    await program.build(shop())
    kept = next(iter(await web(program)))
    await protect(program, instance=kept)
    first = await program.up(shop(flavor="large"))
    await site.until_event("instance.pending", run_id=first.id)
    second = await program.up(shop(flavor="huge"))
    assert (await program.finish(second.id)).state is RunState.SUCCEEDED
    assert (await program.finish(first.id)).state is RunState.SUPERSEDED
    assert kept in await web(program) and len(await web(program)) == 3


async def test_a_change_that_fails_and_goes_back_takes_nothing_protected_with_it(site):
    program = await site.program()
    await program.build(shop("{max_unavailable: 1}"))
    kept = next(iter(await web(program)))
    await protect(program, instance=kept)
    done = await program.finish((await program.up(shop("{max_unavailable: 1}", health="bad"))).id)
    assert done.state is RunState.FAILED
    after = await web(program)
    assert kept in after and [one.state for one in after.values()] == [InstanceState.READY] * 3
    assert after[kept].outdated == "", "it is as described again"


async def test_a_change_of_some_nodes_leaves_what_is_protected_in_them(site):
    program = await site.program()
    await program.build(describe("shop", {"web": {"check": CHECK}, "db": {"check": CHECK}}))
    before = await web(program)
    await protect(program)
    await program.build(
        describe("shop", {"web": {"check": CHECK, "flavor": "large"}, "db": {"check": CHECK, "flavor": "large"}}),
        only=("web",),
    )
    assert list(await web(program)) == list(before)


# -- saved plans -------------------------------------------------------------------------------------------------------


async def test_a_saved_plan_is_stale_once_what_it_takes_away_is_protected(site):
    program = await site.program()
    await program.build(shop())
    plan = await saved(program, shop(flavor="large"))
    kept = next(iter(await web(program)))
    await protect(program, instance=kept)
    with pytest.raises(Conflict, match=rf"stale.*web/{kept[:8]}.*left as it is"):
        await program.start_run("up", plan=plan)
    # The plan that is made now says so, and does so.
    plan = await saved(program, shop(flavor="large"))
    assert kept not in {i for action in plan.actions if action.action == "replace" for i in action.instances}
    assert (await apply(program, plan)).state is RunState.SUCCEEDED
    assert kept in await web(program) and len(await web(program)) == 3


async def test_a_saved_plan_ends_where_what_it_takes_away_is_protected_meanwhile(site):
    program = await site.program()
    await program.build(shop())
    before = set(await web(program))
    plan = await saved(program, shop(flavor="large"))
    run = await program.start_run("up", plan=plan)
    await site.until_event("instance.destroying", run_id=run.id)
    await protect(program)
    done = await program.finish(run.id)
    assert done.state is RunState.FAILED and done.error.details["stale"], done
    assert "was protected" in done.error.message
    after = await web(program)
    assert len(set(after) & before) >= 2, "what is protected is still there"


async def test_a_saved_plan_is_stale_once_an_instance_of_it_was_healed(site):
    program = await site.program(serves=True)
    await program.build(shop())
    plan = await saved(program, shop(flavor="large"))
    ill = next(iter(await web(program)))
    server = await server_of(site, program, ill)
    site.east.kill(server)

    async def healed():
        shown = await web(program)
        return ill not in shown and [one.state for one in shown.values()] == [InstanceState.READY] * 3

    await site.until(healed, "it is replaced")
    there = set(await web(program))
    with pytest.raises(Conflict, match=rf"stale.*web/{ill[:8]}: the plan says replace, now it would be left") as caught:
        await program.start_run("up", plan=plan)
    assert any("instance.failed" in line for line in caught.value.details["changed"])
    assert set(await web(program)) == there, "nothing was done"


async def test_what_a_plan_says_of_restarts_it_does(site):
    program = await site.program()
    policy = "{heal: {shutdown: restart}}"
    await program.build(shop(policy))
    ill = next(iter(await web(program)))
    server = await server_of(site, program, ill)
    site.east.stop(server)
    sources = describe("shop", {"web": {"scaling": (3, 3), "check": CHECK, "policy": policy}, "new": {}})
    plan = await saved(program, sources)
    restarted = next(action for action in plan.actions if action.instances == (ill,))
    assert (restarted.action, restarted.reason) == ("update", "restarted: its server is stopped")
    assert (await apply(program, plan)).state is RunState.SUCCEEDED
    assert site.alive() == ["new", "web", "web", "web"]

    async def well():
        return (await web(program))[ill].state is InstanceState.READY

    await program.run("maintain")
    await site.until(well, "it is the same instance, started again")
    assert await server_of(site, program, ill) == server


# -- not well, and described otherwise ---------------------------------------------------------------------------------


async def test_what_healing_keeps_a_change_makes_anew(site):
    program = await site.program(serves=True)
    policy = "{heal: {failed: keep}}"
    await program.build(shop(policy))
    ill = next(iter(await web(program)))
    server = await server_of(site, program, ill)
    site.east.kill(server)
    await site.until_event("instance.failed", instance_id=ill)
    await asyncio.sleep(60.0)
    assert ill in await web(program)
    same = await program.plan(sources=shop(policy))
    assert [a.reason for a in same.actions if ill in a.instances] == ["it failed; its policy keeps it"]
    large = shop(policy, flavor="large")
    replaced = {i for a in (await program.plan(sources=large)).actions if a.action == "replace" for i in a.instances}
    assert ill in replaced
    await program.build(large)
    after = await web(program)
    assert [one.state for one in after.values()] == [InstanceState.READY] * 3 and not replaced & set(after)


async def test_a_stopped_instance_that_would_be_restarted_is_made_anew_instead(site):
    program = await site.program()
    policy = "{heal: {shutdown: restart}}"
    await program.build(shop(policy))
    ill = next(iter(await web(program)))
    server = await server_of(site, program, ill)
    site.east.stop(server)
    await program.build(shop(policy, flavor="large"))
    assert ill not in await web(program) and len(await web(program)) == 3
    assert "instance.restarting" not in await site.kinds()


@pytest.mark.parametrize("choice", ["oldest", "youngest"])
async def test_the_plan_and_the_change_take_the_same_instances_away(site, choice):
    program = await site.program()
    policy = f"{{scale_down: {choice}}}"
    await program.build(shop(policy, scaling=(1, 3)))
    await program.run("scale", scale={"web": "2"})
    await program.run("scale", scale={"web": "3"})
    there = list(await web(program))
    fewer = shop(policy, scaling=(1, 2))
    (gone,) = [a.instances for a in (await program.plan(sources=fewer)).actions if a.action == "destroy"]
    assert gone == ((there[0],) if choice == "oldest" else (there[-1],))
    await program.build(fewer)
    assert set(there) - set(await web(program)) == set(gone)


# -- adopted -----------------------------------------------------------------------------------------------------------


async def test_an_adopted_instance_is_made_anew_only_if_somebody_says_so(site):
    program = await site.program()
    await program.build(shop(scaling=(1, 3)))
    site.east.add_foreign("old-web")
    done = await program.run("adopt", adopt=AdoptRequest(node="web", cloud="east", server="old-web", protected=False))
    assert done.state is RunState.SUCCEEDED, done
    made, adopted = await web(program)
    large = shop(scaling=(1, 3), flavor="large")
    plan = await program.plan(sources=large)
    assert said(plan) == [("replace", {made}), ("keep", {adopted})]
    assert "adopted" in plan.actions[1].reason
    await program.build(large)
    after = await web(program)
    assert adopted in after and made not in after and after[adopted].outdated == "described anew (kept)"
    assert (await program.status()).state is InfrastructureState.READY
    await program.build(large, replace=(f"web/{adopted[:8]}",))
    assert adopted not in await web(program) and len(await web(program)) == 2
