"""Commits, branches, tags, revisions, history and diff, on every engine."""

from functools import partial

import pytest
from sqlalchemy import func, select

from pelagos.model.errors import Ambiguous, Conflict, Gone, InvalidInput, NotFound
from pelagos.repository import (
    Added,
    Changed,
    HeadMoved,
    Link,
    MissingObjects,
    Removed,
    Reordered,
    branches,
    checkout,
    commit,
    delete_repository,
    diff,
    find_repository,
    get,
    get_repository,
    head,
    history,
    list_repositories,
    remove_branch,
    resolve,
    set_branch,
    tag,
    tags,
)
from pelagos.store.container_schema import commits, objects, refs
from support.repository_types import NOBODY, SCOPE, TYPES, Label, Part, Rack, Site, new_repository

pytestmark = pytest.mark.anyio

link = TYPES.link
save = partial(commit, author=SCOPE, types=TYPES)


def rows(connection):
    return tuple(
        connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (objects, commits, refs)
    )


async def line(store, count=4, branch="main"):
    """A repository with a line of commits at times 1, 2, …; returns it and the digests, oldest first."""

    def make(connection):
        repository = new_repository(connection)
        return repository, [
            save(connection, repository, branch, Site("a", size=n), at=float(n), message=f"m{n}").digest
            for n in range(1, count + 1)
        ]

    return await store.run(make)


async def test_a_graph_is_committed_and_read_back_through_its_links(make_store):
    store = await make_store()
    part = link(Part("p", 2))
    site = Site("a", racks={"r": link(Rack("r", (part, link(Part("q")))))}, first=part)

    def make(connection):
        repository = new_repository(connection)
        return repository, save(connection, repository, "main", site, at=5.0, message="first")

    repository, made = await store.run(make)
    assert made.created

    def look(connection):
        found = checkout(connection, repository, types=TYPES)
        rack = get(connection, found.root.racks["r"], types=TYPES)
        return found, rack, [get(connection, item, types=TYPES) for item in rack.parts], rows(connection)

    found, rack, parts, counted = await store.read(look)
    assert found.root == site and found.info.message == "first" and found.info.digest == made.digest
    assert rack.name == "r" and parts == [Part("p", 2.0), Part("q")]
    assert found.root.first == rack.parts[0]
    assert counted == (5, 1, 1)  # two parts, a rack, a site, a commit


async def test_equal_content_makes_no_commit_unless_asked(make_store):
    store = await make_store()

    def make(connection):
        repository = new_repository(connection)
        first = save(connection, repository, "main", Site("a"), at=1.0)
        again = save(connection, repository, "main", Site("a"), at=2.0)
        asked = save(connection, repository, "main", Site("a"), at=3.0, allow_empty=True)
        return first, again, asked, history(connection, repository)

    first, again, asked, past = await store.run(make)
    assert (again.digest, again.created) == (first.digest, False)
    assert asked.created and [info.digest for info in past] == [asked.digest, first.digest]


async def test_a_moved_head_is_a_conflict_and_nothing_is_written(make_store):
    store = await make_store()
    repository, (first, second) = await line(store, 2)
    before = await store.read(rows)
    for expected in (first, None, "0" * 64):
        with pytest.raises(HeadMoved) as caught:
            await store.run(
                lambda connection, expected=expected: save(
                    connection,
                    repository,
                    "main",
                    Site("lost", first=link(Part("new"))),
                    at=9.0,
                    expected_head=expected,
                )
            )
        assert isinstance(caught.value, Conflict)
        assert caught.value.details["found"] == second and caught.value.details["expected"] == expected
    with pytest.raises(HeadMoved):
        await store.run(lambda c: save(c, repository, "other", Site("lost"), at=9.0, expected_head=second))
    assert await store.read(rows) == before
    done = await store.run(lambda c: save(c, repository, "main", Site("won"), at=9.0, expected_head=second))
    assert await store.read(partial(head, repository=repository)) == done.digest


async def test_of_two_writers_with_the_same_head_one_wins(make_store):
    """Two stores on one database, as two processes."""
    one, two = await make_store(), await make_store()
    repository, (first,) = await line(one, 1)
    outcomes = []
    for number, store in enumerate((one, two)):
        try:
            await store.run(
                partial(
                    save, repository=repository, branch="main", root=Site("w", size=number), at=5.0, expected_head=first
                )
            )
            outcomes.append(number)
        except HeadMoved:
            pass
    assert outcomes == [0]
    assert (await two.read(partial(checkout, repository=repository, types=TYPES))).root.size == 0


async def test_a_link_into_nothing_is_refused(make_store):
    store = await make_store()
    repository, _ = await line(store, 1)
    before = await store.read(rows)
    with pytest.raises(MissingObjects) as caught:
        await store.run(lambda c: save(c, repository, "main", Site("a", first=Link("ab" * 32)), at=9.0))
    assert caught.value.details["digests"] == ["ab" * 32]
    assert await store.read(rows) == before


async def test_revisions(make_store):
    store = await make_store()
    repository, digests = await line(store)

    def look(connection):
        def at(revision, **options):
            return checkout(connection, repository, revision, types=TYPES, **options).root.size

        tag(connection, repository, "v1", digests[1], by=SCOPE, at=9.0)
        set_branch(connection, repository, "side", "main~3", by=SCOPE, at=9.0)
        assert [at("main"), at("main~0"), at("main~1"), at("main~3"), at("v1"), at("v1~1")] == [4, 4, 3, 1, 2, 1]
        assert at(digests[2]) == at(digests[2][:12]) == 3
        assert at("side") == 1
        assert at("main@{2.5}") == 2 and at("main", as_of=3.0) == 3 and at("main@{2000-01-01}") == 4
        for wrong, error in (
            ("nowhere", NotFound), ("main~4", NotFound), ("main@{0.5}", NotFound), ("ffff0000", NotFound),
            ("main^", InvalidInput), ("main@{noon}", InvalidInput), ("", InvalidInput),
        ):  # fmt: skip
            with pytest.raises(error):
                at(wrong)

    await store.run(look)


async def test_a_prefix_of_several_commits_is_ambiguous(make_store):
    store = await make_store()

    def look(connection):
        repository = new_repository(connection)
        seen = {}
        n = 0
        while True:  # four digits: two of some 300 commits have them in common
            n += 1
            digest = save(connection, repository, "main", Site("a", size=n), at=1.0).digest
            if digest[:4] in seen:
                break
            seen[digest[:4]] = digest
        with pytest.raises(Ambiguous) as caught:
            resolve(connection, repository, digest[:4])
        assert set(caught.value.details["ids"]) == {digest, seen[digest[:4]]}
        with pytest.raises(NotFound):
            resolve(connection, repository, digest[:3])

    await store.run(look)


async def test_history_comes_in_pages_newest_first(make_store):
    store = await make_store()
    repository, digests = await line(store, 50)

    def look(connection):
        pages, before = [], None
        while page := history(connection, repository, limit=7, before=before):
            pages.append([info.digest for info in page])
            before = page[-1].digest
        return pages

    pages = await store.read(look)
    assert [len(page) for page in pages] == [7] * 7 + [1]
    assert [digest for page in pages for digest in page] == digests[::-1]


async def test_tags_stay_and_branches_go_only_from_where_they_are(make_store):
    store = await make_store()
    repository, digests = await line(store, 2)

    def look(connection):
        tag(connection, repository, "v1", digests[0], by=SCOPE, at=9.0)
        tag(connection, repository, "v1", digests[0], by=SCOPE, at=9.5)
        with pytest.raises(Conflict):
            tag(connection, repository, "v1", digests[1], by=SCOPE, at=9.0)
        with pytest.raises(HeadMoved):
            remove_branch(connection, repository, "main", expected_head=digests[0])
        with pytest.raises(InvalidInput):
            set_branch(connection, repository, "a~b", "main", by=SCOPE, at=9.0)
        remove_branch(connection, repository, "main", expected_head=digests[1])
        assert branches(connection, repository) == []
        assert [(ref.short, ref.digest) for ref in tags(connection, repository)] == [("v1", digests[0])]
        with pytest.raises(NotFound):
            remove_branch(connection, repository, "main", expected_head=digests[1])

    await store.run(look)


async def test_another_project_finds_nothing(make_store):
    store = await make_store()
    repository, _ = await line(store, 1)

    def look(connection):
        assert find_repository(connection, SCOPE, "site", "demo") == get_repository(connection, SCOPE, repository.id)
        assert find_repository(connection, NOBODY, "site", "demo") is None
        assert list_repositories(connection, NOBODY) == []
        with pytest.raises(NotFound):
            get_repository(connection, NOBODY, repository.id)
        with pytest.raises(Conflict):
            new_repository(connection, id="r2")
        delete_repository(connection, repository, 9.0)
        with pytest.raises(Gone):
            get_repository(connection, SCOPE, repository.id)
        assert list_repositories(connection, SCOPE) == []
        new_repository(connection, id="r2")

    await store.run(look)


async def test_diff_names_what_changed_and_follows_links(make_store):
    store = await make_store()

    def make(connection):
        repository = new_repository(connection)
        old = Site(
            "a",
            racks={"x": link(Rack("x", (link(Part("p")), link(Part("q")))))},
            labels=(Label("k", "1"), Label("gone"), Label("z")),
            tags=("one", "two", "three"),
        )
        new = Site(
            "a",
            size=3,
            racks={"x": link(Rack("x", (link(Part("p", 5)), link(Part("q")), link(Part("r")))))},
            labels=(Label("z"), Label("k", "2"), Label("new")),
            tags=("two", "three", "four"),
        )
        first = save(connection, repository, "main", old, at=1.0).digest
        second = save(connection, repository, "main", new, at=2.0).digest
        return (
            diff(connection, repository, "main~1", "main", types=TYPES),
            diff(connection, repository, first, second, types=TYPES),
            diff(connection, repository, "main", "main", types=TYPES),
        )

    changes, same, none = await store.run(make)
    assert none == [] and changes == same
    assert changes == [
        Changed("size", 0, 3),
        Changed('racks["x"].parts[#0].size', 1.0, 5.0),
        Added('racks["x"].parts[#2]', link(Part("r"))),
        Changed('labels[key="k"].value', "1", "2"),
        Removed('labels[key="gone"]', Label("gone")),
        Added('labels[key="new"]', Label("new")),
        Reordered("labels", ("k", "z"), ("z", "k")),
        Removed("tags[#0]", "one"),
        Added("tags[#2]", "four"),
    ]
