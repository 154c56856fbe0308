"""What the store knows of cloud accounts: which have work or servers, how much, and what described ones are made of."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, func, select

from pelagos.clouds.values import ServerSpec
from pelagos.store.schema import operations, servers

__all__ = ["AccountUse", "account_description", "described_accounts", "use_of_accounts"]

_spec = msgspec.msgpack.Decoder(ServerSpec).decode
_in_use = select(servers.c.account).where(servers.c.deleted_at.is_(None)).distinct()
_at_work = select(operations.c.account).where(operations.c.finished_at.is_(None)).distinct()
_one_spec = (
    select(servers.c.spec_blob)
    .where(servers.c.account == bindparam("b_account"))
    .order_by(servers.c.deleted_at.is_(None).desc(), servers.c.created_at.desc())
    .limit(1)
)
_servers = select(servers.c.account, func.count()).where(servers.c.deleted_at.is_(None)).group_by(servers.c.account)
_operations = (
    select(operations.c.account, operations.c.state, func.count())
    .where(operations.c.finished_at.is_(None), operations.c.kind != "account.refresh")
    .group_by(operations.c.account, operations.c.state)
)


class AccountUse(msgspec.Struct, frozen=True):
    """How many living servers an account has, and how many unfinished operations in each state."""

    servers: int = 0
    operations: dict[str, int] = {}


def use_of_accounts(connection: Connection) -> dict[str, AccountUse]:
    """Of every account that has any, of all projects: two selects."""
    counted: dict[str, int] = {str(account): int(count) for account, count in connection.execute(_servers)}
    unfinished: dict[str, dict[str, int]] = {}
    for account, state, count in connection.execute(_operations):
        unfinished.setdefault(account, {})[state] = count
    return {
        name: AccountUse(counted.get(name, 0), unfinished.get(name, {})) for name in sorted({*counted, *unfinished})
    }


def described_accounts(connection: Connection, known: frozenset[str]) -> dict[str, dict[str, Any]]:
    """Accounts with living servers or unfinished operations that are not ``known`` -> what they are made of, as it was
    journaled with a server of theirs; empty for one that was configured once."""
    names = {*connection.execute(_in_use).scalars(), *connection.execute(_at_work).scalars()} - known
    return {name: account_description(connection, name) for name in sorted(names)}


def account_description(connection: Connection, account: str) -> dict[str, Any]:
    """What an account is made of that a description means, as it was journaled; empty for any other."""
    blob = connection.execute(_one_spec, {"b_account": account}).scalar()
    return {} if blob is None else _spec(blob).account
