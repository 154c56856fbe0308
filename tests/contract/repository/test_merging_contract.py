"""Merging branches: bases, fast-forward, conflicts that write nothing, criss-cross."""

from functools import partial

import pytest
from sqlalchemy import func, select

from pelagos.repository import (
    BothChanged,
    CommitGraph,
    HeadMoved,
    MergeConflicts,
    MergeKind,
    checkout,
    commit,
    head,
    history,
    merge_branch,
    preview_merge,
    read_commit,
    set_branch,
)
from pelagos.store.container_schema import commits, objects
from support.repository_types import SCOPE, TYPES, Label, Part, Site, new_repository

pytestmark = pytest.mark.anyio

link = TYPES.link
save = partial(commit, author=SCOPE, types=TYPES)
merge = partial(merge_branch, author=SCOPE, types=TYPES)
BASE = Site("a", size=1, labels=(Label("k"),), first=link(Part("p")))


def two_branches(connection, ours, theirs):
    repository = new_repository(connection)
    save(connection, repository, "main", BASE, at=1.0)
    set_branch(connection, repository, "side", "main", by=SCOPE, at=1.0)
    if ours is not None:
        save(connection, repository, "main", ours, at=2.0)
    if theirs is not None:
        save(connection, repository, "side", theirs, at=3.0)
    return repository


def counts(connection):
    return [connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (objects, commits)]


async def test_changes_of_both_sides_are_in_the_merge_which_has_both_parents(make_store):
    store = await make_store()
    ours = Site("a", size=2, labels=(Label("k"),), first=link(Part("p", 7)))
    theirs = Site("a", size=1, labels=(Label("k"), Label("l")), first=link(Part("p", note="n")))

    def look(connection):
        repository = two_branches(connection, ours, theirs)
        heads = [head(connection, repository, name) for name in ("main", "side")]
        done = merge(connection, repository, "main", "side", at=4.0)
        assert done.kind is MergeKind.MERGED
        found = checkout(connection, repository, types=TYPES)
        assert found.info.parents == tuple(heads) and found.info.generation == 3
        assert found.root == Site("a", 2, labels=(Label("k"), Label("l")), first=link(Part("p", 7.0, "n")))
        assert len(history(connection, repository)) == 4
        assert merge(connection, repository, "main", "side", at=5.0).kind is MergeKind.UP_TO_DATE
        ahead = merge(connection, repository, "side", "main", at=6.0)
        assert (ahead.kind, ahead.digest) == (MergeKind.FAST_FORWARD, done.digest)
        assert head(connection, repository, "side") == done.digest

    await store.run(look)


async def test_a_conflict_writes_nothing_until_it_is_decided(make_store):
    store = await make_store()
    repository = await store.run(partial(two_branches, ours=Site("ours", 1), theirs=Site("theirs", 1)))
    before = await store.read(counts)
    with pytest.raises(MergeConflicts) as caught:
        await store.run(partial(merge, repository=repository, branch="main", revision="side", at=4.0))
    said = caught.value.details["conflicts"]
    assert said == [{"kind": "both-changed", "path": "name", "base": "a", "ours": "ours", "theirs": "theirs"}]
    assert await store.read(counts) == before
    shown = await store.read(partial(preview_merge, repository=repository, ours="main", theirs="side", types=TYPES))
    assert shown.conflicts == (BothChanged("name", "a", "ours", "theirs"),)
    with pytest.raises(HeadMoved):
        await store.run(
            partial(
                merge, repository=repository, branch="main", revision="side", at=4.0, expected_head="0" * 64,
                resolve_with={"name": "theirs"},
            )
        )  # fmt: skip
    done = await store.run(
        partial(merge, repository=repository, branch="main", revision="side", at=4.0, resolve_with={"name": "theirs"})
    )
    assert done.resolved == shown.conflicts
    assert (await store.read(partial(checkout, repository=repository, types=TYPES))).root.name == "theirs"


async def test_a_criss_cross_is_merged_on_both_its_bases(make_store):
    """Both branches merged each other's first change and decided a conflict alike; nobody is asked again."""
    store = await make_store()

    def look(connection):
        repository = two_branches(connection, Site("one", 1), Site("two", 1))
        first, second = (head(connection, repository, name) for name in ("main", "side"))
        for branch, other in (("main", second), ("side", first)):
            choice = "ours" if branch == "main" else "theirs"
            merge(connection, repository, branch, other, at=4.0, resolve_with={"name": choice}, message=branch)
        ours, theirs = (head(connection, repository, name) for name in ("main", "side"))
        assert ours != theirs
        assert CommitGraph(connection, repository).merge_bases(ours, theirs) == sorted([first, second])
        save(connection, repository, "main", Site("one", 5), at=5.0)
        done = merge(connection, repository, "main", "side", at=6.0)
        assert done.kind is MergeKind.MERGED and done.resolved == ()
        assert checkout(connection, repository, types=TYPES).root == Site("one", 5)

    await store.run(look)


async def test_bases_do_not_depend_on_clocks(make_store):
    store = await make_store()

    def look(connection):
        repository = new_repository(connection)
        start = save(connection, repository, "main", Site("a"), at=1000.0).digest
        set_branch(connection, repository, "side", "main", by=SCOPE, at=1.0)
        for n in range(1, 40):
            save(connection, repository, "main", Site("a", n), at=1000.0 - n)
        fork = head(connection, repository)
        for n in range(1, 5):
            save(connection, repository, "side", Site("s", n), at=5000.0)
        graph = CommitGraph(connection, repository)
        side = head(connection, repository, "side")
        assert graph.merge_bases(fork, side) == graph.merge_bases(side, fork) == [start]
        assert graph.is_ancestor(start, side) and not graph.is_ancestor(fork, side)
        assert read_commit(connection, start).parents == ()

    await store.run(look)
