"""Who takes what nobody maintains, where several residents may: one bulk look a container, instead of a wait for each.

Three containers with a thousand infrastructures each must not wait for two thousand leases: a waiter looks at its lease
all the time. So a resident looks once a second at all of them with two queries, and takes those whose lease is free,
has expired, or belonged to a process that died on this host. What was accepted somewhere is taken there: the others
look a beat later. Of what several could take, each takes at one look what it lacks of an even share, by the leases that
the others hold, and in an order of its own, so that two seldom try the same; the rest it leaves to the others until the
next look. A lone resident takes everything at once.

The way not chosen, a table of members with a share for each, needs an agreement on who lives; leases give that one by
one. Nothing is handed over between two that live: a newcomer gets what is new, and what others leave.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial

import msgspec
from sqlalchemy import Connection, bindparam, func, literal, or_, select

from pelagos.model.world import World
from pelagos.store.clock import store_now
from pelagos.store.keeper import LeaseKeeper
from pelagos.store.leases import LeaseRow
from pelagos.store.port import Store
from pelagos.store.schema import infrastructures, leases, runs

__all__ = ["RESIDENT", "Orphans", "Standby", "lease_name", "orphans"]

RESIDENT = "serve"
"""The purpose in a resident's lease: its holder does every run that comes."""
_PREFIX = "infrastructure:"
_EVERY = 1.0
_BEAT = 0.3
"""Seconds that whoever accepted a run has to take it before the others look."""


def lease_name(infrastructure_id: str) -> str:
    """The lease whose holder maintains an infrastructure."""
    return f"{_PREFIX}{infrastructure_id}"


class Orphans(msgspec.Struct, frozen=True):
    ids: tuple[str, ...]
    """Maintained ones, and those with an open run, that nobody holds; the oldest first."""
    others: tuple[int, ...]
    """How many each other resident holds that holds any and lives."""
    mine: int
    """How many the one who asks holds."""

    @property
    def share(self) -> int:
        """How many to take now."""
        free, residents = len(self.ids), 1 + len(self.others)
        if residents == 1:
            return free
        even = math.ceil((free + self.mine + sum(self.others)) / residents)
        # In any case some: another one may hold its leases and be too ill to take more.
        return min(free, max(even - self.mine, math.ceil(free / (2 * residents))))


_OF_A_HOLDER = ("host", "boot_id", "pid", "pid_started", "lock_path")
_HELD_COLUMNS = (leases.c.holder, *(leases.c[name] for name in _OF_A_HOLDER), leases.c.purpose)
_HELD = (
    select(*_HELD_COLUMNS, func.count().label("count_"))
    .where(leases.c.name.startswith(_PREFIX), leases.c.holder.is_not(None), leases.c.expires_at > bindparam("b_now"))
    .group_by(*_HELD_COLUMNS)
    .order_by(leases.c.holder)
)
_OPEN_RUN = select(runs.c.id).where(runs.c.infrastructure_id == infrastructures.c.id, runs.c.finished_at.is_(None))
_FREE = (
    select(infrastructures.c.id)
    .outerjoin(leases, leases.c.name == literal(_PREFIX).concat(infrastructures.c.id))
    .where(
        infrastructures.c.deleted_at.is_(None),
        or_(infrastructures.c.maintained, _OPEN_RUN.exists()),
        or_(
            leases.c.holder.is_(None),
            leases.c.expires_at <= bindparam("b_now"),
            leases.c.holder.in_(bindparam("b_dead", expanding=True)),
        ),
    )
    .order_by(infrastructures.c.created_at, infrastructures.c.id)
)


def orphans(connection: Connection, holder_id: str, is_dead: Callable[[LeaseRow], bool]) -> Orphans:
    """What could be taken now by ``holder_id``; ``is_dead`` knows the dead of this host."""
    now = store_now(connection)
    held = connection.execute(_HELD, {"b_now": now})
    dead: set[str] = set()
    others, own = [], 0
    for row in held.all():
        of_holder = {name: getattr(row, name) for name in _OF_A_HOLDER}
        if row.holder == holder_id:
            own += row.count_
        elif is_dead(
            LeaseRow(_PREFIX, 0, row.holder, **of_holder, purpose=row.purpose, acquired_at=0.0, expires_at=now)
        ):
            dead.add(row.holder)
        elif row.purpose == RESIDENT:
            others.append(row.count_)
    found = connection.execute(_FREE, {"b_now": now, "b_dead": sorted(dead)})
    return Orphans(tuple(found.scalars()), tuple(others), own)


class Standby:
    """``take`` is told each infrastructure to be taken, and finds out itself whether somebody was quicker."""

    def __init__(self, store: Store, keeper: LeaseKeeper, world: World, take: Callable[[str], None]) -> None:
        self._store = store
        self._keeper = keeper
        self._take = take
        self._rng = world.rng(f"standby of {keeper.holder_id}")
        self._asked = asyncio.Event()

    def look(self) -> None:
        """Something came that nobody may maintain yet: look in a beat."""
        self._asked.set()

    async def run(self) -> None:
        """Look and take, until cancelled. Raises what the store raises; may then be run again."""
        while True:
            await self.pass_once()
            try:
                async with asyncio.timeout(_EVERY * self._rng.uniform(0.8, 1.2)):
                    await self._asked.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(_BEAT * self._rng.uniform(0.8, 1.2))

    async def pass_once(self) -> None:
        """One look."""
        self._asked.clear()
        keeper = self._keeper
        found = await self._store.read(partial(orphans, holder_id=keeper.holder_id, is_dead=keeper.is_dead))
        for infrastructure_id in self._rng.sample(found.ids, found.share) if found.others else found.ids:
            self._take(infrastructure_id)
