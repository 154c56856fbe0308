"""Bringing a database's schema to this program's version.

Alembic is imported only when a database that exists has another version than ours: its import would be a good part of
a whole `pelagos status`. A fresh database is made from the tables directly and stamped, which a test holds equal to
the way through all migrations. Both happen in one transaction under the database's write lock, so that two processes
that start at once on an empty database both succeed: the second finds the work done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, inspect, text

from pelagos.model.errors import StoreUnavailable
from pelagos.store.container_schema import metadata

__all__ = ["HEAD", "bring_up_to_date", "downgrade", "upgrade"]

HEAD = "0020"
"""The newest revision in ``migrations/versions``; a test holds it to be so."""

_LOCK = 0x70656C61676F73 & 0x7FFFFFFF
"""Key of the advisory lock that whoever migrates holds on PostgreSQL."""
_VERSION_TABLE = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"  # noqa: E501


def bring_up_to_date(connection: Connection, control: Callable[[str], Any], where: str) -> None:
    """Migrate to :data:`HEAD` if need be. ``control`` sends BEGIN and COMMIT below ``connection``.

    Raises StoreUnavailable if the database is newer than this program."""
    if _version(connection) == HEAD:
        return
    control("BEGIN IMMEDIATE" if connection.dialect.name == "sqlite" else "BEGIN")
    try:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        version = _version(connection)
        if version is None:
            metadata.create_all(connection, checkfirst=False)
            connection.execute(text(_VERSION_TABLE))
            connection.execute(text("INSERT INTO alembic_version VALUES (:version)"), {"version": HEAD})
        elif version != HEAD:
            upgrade(connection, HEAD, where)
    except BaseException:
        control("ROLLBACK")
        raise
    control("COMMIT")


def upgrade(connection: Connection, revision: str = HEAD, where: str = "") -> None:
    """Run the migrations from the database's version up to ``revision``, in the caller's transaction."""
    from alembic.script.revision import ResolutionError
    from alembic.util import CommandError

    try:
        _migrate(connection, revision, up=True)
    except (CommandError, ResolutionError) as error:
        raise StoreUnavailable(
            f"the store {where} has schema version {_version(connection)}, which this program (version {HEAD}) does "
            "not know: it was made by a newer Pelagos",
            advice="Use that newer version of Pelagos, or another PELAGOS_HOME.",
        ) from error


def downgrade(connection: Connection, revision: str) -> None:
    """Run the migrations down to ``revision`` (``base``: nothing left), in the caller's transaction."""
    _migrate(connection, revision, up=False)


def _migrate(connection: Connection, revision: str, *, up: bool) -> None:
    from pelagos.store.migrations.running import run_migrations

    run_migrations(connection, revision, up=up)


def _version(connection: Connection) -> str | None:
    """The database's version; None if it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found
