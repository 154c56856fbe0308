"""Several programs on one database: resuming, waiting, losing a lease, owning a name; and two projects side by side."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import update

from contract.infrastructure.test_infrastructure_builds import CHAIN, spans, states
from pelagos.model import DEFAULT_SCOPE
from pelagos.model.errors import DescriptionError, NotFound
from pelagos.model.states import RunState
from pelagos.services.infrastructure import queries
from pelagos.services.infrastructure.messages import (
    CancelRun,
    DeleteDefinition,
    ImportDefinitions,
    LogsRequest,
    RefreshLive,
    SetMaintained,
)
from pelagos.services.infrastructure.service import lease_name
from pelagos.store.schema import events as event_rows
from pelagos.store.schema import infrastructures, leases
from pelagos.store.schema import runs as run_rows
from support.infrastructure_world import OTHER, describe

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("moment", ["run.accepted", "instance.pending", "server.building", "instance.ready"])
async def test_the_next_up_finishes_what_a_killed_one_left(site, moment):
    first = await site.program()
    sources = describe("shop", {name: {**node, "boot_seconds": 0.05} for name, node in CHAIN.items()})
    run = await first.up(sources)
    await site.until_event(moment)
    first.kill()
    second = await site.program()
    done = await second.build(sources)
    assert await site.rows(event_rows, kind="run.waiting") == [], "a dead holder's lease is not waited for"
    assert done.infrastructure_id == run.infrastructure_id
    assert site.alive() == ["lb", "store", "web", "web"]
    site.assert_nothing_doubled()
    assert states(await second.status()) == {"store": ["ready"], "web": ["ready", "ready"], "lb": ["ready"]}
    assert await site.rows(run_rows, finished_at=None) == [], "the killed run has ended too"
    assert (await second.run("down")).state is RunState.SUCCEEDED and site.alive() == []


async def test_a_killed_roll_back_is_finished_by_a_daemon(site):
    first = await site.program()
    await first.build(describe("shop", {"store": {}}))
    update_ = await first.up(describe("shop", {"store": {}, "slow": {"boot_seconds": 30}, "quick": {}}))
    await site.until_event("instance.ready", node="quick")
    await first.cancel(update_)
    await site.until_event("run.rolling_back")
    first.kill()
    daemon = await site.program(serves=True)
    assert (await daemon.finish(update_.id)).state is RunState.CANCELLED
    assert site.alive() == ["store"] and states(await daemon.status()) == {"store": ["ready"]}


async def test_a_killed_roll_back_is_finished_before_anything_newer_begins(site):
    first = await site.program()
    await first.build(describe("shop", {"store": {}, "web": {"scaling": (1, 5), "boot_seconds": 0.2}}))
    scale = await first.start_run("scale", infrastructure="shop", scale={"web": "4"})
    await site.until_event("instance.pending", run_id=scale.id)
    await first.cancel(scale)
    await site.until_event("run.rolling_back")
    first.kill()
    second = await site.program()
    assert (await second.run("maintain")).state is RunState.SUCCEEDED
    assert (await second.finish(scale.id)).state is RunState.CANCELLED
    assert site.alive() == ["store", "web"] and (await second.status()).nodes["web"].scaling.target == 1


async def test_a_second_program_waits_says_for_whom_and_then_works(site):
    first, second = await site.program(), await site.program()
    slow = await first.up(describe("shop", {"web": {"boot_seconds": 0.5, "scaling": (1, 3)}}))
    await site.until_event("instance.pending")
    other = await second.start_run("scale", infrastructure="shop", scale={"web": "3"})
    waiting = await site.until_event("run.waiting", run_id=other.id)
    import json

    data = json.loads(waiting.data)
    assert data["holder"] == "program-1" and data["pid"] == 1 and "command" in data["message"]
    assert (await second.finish(slow.id)).state is RunState.SUCCEEDED
    assert (await second.finish(other.id)).state is RunState.SUCCEEDED
    assert site.alive() == ["web"] * 3
    site.assert_nothing_doubled()


async def test_a_run_cancelled_before_it_began_changes_nothing(site):
    program = await site.program()
    slow = await program.up(describe("shop", {"web": {"boot_seconds": 0.4}}))
    await site.until_event("instance.pending")
    waiting = await program.start_run("scale", infrastructure="shop", scale={"web": "1"})
    assert (await program.cancel(waiting)).cancel_requested
    assert (await program.finish(waiting.id)).state is RunState.CANCELLED
    assert (await program.finish(slow.id)).state is RunState.SUCCEEDED
    assert site.alive() == ["web"] and set((await program.status()).nodes) == {"web"}
    assert (await program.cancel(waiting)).state is RunState.CANCELLED, "cancelling what has ended is no error"


async def test_who_lost_the_lease_writes_nothing_more(site):
    first = await site.program()
    sources = describe("shop", {"web": {"boot_seconds": 0.4}, "late": {"after": ["web"]}})
    run = await first.up(sources)
    await site.until_event("server.building")
    name = lease_name(run.infrastructure_id)

    def steal(connection):
        change = {"epoch": leases.c.epoch + 5, "holder": "thief", "pid": 7, "host": "elsewhere"}
        connection.execute(update(leases).where(leases.c.name == name).values(**change))

    await site.run(steal)
    before = await site.rows(infrastructures)

    async def stopped():
        return first.service.snapshot_maintainers() == {}

    await site.until(stopped, "the maintainer stops")
    assert site.alive() == ["web"], "the server is the cloud account's matter, whose lease is not lost"
    after = await site.rows(infrastructures)
    assert [row.state for row in before] == [row.state for row in after]
    assert "instance.ready" not in await site.kinds()

    def give_back(connection):
        connection.execute(update(leases).where(leases.c.name == name).values(holder=None, expires_at=0.0))

    await site.run(give_back)
    assert (await first.finish(run.id)).state is RunState.SUCCEEDED
    assert site.alive() == ["late", "web"]
    site.assert_nothing_doubled()


async def test_two_ups_at_once_make_one_infrastructure(site):
    programs = [await site.program() for _ in range(3)]
    sources = describe("shop", {"web": {"scaling": (2, 2)}, "lb": {"after": ["web"]}})
    runs = await asyncio.gather(*(program.up(sources) for program in programs))
    assert len({run.infrastructure_id for run in runs}) == 1 and len({run.id for run in runs}) == 3
    for run in runs:
        assert (await programs[0].finish(run.id)).state is RunState.SUCCEEDED
    assert site.alive() == ["lb", "web", "web"]
    site.assert_nothing_doubled()
    assert len(await site.rows(infrastructures)) == 1


async def test_two_repeats_of_a_request_at_once_are_one_run(site):
    programs = [await site.program() for _ in range(2)]
    sources = describe("shop", {"web": {}})
    runs = await asyncio.gather(*(program.up(sources, request_id="same") for program in programs))
    assert len({run.id for run in runs}) == 1
    assert (await programs[1].finish(runs[0].id)).state is RunState.SUCCEEDED
    assert site.alive() == ["web"]


async def test_a_daemon_takes_what_a_command_asked_for_and_heals_it(site):
    command = await site.program()
    await command.build(describe("shop", {"store": {}, "web": {"after": ["store"]}}))
    daemon = await site.program(serves=True)
    (victim,) = await site.provider_ids("web", await command.status())
    site.east.vanish(victim)
    await site.until_event("instance.failed", node="web")

    async def healed():
        return states(await command.status()) == {"store": ["ready"], "web": ["ready"]}

    await site.until(healed, "the daemon heals it")
    assert site.alive() == ["store", "web"] and len(spans(site.east)["store"]) == 1
    await daemon.stop()
    assert (await command.run("down")).state is RunState.SUCCEEDED


async def test_two_projects_do_not_see_each_other(site):
    program = await site.program()
    sources = describe("shop", {"web": {"scaling": (1, 3)}})
    mine = await program.build(sources)
    theirs = await program.up(sources, scope=OTHER, request_id="r")
    assert (await program.finish(theirs.id, OTHER)).state is RunState.SUCCEEDED
    assert mine.infrastructure_id != theirs.infrastructure_id
    same = await program.up(sources, request_id="r")
    assert same.id != theirs.id, "a request's id is its project's"
    await program.finish(same.id)
    for scope, own, foreign in ((DEFAULT_SCOPE, mine, theirs), (OTHER, theirs, mine)):
        read = site.read
        assert (await program.status("shop", scope)).id == own.infrastructure_id
        listed = await read(lambda c, s=scope: queries.list_infrastructures(c, s, deleted=True))
        assert [one.id for one in listed] == [own.infrastructure_id]
        events = await read(lambda c, s=scope: queries.events(c, s))
        assert {event.project_id for event in events} == {scope.project_id}
        assert {event.infrastructure_id for event in events} <= {own.infrastructure_id, None}
        crossed = foreign.infrastructure_id
        for name, query in {
            "status": lambda c, s=scope, i=crossed: queries.status(c, s, i),
            "explain": lambda c, s=scope, i=crossed: queries.explain(c, s, i),
            "run": lambda c, s=scope, i=foreign.id: queries.run(c, s, i),
            "runs": lambda c, s=scope, i=crossed: queries.runs(c, s, i),
            "resolve": lambda c, s=scope, i=crossed: queries.resolve(c, s, i),
        }.items():
            with pytest.raises(NotFound):
                await read(query)
                pytest.fail(name)
        found = await read(lambda c, s=scope, i=crossed: queries.events(c, s, infrastructure=i))
        assert found == []
        for command, request in (
            ("cancel_run", CancelRun(run_id=foreign.id)),
            ("logs", LogsRequest(infrastructure=crossed)),
            ("refresh_live", RefreshLive(infrastructure=crossed)),
            ("set_maintained", SetMaintained(infrastructure=crossed, maintained=False)),
        ):
            with pytest.raises(NotFound):
                await program.ask(command, request, scope=scope)
                pytest.fail(command)
        for kind, fields in (
            ("down", {}),
            ("scale", {"scale": {"web": "2"}}),
            ("maintain", {}),
            ("up", {"sources": 1}),
        ):
            with pytest.raises(NotFound):
                if kind == "up":
                    await program.up(sources, infrastructure=crossed, scope=scope)
                await program.start_run(kind, infrastructure=crossed, scope=scope, **fields)
                pytest.fail(kind)
        with pytest.raises(NotFound):
            await program.plan(infrastructure=crossed, down=True, scope=scope)
    down = await program.start_run("down", infrastructure="shop", scope=OTHER)
    assert (await program.finish(down.id, OTHER)).state is RunState.SUCCEEDED
    assert site.alive() == ["web"] and states(await program.status()) == {"web": ["ready"]}


DEFINITION = "'node_def:{0}':\n  - resource: {{type: simulated, flavor: small}}\n    health_check: {{ports: [80]}}\n"


async def test_definitions_are_stored_all_or_none_and_used(site):
    program = await site.program()
    good = {"two.yaml": DEFINITION.format("web2"), "one.yaml": DEFINITION.format("web")}
    bad = {**good, "one.yaml": DEFINITION.format("web").replace("flavor", "flavour")}
    with pytest.raises(DescriptionError) as caught:
        await program.ask("import_definitions", ImportDefinitions(sources=bad, entries=("two.yaml", "one.yaml")))
    (mistake,) = caught.value.diagnostics
    assert (mistake.position.file, mistake.position.line) == ("one.yaml", 2)
    assert mistake.summary == "'flavour' is not known; did you mean 'flavor'?"
    assert await site.read(lambda c: queries.definitions(c, DEFAULT_SCOPE)) == []
    await program.ask("import_definitions", ImportDefinitions(sources=good, entries=("two.yaml", "one.yaml")))
    listed = await site.read(lambda c: queries.definitions(c, DEFAULT_SCOPE))
    assert [(view.type, view.file, view.implementations, view.clouds) for view in listed] == [
        ("web", "one.yaml", 1, ("simulated",)),
        ("web2", "two.yaml", 1, ("simulated",)),
    ]
    assert await site.read(lambda c: queries.definitions(c, OTHER)) == []
    infra = {
        "infra.yaml": "infra_name: shop\nuser_id: u\nnodes:\n  - {name: a, type: web}\n  - {name: b, type: web2}\n"
    }
    run = await program.start_run("up", sources=infra, entries=("infra.yaml",))
    assert (await program.finish(run.id)).state is RunState.SUCCEEDED
    assert site.alive() == ["a", "b"]
    with pytest.raises(DescriptionError):
        await program.start_run("up", sources=infra, entries=("infra.yaml",), scope=OTHER)
    with pytest.raises(NotFound):
        await program.ask("delete_definition", DeleteDefinition(type="web"), scope=OTHER)
    await program.ask("delete_definition", DeleteDefinition(type="web"))
    with pytest.raises(NotFound):
        await program.ask("delete_definition", DeleteDefinition(type="web"))
    scaled = await program.run("maintain")
    assert scaled.state is RunState.SUCCEEDED, "what was built keeps its own copy"
