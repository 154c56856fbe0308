"""An infrastructure whose cloud leaves the pool: it is told what waits, and goes on when the cloud is back."""

from __future__ import annotations

import msgspec
import pytest

from contract.infrastructure.test_infrastructure_builds import ON_SQLITE
from pelagos.clouds import AccountConfig
from pelagos.model import DEFAULT_SCOPE
from pelagos.model.states import RunState
from pelagos.services.infrastructure import queries
from pelagos.services.infrastructure.explain import explain
from pelagos.store.schema import events as event_rows
from support.infrastructure_world import QUICK, describe

pytestmark = [pytest.mark.anyio, ON_SQLITE]

SHOP = describe("shop", {"store": {}, "web": {"clouds": ("west",), "after": ("store",)}})


def account(name: str) -> AccountConfig:
    return AccountConfig(name=name, driver="simulated")


async def test_a_cloud_that_went_is_told_also_while_all_is_ready(make_site):
    site = await make_site({"east": {}, "west": {}})
    program = await site.program()
    await program.build(SHOP)
    pool = program.service._pool

    async def told(node=None):
        return await site.read(
            lambda c: explain(c, DEFAULT_SCOPE, "shop", node, known=lambda name: pool.find(name) is not None)
        )

    assert "removed" not in str(await told())
    pool.reload([account("east")])

    async def noticed():
        view = await told()
        return view if view.summary != "ready: every node has as many ready instances as wanted" else None

    view = await site.until(noticed, "explain says that the cloud is gone")
    assert view.summary == "ready when last seen; the pool has no cloud west now"
    [cloud] = [step for step in view.steps if step.state == "removed"]
    assert cloud.subject == "cloud west"
    assert "an instance there: nobody looks at" in cloud.why
    assert [step.subject for step in (await told("web")).steps if step.state == "removed"] == ["cloud west"]
    assert [step for step in (await told("store")).steps if step.state == "removed"] == []
    pool.reload([account("east"), account("west")])
    assert (await told()).summary == "ready: every node has as many ready instances as wanted"


async def test_what_is_asked_of_a_cloud_that_went_waits_and_is_told(make_site):
    site = await make_site({"east": {}, "west": {}})
    program = await site.program()
    await program.build(SHOP)
    pool = program.service._pool

    def known(name: str) -> bool:
        return pool.find(name) is not None

    pool.reload([account("east")])
    down = await program.start_run("down", infrastructure="shop")
    await site.until_event("server.deleting")
    assert len(site.clouds["west"].servers()) == 1

    async def told():
        view = await site.read(lambda c: explain(c, DEFAULT_SCOPE, "shop", known=known))
        steps = {step.subject.split("/")[0]: step for step in view.steps}
        return steps if "no cloud account 'west'" in steps["instance web"].why else None

    steps = await site.until(told, "explain says what the deletion waits for")
    assert steps["instance web"].next_try is None
    given_up = await program.finish(down.id)
    assert given_up.state is RunState.FAILED and given_up.error is not None
    assert "the pool has no account 'west'" in given_up.error.message
    (refused,) = await site.rows(event_rows, kind="instance.refused")
    assert refused.node == "web", "whoever waits hears it at once"

    status = await site.read(lambda c: queries.status(c, DEFAULT_SCOPE, "shop", known=known))
    [web] = status.nodes["web"].instances.values()
    [store] = status.nodes["store"].instances.values()
    assert "no cloud account 'west'" in web.reason
    assert "no cloud account" not in store.reason
    unaware = await site.read(lambda c: queries.status(c, DEFAULT_SCOPE, "shop"))
    assert "no cloud account" not in str(unaware), "whoever does not know the pool cannot say so"

    pool.reload([account("east"), account("west")])

    async def deleted():
        return not site.clouds["west"].servers()

    await site.until(deleted, "what was to be deleted there is deleted")
    assert (await program.run("down")).state is RunState.SUCCEEDED
    assert site.clouds["west"].servers() == site.clouds["east"].servers() == []


async def test_a_down_that_is_to_stop_does_not_wait_for_ever_for_a_cloud_that_never_answers(make_site):
    site = await make_site({"east": {}})
    program = await site.program(settings=msgspec.structs.replace(QUICK, leave_patience=0.3))
    await program.build(describe("shop", {"web": {}}))
    site.east.inject("delete", "unreachable", times=10_000)
    down = await program.start_run("down", infrastructure="shop")
    await site.until_event("server.deleting")
    await program.cancel(down)
    assert (await program.finish(down.id)).state is RunState.CANCELLED
    site.east.calm()
    assert (await program.run("down")).state is RunState.SUCCEEDED
    assert site.east.servers() == []


async def test_why_a_cloud_has_not_made_an_instance_yet_is_told_while_it_is_waited_for(make_site):
    site = await make_site({"east": {}})
    program = await site.program()
    site.east.inject("create", "unreachable", times=3)
    run = await program.build(describe("shop", {"web": {}}))
    told = await site.rows(event_rows, kind="instance.delayed", run_id=run.id)
    assert [row.node for row in told] == ["web"], "once, since the reason stays the same"
    (web,) = (await program.status()).nodes["web"].instances.values()
    assert (web.state.value, web.reason) == ("ready", "")
