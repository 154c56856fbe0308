"""Associations: found by any part, as of any time; ended, deleted; never by a scan of the table."""

from functools import partial

import pytest
from sqlalchemy import text
from sqlalchemy.dialects import postgresql, sqlite

from pelagos.model.errors import InvalidInput, NotFound
from pelagos.repository import (
    add_association,
    association_exists,
    association_history,
    delete_association,
    end_association,
    find_associations,
    find_subjects,
)
from pelagos.repository.associations import find_query, star_query
from support.repository_types import NOBODY, SCOPE

pytestmark = pytest.mark.anyio

find = partial(find_associations, scope=SCOPE)


def fill(connection):
    for number, (subject, predicate, thing) in enumerate(
        [("s1", "is_a", "web"), ("s1", "owned_by", "ann"), ("s2", "is_a", "web"), ("s2", "owned_by", "bob"),
         ("s3", "is_a", "db"), ("s3", "owned_by", "ann")]
    ):  # fmt: skip
        add_association(connection, SCOPE, subject, predicate, thing, id=f"a{number}", at=float(number))


async def test_found_by_any_part_in_pages(make_store):
    store = await make_store()

    def look(connection):
        fill(connection)

        def ids(**parts):
            return [found.id for found in find(connection, **parts)]

        assert ids(subject="s1") == ["a0", "a1"]
        assert ids(predicate="is_a") == ["a0", "a2", "a4"]
        assert ids(object="ann") == ["a1", "a5"]
        assert ids(subject="s1", object="ann") == ["a1"]
        assert ids(subject="s1", predicate="is_a", object="db") == []
        assert ids(predicate="is_a", limit=2) == ["a0", "a2"] and ids(predicate="is_a", after="a2") == ["a4"]
        assert ids(subject="s1", scope=NOBODY) == []
        with pytest.raises(InvalidInput):
            ids()
        again = add_association(connection, SCOPE, "s1", "is_a", "web", id="new", at=50.0)
        assert again.id == "a0"
        for wrong in (("", "p", "o"), ("s", "p" * 129, "o")):
            with pytest.raises(InvalidInput):
                add_association(connection, SCOPE, *wrong, id="x", at=1.0)

    await store.run(look)


async def test_the_past_can_be_asked_until_it_is_deleted(make_store):
    store = await make_store()

    def look(connection):
        fill(connection)
        ended = end_association(connection, SCOPE, "a1", at=20.0)
        assert end_association(connection, SCOPE, "a1", at=30.0) == ended and ended.ended_at == 20.0
        assert not association_exists(connection, SCOPE, "s1", "owned_by", "ann")
        for moment, held in ((0.5, False), (1.0, True), (19.9, True), (20.0, False)):
            assert association_exists(connection, SCOPE, "s1", "owned_by", "ann", as_of=moment) is held
        add_association(connection, SCOPE, "s1", "owned_by", "ann", id="b1", at=40.0)
        past = association_history(connection, SCOPE, subject="s1", predicate="owned_by")
        assert [(found.id, found.ended_at) for found in past] == [("b1", None), ("a1", 20.0)]
        for wrong in (NOBODY, SCOPE):
            with pytest.raises(NotFound):
                delete_association(connection, wrong, "a1" if wrong is NOBODY else "none")
        delete_association(connection, SCOPE, "a1")
        assert not association_exists(connection, SCOPE, "s1", "owned_by", "ann", as_of=10.0)

    await store.run(look)


async def test_star_queries_want_every_pair(make_store):
    store = await make_store()

    def look(connection):
        fill(connection)
        star = partial(find_subjects, connection, SCOPE)
        assert star([("is_a", "web")]) == ["s1", "s2"]
        assert star([("is_a", "web"), ("owned_by", "ann")]) == ["s1"]
        assert star([("owned_by", "ann"), ("owned_by", "ann")]) == ["s1", "s3"]
        assert star([("owned_by", "ann"), ("owned_by", "bob")]) == []
        assert star([("is_a", "web")], after="s1") == ["s2"]
        end_association(connection, SCOPE, "a1", at=20.0)
        assert star([("is_a", "web"), ("owned_by", "ann")]) == []
        assert star([("is_a", "web"), ("owned_by", "ann")], as_of=10.0) == ["s1"]
        with pytest.raises(InvalidInput):
            star([])

    await store.run(look)


QUERIES = [
    find_query(SCOPE, subject="s1"),
    find_query(SCOPE, object="ann", as_of=5.0),
    find_query(SCOPE, predicate="is_a"),
    find_query(SCOPE, subject="s1", predicate="is_a", object="web"),
    star_query(SCOPE, [("is_a", "web"), ("owned_by", "ann")]),
]


@pytest.mark.parametrize("number", range(len(QUERIES)))
async def test_every_question_begins_at_an_index(make_store, number):
    store = await make_store()
    dialect = {"sqlite": sqlite, "postgresql": postgresql}[store.dialect].dialect(paramstyle="named")
    said = str(QUERIES[number].compile(dialect=dialect, compile_kwargs={"literal_binds": True}))

    def explain(connection):
        fill(connection)
        if store.dialect == "sqlite":
            return [row[3] for row in connection.execute(text(f"EXPLAIN QUERY PLAN {said}"))]
        # So small a table is cheapest to read whole; what counts is that it need not be.
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        return [row[0] for row in connection.execute(text(f"EXPLAIN {said}"))]

    plan = await store.run(explain)
    assert any("ix_associations" in step for step in plan), plan
    assert not any(step.startswith("SCAN") or "Seq Scan" in step for step in plan), plan
