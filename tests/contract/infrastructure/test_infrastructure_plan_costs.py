"""What a plan says of the cost, beside what the clouds then have: for every way to choose an implementation."""

from __future__ import annotations

from collections import Counter

import pytest

from pelagos.model.errors import NotFound
from pelagos.model.states import RunState
from pelagos.services.infrastructure.messages import CostsRequest
from support.infrastructure_world import describe

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("engine", ["sqlite"], indirect=True)]

PRICES = {"east": 0.30, "west": 0.10, "north": 0.20}


async def site_with_prices(make_site, **more):
    clouds = {
        name: {"prices": {"small": price, "large": price * 4}, **more.get(name, {})} for name, price in PRICES.items()
    }
    return await make_site(clouds)


def web(policy="", count=3, clouds=("east", "west", "north"), flavor="small", most=9):
    return {
        "web": {
            "clouds": list(clouds),
            "flavor": flavor,
            "scaling": (count, most),
            **({"policy": policy} if policy else {}),
        }
    }


def costs_now(site):
    """An hour, of all servers that really exist."""
    return round(
        sum(
            PRICES[name] * (4 if server.flavor == "large" else 1)
            for name, cloud in site.clouds.items()
            for server in cloud.servers()
        ),
        6,
    )


async def cost_of(program, **fields):
    plan = await program.plan(**fields)
    (cost,) = plan.cost
    assert not plan.unpriced
    return plan, cost


@pytest.mark.parametrize(("choose", "after"), [("ordered", 0.9), ("cheapest", 0.3), ("least_used", 0.6)])
async def test_what_is_made_is_priced_by_the_implementation_that_will_be_taken(make_site, choose, after):
    site = await site_with_prices(make_site)
    program = await site.program()
    sources = describe("shop", web(f"{{choose: {choose}}}"))
    plan, cost = await cost_of(program, sources=sources)
    assert (cost.before, cost.after) == (0.0, after)
    assert (cost.after_least, cost.after_most) == (0.3, 0.9)
    (doubt,) = plan.cost_doubts
    assert (doubt.node, doubt.count) == ("web", 3)
    await program.build(sources)
    assert costs_now(site) == after
    # Nothing is to be made: nothing is left to chance.
    plan, cost = await cost_of(program, sources=sources)
    assert (cost.before, cost.after, cost.after_least, plan.cost_doubts) == (after, after, None, ())


async def test_chance_is_told_as_a_range(make_site):
    site = await site_with_prices(make_site)
    program = await site.program()
    sources = describe("shop", web("{choose: random}", count=6))
    plan, cost = await cost_of(program, sources=sources)
    assert (cost.after, cost.after_least, cost.after_most) == (1.2, 0.6, 1.8)
    assert "by chance" in plan.cost_doubts[0].why
    await program.build(sources)
    assert 0.6 <= costs_now(site) <= 1.8
    _, cost = await cost_of(program, infrastructure="shop", scale={"web": "7"})
    assert cost.before == costs_now(site)
    assert cost.after_least == pytest.approx(costs_now(site) + 0.1)


async def test_shares_are_told_as_their_average(make_site):
    site = await site_with_prices(make_site)
    program = await site.program()
    weights = "{choose: weighted, weights: {east: 3, west: 1, north: 0}}"
    _, cost = await cost_of(program, sources=describe("shop", web(weights, count=4)))
    assert (cost.after, cost.after_least, cost.after_most) == (1.0, 0.4, 1.2)
    only = "{choose: weighted, weights: {east: 0, north: 0}}"
    plan, cost = await cost_of(program, sources=describe("shop", web(only, count=4)))
    assert cost.after == 0.4
    assert "should that cloud refuse" in plan.cost_doubts[0].why


async def test_what_fell_back_is_priced_by_where_it_is(make_site):
    site = await site_with_prices(make_site, east={"max_servers": 1})
    program = await site.program()
    sources = describe("shop", web(count=1, clouds=("east", "west")))
    await program.build(describe("other", {"full": {"flavor": "small"}}))
    await program.build(sources)
    assert Counter({name: len(cloud.servers()) for name, cloud in site.clouds.items()}) == {
        "east": 1,
        "west": 1,
        "north": 0,
    }
    _, cost = await cost_of(program, sources=sources)
    assert (cost.before, cost.after) == (0.1, 0.1)
    # It keeps to what could be made.
    _, cost = await cost_of(program, infrastructure="shop", scale={"web": "3"})
    assert (cost.before, cost.after, cost.after_most) == (0.1, 0.3, 0.7)
    assert (await program.run("scale", scale={"web": "3"})).state is RunState.SUCCEEDED
    assert len(site.clouds["west"].servers()) == 3
    plan, cost = await cost_of(program, infrastructure="shop", down=True)
    assert (cost.before, cost.after, plan.cost_doubts) == (0.3, 0.0, ())


async def test_what_its_policy_keeps_costs_what_it_was_made_with(make_site):
    site = await site_with_prices(make_site)
    program = await site.program()
    keep = {"clouds": ("west",), "policy": "{change: keep}", "count": 2}
    await program.build(describe("shop", web(**keep)))
    changed = describe("shop", web(**keep, flavor="large"))
    _, cost = await cost_of(program, sources=changed)
    assert (cost.before, cost.after) == (0.2, 0.2)
    await program.build(changed)
    _, cost = await cost_of(program, infrastructure="shop", scale={"web": "3"})
    assert (cost.before, cost.after) == (0.2, 0.6)
    assert (await program.run("scale", scale={"web": "3"})).state is RunState.SUCCEEDED
    assert costs_now(site) == 0.6


async def test_a_cloud_that_stands_in_is_the_one_that_is_paid(make_site):
    site = await site_with_prices(make_site)
    program = await site.program()
    _, cost = await cost_of(program, sources=describe("shop", web(clouds=("east",), count=1)), map_clouds="west")
    assert cost.after == 0.1


async def test_what_is_made_anew_is_made_where_it_is_least_used(make_site):
    site = await site_with_prices(make_site)
    program = await site.program()
    least = "{choose: least_used}"
    await program.build(describe("shop", web(least, count=1, clouds=("east", "west"))))
    await program.build(describe("other", {"mine": {"clouds": ["east"], "flavor": "small", "scaling": (3, 3)}}))
    await program.build(describe("shop", web(least, count=1, clouds=("east", "west"), flavor="large")))
    assert {name: len(cloud.servers()) for name, cloud in site.clouds.items()} == {"east": 3, "west": 1, "north": 0}


async def test_a_saved_plan_with_several_implementations_is_carried_out_as_it_stands(make_site):
    site = await site_with_prices(make_site)
    program = await site.program()
    await program.build(describe("shop", web("{choose: cheapest}", count=2)))
    plan, cost = await cost_of(
        program, sources=describe("shop", web("{choose: cheapest}", count=2, flavor="large")), save=True
    )
    assert (cost.before, cost.after) == (0.2, 0.8)
    run = await program.start_run("up", plan=plan.saved)
    assert (await program.finish(run.id)).state is RunState.SUCCEEDED
    assert costs_now(site) == 0.8


async def test_what_runs_costs_what_its_clouds_say(make_site):
    site = await site_with_prices(make_site)
    program = await site.program()
    nodes = {**web("{choose: least_used}"), "db": {"clouds": ["east"], "flavor": "large"}}
    await program.build(describe("shop", nodes))
    costs = await program.ask("costs", CostsRequest(infrastructure="shop"))
    status = await program.status()
    instances = [(name, key, one) for name, node in status.nodes.items() for key, one in node.instances.items()]
    assert costs.nodes == {
        "web": {key: PRICES[one.cloud] for name, key, one in instances if name == "web"},
        "db": {key: 1.2 for name, key, _ in instances if name == "db"},
    }
    assert costs.total == costs_now(site)
    await program.build(describe("shop", {**nodes, "free": {"clouds": ["north"], "flavor": "odd"}}))
    costs = await program.ask("costs", CostsRequest(infrastructure="shop"))
    assert costs.total is None
    assert list(costs.nodes["free"].values()) == [None]


async def test_the_cost_of_nothing_is_not_unknown(make_site):
    site = await site_with_prices(make_site)
    program = await site.program()
    await program.build(describe("shop", web(count=0)))
    costs = await program.ask("costs", CostsRequest(infrastructure="shop"))
    assert (costs.total, costs.currency, costs.nodes) == (0.0, None, {})
    with pytest.raises(NotFound):
        await program.ask("costs", CostsRequest(infrastructure="none"))
