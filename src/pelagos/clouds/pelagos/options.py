"""The keys of an account and of a resource section with ``type: pelagos``."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from pelagos.clouds.endpoints import endpoint_problem

__all__ = ["PelagosAccount", "PelagosResource"]

Secret = Annotated[str, msgspec.Meta(extra={"secret": True})]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class PelagosAccount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An account's options with ``driver: pelagos``. Times in seconds."""

    endpoint: str
    """Where the other daemon answers: ``https://host:port``, ``unix:///path/pelagos.sock``, or on this machine
    ``http://127.0.0.1:port``."""
    token: Secret = ""
    """Of the other daemon's home; none on its Unix socket."""
    scope: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9]*\Z", max_length=12)] = ""
    """Keeps apart the servers of several installations that share the other Pelagos: each has one of its own."""
    create_timeout: Seconds = 60.0
    call_timeout: Seconds = 30.0
    build_timeout: Seconds = 1800.0
    poll_interval: Seconds = 2.0
    settle: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    """How long after a call's deadline the other daemon may still take up a request that was on its way."""

    def __post_init__(self) -> None:
        problem = None if self.endpoint.startswith("unix:///") else endpoint_problem(self.endpoint)
        if problem is not None:
            raise ValueError(f"{problem} or unix:///")
        if max(self.create_timeout, self.poll_interval) > self.build_timeout:
            raise ValueError("`create_timeout` and `poll_interval` may not be above `build_timeout`")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(endpoint={self.endpoint!r}, ...)"  # the token is a secret


class PelagosResource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The keys of a ``resource`` section with ``type: pelagos``, less ``type``, ``name`` and ``endpoint``."""

    resource: dict[str, Any]
    """The ``resource`` section of the server there, as a node definition of the other Pelagos would have it: ``type``,
    perhaps ``name`` (an account of its pool), and the keys of that type."""

    def __post_init__(self) -> None:
        if not isinstance(self.resource.get("type"), str) or not self.resource["type"]:
            raise ValueError("`resource` lacks type")
