"""Instances on clouds that the pool has no more: what is journaled for them waits, and whoever looks is told so."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sqlalchemy import Connection

from pelagos.operations import account_description
from pelagos.store import store_now
from pelagos.store.leases import read_lease

__all__ = ["KnownAccount", "unserved_accounts", "why_unserved"]

KnownAccount = Callable[[str], bool]
"""Whether the pool of this program has an account."""


def unserved_accounts(connection: Connection, accounts: Iterable[str], known: KnownAccount | None) -> frozenset[str]:
    """Those of the accounts that this program's pool has not, that no description means, and that no other program
    serves now. Without ``known`` nothing can be said: none."""
    if known is None:
        return frozenset()
    return frozenset(
        account
        for account in set(accounts)
        if not known(account) and not account_description(connection, account) and not _served(connection, account)
    )


def why_unserved(account: str) -> str:
    """What that means for what is on it."""
    return f"the pool has no cloud account {account!r} now: what is journaled for it waits until it is there again"


def _served(connection: Connection, account: str) -> bool:
    lease = read_lease(connection, f"account:{account}")
    return lease is not None and bool(lease.holder) and lease.expires_at > store_now(connection)
