"""Drift, imports and orphans, on a virtual clock: what is found by looking, and what is taken on record or away."""

from __future__ import annotations

import pytest

from pelagos.clouds.port import CloudWriter
from pelagos.model import DEFAULT_SCOPE
from pelagos.model.errors import Ambiguous, Conflict, InvalidInput, NotFound
from pelagos.model.states import InfrastructureState, InstanceState, RunState, ServerState
from pelagos.operations.surveying import Reader
from pelagos.quotas import holdings
from pelagos.services.infrastructure.faces import StoredRecords, Surveys
from pelagos.services.infrastructure.messages import OrphansRequest, Protect
from pelagos.store.container_schema import metadata
from pelagos.store.schema import events as event_rows
from pelagos.wire.drift import DriftFinding, DriftRequest, DriftRule, OrphanRemoval, OrphanServer
from pelagos.wire.infrastructures import AdoptRequest, ProtectRequest
from support.infrastructure_world import describe
from support.virtual_site import anyio_backend, make_site, site

__all__ = ["anyio_backend", "make_site", "site"]

pytestmark = pytest.mark.anyio

CHECK = "{ports: [80], failures: 2, timeout: 20}"
SHOP = describe("shop", {"db": {"check": CHECK, "flavor": "small"}, "web": {"check": CHECK, "scaling": (1, 3)}})


async def everything(site):
    """Every row of every table but the leases, which renew themselves."""
    found = {}
    for table in metadata.sorted_tables:
        if table.name != "leases":
            found[table.name] = sorted(repr(tuple(row)) for row in await site.rows(table))
    return found


async def drift(program, name="shop", **request):
    return await program.ask("drift", DriftRequest(infrastructure=name, **request))


async def server_of(site, program, node):
    (server,) = await site.provider_ids(node, await program.status())
    return server


def told(view):
    return [(f.kind, f.node, f.field) for f in view.findings]


# -- drift -------------------------------------------------------------------------------------------------------------


async def test_what_is_as_it_was_has_not_drifted(site):
    program = await site.program()
    await program.build(SHOP)
    view = await drift(program)
    assert (view.compared, view.findings, view.ignored, view.silent) == (2, (), 0, ())


async def test_what_differs_is_told_and_nothing_is_written_anywhere(site):
    program = await site.program()
    await program.build(SHOP)
    db, web = await server_of(site, program, "db"), await server_of(site, program, "web")
    site.east.resize(db, "huge")
    site.east.vanish(web)
    infra = (await program.status()).id
    stray = site.east.add_foreign(f"pelagos-shop-{infra[:8]}-web-00000000", "a-token-of-nobody")
    site.east.add_foreign("pelagos-other-00000000-web-00000000", "another-token-of-nobody")
    site.east.add_foreign("somebody-elses")
    before, calls = await everything(site), dict(site.east.calls)
    view = await drift(program)
    assert told(view) == [("changed", "db", "flavor"), ("vanished", "web", ""), ("unknown", "", "")]
    changed, vanished, unknown = view.findings
    assert (changed.expected, changed.found, changed.provider_id) == ("small", "huge", db)
    assert (vanished.provider_id, vanished.infrastructure) == (web, "shop")
    assert unknown.provider_id == stray
    # Of the whole pool: also what no infrastructure's name begins.
    assert len([f for f in (await drift(program, "")).findings if f.kind == "unknown"]) == 2
    assert await everything(site) == before
    made = {verb for verb, count in site.east.calls.items() if count > calls.get(verb, 0)}
    assert made <= {"list", "get"}


async def test_stopped_servers_and_rules(site):
    program = await site.program()
    await program.build(SHOP)
    db, web = await server_of(site, program, "db"), await server_of(site, program, "web")
    site.east.stop(db)
    site.east.kill(web)
    view = await drift(program)
    assert [(f.kind, f.node, f.expected, f.found) for f in view.findings] == [
        ("stopped", "db", "active", "stopped"),
        ("stopped", "web", "active", "error"),
    ]
    for rule in (
        DriftRule(kind="stopped", node="d*"),
        DriftRule(server=db),
        DriftRule(cloud="east", infrastructure="shop", node="db"),
    ):
        view = await drift(program, ignore=(rule,))
        assert ([f.node for f in view.findings], view.ignored) == (["web"], 1)
    view = await drift(program, ignore=(DriftRule(kind="vanished"), DriftRule(node="cron")))
    assert (len(view.findings), view.ignored) == (2, 0)


async def test_a_cloud_that_does_not_answer_is_named_and_nothing_is_told_of_it(make_site):
    site = await make_site({"east": {}, "west": {}})
    program = await site.program()
    await program.build(describe("shop", {"db": {"check": CHECK}, "web": {"check": CHECK, "clouds": ("west",)}}))
    site.east.vanish(await server_of(site, program, "db"))
    site.clouds["west"].vanish(await server_of(site, program, "web"))
    site.clouds["west"].inject("list", "unreachable")
    view = await drift(program)
    assert told(view) == [("vanished", "db", "")]
    assert [(s.cloud, s.error.code) for s in view.silent] == [("west", "cloud_unreachable")]
    with pytest.raises(NotFound):
        await drift(program, "shoq")


async def test_drift_holds_nothing_that_writes(site):
    """What it is given has no verb but those that read: neither of a cloud's nor of the store's nor of compute's."""
    program = await site.program()
    writing = {name for name in vars(CloudWriter) if not name.startswith("_")}
    assert "delete_server" in writing
    assert not writing & {name for name in dir(Reader) if not name.startswith("_")}
    assert {n for n in dir(Reader) if not n.startswith("_")} == {"servers", "foreign", "get"}
    records, clouds = StoredRecords(program.store), Surveys(program.service)
    assert {n for n in dir(records) if not n.startswith("_")} == {"read"}
    assert {n for n in dir(clouds) if not n.startswith("_")} == {"survey"}
    with pytest.raises(AttributeError):
        records.run = program.store.run


# -- imports -----------------------------------------------------------------------------------------------------------


async def adopt(program, server, node="web", **more):
    return await program.run("adopt", adopt=AdoptRequest(node=node, cloud="east", server=server, **more))


async def test_a_server_becomes_an_instance(site):
    program = await site.program(serves=True)
    await program.build(SHOP)
    foreign = site.east.add_foreign("old-web", flavor="large")
    done = await adopt(program, "old-web")
    assert await site.kinds(run_id=done.id, node="web") == ["instance.adopting", "instance.checking", "instance.ready"]
    assert done.state is RunState.SUCCEEDED, done
    status = await program.status()
    web = status.nodes["web"]
    assert (web.scaling.target, [i.state for i in web.instances.values()]) == (2, [InstanceState.READY] * 2)
    assert [i.protected for i in web.instances.values()] == [False, True]
    assert foreign in await site.provider_ids("web", status)
    assert (await site.read(lambda c: holdings(c, DEFAULT_SCOPE.project_id)))["servers"].used == 3
    # Once more is no more; nor by its id.
    for name in ("old-web", foreign):
        assert (await adopt(program, name)).state is RunState.SUCCEEDED
    assert (await program.status()).nodes["web"].scaling.target == 2
    with pytest.raises(Conflict, match="on record already, as an instance of node 'web'"):
        await adopt(program, foreign, node="db")
    assert (await drift(program)).findings == ()
    # It is not destroyed until somebody says so.
    assert (await program.run("down")).state is RunState.FAILED
    assert [s.provider_id for s in site.east.servers()] == [foreign]
    await program.ask("protect", Protect(infrastructure="shop", request=ProtectRequest(node="web", protected=False)))
    assert (await program.run("down")).state is RunState.SUCCEEDED
    assert site.east.servers() == []


async def test_an_import_takes_the_place_of_what_is_missing(site):
    program = await site.program(serves=True)
    web = {"check": CHECK, "scaling": (1, 3), "policy": "{heal: {attempts: 1}}"}
    await program.build(describe("shop", {"web": web}))
    site.east.vanish(await server_of(site, program, "web"))
    await site.until_event("node.breaker_opened")
    foreign = site.east.add_foreign("old-web")
    assert (await adopt(program, foreign)).state is RunState.SUCCEEDED
    status = await program.status()
    assert status.nodes["web"].scaling.target == 1
    assert (await site.provider_ids("web", status)) == [foreign]


async def test_what_cannot_be_adopted_changes_nothing(site):
    program = await site.program(serves=True)
    await program.build(SHOP)
    foreign = site.east.add_foreign("old-web")
    site.east.inject("adopt", "auth_failed")
    done = await adopt(program, foreign)
    assert done.state is RunState.FAILED
    assert done.error.code == "cloud_auth_failed"
    status = await program.status()
    assert (status.state, status.nodes["web"].scaling.target) == (InfrastructureState.READY, 1)
    assert len(status.nodes["web"].instances) == 1
    assert sorted(s.name for s in site.east.servers() if not s.token) == ["old-web"]
    assert "instance.destroying" not in await site.kinds()
    # Nothing stands in the way of another try.
    assert (await adopt(program, foreign)).state is RunState.SUCCEEDED


async def test_an_adoption_outlives_its_maintainer(site):
    first = await site.program(serves=True)
    await first.build(SHOP)
    foreign = site.east.add_foreign("old-web")
    site.east.inject("adopt", "reply_lost")
    run = await first.start_run(
        "adopt", infrastructure="shop", adopt=AdoptRequest(node="web", cloud="east", server=foreign)
    )
    await site.until_event("instance.adopting")
    first.kill()
    second = await site.program(serves=True)
    assert (await second.finish(run.id)).state is RunState.SUCCEEDED
    assert foreign in await site.provider_ids("web", await second.status())
    assert len(site.east.servers()) == 3


async def test_an_ill_server_is_adopted_and_told_and_never_destroyed(site):
    program = await site.program(serves=True)
    await program.build(SHOP)
    foreign = site.east.add_foreign("old-web")
    site.east.stop(foreign)
    done = await adopt(program, foreign, protected=False)
    assert done.state is RunState.FAILED
    assert "it was adopted" in done.error.message
    await site.until_event("infrastructure.state", run_id=None)
    assert foreign in [s.provider_id for s in site.east.servers()]
    site.east.boot(foreign)

    async def well():
        shown = (await program.status()).nodes["web"].instances.values()
        return [i.state for i in shown] == [InstanceState.READY] * 2

    await site.until(well, "it is an instance as soon as it is well")


async def test_wrong_imports_are_refused_at_once(site):
    program = await site.program()
    await program.build(SHOP)
    site.east.add_foreign("twin")
    site.east.add_foreign("twin")
    mine = await server_of(site, program, "db")
    for server, node, error, message in (
        ("nobody", "web", NotFound, "has no server 'nobody'"),
        ("twin", "web", Ambiguous, "2 servers"),
        (mine, "web", Conflict, "as an instance of node 'db'"),
        ("twin", "cron", NotFound, "no node 'cron'"),
    ):
        if node == "cron":
            server = site.east.add_foreign("lonely")
        with pytest.raises(error, match=message):
            await adopt(program, server, node=node)
    with pytest.raises(InvalidInput, match="may have 1 instances"):
        await adopt(program, "lonely", node="db")
    with pytest.raises(NotFound, match="no account 'north'"):
        await program.start_run(
            "adopt", infrastructure="shop", adopt=AdoptRequest(node="web", cloud="north", server="x")
        )


# -- orphans -----------------------------------------------------------------------------------------------------------


async def test_orphans_are_listed_adopted_and_deleted(site):
    program = await site.program(serves=True)
    await program.build(SHOP)
    first = site.east.add_foreign("left-1", "token-of-a-lost-store-1")
    second = site.east.add_foreign("left-2", "token-of-a-lost-store-2")
    theirs = site.east.add_foreign("somebody-elses")
    found = await program.ask("orphans", OrphansRequest())
    assert [(o.cloud, o.provider_id, o.state) for o in found.items] == [
        ("east", first, ServerState.ACTIVE),
        ("east", second, ServerState.ACTIVE),
    ]
    assert (await adopt(program, first)).state is RunState.SUCCEEDED
    assert [s.token for s in site.east.servers() if s.provider_id == first] == ["token-of-a-lost-store-1"]
    mine = await server_of(site, program, "db")
    for wrong in (theirs, mine, first, "nobody"):
        both = (OrphanServer(cloud="east", provider_id=second), OrphanServer(cloud="east", provider_id=wrong))
        with pytest.raises(NotFound, match="is no orphan"):
            await program.ask("remove_orphans", OrphanRemoval(servers=both))
    await program.ask("remove_orphans", OrphanRemoval(servers=(OrphanServer(cloud="east", provider_id=second),)))
    await site.until_event("server.swept")
    left = {s.provider_id for s in site.east.servers()}
    assert second not in left and {first, theirs, mine} <= left
    assert (await program.ask("orphans", OrphansRequest(clouds=("east",)))).items == ()
    with pytest.raises(NotFound, match="no account"):
        await program.ask("orphans", OrphansRequest(clouds=("north",)))
    assert len(await site.rows(event_rows, kind="server.swept")) == 1


def test_a_finding_says_only_what_it_knows():
    finding = DriftFinding(kind="unknown", cloud="east", provider_id="x", server="y")
    assert (finding.infrastructure, finding.node, finding.field) == ("", "", "")
