"""The gate of TCP: Host, Origin, token, in this order (decision 14).

A loopback address is no protection from the user's own browser: any page may send requests to it, and a name of the
page's own domain may be made to resolve to 127.0.0.1 (DNS rebinding). So the Host header must be one that this listener
was given, and a request that a browser marks with a foreign Origin is refused, both before anybody looks at the token.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import Scope as ASGIScope

from pelagos.api.edge import Edge
from pelagos.api.faces import Admission
from pelagos.api.problems import HttpProblem, rejected
from pelagos.api.tokens import token_owner
from pelagos.model.errors import ErrorPayload
from pelagos.model.scope import Scope

__all__ = ["LOOPBACK_NAMES", "guard"]

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def guard(edge: Edge, *, hosts: Iterable[str] = LOOPBACK_NAMES, origins: Iterable[str] = ()) -> Admission:
    """Admits requests that name one of ``hosts`` (no ports), come from one of ``origins`` or from no page at all, and
    carry a valid token. A page served by this very listener is of its own origin and admitted."""
    known_hosts = frozenset(host.lower() for host in hosts)
    known_origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    async def admit(scope: ASGIScope) -> Scope:
        host = _single(scope, b"host")
        if host is None or _hostname(host) not in known_hosts:
            raise rejected(
                403,
                "the request is for a host that this server is not",
                code="forbidden",
                advice="Use the address it listens on, or add the name to http.hosts in its configuration.",
            )
        origin = _single(scope, b"origin")
        if origin is not None:
            own = f"{scope.get('scheme', 'http')}://{host}".lower()
            if origin.lower() != own and origin.lower() not in known_origins:
                raise rejected(
                    403,
                    "requests from pages of other origins are not admitted",
                    code="forbidden",
                    advice="Add the origin to http.origins in the server's configuration if you trust it.",
                )
        token = _bearer(scope)
        if token is None:
            raise _unauthenticated("This address needs a token.", "")
        owner = await edge.store.read(lambda connection: token_owner(connection, token, now=edge.world.now()))
        if owner is None:
            raise _unauthenticated("The token is not known, or has expired.", ', error="invalid_token"')
        return owner

    return admit


def _unauthenticated(message: str, parameters: str) -> HttpProblem:
    return HttpProblem(
        ErrorPayload(
            code="unauthenticated",
            message=message,
            advice="Send Authorization: Bearer TOKEN; the server keeps one in the file `token` of its home"
            " (for the command line: PELAGOS_TOKEN).",
            status=401,
        ),
        {"WWW-Authenticate": f'Bearer realm="pelagos"{parameters}'},
    )


def _single(scope: ASGIScope, name: bytes) -> str | None:
    """The header's value; none if it is absent or ambiguous, which for Host means refused."""
    values = [value.decode("latin-1").strip() for key, value in scope["headers"] if key == name]
    if len(values) > 1:
        raise rejected(400, f"the header {name.decode()} is given more than once")
    return values[0] if values else None


def _hostname(host: str) -> str:
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises for what is no port
        plain = parts.hostname if parts.username is None and not parts.path else None
    except ValueError:
        plain = None
    return (plain or "").lower()


def _bearer(scope: ASGIScope) -> str | None:
    value = _single(scope, b"authorization")
    if value is None:
        return None
    scheme, _, token = value.partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and token else None
