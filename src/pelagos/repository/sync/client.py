"""Pull and push: the side that asks.

Both find what is lacking, send it children first in chunks, and move a head at the end. Each chunk is kept as it
arrives; after a kill the same call goes on with the rest.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection

from pelagos.exchange import Address
from pelagos.model.errors import InvalidInput, NotFound
from pelagos.process import Process, client, current_context
from pelagos.repository.errors import Diverged
from pelagos.repository.graph import CommitGraph
from pelagos.repository.objects import present, put_stored, read_stored
from pelagos.repository.repositories import Repository, create_repository, find_repository, list_refs, read_ref, set_ref
from pelagos.repository.sync.messages import (
    CHUNK_BYTES,
    Carried,
    Fetch,
    Lacking,
    Negotiate,
    Receive,
    Update,
    Which,
    carry,
    received,
)
from pelagos.repository.sync.service import RepositoryService
from pelagos.repository.sync.walking import adopt, children_first, expand
from pelagos.store.port import Store

__all__ = ["Pulled", "Pushed", "pull", "push"]

_NAMED = 1_000


class Pulled(msgspec.Struct, frozen=True):
    """``objects`` and ``bytes`` (of values): what travelled this time."""

    head: str
    objects: int
    bytes: int
    rounds: int
    """Of negotiation."""


class Pushed(msgspec.Struct, frozen=True):
    head: str
    objects: int
    bytes: int


async def pull(
    process: Process,
    address: Address | str,
    kind: str,
    name: str,
    store: Store,
    *,
    branch: str = "main",
    remote: str = "origin",
) -> Pulled:
    """Bring a branch of the repository at ``address`` into ``store``, in the scope of the code that calls.

    The repository is made if it is new. ``remote/<remote>/<branch>`` is set; the branch is made or moved forward.
    Raises :class:`Diverged` if it has commits of its own (all has arrived then, to be merged), :class:`NotFound`, and
    what the calls raise; call again to go on."""
    service = client(RepositoryService, process, address=address)
    scope, which, world = current_context().scope, Which(kind, name), process.world
    heads = {ref.name: ref.digest for ref in (await service.refs(which)).refs}
    head = heads.get(f"branch/{branch}")
    if head is None:
        raise NotFound(f"{name} at {address} has no branch {branch!r}")

    def known(connection: Connection) -> list[str]:
        repository = find_repository(connection, scope, kind, name)
        return [] if repository is None else sorted({ref.digest for ref in list_refs(connection, repository)})

    have = await store.read(known)
    below, rounds = await _missing(service, which, store, head, have)
    order = children_first(below, head)
    count = size = 0
    while count < len(order):
        asked = order[count : count + 500]
        answer = await service.objects(Fetch(which, tuple(map(bytes.fromhex, asked))))
        packed = [received(item) for item in answer.objects]
        if not packed or [item.digest for item in packed] != asked[: len(packed)]:
            raise InvalidInput(f"{address} sent other objects than were asked for")
        await store.run(partial(put_stored, packed=packed, at=world.now()))
        count += len(packed)
        size += sum(len(item.value) for item in packed)
    new_id, at = world.new_id(), world.now()

    def finish(connection: Connection) -> bool:
        repository = find_repository(connection, scope, kind, name)
        if repository is None:
            repository = create_repository(connection, scope, kind, name, id=new_id, at=at)
        adopt(connection, repository, head)
        seen = f"remote/{remote}/{branch}"
        tracked, ours = (_digest(connection, repository, ref) for ref in (seen, f"branch/{branch}"))
        set_ref(connection, repository, seen, head, expected=tracked, by=scope, at=at)
        graph = CommitGraph(connection, repository)
        if ours is None or graph.is_ancestor(ours, head):
            set_ref(connection, repository, f"branch/{branch}", head, expected=ours, by=scope, at=at)
            return True
        return graph.is_ancestor(head, ours)

    if not await store.run(finish):
        raise Diverged(
            f"branch {branch!r} of {name} has commits that {address} lacks, and the other way round",
            advice=f"Merge remote/{remote}/{branch} into it.",
            details={"theirs": head},
        )
    return Pulled(head, count, size, rounds)


async def push(
    process: Process, address: Address | str, repository: Repository, store: Store, *, branch: str = "main"
) -> Pushed:
    """Bring a branch of a repository in ``store`` to ``address``; only forward.

    Raises :class:`Diverged` or :class:`HeadMoved` if the other side has commits of its own: pull and merge first."""
    service = client(RepositoryService, process, address=address)
    which = Which(repository.kind, repository.name)
    head = await store.read(lambda connection: _digest(connection, repository, f"branch/{branch}"))
    if head is None:
        raise NotFound(f"{repository.name} has no branch {branch!r}")
    try:
        theirs = {ref.name: ref.digest for ref in (await service.refs(which)).refs}
    except NotFound:
        theirs = {}
    there = theirs.get(f"branch/{branch}")

    def offer(connection: Connection) -> list[str]:
        graph = CommitGraph(connection, repository)
        if there is not None and not graph.is_ancestor(there, head):
            raise Diverged(f"branch {branch!r} of {repository.name} at {address} has commits that are not here")
        have = present(connection, theirs.values())
        return children_first(expand(connection, (head,), have), head)

    offered = await store.read(offer)
    wanted: list[str] = []
    for start in range(0, len(offered), 5_000):
        some = tuple(map(bytes.fromhex, offered[start : start + 5_000]))
        wanted += [digest.hex() for digest in await service.lacking(Lacking(which, some))]
    size = 0
    chunk: list[Carried] = []
    room = CHUNK_BYTES
    for start in range(0, len(wanted), 500):
        some_wanted = wanted[start : start + 500]
        found = await store.read(partial(_read_all, digests=some_wanted))
        for digest in some_wanted:
            item = carry(found[digest])
            if chunk and len(item.value) + 100 > room:
                await service.receive(Receive(which, tuple(chunk)))
                chunk, room = [], CHUNK_BYTES
            chunk.append(item)
            room -= len(item.value) + 100
            size += len(item.value)
    if chunk:
        await service.receive(Receive(which, tuple(chunk)))
    await service.update(Update(which, branch, there, head))
    return Pushed(head, len(wanted), size)


async def _missing(
    service: RepositoryService, which: Which, store: Store, head: str, have: list[str]
) -> tuple[dict[str, tuple[str, ...]], int]:
    """The objects below a head that are not in the store, with their links; and the rounds it took."""
    named: dict[str, tuple[str, ...]] = {}
    missing: dict[str, tuple[str, ...]] = {}
    haves = tuple(map(bytes.fromhex, have))
    rounds = 0
    frontier = [head]
    there: set[str] = set()
    while frontier:
        there |= await store.read(partial(present, digests=frontier))
        frontier = [digest for digest in frontier if digest not in there]
        if ask := [digest for digest in frontier if digest not in named][:_NAMED]:
            rounds += 1
            for node in await service.negotiate(Negotiate(which, tuple(map(bytes.fromhex, ask)), haves)):
                named[node.digest.hex()] = tuple(target.hex() for target in node.links)
            if silent := [digest for digest in ask if digest not in named]:
                raise InvalidInput(f"the other side names nothing below {silent[0][:12]}")
        below: dict[str, None] = {}
        for digest in frontier:
            if digest in named:
                missing[digest] = named[digest]
                below.update(dict.fromkeys(named[digest]))
            else:
                below[digest] = None
        frontier = [digest for digest in below if digest not in missing and digest not in there]
    return missing, rounds


def _read_all(connection: Connection, digests: list[str]) -> dict[str, Any]:
    return {packed.digest: packed for packed in read_stored(connection, digests)}


def _digest(connection: Connection, repository: Repository, name: str) -> str | None:
    ref = read_ref(connection, repository, name)
    return None if ref is None else ref.digest
