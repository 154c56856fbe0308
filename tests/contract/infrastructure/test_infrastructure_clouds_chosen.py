"""Several clouds in one infrastructure: which one is chosen, and what happens where one refuses."""

from __future__ import annotations

import pytest

from pelagos.model.states import RunState
from pelagos.store.events import read_events
from support.infrastructure_world import describe

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("engine", ["sqlite"], indirect=True)]


def spread(site):
    """Cloud -> how many servers it has."""
    return {name: len(cloud.servers()) for name, cloud in site.clouds.items()}


async def refusals(site):
    """(node, cloud, message) of what was told of refused candidates, in order."""
    found = await site.read(lambda connection: read_events(connection, after=0, limit=1000, kinds=("node.refused",)))
    return [(event.node, event.data["cloud"], event.data["error"]["message"]) for event in found]


async def test_the_least_used_clouds_share_the_instances(make_site):
    site = await make_site({"east": {}, "west": {}, "north": {}})
    program = await site.program()
    await program.build(describe("other", {"mine": {"clouds": ["east"], "scaling": (2, 2)}}))
    web = {"clouds": ["east", "west", "north"], "scaling": (4, 8), "policy": "{choose: least_used}"}
    await program.build(describe("shop", {"web": web}))
    assert spread(site) == {"east": 2, "west": 2, "north": 2}
    assert (await program.run("scale", scale={"web": "7"})).state is RunState.SUCCEEDED
    assert spread(site) == {"east": 3, "west": 3, "north": 3}


async def test_the_cheapest_cloud_is_taken_until_it_is_full(make_site):
    site = await make_site(
        {
            "east": {"prices": {"small": 0.30}},
            "west": {"prices": {"small": 0.10}, "max_servers": 2},
            "north": {"prices": {"small": 0.20}},
        }
    )
    program = await site.program()
    web = {
        "clouds": ["east", "west", "north"],
        "flavor": "small",
        "scaling": (3, 3),
        "policy": "{choose: cheapest}",
    }
    await program.build(describe("shop", {"web": web}))
    assert spread(site) == {"east": 0, "west": 2, "north": 1}
    assert [(node, cloud) for node, cloud, _ in await refusals(site)] == [("web", "west")]


async def test_weights_and_chance(make_site):
    site = await make_site({"east": {}, "west": {}})
    program = await site.program()
    clouds = {"clouds": ["east", "west"], "scaling": (6, 6)}
    await program.build(
        describe(
            "shop",
            {
                "web": {**clouds, "policy": "{choose: weighted, weights: {east: 0}}"},
                "db": {**clouds, "policy": "{choose: random}"},
            },
        )
    )
    status = await program.status()
    assert {instance.cloud for instance in status.nodes["web"].instances.values()} == {"west"}
    assert sum(spread(site).values()) == 12


async def test_each_refused_candidate_is_told_with_its_reason(make_site):
    site = await make_site({"east": {}, "west": {"max_servers": 0}, "north": {}})
    program = await site.program()
    site.east.inject("create", "rejected", times=100)
    site.clouds["north"].inject("create", "rejected", times=100)
    done = await program.finish((await program.up(describe("shop", {"web": {"clouds": ["east", "west", "north"]}}))).id)
    assert done.state is RunState.FAILED and done.error is not None
    told = await refusals(site)
    assert [(node, cloud) for node, cloud, _ in told] == [("web", "east"), ("web", "west"), ("web", "north")]
    assert all(f"{cloud}: {message}" in done.error.message for _, cloud, message in told)
    steps = (await program.explain()).steps
    assert [(step.subject, step.state) for step in steps if step.state == "refused"] == [
        ("cloud east", "refused"),
        ("cloud west", "refused"),
        ("cloud north", "refused"),
    ]
    assert spread(site) == {"east": 0, "west": 0, "north": 0}
    # Whoever asks again has everything tried again.
    site.east.calm()
    await program.build(describe("shop", {"web": {"clouds": ["east", "west", "north"]}}))
    assert spread(site) == {"east": 1, "west": 0, "north": 0}


async def test_who_counts_is_told_what_was_made_and_what_was_refused(make_site):
    from pelagos.cli.trail import Trail
    from support.infrastructure_world import event_rows

    site = await make_site({"east": {"max_servers": 1}, "west": {}})
    program = await site.program()
    run = await program.build(describe("shop", {"web": {"clouds": ["east", "west"], "scaling": (3, 3)}}))
    trail = Trail()
    for event in await site.read(lambda connection: read_events(connection, after=0, limit=1000, run_id=run.id)):
        trail.feed(event)
    assert trail.created == len(site.alive()) == 3 and trail.destroyed == 0
    failed = await site.rows(event_rows, kind="instance.failed")
    assert len(failed) >= 1 and all('"made":false' in row.data for row in failed)
