"""Garbage collection: what nothing reaches goes after its grace; what anybody uses, also just now, stays."""

import importlib
from functools import partial

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.pool import NullPool

from pelagos.model.errors import InvalidInput
from pelagos.repository import (
    Link,
    MissingObjects,
    checkout,
    collect,
    commit,
    delete_repository,
    get,
    history,
    put,
    remove_branch,
    tag,
)
from pelagos.repository.encoding import digest_of
from pelagos.repository.objects import links_of
from pelagos.store.container_schema import commits, objects
from support.repository_types import SCOPE, TYPES, Part, Rack, Site, new_repository

pytestmark = pytest.mark.anyio

collecting = importlib.import_module("pelagos.repository.collect")
link = TYPES.link
save = partial(commit, author=SCOPE, types=TYPES)
OLD, NOW = 1_000.0, 1_000_000.0


def tree(name, parts=3):
    return Site(name, racks={name: link(Rack(name, tuple(link(Part(f"{name}{n}")) for n in range(parts))))})


def digests(connection):
    return set(connection.execute(select(objects.c.digest)).scalars())


def whole(connection):
    """Every link leads to an object."""
    there = digests(connection)
    return all(target in there for links in links_of(connection, there).values() for target in links)


async def garbage(store):
    """A repository with a live branch `main` and a removed one; returns it and the digest of the dead tree."""

    def make(connection):
        repository = new_repository(connection)
        save(connection, repository, "main", tree("live"), at=OLD)
        dead = save(connection, repository, "gone", tree("dead"), at=OLD)
        remove_branch(connection, repository, "gone", expected_head=dead.digest)
        return repository, dead

    return await store.run(make)


async def test_what_no_ref_reaches_goes_and_the_rest_stays(make_store):
    store = await make_store()
    repository, dead = await garbage(store)
    done = await collect(store, NOW, batch=2)
    assert (done.marked, done.removed) == (6, 6)
    assert len(await store.read(digests)) == 6
    assert len(await store.read(partial(history, repository=repository))) == 1
    assert (await store.read(lambda c: c.execute(select(commits.c.digest)).scalars().all())) != [dead.digest]
    found = await store.read(partial(checkout, repository=repository, types=TYPES))
    assert found.root == tree("live")
    assert (await collect(store, NOW)).removed == 0


async def test_a_grace_protects_what_is_young(make_store):
    store = await make_store()
    await garbage(store)
    before = await store.read(digests)
    assert (await collect(store, OLD + 2000.0, grace=2001.0)).removed == 0
    assert await store.read(digests) == before
    with pytest.raises(InvalidInput):
        await collect(store, NOW, grace=60.0)
    assert (await collect(store, OLD + 2002.0, grace=2001.0)).removed == 6


async def test_a_put_renews_the_grace_of_all_it_uses(make_store):
    store = await make_store()
    await garbage(store)
    rack = link(Rack("dead", tuple(link(Part(f"dead{n}")) for n in range(3))))
    await store.run(partial(put, value=Site("new", racks={"r": Link(rack.digest)}), at=NOW, types=TYPES))
    assert (await collect(store, NOW + 10.0, grace=2000.0)).removed == 2  # the dead site and its commit
    assert await store.read(whole)
    assert len((await store.read(partial(get, reference=rack, types=TYPES))).parts) == 3


async def test_tags_keep_and_deleted_repositories_do_not(make_store):
    store = await make_store()

    def make(connection):
        repository = new_repository(connection)
        old = save(connection, repository, "old", tree("old"), at=OLD)
        tag(connection, repository, "v1", old.digest, by=SCOPE, at=OLD)
        remove_branch(connection, repository, "old", expected_head=old.digest)
        other = new_repository(connection, "other", id="r2")
        save(connection, other, "main", tree("other"), at=OLD)
        delete_repository(connection, other, OLD)
        return repository

    repository = await store.run(make)
    assert (await collect(store, NOW)).removed == 6
    found = await store.read(partial(checkout, repository=repository, revision="v1", types=TYPES))
    assert found.root == tree("old")


@pytest.mark.parametrize("step", range(12))
async def test_a_commit_that_uses_old_objects_again_never_loses_them(make_store, step):
    """A second store commits the dead tree again before the n-th transaction of the collection: either everything of it
    is there afterwards, or the commit said what is missing; and no object links into nothing."""
    store, other = await make_store(), await make_store()
    repository, dead = await garbage(store)
    root = Link(dead.root)
    happened = []

    class Between:
        """The store, with a commit by somebody else before its n-th call."""

        def __init__(self):
            self.left = step

        async def _maybe(self):
            if self.left == 0:
                try:
                    happened.append(
                        await other.run(partial(save, repository=repository, branch="again", root=root, at=NOW))
                    )
                except MissingObjects as error:
                    happened.append(error)
            self.left -= 1

        async def run(self, transaction):
            await self._maybe()
            return await store.run(transaction)

        async def read(self, query):
            await self._maybe()
            return await store.read(query)

    between = Between()
    await collect(between, NOW, batch=1)
    if between.left >= 0:
        pytest.fail("the collection has fewer transactions; lower the range")
    (outcome,) = happened
    assert await store.read(whole)
    if isinstance(outcome, MissingObjects):
        assert dead.root not in await store.read(digests)
        await other.run(partial(save, repository=repository, branch="again", root=tree("dead"), at=NOW))
    found = await store.read(partial(checkout, repository=repository, revision="again", types=TYPES))
    assert found.root == tree("dead")
    parts = (await store.read(partial(get, reference=found.root.racks["dead"], types=TYPES))).parts
    assert [(await store.read(partial(get, reference=part, types=TYPES))).name for part in parts] == [
        "dead0", "dead1", "dead2",
    ]  # fmt: skip


@pytest.mark.postgresql
@pytest.mark.parametrize("engine", ["postgresql"])
async def test_a_commit_in_the_middle_of_a_sweep_wins(make_store, database, monkeypatch):
    """The sweep has read its refs and deleted nothing yet, and a commit on another connection goes through. The server
    makes the sweep run again, and it keeps the tree. (On SQLite one of the two waits: see the test before.)"""
    store = await make_store()
    repository, dead = await garbage(store)
    everything = await store.read(digests)
    done = []
    read_refs = collecting.roots

    def roots_and_then_a_commit(connection, young_since=None):
        found = read_refs(connection, young_since)
        done.append(found)
        if len(done) == 2:  # the first was the marking's
            url = database.replace("postgresql://", "postgresql+psycopg://")
            another = create_engine(url, isolation_level="SERIALIZABLE", poolclass=NullPool)
            with another.begin() as fresh:
                save(fresh, repository, "again", Link(dead.root), at=NOW)
        return found

    monkeypatch.setattr(collecting, "roots", roots_and_then_a_commit)
    await collect(store, NOW)
    assert len(done) >= 3
    assert store.snapshot()["conflicts"] >= 1
    assert await store.read(whole)
    found = await store.read(partial(checkout, repository=repository, revision="again", types=TYPES))
    assert found.root == tree("dead")
    assert everything - await store.read(digests) == {dead.digest}


async def test_reads_are_verified(make_store):
    store = await make_store()
    repository, _ = await garbage(store)
    site = link(tree("live"))
    fresh = type(TYPES)()

    def spoil(connection):
        blob = site.packed.value.replace(b"live", b"evil")
        connection.execute(objects.update().where(objects.c.digest == site.digest).values(value_blob=blob))
        assert digest_of("test.site", 1, blob) != site.digest

    await store.run(spoil)
    with pytest.raises(Exception, match=site.digest) as caught:
        await store.read(partial(checkout, repository=repository, types=fresh))
    assert caught.value.code == "corrupt_object"
