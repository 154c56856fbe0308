"""What explain says while things build, go, are rolled back, and when the process that worked has died."""

from __future__ import annotations

import pytest

from contract.infrastructure.test_infrastructure_builds import CHAIN, ON_SQLITE
from pelagos.model import DEFAULT_SCOPE
from pelagos.model.states import InfrastructureState
from pelagos.services.infrastructure.explain import explain
from support.infrastructure_world import describe

pytestmark = [pytest.mark.anyio, ON_SQLITE]


def by_subject(told):
    return {step.subject.split("/")[0]: step for step in told.steps}


async def test_a_build_that_the_cloud_carries_out_is_no_planned_try(make_site):
    site = await make_site({"east": {}})
    program = await site.program()
    await program.up(describe("shop", {"store": {"boot_seconds": 600}}))
    await site.until_event("server.building")
    told = await program.explain()
    assert told.summary == "building; 1 of 1 nodes lack ready instances: store"
    store = by_subject(told)["instance store"]
    assert store.next_try is None and "its cloud carries it out" in store.why
    program.kill()
    expired = await site.read(lambda c: explain(c, DEFAULT_SCOPE, "shop", is_dead=lambda lease: False))
    assert by_subject(expired)["maintainer"].state == "at work"
    dead = await site.read(lambda c: explain(c, DEFAULT_SCOPE, "shop", is_dead=lambda lease: True))
    assert "maintainer" not in by_subject(dead) and "nobody works on it now" in dead.summary
    assert by_subject(dead)["run up"].why.startswith("interrupted")


async def test_what_failed_before_shows_when_it_is_tried_again(make_site):
    site = await make_site({"east": {}})
    program = await site.program()
    site.east.inject("create", "unreachable", times=1000)
    await program.up(describe("shop", CHAIN))
    await site.until_event("operation.retrying")
    store = by_subject(await program.explain())["instance store"]
    assert store.last_answer


async def test_going_down_and_rolling_back_promise_no_new_instances(make_site):
    site = await make_site({"east": {}})
    program = await site.program()
    await program.build(describe("shop", {"store": {}, "web": {"after": ["store"]}}))
    site.east.inject("delete", "unreachable", times=1000)
    down = await program.start_run("down", infrastructure="shop")
    await site.until_event("instance.destroying", run_id=down.id)
    told = await program.explain()
    assert {by_subject(told)[f"node {name}"].why for name in ("web",)} == {"is being taken down"}, told
    assert "more to be created" not in str(told) and told.state is InfrastructureState.DESTROYING
    site.east.calm()
    await program.finish(down.id)
    up = await program.up(describe("shop", {"store": {"boot_seconds": 600}, "web": {"after": ["store"]}}))
    await site.until_event("server.building", infrastructure_id=up.infrastructure_id)
    site.east.inject("delete", "unreachable", times=1000)
    await program.cancel(up)
    await site.until_event("run.rolling_back", run_id=up.id)
    told = await program.explain()
    assert by_subject(told)["node store"].why == by_subject(told)["node web"].why == "what a run made is rolled back"
    assert told.summary == "building; what a run made is rolled back"
    site.east.calm()
    await program.finish(up.id)


async def test_the_part_of_a_server_that_is_waited_for_is_named(make_site):
    site = await make_site({"east": {"part_seconds": 600.0}})
    program = await site.program()
    run = await program.up(describe("shop", {"store": {"volumes": 1, "address": "true"}}))
    await site.until_event("part.created")
    store = by_subject(await program.explain())["instance store"]
    assert store.why == "server.create on east waits for its volume 'volume-1', 1 of 2"
    assert site.east.servers() == [] and len(site.east.parts()) == 1
    await program.cancel(run)
    await program.finish(run.id)
    assert site.east.servers() == [] and site.east.parts() == []
