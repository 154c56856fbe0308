"""Servers that are there already come on record, and what no record knows goes: on every engine of the store."""

import pytest
from sqlalchemy import insert, update

from pelagos.clouds import ServerSpec
from pelagos.model import DEFAULT_SCOPE, OperationState, ServerState
from pelagos.model.errors import Conflict
from pelagos.operations import Adoption, OrphanRemoval
from pelagos.quotas import set_limit
from pelagos.services.compute.queries import tokens_on_record
from pelagos.store.schema import attempts, infrastructures, instances, servers
from support.operations_world import ACCOUNT, Universe, event_kinds, holding, open_attempts, rows, states, until_event

pytestmark = pytest.mark.anyio


@pytest.fixture
async def universe(make_store, world):
    options = {"settle": 0.2, "call_timeout": 0.3, "create_timeout": 0.3}
    async with Universe(world, open_store=make_store, options=options) as made:
        yield made


def adoption(universe, provider_id, *, request="adopt-1", token=""):
    return Adoption(
        operation_id=universe.world.new_id(),
        request_id=request,
        server_id=universe.world.new_id(),
        account=ACCOUNT,
        provider_id=provider_id,
        token=token,
        spec=ServerSpec(name="taken"),
    )


async def adopt(universe, one, provider_id, **how):
    """Adopt it to the end of that: the operation's record."""
    (record,) = await one.engine.adopt_servers(DEFAULT_SCOPE, [adoption(universe, provider_id, **how)])
    return (await one.engine.wait([record.id], 30))[record.id]


async def test_a_foreign_server_comes_on_record_and_into_the_quota(universe):
    one = await universe.incarnate()
    await one.store.run(lambda connection: set_limit(connection, DEFAULT_SCOPE.project_id, "servers", 0))
    foreign = universe.cloud.add_foreign("old-db", flavor="large")
    done = await adopt(universe, one, foreign)
    assert done.state is OperationState.SUCCEEDED, done
    (server,) = universe.cloud.servers()
    assert (server.provider_id, server.name) == (foreign, "old-db") and server.token
    (row,) = await rows(one.store, servers)
    assert (row.provider_id, row.state, row.addresses) == (foreign, "active", f'["{server.addresses[0]}"]')
    # It exists, whatever the limit says: counted, never refused.
    assert (await holding(one.store)).used == 1
    again = await adopt(universe, one, foreign)  # the same request: the same operation
    assert again.id == done.id
    with pytest.raises(Conflict, match="on record already"):
        await adopt(universe, one, foreign, request="adopt-2")
    await one.engine.refresh([ACCOUNT])
    assert [s.provider_id for s in universe.cloud.servers()] == [foreign]
    assert await open_attempts(one.store) == []


@pytest.mark.parametrize("fault", ["reply_lost", "connection_closed", "error_before", "rate_limited"])
async def test_an_adoption_survives_lost_replies(universe, fault):
    one = await universe.incarnate()
    foreign = universe.cloud.add_foreign("old-db")
    universe.cloud.inject("adopt", fault)
    done = await adopt(universe, one, foreign)
    assert done.state is OperationState.SUCCEEDED, done
    assert [bool(s.token) for s in universe.cloud.servers()] == [True]
    assert (await holding(one.store)).used == 1


async def test_a_server_in_error_is_adopted_and_not_taken_back(universe):
    one = await universe.incarnate()
    foreign = universe.cloud.add_foreign("old-db")
    universe.cloud.kill(foreign)
    assert (await adopt(universe, one, foreign)).state is OperationState.SUCCEEDED
    await one.engine.refresh([ACCOUNT])
    assert [s.provider_id for s in universe.cloud.servers()] == [foreign]
    assert [row.state for row in await rows(one.store, servers)] == ["error"]


async def test_what_was_not_adopted_is_never_swept(universe):
    """Its token may be in the server all the same: nothing that was somebody else's goes because of it."""
    one = await universe.incarnate()
    lost = universe.cloud.add_foreign("theirs", "token-of-a-lost-store")
    universe.cloud.inject("adopt", "auth_failed")
    failed = await adopt(universe, one, lost, token="token-of-a-lost-store")
    assert failed.state is OperationState.FAILED
    assert (await holding(one.store)).used == 0
    for _ in range(3):
        await one.engine.refresh([ACCOUNT])
    assert [s.provider_id for s in universe.cloud.servers()] == [lost]
    assert "server.swept" not in await event_kinds(one.store)
    # And it can be asked for again, with the token that it has.
    done = await adopt(universe, one, lost, request="adopt-2", token="token-of-a-lost-store")
    assert done.state is OperationState.SUCCEEDED
    assert [(row.token, row.state) for row in await rows(one.store, attempts)] == [("token-of-a-lost-store", "done")]


async def test_a_server_that_is_gone_cannot_be_adopted(universe):
    one = await universe.incarnate()
    failed = await adopt(universe, one, "no-such-server")
    assert failed.state is OperationState.FAILED
    assert (await holding(one.store)).used == 0
    assert [row.state for row in await rows(one.store, servers)] == ["deleted"]


async def test_orphans_are_deleted_and_what_has_a_record_is_not(universe):
    one = await universe.incarnate()
    orphan = universe.cloud.add_foreign("left-behind", "token-of-a-lost-store")
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    await one.engine.wait([record.id], 30)
    (mine,) = [s for s in universe.cloud.servers() if s.provider_id != orphan]

    def removal(provider_id, token, request):
        return OrphanRemoval(
            operation_id=universe.world.new_id(),
            request_id=request,
            account=ACCOUNT,
            provider_id=provider_id,
            token=token,
        )

    for token in (mine.token, "another"):
        with pytest.raises(Conflict, match="on record"):
            await one.engine.remove_orphans(DEFAULT_SCOPE, [removal(mine.provider_id, token, "remove-mine")])
    (record,) = await one.engine.remove_orphans(
        DEFAULT_SCOPE, [removal(orphan, "token-of-a-lost-store", "remove-orphan")]
    )
    done = await one.engine.wait([record.id], 30)
    assert states(done) == {OperationState.SUCCEEDED}
    assert [s.provider_id for s in universe.cloud.servers()] == [mine.provider_id]
    assert (await event_kinds(one.store)).count("server.swept") == 1


async def test_a_survey_looks_and_writes_nothing(universe):
    one = await universe.incarnate()
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    await one.engine.wait([record.id], 30)
    (mine,) = universe.cloud.servers()
    foreign = universe.cloud.add_foreign("theirs")
    before = await rows(one.store, servers), await event_kinds(one.store)
    universe.cloud.stop(mine.provider_id)
    found = await one.engine.survey(ACCOUNT, known=[mine.provider_id, "sim-999999"], foreign=True)
    assert [(s.provider_id, s.state) for s in found.servers] == [(mine.provider_id, ServerState.STOPPED)]
    assert [s.provider_id for s in found.foreign] == [foreign]
    assert (found.gone, found.doubtful, found.error) == (("sim-999999",), (), None)
    assert (await rows(one.store, servers), await event_kinds(one.store)) == before
    universe.cloud.inject("list", "unreachable")
    assert (await one.engine.survey(ACCOUNT)).error.code == "cloud_unreachable"


async def test_nobody_deletes_the_server_of_a_protected_instance(universe):
    one = await universe.incarnate()
    (new,) = universe.new(instance_id="i-1", infrastructure_id="f-1")
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, [new])
    await one.engine.wait([record.id], 30)
    owner = {"project_id": "default", "user_id": "me", "created_at": 1.0, "updated_at": 1.0}

    def protect(connection):
        connection.execute(
            insert(infrastructures).values(id="f-1", name="shop", state="ready", compiled_blob=b"", **owner)
        )
        connection.execute(
            insert(instances).values(
                id="i-1",
                infrastructure_id="f-1",
                node="db",
                state="ready",
                server_id=new.server_id,
                protected=True,
                **owner,
            )
        )

    await one.store.run(protect)
    with pytest.raises(Conflict, match="protected"):
        await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(new.server_id))
    await one.engine.refresh([ACCOUNT])
    assert universe.cloud_names() == [new.spec.name]


@pytest.mark.parametrize("protected", [True, False])
async def test_what_was_protected_and_comes_back_is_not_swept(universe, protected):
    """A cloud that hides a server for a while must not cost it: taken for gone, it is an orphan when it is back."""
    one = await universe.incarnate()
    (new,) = universe.new(instance_id="i-1", infrastructure_id="f-1")
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, [new])
    await one.engine.wait([record.id], 30)
    owner = {"project_id": "default", "user_id": "me", "created_at": 1.0, "updated_at": 1.0}

    def taken_for_gone(connection):
        connection.execute(
            insert(infrastructures).values(id="f-1", name="shop", state="ready", compiled_blob=b"", **owner)
        )
        instance = {"id": "i-1", "infrastructure_id": "f-1", "node": "db", "server_id": new.server_id, **owner}
        connection.execute(insert(instances).values(state="failed", deleted_at=2.0, protected=protected, **instance))
        connection.execute(update(servers).values(state="deleted", deleted_at=2.0, updated_at=2.0))
        connection.execute(update(attempts).values(closed_at=2.0))

    await one.store.run(taken_for_gone)
    (server,) = universe.cloud.servers()
    await one.engine.refresh([ACCOUNT])
    if not protected:
        await until_event(one.store, "server.swept")
        assert universe.cloud.servers() == []
        return
    assert "server.unknown" in await event_kinds(one.store)
    assert [s.provider_id for s in universe.cloud.servers()] == [server.provider_id]
    assert await one.store.read(lambda connection: tokens_on_record(connection, [server.token])) == set()
    done = await adopt(universe, one, server.provider_id, token=server.token)
    assert done.state is OperationState.SUCCEEDED
    assert await one.store.read(lambda connection: tokens_on_record(connection, [server.token])) == {server.token}
