"""The store: transactions, bells, leases, events, retention.

Names are imported when they are first used: SQLAlchemy's import is a large part of a command's start-up, and
`pelagos --version` needs none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pelagos._lazy import lazy

if TYPE_CHECKING:
    from pelagos.store.clock import store_now
    from pelagos.store.events import (
        Event,
        append,
        append_at,
        append_many,
        append_many_at,
        event_row,
        last_position,
        position_at,
        read_events,
    )
    from pelagos.store.executor import open_store
    from pelagos.store.hosts import HostFacts, SystemHostFacts
    from pelagos.store.keeper import HeldLease, LeaseKeeper
    from pelagos.store.leases import (
        Holder,
        Lease,
        LeaseRow,
        acquire,
        check_fence,
        read_lease,
        release,
        release_all,
        renew,
    )
    from pelagos.store.port import Store, Transaction, Watch
    from pelagos.store.records import once
    from pelagos.store.retention import prune
    from pelagos.store.simulated import SimulatedDatabase, SimulatedStore, open_simulated_store

_MODULES = {
    "clock": ("store_now",),
    "events": (
        "Event",
        "append",
        "append_at",
        "append_many",
        "append_many_at",
        "event_row",
        "last_position",
        "position_at",
        "read_events",
    ),
    "executor": ("open_store",),
    "hosts": ("HostFacts", "SystemHostFacts"),
    "keeper": ("HeldLease", "LeaseKeeper"),
    "leases": (
        "Holder",
        "Lease",
        "LeaseRow",
        "acquire",
        "check_fence",
        "read_lease",
        "release",
        "release_all",
        "renew",
    ),
    "port": ("Store", "Transaction", "Watch"),
    "records": ("once",),
    "retention": ("prune",),
    "simulated": ("SimulatedDatabase", "SimulatedStore", "open_simulated_store"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Event",
    "HeldLease",
    "Holder",
    "HostFacts",
    "Lease",
    "LeaseKeeper",
    "LeaseRow",
    "SimulatedDatabase",
    "SimulatedStore",
    "Store",
    "SystemHostFacts",
    "Transaction",
    "Watch",
    "acquire",
    "append",
    "append_at",
    "append_many",
    "append_many_at",
    "check_fence",
    "event_row",
    "last_position",
    "once",
    "open_simulated_store",
    "open_store",
    "position_at",
    "prune",
    "read_events",
    "read_lease",
    "release",
    "release_all",
    "renew",
    "store_now",
]

__getattr__ = lazy(__name__, _HOME)
