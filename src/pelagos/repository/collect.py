"""Garbage collection: objects that no ref of a live repository reaches go, after a grace, in bounded batches.

The problem: a full mark of a large store takes long, and while it runs, others commit, and may use again what the mark
held for garbage. The way chosen: mark and sweep with a second look. Marking reads in many small queries, on whatever
state each meets. Each sweep is one transaction that reads all refs anew, walks on from those the marking did not know,
and only then deletes, parents before their children, so that what remains never links into nothing. Transactions are
serializable, so a commit that uses an object either is seen by the sweep, or makes it run again, or finds the object
gone and is told so.

What no commit reaches yet (chunks of a pull under way, objects put beforehand) is kept by its time: a put renews the
time of all it finds and links to, and younger than the grace stays, with all below it.

Rejected: reference counts, which every writer must get right for ever; and a lock around the whole, which holds up all
commits while it marks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial

import msgspec
from sqlalchemy import Connection, delete, select

from pelagos.model.errors import InvalidInput
from pelagos.repository.objects import CHUNK, TOUCH_AFTER, links_of
from pelagos.store.container_schema import commits, objects, refs, repositories
from pelagos.store.port import Store

__all__ = ["GRACE", "Collected", "Swept", "collect", "mark", "roots", "sweep", "unmarked"]

GRACE = 86_400.0
"""Seconds that an object stays which nothing reaches."""
_MARKED_A_READ = 2_000


class Collected(msgspec.Struct, frozen=True):
    """What one collection did: objects that live, that went, and rounds in which a commit had come between."""

    marked: int
    removed: int
    again: int


class Swept(msgspec.Struct, frozen=True):
    """``removed``: rows deleted. ``alive``: what turned out to be reachable after all."""

    removed: int
    alive: tuple[str, ...]


async def collect(store: Store, now: float, *, grace: float = GRACE, batch: int = 500) -> Collected:
    """Collect once. ``now`` in seconds since the epoch, by the clock that puts get their times from.

    A transaction deletes at most ``batch`` objects. May be cancelled, and run by several containers at once. Raises
    :class:`InvalidInput` for a grace that is no grace."""
    if grace < 2 * TOUCH_AFTER:
        raise InvalidInput(f"a grace of {grace:g} s is too short", advice=f"Give {2 * TOUCH_AFTER:g} s or more.")
    before = now - grace
    alive: set[str] = set()
    frontier = set(await store.read(partial(roots, young_since=before)))
    while frontier:
        some = set(sorted(frontier)[:_MARKED_A_READ])
        frontier -= some
        alive |= some
        frontier |= set(await store.read(partial(mark, digests=some))) - alive
    removed = again = 0
    for dead in await _dead(store, alive, batch):
        while True:
            swept = await store.run(partial(sweep, digests=dead, alive=alive, before=before))
            removed += swept.removed
            alive.update(swept.alive)
            if not swept.alive:
                break
            again += 1
            dead = [digest for digest in dead if digest not in alive]
    return Collected(len(alive), removed, again)


def roots(connection: Connection, young_since: float | None = None) -> list[str]:
    """What keeps others alive: the commits that refs of live repositories name, and with ``young_since`` every object
    that is not older."""
    live = select(refs.c.digest).join(repositories, repositories.c.id == refs.c.repository_id)
    found = list(connection.execute(live.where(repositories.c.deleted_at.is_(None)).distinct()).scalars())
    if young_since is not None:
        found += connection.execute(select(objects.c.digest).where(objects.c.created_at >= young_since)).scalars()
    return found


def mark(connection: Connection, digests: Collection[str]) -> list[str]:
    """What the given objects link to, each once."""
    below: dict[str, None] = {}
    for links in links_of(connection, digests).values():
        below.update(dict.fromkeys(links))
    return list(below)


def unmarked(
    connection: Connection, alive: Collection[str], after: str = "", limit: int = 5000
) -> tuple[list[str], str | None]:
    """A page of the objects that are not in ``alive``, by digest, and after which to go on (None: that was all)."""
    query = select(objects.c.digest).where(objects.c.digest > after).order_by(objects.c.digest).limit(limit)
    page = list(connection.execute(query).scalars())
    return [digest for digest in page if digest not in alive], page[-1] if len(page) == limit else None


def sweep(connection: Connection, digests: Iterable[str], alive: Collection[str], before: float) -> Swept:
    """Delete those of ``digests`` that are older than ``before`` and that nothing keeps by now.

    To be called with parents before or together with their children. What was found to be alive after all is in the
    answer, with all below it; the caller adds it to ``alive``."""
    wanted = [digest for digest in digests if digest not in alive]
    times: dict[str, float] = {}
    for start in range(0, len(wanted), CHUNK):
        chunk = wanted[start : start + CHUNK]
        rows = connection.execute(select(objects.c.digest, objects.c.created_at).where(objects.c.digest.in_(chunk)))
        times.update((row.digest, row.created_at) for row in rows)
    risen = {digest for digest in roots(connection) if digest not in alive}
    risen |= {digest for digest, created in times.items() if created >= before}
    frontier = set(risen)
    while frontier:
        frontier = {digest for digest in mark(connection, frontier) if digest not in alive and digest not in risen}
        risen |= frontier
    dead = [digest for digest in times if digest not in risen]
    for start in range(0, len(dead), CHUNK):
        chunk = dead[start : start + CHUNK]
        connection.execute(delete(objects).where(objects.c.digest.in_(chunk)))
        connection.execute(delete(commits).where(commits.c.digest.in_(chunk)))
    return Swept(len(dead), tuple(sorted(risen)))


async def _dead(store: Store, alive: set[str], batch: int) -> list[list[str]]:
    """What is not alive, in batches, parents before their children."""
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page, after = await store.read(partial(unmarked, alive=alive, after=after))
        found += page
    dead = set(found)
    below: dict[str, list[str]] = {}
    parents = dict.fromkeys(found, 0)
    for start in range(0, len(found), _MARKED_A_READ):
        links = await store.read(partial(links_of, digests=found[start : start + _MARKED_A_READ]))
        for digest, targets in links.items():
            below[digest] = [target for target in targets if target in dead]
            for target in below[digest]:
                parents[target] += 1
    order = [digest for digest in found if not parents[digest]]
    for digest in order:  # grows while it is walked
        for target in below.get(digest, ()):
            parents[target] -= 1
            if not parents[target]:
                order.append(target)
    return [order[start : start + batch] for start in range(0, len(order), batch)]
