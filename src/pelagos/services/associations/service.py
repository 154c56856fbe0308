"""The association service: triples of subject, predicate and object, for processes that have no store of their own.

The operations are the ancestor's (reference section 10.2), with pages instead of answers of any length and with a past.
Whoever has the store uses :mod:`pelagos.repository` in its own transaction; this service is thin on purpose. It holds
nothing itself, so any number of these may serve. It is there for one project at a time: the caller's.
"""

from __future__ import annotations

from functools import partial

import msgspec
from sqlalchemy import Connection

from pelagos.model.errors import Ambiguous, InvalidInput, NotFound
from pelagos.process import ServiceProcess, current_context, operation
from pelagos.repository import (
    Association,
    add_association,
    association_history,
    delete_association,
    end_association,
    find_associations,
    find_subjects,
)
from pelagos.services.associations.messages import (
    MOST,
    Associate,
    AssociationMap,
    AssociationPage,
    EndAssociation,
    FindAssociations,
    FindSubjects,
    NamePage,
    SubjectAssociations,
    Triple,
)
from pelagos.services.requests import repeatable
from pelagos.store import Store

__all__ = ["AssociationsService"]

_SUBJECTS = 100


class AssociationsService(ServiceProcess):
    """See :mod:`pelagos.services.associations.messages` for what it is asked and answers."""

    name = "associations"
    version = "1.0"

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    @operation
    async def associate(self, request: Associate) -> Association:
        """If it holds already, the one that is there is returned. Raises InvalidInput."""
        scope, now, id = current_context().scope, self.world.now(), self.world.new_id()

        def effect(connection: Connection) -> Association:
            parts = (request.subject, request.predicate, request.object)
            return add_association(connection, scope, *parts, id=id, at=now)

        return await self._store.run(repeatable("associations.associate", now, effect, Association))

    @operation
    async def end(self, request: EndAssociation) -> Association | None:
        """The one that ended; None if it was deleted. Raises NotFound."""
        scope, now = current_context().scope, self.world.now()

        def effect(connection: Connection) -> Association | None:
            if request.delete:
                delete_association(connection, scope, request.id)
                return None
            return end_association(connection, scope, request.id, at=now)

        return await self._store.run(repeatable("associations.end", now, effect, Association | None))

    @operation
    async def get_subjects(self, request: FindSubjects) -> NamePage:
        """The subjects that have every one of the pairs. Raises InvalidInput without pairs."""
        limit = _limit(request.limit)
        pairs = [(pair.predicate, pair.object) for pair in request.pairs]
        found = await self._store.read(
            partial(
                find_subjects,
                scope=current_context().scope,
                pairs=pairs,
                as_of=request.as_of,
                after=request.after,
                limit=limit + 1,
            )
        )
        return NamePage(tuple(found[:limit]), found[limit - 1] if len(found) > limit else "")

    @operation
    async def get_objects(self, request: FindAssociations) -> NamePage:
        """The objects of a page of associations; more of them may come again on the next page."""
        page = await self.get_associations(request)
        return NamePage(tuple(dict.fromkeys(one.object for one in page.items)), page.next)

    @operation
    async def get_star(self, request: FindSubjects) -> AssociationPage:
        """All associations of the subjects that have every one of the pairs; a page is of 100 subjects at the most."""
        names = await self.get_subjects(msgspec.structs.replace(request, limit=min(_limit(request.limit), _SUBJECTS)))
        triples = [Triple(subject=name, as_of=request.as_of) for name in names.names]
        return AssociationPage(tuple(one for found in await self._all(triples) for one in found), names.next)

    @operation
    async def subject_associations(self, request: SubjectAssociations) -> AssociationMap:
        """What holds of each subject, at most 1,000 a subject. Raises InvalidInput for too many subjects."""
        subjects = tuple(dict.fromkeys(request.subjects))
        found = await self._all([Triple(subject=name, predicate=request.predicate) for name in subjects])
        return AssociationMap(dict(zip(subjects, map(tuple, found), strict=True)))

    @operation
    async def object_associations(self, request: FindAssociations) -> AssociationPage:
        """What holds of an object: who is, has or owns it. Raises InvalidInput if none is given."""
        if request.triple.object is None:
            raise InvalidInput("which object?", advice="Give one.")
        return await self.get_associations(request)

    @operation
    async def get_association(self, request: Triple) -> Association:
        """The only one. Raises NotFound, and Ambiguous if there are several."""
        [found] = await self._all([request], 2)
        if not found:
            raise NotFound("there is no such association")
        if len(found) > 1:
            raise Ambiguous(
                "there are several such associations",
                advice="Say more of it, or use get_associations.",
                details={"ids": [one.id for one in found]},
            )
        return found[0]

    @operation
    async def association_exists(self, request: Triple) -> bool:
        """Whether there is any such one."""
        return bool((await self._all([request], 1))[0])

    @operation
    async def get_associations(self, request: FindAssociations) -> AssociationPage:
        """Raises InvalidInput if no part is given."""
        limit = _limit(request.limit)
        [found] = await self._all([request.triple], limit + 1, request.after)
        return AssociationPage(tuple(found[:limit]), found[limit - 1].id if len(found) > limit else "")

    @operation
    async def history(self, request: Triple) -> tuple[Association, ...]:
        """The newest 1,000 that hold or held; ``as_of`` is not heeded."""
        scope = current_context().scope

        def look(connection: Connection) -> list[Association]:
            return association_history(
                connection,
                scope,
                subject=request.subject,
                predicate=request.predicate,
                object=request.object,
                limit=MOST,
            )

        return tuple(await self._store.read(look))

    async def _all(self, triples: list[Triple], limit: int = MOST, after: str = "") -> list[list[Association]]:
        """For each triple its page, read at one moment."""
        if len(triples) > _SUBJECTS:
            raise InvalidInput(f"{len(triples)} subjects at once; at most {_SUBJECTS}", advice="Ask in pages.")
        scope = current_context().scope

        def look(connection: Connection) -> list[list[Association]]:
            return [
                find_associations(
                    connection,
                    scope,
                    subject=triple.subject,
                    predicate=triple.predicate,
                    object=triple.object,
                    as_of=triple.as_of,
                    after=after,
                    limit=limit,
                )
                for triple in triples
            ]

        return await self._store.read(look)


def _limit(asked: int) -> int:
    return max(1, min(asked, MOST))
