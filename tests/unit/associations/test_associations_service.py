"""The association service through its client: the ancestor's questions, in pages, by project, with a past."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from pelagos.model.errors import Ambiguous, InvalidInput, NotFound
from pelagos.model.scope import DEFAULT_SCOPE, Scope
from pelagos.process import Context, client, use_context
from pelagos.services.associations import (
    Associate,
    AssociationsService,
    EndAssociation,
    FindAssociations,
    FindSubjects,
    Pair,
    SubjectAssociations,
    Triple,
)

pytestmark = pytest.mark.anyio

FACTS = [
    ("s1", "is_a", "web"),
    ("s1", "owned_by", "ann"),
    ("s2", "is_a", "web"),
    ("s2", "owned_by", "bob"),
    ("s3", "is_a", "db"),
    ("s3", "owned_by", "ann"),
]


async def served(system, facts=FACTS):
    node = await system.node()
    await node.container.spawn(partial(AssociationsService, node.store))
    service = client(AssociationsService, node.container.edge)
    return service, {fact: await service.associate(Associate(*fact)) for fact in facts}


async def test_subjects_objects_and_stars(system):
    service, _ = await served(system)
    web, ann = Pair("is_a", "web"), Pair("owned_by", "ann")
    assert (await service.get_subjects(FindSubjects(pairs=(web,)))).names == ("s1", "s2")
    assert (await service.get_subjects(FindSubjects(pairs=(web, ann)))).names == ("s1",)
    with pytest.raises(InvalidInput):
        await service.get_subjects(FindSubjects(pairs=()))
    first = await service.get_subjects(FindSubjects(pairs=(web,), limit=1))
    second = await service.get_subjects(FindSubjects(pairs=(web,), limit=1, after=first.next))
    assert (first.names, second.names, second.next) == (("s1",), ("s2",), "")
    star = await service.get_star(FindSubjects(pairs=(ann,)))
    assert {(one.subject, one.predicate, one.object) for one in star.items} == {
        fact for fact in FACTS if fact[0] in ("s1", "s3")
    }
    objects = await service.get_objects(FindAssociations(triple=Triple(predicate="owned_by")))
    assert sorted(objects.names) == ["ann", "bob"]


async def test_associations_of_subjects_and_objects(system):
    service, made = await served(system)
    found = await service.subject_associations(SubjectAssociations(("s3", "nobody", "s1", "s3"), "owned_by"))
    assert found.by_subject == {
        "s3": (made["s3", "owned_by", "ann"],),
        "nobody": (),
        "s1": (made["s1", "owned_by", "ann"],),
    }
    assert list(found.by_subject) == ["s3", "nobody", "s1"]
    page = await service.object_associations(FindAssociations(triple=Triple(object="ann")))
    assert {one.subject for one in page.items} == {"s1", "s3"}
    with pytest.raises(InvalidInput):
        await service.object_associations(FindAssociations(triple=Triple(subject="s1")))
    with pytest.raises(InvalidInput, match="at most 100"):
        await service.subject_associations(SubjectAssociations(tuple(map(str, range(101)))))


async def test_all_pages_together_are_all(system):
    service, made = await served(system)
    seen, after = [], ""
    while True:
        page = await service.get_associations(FindAssociations(triple=Triple(predicate="is_a"), after=after, limit=2))
        seen += page.items
        after = page.next
        if not after:
            break
    assert sorted(one.id for one in seen) == sorted(one.id for fact, one in made.items() if fact[1] == "is_a")
    with pytest.raises(InvalidInput):
        await service.get_associations(FindAssociations(triple=Triple()))


async def test_the_only_one(system):
    service, made = await served(system)
    assert await service.get_association(Triple(subject="s1", predicate="is_a")) == made["s1", "is_a", "web"]
    with pytest.raises(NotFound):
        await service.get_association(Triple(subject="s9"))
    with pytest.raises(Ambiguous) as raised:
        await service.get_association(Triple(object="ann"))
    assert len(raised.value.details["ids"]) == 2
    assert await service.association_exists(Triple(object="ann"))
    assert not await service.association_exists(Triple(object="eve"))
    assert await service.associate(Associate("s1", "is_a", "web")) == made["s1", "is_a", "web"]


async def test_what_ended_is_history_and_what_is_deleted_is_not(system):
    service, made = await served(system)
    one = made["s1", "owned_by", "ann"]
    await asyncio.sleep(10)
    ended = await service.end(EndAssociation(one.id))
    assert ended is not None
    assert ended.ended_at == one.created_at + 10
    query = Triple(subject="s1", predicate="owned_by")
    assert not await service.association_exists(query)
    assert await service.association_exists(Triple(subject="s1", object="ann", as_of=one.created_at + 5))
    assert await service.history(query) == (ended,)
    assert await service.end(EndAssociation(one.id, delete=True)) is None
    assert await service.history(query) == ()
    with pytest.raises(NotFound):
        await service.end(EndAssociation(one.id))


async def test_projects_are_apart_and_a_repeated_request_is_one(system):
    service, made = await served(system, FACTS[:1])
    [one] = made.values()
    with use_context(Context(Scope("other", "someone"))):
        assert not await service.association_exists(Triple(subject="s1"))
        with pytest.raises(NotFound):
            await service.end(EndAssociation(one.id))
    for _ in range(2):
        with use_context(Context(DEFAULT_SCOPE, request_id="r")):
            await service.end(EndAssociation(one.id, delete=True))
    assert await service.history(Triple(subject="s1")) == ()
