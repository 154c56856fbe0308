"""A change that was stopped short is what is wanted: whatever comes after, all agree on who is not as described."""

from __future__ import annotations

import json

import pytest

from contract.infrastructure.test_infrastructure_builds import ON_SQLITE
from pelagos.model.states import InfrastructureState, RunState
from pelagos.store.schema import events as event_rows
from support.infrastructure_world import describe

pytestmark = [pytest.mark.anyio, ON_SQLITE]

TOLD = "serve {{ getip('db') }}"


def shop(flavor: str, **more):
    return describe("shop", {"db": {"flavor": flavor, **more}, "web": {"after": ["db"], "text": TOLD}})


async def marks(program) -> dict[str, str]:
    status = await program.status()
    return {name: one.outdated for name, node in status.nodes.items() for one in node.instances.values()}


async def at_its_end(site, run) -> tuple[str, str]:
    """The infrastructure's state, and why, that was written in the transaction in which the run ended."""
    found = sorted(await site.rows(event_rows), key=lambda row: row.position)
    (end,) = [at for at, row in enumerate(found) if row.run_id == run.id and row.kind == "run.failed"]
    states = [json.loads(row.data) for row in found[end + 1 :] if row.kind == "infrastructure.state"]
    return states[0]["state"], states[0]["reason"]


async def replaced(program, sources) -> list[str]:
    return [a.node for a in (await program.plan(sources=sources)).actions if a.action in ("replace", "update")]


@pytest.mark.parametrize("serves", [False, True])
@pytest.mark.parametrize("how", ["rollback", "stop"])
async def test_going_back_to_what_was_stopped_short(make_site, serves, how):
    site = await make_site({"east": {"flavors": ("small", "large")}})
    program = await site.program(serves=serves)
    await program.build(shop("small"))
    before = sorted(site.alive())
    huge = shop("huge")
    first = await program.finish((await program.up(huge, on_failure="stop")).id)
    assert first.state is RunState.FAILED
    assert await marks(program) == {"db": "resource.flavor", "web": "getip('db')"}
    second = await program.finish((await program.up(huge, on_failure=how)).id)
    assert second.state is RunState.FAILED and sorted(site.alive()) == before
    # In the transaction that ends the run, and ever after.
    status = await program.status()
    assert status.state is InfrastructureState.DEGRADED
    assert await marks(program) == {"db": "resource.flavor", "web": "getip('db')"}
    assert await replaced(program, huge) == ["db", "web"]
    state, reason = await at_its_end(site, second)
    assert state == "degraded"
    if how == "rollback":
        assert reason == "instances are not as described: db, web"
    # The description of then is wanted, and nothing of it is to be done.
    await program.build(shop("small"))
    assert await marks(program) == {"db": "", "web": ""}
    assert (await program.status()).state is InfrastructureState.READY


async def test_what_was_untrue_before_is_told_as_before(make_site):
    site = await make_site({"east": {"flavors": ("small", "large")}})
    program = await site.program()
    await program.build(shop("small"))
    (db,) = await site.provider_ids("db", await program.status())
    site.east.kill(db)
    await program.run("maintain")
    untrue = (await marks(program))["web"]
    assert untrue.startswith("no longer true: getip('db') was ")
    failed = await program.finish((await program.up(shop("huge"), on_failure="rollback")).id)
    assert failed.state is RunState.FAILED
    assert await marks(program) == {"db": "", "web": untrue}
    assert await replaced(program, shop("small")) == ["web"]
    assert await at_its_end(site, failed) == ("degraded", "instances are not as described: web")


async def test_a_name_that_is_taken_back_is_told_as_it_was(make_site):
    site = await make_site({"east": {"flavors": ("small", "large")}})
    program = await site.program()
    await program.build(shop("small"))
    moved = describe(
        "shop",
        {"store": {}, "web": {"after": ["store"], "text": TOLD.replace("db", "store")}, "bad": {"flavor": "huge"}},
        moved="[{from: db, to: store}]",
    )
    failed = await program.finish((await program.up(moved, on_failure="rollback")).id)
    assert failed.state is RunState.FAILED
    assert await marks(program) == {"db": "", "web": ""}
    assert await replaced(program, shop("small")) == []
    assert (await program.status()).state is InfrastructureState.READY
