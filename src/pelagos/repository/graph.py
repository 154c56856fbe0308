"""The commits of one repository as a graph: walks by generation, a page of rows at a time.

A commit's generation is one more than the highest of its parents, so a walk from high to low generations meets every
commit before its ancestors, whatever its writer's clock said. Rows come in pages of falling generation, since whoever
asks for one commit asks for its ancestors next.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from pelagos.model.errors import NotFound
from pelagos.repository.errors import MissingObjects
from pelagos.repository.repositories import Repository
from pelagos.store.container_schema import commits

__all__ = ["CommitGraph", "CommitInfo"]

_COLUMNS = (
    commits.c.digest,
    commits.c.generation,
    commits.c.at,
    commits.c.user_id,
    commits.c.message,
    commits.c.parents_blob,
)
_decode_parents = msgspec.msgpack.Decoder(tuple[str, ...]).decode
_OURS, _THEIRS, _STALE = 1, 2, 4
_FIRST_PAGE, _LARGEST_PAGE = 16, 1000


class CommitInfo(msgspec.Struct, frozen=True):
    """A commit without its content. ``at``: seconds since the epoch, by its writer's clock."""

    digest: str
    generation: int
    at: float
    user_id: str
    message: str
    parents: tuple[str, ...]


class CommitGraph:
    """Reads a repository's commits on one connection, and remembers them; for the span of a transaction."""

    def __init__(self, connection: Connection, repository: Repository) -> None:
        self._connection = connection
        self._repository = repository
        self._known: dict[str, CommitInfo] = {}
        self._page = _FIRST_PAGE

    def find(self, digest: str) -> CommitInfo | None:
        """The commit of a digest, or None if it is not one of this repository."""
        known = self._known.get(digest)
        if known is not None:
            return known
        here = commits.c.repository_id == self._repository.id
        row = self._connection.execute(select(*_COLUMNS).where(here, commits.c.digest == digest)).one_or_none()
        if row is None:
            return None
        found = self._known[digest] = _info(row)
        if found.parents:
            older = (
                select(*_COLUMNS)
                .where(here, commits.c.generation < found.generation)
                .order_by(commits.c.generation.desc())
                .limit(self._page)
            )
            self._page = min(self._page * 4, _LARGEST_PAGE)
            for row in self._connection.execute(older):
                self._known.setdefault(row[0], _info(row))
        return found

    def require(self, digest: str) -> CommitInfo:
        """As :meth:`find`. Raises :class:`NotFound`."""
        found = self.find(digest)
        if found is None:
            raise NotFound(f"{self._repository.name} has no commit {digest[:12]}")
        return found

    def by_prefix(self, prefix: str, limit: int = 10) -> list[str]:
        """Digests that begin with ``prefix`` (hexadecimal)."""
        query = (
            select(commits.c.digest)
            .where(
                commits.c.repository_id == self._repository.id,
                commits.c.digest >= prefix,
                commits.c.digest < prefix + "g",
            )
            .order_by(commits.c.digest)
            .limit(limit)
        )
        return list(self._connection.execute(query).scalars())

    def walk(self, *heads: str) -> Iterator[CommitInfo]:
        """The heads and all their ancestors, each once, no commit before one of its descendants."""
        queue = [_key(self._parent(head)) for head in dict.fromkeys(heads)]
        heapq.heapify(queue)
        seen = set(heads)
        while queue:
            info = self._known[heapq.heappop(queue)[2]]
            yield info
            for parent in info.parents:
                if parent not in seen:
                    seen.add(parent)
                    heapq.heappush(queue, _key(self._parent(parent)))

    def first_parents(self, head: str) -> Iterator[CommitInfo]:
        """The head, its first parent, that one's, and so on: a branch's own line."""
        info = self.require(head)
        yield info
        while info.parents:
            info = self._parent(info.parents[0])
            yield info

    def is_ancestor(self, ancestor: str, of: str) -> bool:
        """Whether ``ancestor`` is ``of`` or one of its ancestors."""
        if ancestor == of:
            return True
        low = self.find(ancestor)
        if low is None:
            return False
        for info in self.walk(of):
            if info.digest == ancestor:
                return True
            if info.generation < low.generation:
                return False
        return False

    def merge_bases(self, ours: str, theirs: str) -> list[str]:
        """The best common ancestors: common to both, and ancestor of no other that is. Several after a criss-cross,
        none if the histories have nothing in common. In the order of their digests."""
        if ours == theirs:
            return [ours]
        flags = {ours: _OURS, theirs: _THEIRS}
        queue = [_key(self._parent(ours)), _key(self._parent(theirs))]
        heapq.heapify(queue)
        common: list[str] = []
        while any(not flags[entry[2]] & _STALE for entry in queue):
            digest = heapq.heappop(queue)[2]
            mark = flags[digest]
            if mark == _OURS | _THEIRS:
                common.append(digest)
                mark |= _STALE
            for parent in self._known[digest].parents:
                if parent not in flags:
                    flags[parent] = mark
                    heapq.heappush(queue, _key(self._parent(parent)))
                else:
                    flags[parent] |= mark
        # One that was found to be common first may be an ancestor of another found later; the mark tells.
        return sorted(digest for digest in common if not flags[digest] & _STALE)

    def _parent(self, digest: str) -> CommitInfo:
        found = self.find(digest)
        if found is None:
            raise MissingObjects(
                f"commit {digest[:12]} of {self._repository.name} is not there", details={"digests": [digest]}
            )
        return found


def _key(info: CommitInfo) -> tuple[int, float, str]:
    return (-info.generation, -info.at, info.digest)


def _info(row: Any) -> CommitInfo:
    digest, generation, at, user_id, message, parents = row
    return CommitInfo(digest, generation, at, user_id, message, _decode_parents(parents))
