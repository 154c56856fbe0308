"""Clouds that cannot be entered, or do not answer: another implementation is tried, or the run says so and ends."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import pytest

from pelagos.clouds.simulated import SimulatedPlugin
from pelagos.model.errors import NotFound
from pelagos.model.states import InfrastructureState, InstanceState, OperationState, RunState
from pelagos.services.infrastructure import MaintainerSettings
from pelagos.store.schema import events as event_rows
from pelagos.store.schema import operations as operation_rows
from support.infrastructure_world import describe
from support.operations_world import until
from support.virtual_site import anyio_backend, make_site, site

__all__ = ["anyio_backend", "make_site", "site"]

pytestmark = pytest.mark.anyio

UNSET = "the secret is in the environment variable X, which is not set"
EITHER = {"web": {"clouds": ["east", "west"], "scaling": (2, 2)}}


def away(cloud, times=100_000):
    cloud.inject("create", "unreachable", times=times)


def spread(site):
    return {name: len(cloud.servers()) for name, cloud in site.clouds.items()}


async def told(site, kind):
    found = sorted(await site.rows(event_rows, kind=kind), key=lambda row: row.position)
    return [(row.at, json.loads(row.data)) for row in found]


async def seconds(site, kind):
    """From the beginning of the first run to each event of this kind."""
    began = min(row.at for row in await site.rows(event_rows, kind="run.started"))
    return [at - began for at, _ in await told(site, kind)]


@pytest.fixture
def shut(monkeypatch):
    """Accounts that cannot be opened."""
    names, opened = set(), SimulatedPlugin.open

    async def open_(plugin, context):
        if context.account in names:
            raise NotFound(UNSET, advice="Set it where this program is started.")
        return await opened(plugin, context)

    monkeypatch.setattr(SimulatedPlugin, "open", open_)
    return names


# -- accounts that cannot be opened ------------------------------------------------------------------------------------


async def test_an_account_that_cannot_be_opened_ends_the_run_with_the_reason(site, shut):
    shut.add("east")
    program = await site.program()
    done = await program.finish((await program.up(describe("shop", {"web": {"scaling": (3, 3)}}))).id)
    assert done.state is RunState.FAILED and done.error is not None
    assert done.error.message == f"node 'web': {UNSET}" and done.error.advice
    assert [data["cloud"] for _, data in await told(site, "node.refused")] == ["east"]
    assert (await seconds(site, "run.failed"))[0] < 10.0
    assert all(OperationState(row.state).final for row in await site.rows(operation_rows))


async def test_the_next_implementation_is_tried(make_site, shut):
    site = await make_site({"east": {}, "west": {}})
    shut.add("east")
    program = await site.program()
    await program.build(describe("shop", EITHER))
    assert spread(site) == {"east": 0, "west": 2}
    refused = [(data["cloud"], data["error"]["message"]) for _, data in await told(site, "node.refused")]
    assert refused == [("east", UNSET)]


async def test_a_server_there_waits_for_the_account_and_the_run_says_what_remains(site, shut):
    first = await site.program()
    await first.build(describe("shop", {"web": {}}))
    await first.stop()
    shut.add("east")
    second = await site.program()
    done = await second.run("down")
    assert done.state is RunState.FAILED and UNSET in done.error.message
    status = await second.status()
    (instance,) = status.nodes["web"].instances.values()
    assert instance.state is InstanceState.DESTROYING and UNSET in instance.reason
    assert any(UNSET in step.why or UNSET in step.last_answer for step in (await second.explain()).steps)
    assert spread(site) == {"east": 1}
    shut.clear()
    assert (await second.run("down")).state is RunState.SUCCEEDED
    assert spread(site) == {"east": 0}


# -- clouds that do not answer -----------------------------------------------------------------------------------------


async def test_the_run_fails_when_its_patience_is_at_an_end(site):
    away(site.east)
    program = await site.program()
    run = await program.up(describe("shop", {"web": {}}))
    await site.until_event("instance.delayed")

    async def shown():
        (instance,) = (await program.status()).nodes["web"].instances.values()
        return instance if instance.reason else None

    instance = await site.until(shown, "a reason")
    assert instance.state is InstanceState.PENDING and "has not made it yet" in instance.reason
    (step,) = [step for step in (await program.explain()).steps if step.subject.startswith("instance web/")]
    assert step.why.startswith("server.create on east is") and step.last_answer in instance.reason
    done = await program.finish(run.id)
    assert done.state is RunState.FAILED and done.error is not None
    assert "'web'" in done.error.message and "east has not made it within 300 s" in done.error.message
    (failed,) = await seconds(site, "run.failed")
    assert 300.0 <= failed < 320.0
    assert all(OperationState(row.state).final for row in await site.rows(operation_rows))


async def test_the_trouble_is_told_no_longer_than_it_lasts(make_site):
    site = await make_site({"east": {"boot_seconds": 30.0}})
    away(site.east, 3)
    program = await site.program()
    run = await program.up(describe("shop", {"web": {}}))
    await site.until_event("instance.delayed")
    await site.until_event("server.building")
    await asyncio.sleep(5.0)
    (instance,) = (await program.status()).nodes["web"].instances.values()
    assert (instance.state, instance.reason) == (InstanceState.PENDING, "")
    assert (await program.finish(run.id)).state is RunState.SUCCEEDED


async def test_the_next_implementation_is_tried_sooner(make_site):
    site = await make_site({"east": {}, "west": {}})
    away(site.east)
    program = await site.program()
    await program.build(describe("shop", EITHER))
    assert spread(site) == {"east": 0, "west": 2}
    (refused,) = await seconds(site, "node.refused")
    assert 60.0 <= refused < 70.0
    site.east.calm()
    # Nothing of what was withdrawn comes to be.
    assert {OperationState(row.state) for row in await site.rows(operation_rows)} == {
        OperationState.SUCCEEDED,
        OperationState.CANCELLED,
    }
    site.assert_nothing_doubled()


async def test_where_all_are_away_each_has_its_time_and_the_run_ends(make_site):
    site = await make_site({"east": {}, "west": {}, "north": {}})
    for cloud in site.clouds.values():
        away(cloud)
    program = await site.program()
    web = {"clouds": ["east", "west", "north"]}
    run = await program.up(describe("shop", {"web": web}))
    site.patience = 3000.0
    done = await program.finish(run.id)
    assert done.state is RunState.FAILED
    assert [data["cloud"] for _, data in await told(site, "node.refused")] == ["east", "west", "north"]
    first, second, third = await seconds(site, "node.refused")
    assert (60 <= first < 70) and (120 <= second < 140) and (420 <= third < 450)
    assert all(f"{name}: its cloud {name} has not made it" in done.error.message for name in ("east", "west", "north"))


@pytest.mark.parametrize("policy", ["{create_patience: 20}", "{}"])
async def test_the_nodes_policy_says_how_long(make_site, policy):
    site = await make_site({"east": {}}, settings=MaintainerSettings(create_patience=100.0))
    away(site.east)
    program = await site.program()
    done = await program.finish((await program.up(describe("shop", {"web": {"policy": policy}}))).id)
    assert done.state is RunState.FAILED
    (failed,) = await seconds(site, "run.failed")
    assert (20 <= failed < 40) if "20" in policy else (100 <= failed < 125)


async def test_on_failure_says_what_becomes_of_the_others(site):
    program = await site.program()
    site.patience = 1000.0
    sources = describe("shop", {"db": {}, "web": {"after": ["db"], "flavor": "large", "policy": "{on_failure: keep}"}})
    run = await program.up(sources)
    await site.until_event("instance.ready", node="db")
    away(site.east)
    done = await program.finish(run.id)
    assert done.state is RunState.FAILED
    assert site.alive() == ["db"]


async def test_an_uncertain_creation_is_not_given_up(site):
    away(site.east, 1)
    site.east.inject("create", "reply_lost")
    site.east.inject("find", "unreachable", times=100_000)
    site.east.inject("list", "unreachable", times=100_000)
    site.patience = 2000.0
    program = await site.program()
    run = await program.up(describe("shop", {"web": {}}))
    await site.until_event("instance.delayed")
    await site.until_event("instance.uncertain")
    await asyncio.sleep(900.0)
    assert (await program.status()).nodes["web"].instances
    site.east.calm()
    assert (await program.finish(run.id)).state is RunState.SUCCEEDED
    assert len(site.east.servers()) == 1
    site.assert_nothing_doubled()


async def test_a_cloud_that_makes_servers_slowly_is_waited_for(make_site):
    site = await make_site({"east": {}}, settings=MaintainerSettings(create_patience=60.0))
    site.patience = 2000.0
    away(site.east)
    program = await site.program()
    run = await program.up(describe("shop", {"web": {"scaling": (8, 8)}}))

    def there(count):
        return len(site.east.servers()) >= count

    for _ in range(20):
        await asyncio.sleep(15.0)
        more = min(len(site.east.servers()) + 1, 8)
        site.east.calm()
        await until(partial(there, more))
        away(site.east)
    assert (await program.finish(run.id)).state is RunState.SUCCEEDED
    assert len(site.east.servers()) == 8
    (longest,) = await seconds(site, "run.succeeded")
    assert longest > 80.0
    assert await told(site, "instance.failed") == []


async def test_a_daemon_that_heals_goes_on_trying(make_site):
    site = await make_site({"east": {}}, settings=MaintainerSettings(interval=5.0, create_patience=30.0))
    site.patience = 3000.0
    program = await site.program(serves=True)
    await program.build(describe("shop", {"web": {}}))
    away(site.east)
    (server,) = site.east.servers()
    site.east.kill(server.provider_id)

    async def twice():
        return len([1 for _, data in await told(site, "instance.failed") if "has not made it" in data["reason"]]) >= 2

    await site.until(twice, "two creations withdrawn")
    assert (await program.status()).state is InfrastructureState.DEGRADED
    site.east.calm()

    async def well():
        return (await program.status()).state is InfrastructureState.READY

    await site.until(well, "it is ready again")
    assert len(site.east.servers()) == 1
    site.assert_nothing_doubled()
