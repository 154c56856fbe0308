"""Retention: what ended long ago goes; what lives, or a live thing needs, stays."""

from functools import partial

import pytest
from sqlalchemy import insert, select, update

from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.store import append, prune
from pelagos.store.schema import (
    attempts,
    events,
    infrastructures,
    instance_sources,
    instances,
    metadata,
    operations,
    parts,
    runs,
    servers,
)

pytestmark = pytest.mark.anyio

OLD, NOW = 100.0, 1000.0
_SAMPLES = {"String": "", "Text": "", "Float": 1.0, "Integer": 1, "BigInteger": 1, "LargeBinary": b"", "Boolean": False}


def add(connection, table, **values):
    """Insert a row; what is not given gets a harmless value."""
    for column in table.columns:
        if column.name not in values and not column.nullable and column.default is None:
            values[column.name] = _SAMPLES[type(column.type).__name__]
    connection.execute(insert(table).values(**values))


def infrastructure(connection, name, deleted):
    """One infrastructure with everything that belongs to it; ids are ``<kind>-<name>``."""
    at, gone = OLD, OLD if deleted else None
    owner = {"project_id": "default", "user_id": "default"}
    add(connection, infrastructures, id=f"i-{name}", name=name, deleted_at=gone, **owner)
    add(
        connection, runs, id=f"r-{name}", infrastructure_id=f"i-{name}", finished_at=at, request_id=f"r-{name}", **owner
    )
    add(connection, servers, id=f"s-{name}", infrastructure_id=f"i-{name}", deleted_at=gone, **owner)
    add(connection, parts, id=f"p-{name}", server_id=f"s-{name}", deleted_at=gone, **owner)
    add(
        connection, instances, id=f"n-{name}", infrastructure_id=f"i-{name}", run_id=f"r-{name}",
        server_id=f"s-{name}", deleted_at=gone, **owner,
    )  # fmt: skip
    for kind in ("server.create", "server.reboot"):
        operation = f"o-{name}-{kind}"
        add(
            connection, operations, id=operation, kind=kind, target_id=f"s-{name}", finished_at=at,
            request_id=operation, infrastructure_id=f"i-{name}", **owner,
        )  # fmt: skip
        add(connection, attempts, token=f"t-{name}-{kind}", operation_id=operation, closed_at=at)
    append(connection, DEFAULT_SCOPE, f"infrastructure.{name}", at=at, infrastructure_id=f"i-{name}")
    append(connection, DEFAULT_SCOPE, f"instance.{name}", at=at, infrastructure_id=f"i-{name}", instance_id=f"n-{name}")
    append(connection, DEFAULT_SCOPE, f"run.{name}", at=at, infrastructure_id=f"i-{name}", run_id=f"r-{name}")


def keys(connection):
    found = {}
    for table in (infrastructures, runs, servers, parts, instances, operations, attempts):
        key = next(iter(table.primary_key.columns))
        found[table.name] = sorted(connection.execute(select(key)).scalars())
    found["events"] = sorted(connection.execute(select(events.c.kind)).scalars())
    return found


async def prune_all(store, before=500.0, batch=500):
    rounds = 0
    while await store.run(partial(prune, before=before, batch=batch)):
        rounds += 1
        assert rounds < 100
    return rounds


async def test_a_tombstone_goes_with_everything_of_it(make_store):
    store = await make_store()
    await store.run(partial(infrastructure, name="gone", deleted=True))
    await prune_all(store)
    assert all(rows == [] for rows in (await store.read(keys)).values())


async def test_nothing_goes_before_its_time(make_store):
    store = await make_store()
    await store.run(partial(infrastructure, name="gone", deleted=True))
    before = await store.read(keys)
    assert await prune_all(store, before=OLD) == 0
    assert await store.read(keys) == before


async def test_what_lives_keeps_what_it_needs(make_store):
    store = await make_store()
    await store.run(partial(infrastructure, name="alive", deleted=False))
    await prune_all(store)
    assert await store.read(keys) == {
        "infrastructures": ["i-alive"],
        "runs": ["r-alive"],
        "servers": ["s-alive"],
        "parts": ["p-alive"],
        "instances": ["n-alive"],
        # What made the server, and its token; not what was done to it since.
        "operations": ["o-alive-server.create"],
        "attempts": ["t-alive-server.create"],
        "events": ["infrastructure.alive", "instance.alive"],
    }


async def test_what_living_instances_are_made_from_stays(make_store):
    store = await make_store()

    def made(connection):
        for name, deleted in (("alive", False), ("gone", True)):
            infrastructure(connection, name, deleted)
            for digest in (f"{name}-used", f"{name}-former"):
                add(connection, instance_sources, infrastructure_id=f"i-{name}", digest=digest)
            used = update(instances).where(instances.c.id == f"n-{name}").values(source=f"{name}-used")
            connection.execute(used)

    await store.run(made)
    await prune_all(store)
    left = await store.read(lambda connection: connection.execute(select(instance_sources.c.digest)).scalars().all())
    assert left == ["alive-used"]


async def test_a_part_that_outlives_its_server_keeps_what_made_it(make_store):
    store = await make_store()
    await store.run(partial(infrastructure, name="gone", deleted=True))
    await store.run(lambda connection: connection.execute(update(parts).values(deleted_at=None, keep=True)).rowcount)
    await prune_all(store)
    left = await store.read(keys)
    assert left["parts"] == ["p-gone"] and left["servers"] == []
    assert left["operations"] == ["o-gone-server.create"] and left["attempts"] == ["t-gone-server.create"]


async def test_what_has_not_ended_stays_with_its_surroundings(make_store):
    store = await make_store()

    def unfinished(connection):
        infrastructure(connection, "gone", True)
        owner = {"project_id": "default", "user_id": "default", "infrastructure_id": "i-gone"}
        add(connection, operations, id="open", kind="server.delete", target_id="s-gone", request_id="open", **owner)
        add(connection, attempts, token="open-token", operation_id="open")
        done = {"id": "uncertain", "kind": "server.delete", "target_id": "s-gone", "request_id": "uncertain"}
        add(connection, operations, finished_at=OLD, **done, **owner)
        add(connection, attempts, token="late-token", operation_id="uncertain")
        append(connection, DEFAULT_SCOPE, "of the open one", at=OLD, operation_id="open")

    await store.run(unfinished)
    await prune_all(store)
    left = await store.read(keys)
    assert left["operations"] == ["open", "uncertain"]
    assert left["attempts"] == ["late-token", "open-token"]
    assert left["servers"] == ["s-gone"] and left["infrastructures"] == ["i-gone"]
    assert left["events"] == ["of the open one"]


async def test_one_call_deletes_a_bounded_number(make_store):
    store = await make_store()

    def many(connection):
        for n in range(30):
            infrastructure(connection, f"g{n}", True)

    await store.run(many)
    first = await store.run(partial(prune, before=500.0, batch=4))
    assert 0 < first <= 4 * len(metadata.tables)
    await prune_all(store, batch=4)
    assert all(rows == [] for rows in (await store.read(keys)).values())
