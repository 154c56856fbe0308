"""A saved plan and the clouds that it was made against: it is carried out on those, at those prices, or not at all."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from contract.infrastructure.test_infrastructure_builds import ON_SQLITE
from pelagos.clouds import AccountConfig
from pelagos.model.errors import Conflict
from pelagos.model.scope import Scope
from pelagos.model.states import RunState
from pelagos.quotas import set_limit
from pelagos.wire.plans import checksum_of
from support.databases import sqlite_path
from support.infrastructure_world import OTHER, describe

__all__ = ["sqlite_path"]

pytestmark = [pytest.mark.anyio, ON_SQLITE]

CHEAP = {"east": {"prices": {"small": 0.05, "large": 0.2}}, "west": {"prices": {"small": 0.01, "large": 0.04}}}


def accounts(*names: str, **more: Any) -> list[AccountConfig]:
    return [AccountConfig(name=name, driver="simulated", **more) for name in names]


async def planned(program, sources, **fields):
    return (await program.plan(sources=sources, save=True, **fields)).saved


async def refused(program, plan, *lines: str, scope: Scope | None = None) -> None:
    """The plan is stale, for all of these reasons; nothing is begun."""
    more = {} if scope is None else {"scope": scope}
    with pytest.raises(Conflict, match="the plan is stale") as caught:
        await program.start_run("up", plan=plan, **more)
    changed = caught.value.details["changed"]
    for line in lines:
        assert any(line in told for told in changed), (line, changed)
    assert caught.value.details["stale"] and "Make a new plan" in caught.value.advice


def servers(site) -> dict[str, int]:
    return {name: len(cloud.servers()) for name, cloud in site.clouds.items()}


async def test_a_plan_names_the_accounts_and_the_prices(make_site):
    site = await make_site(CHEAP)
    program = await site.program()
    sources = describe(
        "shop",
        {
            "web": {"flavor": "small", "clouds": ("east", "west")},
            "db": {"flavor": "large", "clouds": ("east", "west"), "policy": "{choose: cheapest}"},
        },
    )
    plan = await planned(program, sources)
    assert [account.name for account in plan.accounts] == ["east", "west"]
    said = {node.node: [(c.account, c.price, c.implementation) for c in node.choices] for node in plan.nodes}
    assert said == {"web": [("east", 0.05, 0), ("west", 0.01, 1)], "db": [("west", 0.04, 1), ("east", 0.2, 0)]}
    assert plan.store and (await planned(program, sources)).store == plan.store
    run = await program.finish((await program.start_run("up", plan=plan)).id)
    assert run.state is RunState.SUCCEEDED
    assert servers(site) == {"east": 1, "west": 1}


async def test_a_plan_is_not_carried_out_on_another_cloud(make_site):
    site = await make_site(CHEAP)
    program = await site.program()
    plan = await planned(program, describe("shop", {"web": {"flavor": "small"}}))
    program.service._pool.reload(accounts("west"))
    await refused(
        program,
        plan,
        "web: the plan makes it on east, now it would be made on west",
        "the account 'east' is no longer in the pool",
    )
    assert servers(site) == {"east": 0, "west": 0}


async def test_a_replacement_is_not_made_on_another_cloud(make_site):
    site = await make_site(CHEAP)
    program = await site.program()
    await program.build(describe("shop", {"web": {"flavor": "small", "scaling": (2, 2)}}))
    plan = await planned(program, describe("shop", {"web": {"flavor": "large", "scaling": (2, 2)}}))
    program.service._pool.reload(accounts("west"))
    await refused(program, plan, "the account 'east' is no longer in the pool")
    assert servers(site) == {"east": 2, "west": 0}
    program.service._pool.reload(accounts("east", "west"))
    assert (await program.finish((await program.start_run("up", plan=plan)).id)).state is RunState.SUCCEEDED
    assert servers(site) == {"east": 2, "west": 0}


async def test_what_is_only_taken_away_is_of_an_account_too(make_site):
    site = await make_site(CHEAP)
    program = await site.program()
    await program.build(describe("shop", {"web": {}, "db": {"clouds": ("west",)}}))
    plan = await planned(program, describe("shop", {"web": {}}))
    program.service._pool.reload(accounts("east"))
    await refused(program, plan, "the account 'west' is no longer in the pool")
    assert servers(site) == {"east": 1, "west": 1}


async def test_what_is_left_as_it_is_and_healed_is_not_made_on_another_cloud(make_site):
    site = await make_site(CHEAP)
    program = await site.program()
    sources = describe("shop", {"web": {"flavor": "small"}, "db": {"clouds": ("west",)}})
    await program.build(sources)
    (web,) = await site.provider_ids("web", await program.status())
    site.east.kill(web)
    larger = describe("shop", {"web": {"flavor": "small"}, "db": {"clouds": ("west",), "flavor": "large"}})
    plan = await planned(program, larger, without=("web",))
    assert {node.node: [(c.account, c.price) for c in node.choices] for node in plan.nodes} == {
        "web": [("east", 0.05)],
        "db": [("west", 0.04)],
    }
    program.service._pool.reload(accounts("west"))
    await refused(program, plan, "web: the plan makes it on east, now it would be made on west")
    program.service._pool.reload(accounts("east", "west"))
    assert (await program.finish((await program.start_run("up", plan=plan)).id)).state is RunState.SUCCEEDED
    # One that is left alone is of no account.
    plan = await planned(program, larger, without=("web",))
    assert [node.node for node in plan.nodes] == ["db"]


async def test_a_plan_whose_description_is_wrong_by_now_is_stale(make_site):
    site = await make_site()
    program = await site.program()
    plan = await planned(program, describe("shop", {"web": {"clouds": ("unheard-of",)}}))
    assert [account.name for account in plan.accounts] == ["east"]
    program.service._pool.reload(accounts("east", "west"))
    await refused(program, plan, "the pool has 2 accounts of type 'simulated'")
    assert servers(site) == {"east": 0}


async def test_an_account_that_is_another_one_by_now_makes_the_plan_stale(make_site):
    site = await make_site(CHEAP)
    program = await site.program()
    plan = await planned(program, describe("shop", {"web": {}}))
    program.service._pool.reload(
        [AccountConfig(name="east", driver="simulated", options={"poll_interval": 9.0}), *accounts("west")]
    )
    await refused(program, plan, "the account 'east' has other options")
    assert servers(site) == {"east": 0, "west": 0}


async def test_another_price_makes_the_plan_stale(make_site):
    site = await make_site(CHEAP)
    program = await site.program()
    sources = describe("shop", {"web": {"flavor": "small"}, "db": {"flavor": "large"}})
    await program.build(describe("shop", {"db": {"flavor": "large"}}))
    plan = await planned(program, sources)
    site.east.options.prices.update(small=9.99)
    await refused(program, plan, "web: an hour on east cost 0.05 EUR, now it costs 9.99 EUR")
    # A new plan says what was learned, and what is not made has no price in it.
    plan = await planned(program, sources)
    site.east.options.prices.update(large=5.0)
    assert (await program.finish((await program.start_run("up", plan=plan)).id)).state is RunState.SUCCEEDED


async def test_another_limit_makes_the_plan_stale(make_site):
    site = await make_site()
    program = await site.program()

    async def limit(number: int) -> None:
        await site.run(lambda connection: set_limit(connection, "default", "servers", number))

    await limit(4)
    plan = await planned(program, describe("shop", {"web": {"scaling": (2, 2)}}))
    await limit(3)
    await refused(program, plan, "the limit of servers was 4, is 3")
    await limit(4)
    await program.build(describe("other", {"mine": {"scaling": (3, 3)}}))
    await refused(program, plan, "2 more servers are needed, and 1 are left of 4")
    assert servers(site) == {"east": 3}
    await program.run("down", "other")
    assert (await program.finish((await program.start_run("up", plan=plan)).id)).state is RunState.SUCCEEDED


async def test_a_plan_of_other_records_is_stale(make_site):
    site = await make_site()
    program = await site.program()
    made_elsewhere = "it was made with another state directory, database or project"
    plan = await planned(program, describe("shop", {"web": {}}))
    await refused(program, plan, made_elsewhere, scope=OTHER)
    elsewhere = msgspec.structs.replace(plan, store="0" * 36)
    elsewhere = msgspec.structs.replace(elsewhere, checksum=checksum_of(elsewhere))
    await refused(program, elsewhere, made_elsewhere)
    assert (await program.finish((await program.start_run("up", plan=plan)).id)).state is RunState.SUCCEEDED
    plan = await planned(program, describe("shop", {"web": {"flavor": "large"}}))
    await refused(program, plan, made_elsewhere, "the infrastructure 'shop' is gone", scope=OTHER)


async def test_a_pool_that_changes_while_a_plan_is_carried_out_makes_nothing_elsewhere(make_site):
    site = await make_site({"east": {"boot_seconds": 0.3}, "west": {}})
    program = await site.program()
    pool = program.service._pool
    pool.reload([*accounts("east", default=True), *accounts("west")])
    site.prober.down = Everything()
    plan = await planned(program, describe("shop", {"db": {}, "web": {"after": ["db"], "clouds": ("main",)}}))
    run = await program.start_run("up", plan=plan)
    await site.until_event("instance.pending", run_id=run.id, node="db")
    pool.reload([*accounts("east"), *accounts("west", default=True)])
    site.prober.down = set()
    done = await program.finish(run.id)
    assert done.state is RunState.FAILED
    assert done.error.details["changed"] == ["web: the plan makes it on east, now it would be made on west"]
    assert servers(site) == {"east": 0, "west": 0}


class Everything(set[str]):
    """All addresses."""

    def __contains__(self, address: object) -> bool:
        return True


async def test_a_pool_that_changes_before_a_plan_begins_makes_it_stale(make_site):
    site = await make_site({"east": {"boot_seconds": 0.3}, "west": {}})
    program = await site.program()
    await program.build(describe("shop", {"web": {"scaling": (1, 3)}}))
    plan = await planned(program, describe("shop", {"web": {"scaling": (1, 3), "flavor": "large"}}))
    # It waits for the scaling before it, and for nothing else: what it says is still so when it is accepted.
    scaling = await program.start_run("maintain", infrastructure="shop")
    run = await program.start_run("up", plan=plan)
    program.service._pool.reload(accounts("west"))
    done = await program.finish(run.id)
    assert done.state is RunState.FAILED and done.error.details["stale"]
    assert "the account 'east' is no longer in the pool" in done.error.details["changed"]
    assert (await program.finish(scaling.id)).state.final
    assert servers(site) == {"east": 1, "west": 0}
