"""Once: the effect and the record of its result are in one transaction, on every engine."""

import asyncio
from functools import partial

import msgspec
import pytest
from sqlalchemy import insert, select

from pelagos.model.errors import Conflict, InvalidInput
from pelagos.model.scope import Scope
from pelagos.store import once, prune
from pelagos.store.container_schema import request_records
from pelagos.store.schema import quota_limits

pytestmark = pytest.mark.anyio

ANN, BOB = Scope("p1", "ann"), Scope("p2", "bob")


class Made(msgspec.Struct, frozen=True):
    name: str
    number: int


def make(connection, name="thing", fail=False):
    """The effect: one more row; a second time would be a second row."""
    number = len(rows(connection))
    connection.execute(insert(quota_limits).values(project_id=f"q{number}", resource=name, limit=number))
    if fail:
        raise OSError("the effect failed")
    return Made(name, number)


def rows(connection):
    return connection.execute(select(quota_limits.c.resource)).scalars().all()


def create(scope, request_id, op="create", *, at=100.0, **options):
    return partial(once, scope=scope, request_id=request_id, op=op, now=at, effect=partial(make, **options), type_=Made)


async def test_the_first_time_runs_and_repeats_return_its_result(make_store):
    store, other = await make_store(), await make_store()
    assert await store.run(create(ANN, "r-1")) == Made("thing", 0)
    assert await store.run(create(ANN, "r-1", name="never made")) == Made("thing", 0)
    assert await other.run(create(ANN, "r-1")) == Made("thing", 0)
    assert await store.read(rows) == ["thing"]
    assert await store.run(create(ANN, "r-2")) == Made("thing", 1)
    assert await store.run(create(BOB, "r-1")) == Made("thing", 2)


async def test_an_effect_that_fails_leaves_no_record(make_store):
    store = await make_store()
    with pytest.raises(OSError, match="the effect failed"):
        await store.run(create(ANN, "r-1", fail=True))
    assert await store.read(rows) == []
    assert await store.run(create(ANN, "r-1")) == Made("thing", 0)


async def test_an_id_means_one_operation(make_store):
    store = await make_store()
    await store.run(create(ANN, "r-1"))
    with pytest.raises(Conflict, match="r-1 was create, not delete"):
        await store.run(create(ANN, "r-1", op="delete"))
    for wrong in ("", "x" * 129):
        with pytest.raises(InvalidInput, match="a request id has 1 to 128"):
            await store.run(create(ANN, wrong))
        with pytest.raises(InvalidInput, match="an operation's name has 1 to 128"):
            await store.run(create(ANN, "r-2", op=wrong))
    await store.run(create(ANN, "i" * 128, op="o" * 128))
    await store.run(create(ANN, "i" * 128, op="o" * 128))
    assert await store.read(rows) == ["thing", "thing"]


async def test_of_many_at_once_one_has_the_effect(make_store):
    stores = [await make_store() for _ in range(3)]
    for round_ in range(5):
        tries = [stores[n % 3].run(create(ANN, f"r-{round_}", name=f"round {round_}")) for n in range(9)]
        made = await asyncio.gather(*tries)
        assert made == [Made(f"round {round_}", round_)] * 9
    assert sorted(await stores[0].read(rows)) == [f"round {n}" for n in range(5)]


async def test_old_records_go_a_batch_at_a_time(make_store):
    store = await make_store()
    for n in range(10):
        await store.run(create(ANN, f"old-{n}", at=100.0))
    await store.run(create(ANN, "new", at=900.0))
    await store.run(create(BOB, "old-1", at=900.0))

    def kept(connection):
        return sorted(
            map(tuple, connection.execute(select(request_records.c.project_id, request_records.c.request_id)))
        )

    assert await store.run(partial(prune, before=500.0, batch=4)) == 4
    while await store.run(partial(prune, before=500.0, batch=4)):
        pass
    assert await store.read(kept) == [("p1", "new"), ("p2", "old-1")]
