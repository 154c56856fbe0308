"""What both sides of a synchronisation compute: which objects are below one commit and not below others.

Two walks go down side by side, one from what is wanted, one from what the other side has; where they meet, both stop.
So one changed object among ten thousand is found by reading the path to it, twice. Where the two graphs are of
different depth the walks may miss each other; then too much is named, never too little, and the side that has it says
so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection

from pelagos.repository.commits import Commit, decode_commit, index_commit
from pelagos.repository.errors import MissingObjects
from pelagos.repository.graph import CommitGraph
from pelagos.repository.objects import links_of, read_stored
from pelagos.repository.repositories import Repository

__all__ = ["adopt", "children_first", "closure", "expand"]


def expand(
    connection: Connection, want: Iterable[str], have: Iterable[str], limit: int = 1_000_000
) -> dict[str, tuple[str, ...]]:
    """The objects below ``want``, each with those of its links that are not below ``have`` as far as was seen; by
    levels, until ``limit`` is passed."""
    found: dict[str, tuple[str, ...]] = {}
    known = set(have)
    level, other = [digest for digest in dict.fromkeys(want) if digest not in known], list(known)
    while level and len(found) < limit:
        links = links_of(connection, level)
        theirs = {digest for below in links_of(connection, other).values() for digest in below}
        known |= theirs
        mine: dict[str, None] = {}
        for digest, below in links.items():
            found[digest] = tuple(target for target in below if target not in known)
            mine.update(dict.fromkeys(below))
        level = [digest for digest in mine if digest not in known and digest not in found]
        other = [digest for digest in theirs if digest not in mine]
    return found


def closure(connection: Connection, digests: Iterable[str], known: set[str]) -> set[str]:
    """All that is below the digests and not in ``known``, themselves included."""
    found: set[str] = set()
    level = {digest for digest in digests if digest not in known}
    while level:
        found |= level
        below = links_of(connection, level).values()
        level = {target for links in below for target in links} - found - known
    return found


def children_first(below: Mapping[str, tuple[str, ...]], top: str) -> list[str]:
    """The keys of ``below`` that ``top`` leads to, each after all it links to."""
    order: dict[str, None] = {}
    stack = [(top, False)]
    while stack:
        digest, expanded = stack.pop()
        if digest in order or digest not in below:
            continue
        if expanded:
            order[digest] = None
        else:
            stack.append((digest, True))
            stack.extend((target, False) for target in reversed(below[digest]))
    return list(order)


def adopt(connection: Connection, repository: Repository, digest: str) -> None:
    """Make a commit that is stored, and its ancestors, commits of the repository. Raises :class:`MissingObjects`,
    and :class:`NotFound` if it is no commit."""
    graph = CommitGraph(connection, repository)
    made: dict[str, Commit] = {}
    level = [digest]
    while level := [item for item in dict.fromkeys(level) if item not in made and graph.find(item) is None]:
        for packed in read_stored(connection, level):
            made[packed.digest] = decode_commit(packed)
        if missing := [item for item in level if item not in made]:
            raise MissingObjects(f"commit {missing[0][:12]} is not there", details={"digests": missing[:100]})
        level = [parent.digest for item in level for parent in made[item].parents]
    below = {item: tuple(parent.digest for parent in value.parents) for item, value in made.items()}
    for item in children_first(below, digest):
        index_commit(connection, repository, item, made[item], graph)
