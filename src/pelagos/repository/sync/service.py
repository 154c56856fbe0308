"""The service that other containers pull from and push to.

It keeps no state between requests but a cache: every request says all it needs, so either side may be killed at any
point and go on later. Objects come and go children first; what has arrived is whole, and the next negotiation names
only the rest. A head moves last, by compare-and-set and only forward.

An object is served if a ref of the named repository reaches it, and that repository is of the caller's project.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from sqlalchemy import Connection

from pelagos.model.errors import NotFound
from pelagos.model.scope import Scope
from pelagos.process import ServiceProcess, operation
from pelagos.repository.commits import history, read_commit, resolve
from pelagos.repository.errors import Diverged
from pelagos.repository.graph import CommitGraph, CommitInfo
from pelagos.repository.objects import links_of, present, put_stored, read_stored
from pelagos.repository.repositories import (
    Repository,
    create_repository,
    find_repository,
    head_moved,
    list_refs,
    read_ref,
    set_ref,
)
from pelagos.repository.sync.messages import (
    CHUNK_BYTES,
    Carried,
    Fetch,
    GetHistory,
    GetObject,
    Lacking,
    Negotiate,
    Node,
    Objects,
    ReadObject,
    Receive,
    RefsAnswer,
    RemoteRef,
    Update,
    Which,
    carry,
    received,
)
from pelagos.repository.sync.walking import adopt, closure, expand
from pelagos.store.port import Store

__all__ = ["RepositoryService"]

_NODES = 4_000
"""Named in one answer, about."""
_REMEMBERED = 16
"""Repositories whose reachable objects are kept in mind."""


class RepositoryService(ServiceProcess):
    """Serves the repositories of one store."""

    name = "repository"

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._reachable: OrderedDict[str, tuple[frozenset[str], set[str]]] = OrderedDict()

    @operation
    async def refs(self, request: Which) -> RefsAnswer:
        """Branches and tags. Raises :class:`NotFound`."""
        scope = self.context.scope

        def look(connection: Connection) -> RefsAnswer:
            found = list_refs(connection, _require(connection, scope, request))
            return RefsAnswer(tuple(RemoteRef(r.name, r.digest) for r in found if not r.name.startswith("remote/")))

        return await self._store.read(look)

    @operation
    async def negotiate(self, request: Negotiate) -> tuple[Node, ...]:
        """What is below the wanted and may be lacking to a side that has ``have``. Raises :class:`NotFound`."""
        want = await self._check_served(request.which, [digest.hex() for digest in request.want])
        have = [digest.hex() for digest in request.have]
        found = await self._store.read(partial(expand, want=want, have=have, limit=_NODES))
        return tuple(
            Node(bytes.fromhex(digest), tuple(bytes.fromhex(target) for target in links))
            for digest, links in found.items()
        )

    @operation
    async def objects(self, request: Fetch) -> Objects:
        """The first of the objects asked for. Raises :class:`NotFound` for one that is not the repository's."""
        digests = await self._check_served(request.which, [digest.hex() for digest in request.digests[:500]])
        found = {packed.digest: packed for packed in await self._store.read(lambda c: list(read_stored(c, digests)))}
        carried: list[Carried] = []
        room = CHUNK_BYTES
        for digest in digests:
            if digest not in found:
                raise NotFound(f"object {digest[:12]} was collected meanwhile", advice="Pull again.")
            room -= len(found[digest].value) + 100
            if carried and room < 0:
                break
            carried.append(carry(found[digest]))
        return Objects(tuple(carried))

    @operation
    async def get_object(self, request: GetObject) -> ReadObject:
        """What a revision holds. Raises :class:`NotFound`, :class:`Ambiguous` and :class:`InvalidInput` (revision)."""
        scope = self.context.scope

        def look(connection: Connection) -> ReadObject:
            repository = _require(connection, scope, request.which)
            info = resolve(connection, repository, request.revision, as_of=request.as_of)
            [root] = read_stored(connection, [read_commit(connection, info.digest).root.digest])
            return ReadObject(info, carry(root))

        return await self._store.read(look)

    @operation
    async def get_history(self, request: GetHistory) -> tuple[CommitInfo, ...]:
        """A page of the commits that led to a revision, newest first; at most 1,000. Raises as :meth:`get_object`."""
        scope, limit = self.context.scope, max(1, min(request.limit, 1_000))

        def look(connection: Connection) -> list[CommitInfo]:
            repository = _require(connection, scope, request.which)
            return history(connection, repository, request.revision, limit=limit, before=request.before)

        return tuple(await self._store.read(look))

    @operation
    async def lacking(self, request: Lacking) -> tuple[bytes, ...]:
        """Which of the offered objects are not here."""
        digests = [digest.hex() for digest in request.digests]
        there = await self._store.read(partial(present, digests=digests))
        return tuple(bytes.fromhex(digest) for digest in digests if digest not in there)

    @operation
    async def receive(self, request: Receive) -> int:
        """Keep objects, children before parents. Raises :class:`InvalidInput` for one that is not what its digest
        says, :class:`MissingObjects` for one that links to what is not here; then none of them is kept."""
        packed = [received(item) for item in request.objects]
        return await self._store.run(partial(put_stored, packed=packed, at=self.world.now()))

    @operation
    async def update(self, request: Update) -> str:
        """Move a branch forward; makes the repository if it is new. Raises :class:`HeadMoved`, :class:`Diverged`."""
        scope, at, new_id = self.context.scope, self.world.now(), self.world.new_id()

        def move(connection: Connection) -> str:
            which = request.which
            repository = find_repository(connection, scope, which.kind, which.name)
            if repository is None:
                repository = create_repository(connection, scope, which.kind, which.name, id=new_id, at=at)
            name = f"branch/{request.branch}"
            ref = read_ref(connection, repository, name)
            now = None if ref is None else ref.digest
            if now == request.new:
                return request.new
            if now != request.expected:
                raise head_moved(repository, name, request.expected, now)
            adopt(connection, repository, request.new)
            if now is not None and not CommitGraph(connection, repository).is_ancestor(now, request.new):
                raise Diverged(f"branch {request.branch!r} of {which.name} has commits that the pushed one lacks")
            set_ref(connection, repository, name, request.new, expected=now, by=scope, at=at)
            return request.new

        return await self._store.run(move)

    async def _check_served(self, which: Which, digests: list[str]) -> list[str]:
        """The digests, all reachable in the repository. Raises :class:`NotFound`."""
        scope = self.context.scope

        def look(connection: Connection) -> tuple[str, frozenset[str], set[str]]:
            repository = _require(connection, scope, which)
            heads = frozenset(ref.digest for ref in list_refs(connection, repository))
            known_heads, known = self._reachable.get(repository.id, (frozenset(), set()))
            if heads == known_heads:
                return repository.id, heads, known
            fresh = closure(connection, heads, known)
            met = heads.union(*links_of(connection, fresh).values())
            if known_heads <= met:
                return repository.id, heads, known | fresh
            # A branch was removed, or moved to where its old head is not seen at once.
            return repository.id, heads, closure(connection, heads, set())

        repository_id, heads, reachable = await self._store.read(look)
        self._reachable[repository_id] = (heads, reachable)
        self._reachable.move_to_end(repository_id)
        while len(self._reachable) > _REMEMBERED:
            self._reachable.popitem(last=False)
        for digest in digests:
            if digest not in reachable:
                raise NotFound(f"{which.name} has no object {digest[:12]}")
        return digests


def _require(connection: Connection, scope: Scope, which: Which) -> Repository:
    found = find_repository(connection, scope, which.kind, which.name)
    if found is None:
        raise NotFound(f"there is no repository {which.name!r} of kind {which.kind!r}")
    return found
