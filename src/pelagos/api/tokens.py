"""Bearer tokens: only their digests are stored, and each ends.

A token is 256 random bits, so a plain SHA-256 protects it at rest: there is nothing to guess. Looking a digest up by
its index leaks no usable timing, since an attacker cannot choose digests; the comparison is done in constant time all
the same, in the one place that decides.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from pelagos.model.scope import Scope
from pelagos.store.schema import api_tokens

__all__ = [
    "TOKEN_PREFIX",
    "TokenRow",
    "digest_of",
    "forget_token",
    "new_token",
    "token_owner",
    "token_row",
    "write_token",
]

TOKEN_PREFIX = "plg_"  # noqa: S105 - what tokens begin with, no token
"""So that secret scanners, and our own redaction, know one when they see it."""


class TokenRow(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    scope: Scope
    description: str
    expires_at: float


def new_token() -> str:
    """A new token. Not from the world: a simulation has no secrets, and a secret must not be reproducible."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def write_token(
    connection: Connection, token: str, scope: Scope, *, now: float, lifetime: float, description: str = ""
) -> None:
    """Store a token's digest, or give a known one a new end."""
    values = {"expires_at": now + lifetime, "description": description}
    digest = digest_of(token)
    changed = connection.execute(update(api_tokens).where(api_tokens.c.digest == digest).values(**values))
    if changed.rowcount == 0:
        connection.execute(
            insert(api_tokens).values(
                digest=digest, project_id=scope.project_id, user_id=scope.user_id, created_at=now, **values
            )
        )


def forget_token(connection: Connection, token: str) -> None:
    """The token is worth nothing from now on."""
    connection.execute(delete(api_tokens).where(api_tokens.c.digest == digest_of(token)))


def token_row(connection: Connection, token: str) -> TokenRow | None:
    """What is stored of a token, also when it has expired."""
    digest = digest_of(token)
    row = connection.execute(select(api_tokens).where(api_tokens.c.digest == digest)).one_or_none()
    if row is None or not hmac.compare_digest(row.digest, digest):
        return None
    return TokenRow(
        digest=row.digest,
        scope=Scope(project_id=row.project_id, user_id=row.user_id),
        description=row.description,
        expires_at=row.expires_at,
    )


def token_owner(connection: Connection, token: str, *, now: float) -> Scope | None:
    """Whose token it is; None if it is unknown or has expired."""
    row = token_row(connection, token)
    return row.scope if row is not None and now < row.expires_at else None
