"""The daemon's own token: made when it first listens on TCP, kept in ``<home>/token`` for this user alone."""

from __future__ import annotations

from pathlib import Path

from pelagos.api import new_token, token_row, write_token
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.model.world import World
from pelagos.process import get_logger
from pelagos.runtime.home import write_private
from pelagos.store import Store

__all__ = ["TOKEN_FILE", "ensure_token"]

log = get_logger(__name__)

TOKEN_FILE = "token"  # noqa: S105 - a file's name
_MARGIN = 2 * 3600.0
"""A token with less time than this left is replaced: the daemon looks once an hour."""


async def ensure_token(store: Store, world: World, home: Path, *, lifetime: float) -> Path:
    """Make sure that the file holds a token which the store knows and which is valid for a while; returns its path.

    The store is written first: a token in the file that nobody knows would be worse than one that nobody has."""
    path = home / TOKEN_FILE
    now = world.now()
    margin = min(_MARGIN, lifetime / 2)
    try:
        present = path.read_text("utf-8").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        present = ""
    if present:
        row = await store.read(lambda connection: token_row(connection, present))
        if row is not None and now + margin < row.expires_at <= now + lifetime:
            path.chmod(0o600)
            return path
    token = new_token()
    await store.run(
        lambda connection: write_token(
            connection, token, DEFAULT_SCOPE, now=now, lifetime=lifetime, description="the daemon's own"
        )
    )
    write_private(path, token + "\n")
    log.info("a new token was made", file=str(path), days=round(lifetime / 86_400, 2))
    return path
