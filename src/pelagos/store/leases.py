"""Leases: who may write what, as rows with an epoch that only rises.

A lease names its holder, and every change of holder raises the epoch. Writers check their epoch in the transaction of
their write (:func:`check_fence`), so a holder that lost its lease without noticing (a stopped process, a slow disk)
cannot write: that, and not the expiry, is what keeps two writers apart. Expiry only says when somebody else may take
over, and is judged by the store's clock alone.

Every acquisition raises the epoch, also the holder's own: a holder that believes it lost its lease and takes it again
must not revive the fences it gave out before.

On PostgreSQL a check locks the row `FOR SHARE` and a take-over updates it: so a take-over waits for the writes that
were checked before it, and a write whose snapshot is older than a take-over fails and is run again, when it sees the
new epoch. Reading alone, serializable or not, would let such a write be committed after the new holder's first reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, insert, select, update

from pelagos.model.errors import LeaseHeld, LeaseLost
from pelagos.model.scope import Fence
from pelagos.store.clock import store_now
from pelagos.store.schema import leases

__all__ = ["Holder", "Lease", "LeaseRow", "acquire", "check_fence", "read_lease", "release", "release_all", "renew"]


class Holder(msgspec.Struct, frozen=True):
    """Who holds leases: one container in one process. ``id`` is unique to the incarnation."""

    id: str
    host: str
    boot_id: str
    pid: int
    pid_started: str
    lock_path: str


class LeaseRow(msgspec.Struct, frozen=True):
    """A lease as it stands in the store; ``holder`` None: free. Times by the store's clock."""

    name: str
    epoch: int
    holder: str | None
    host: str
    boot_id: str
    pid: int
    pid_started: str
    lock_path: str
    purpose: str
    acquired_at: float
    expires_at: float


class Lease(msgspec.Struct, frozen=True):
    """A lease that was acquired."""

    name: str
    epoch: int

    @property
    def fence(self) -> Fence:
        return Fence(lease=self.name, epoch=self.epoch)


_ROW = select(*leases.c).where(leases.c.name == bindparam("name"))
_CHECK = select(leases.c.epoch, leases.c.holder).where(leases.c.name == bindparam("name")).with_for_update(read=True)
_RENEW = (
    update(leases)
    .where(leases.c.holder == bindparam("by"))
    .values(expires_at=bindparam("until"))
    .returning(leases.c.name, leases.c.epoch)
)
_FREE = {"holder": None, "expires_at": 0.0, "purpose": ""}


def acquire(
    connection: Connection,
    name: str,
    holder: Holder,
    ttl: float,
    *,
    purpose: str = "",
    is_dead: Callable[[LeaseRow], bool] | None = None,
) -> Lease:
    """Take a lease that is free, expired, the holder's own, or whose holder ``is_dead``; the epoch rises by one.

    Raises LeaseHeld otherwise; its details say holder, host, pid, purpose and ``expires_in`` seconds."""
    now = store_now(connection)
    row = read_lease(connection, name, lock=True)
    others = row is not None and row.holder not in (None, holder.id) and row.expires_at > now
    if others and row is not None and (is_dead is None or not is_dead(row)):
        raise held(row, now)
    epoch = 1 if row is None else row.epoch + 1
    values = {
        "epoch": epoch,
        "holder": holder.id,
        "host": holder.host,
        "boot_id": holder.boot_id,
        "pid": holder.pid,
        "pid_started": holder.pid_started,
        "lock_path": holder.lock_path,
        "purpose": purpose,
        "acquired_at": now,
        "expires_at": now + ttl,
    }
    if row is None:
        connection.execute(insert(leases).values(name=name, **values))
    else:
        connection.execute(update(leases).where(leases.c.name == name).values(**values))
    return Lease(name, epoch)


def held(row: LeaseRow, now: float) -> LeaseHeld:
    """The error that tells who holds a lease."""
    doing = f" to {row.purpose}" if row.purpose else ""
    return LeaseHeld(
        f"{row.name} is held by process {row.pid} on {row.host}{doing}",
        advice="Wait for it to finish, or stop it; if that process is gone, the lease is free in "
        f"{max(0.0, row.expires_at - now):.0f} s.",
        details={
            "name": row.name,
            "holder": row.holder,
            "host": row.host,
            "pid": row.pid,
            "purpose": row.purpose,
            "acquired_at": row.acquired_at,
            "expires_in": max(0.0, row.expires_at - now),
        },
    )


def renew(connection: Connection, holder_id: str, ttl: float) -> dict[str, int]:
    """Prolong everything a holder still holds, in one statement: name and epoch of each. An expired lease that nobody
    took is its holder's still."""
    parameters = {"by": holder_id, "until": store_now(connection) + ttl}
    return {row.name: row.epoch for row in connection.execute(_RENEW, parameters)}


def release(connection: Connection, lease: Lease | Fence, holder_id: str) -> bool:
    """Free a lease, if it is still this acquisition of it; the epoch stays."""
    name = lease.name if isinstance(lease, Lease) else lease.lease
    freed = update(leases).where(leases.c.name == name, leases.c.holder == holder_id, leases.c.epoch == lease.epoch)
    return connection.execute(freed.values(**_FREE)).rowcount == 1


def release_all(connection: Connection, holder_id: str) -> None:
    """Free everything a holder holds."""
    connection.execute(update(leases).where(leases.c.holder == holder_id).values(**_FREE))


def check_fence(connection: Connection, fence: Fence) -> None:
    """Call first in a transaction that writes under a lease. Raises LeaseLost if the epoch is not the fence's."""
    row = connection.execute(_CHECK, {"name": fence.lease}).first()
    if row is None or row[0] != fence.epoch or row[1] is None:
        raise LeaseLost(
            f"the lease {fence.lease} was lost: epoch {fence.epoch} is over",
            advice="Somebody else goes on with it; look at its state before doing anything again.",
            details={"name": fence.lease, "epoch": fence.epoch, "current": None if row is None else row[0]},
        )


def read_lease(connection: Connection, name: str, *, lock: bool = False) -> LeaseRow | None:
    """A lease as it stands; None if nobody ever held it. ``lock``: nobody else may change it before the commit."""
    query: Any = _ROW.with_for_update() if lock else _ROW
    row = connection.execute(query, {"name": name}).first()
    return None if row is None else LeaseRow(*row)
