"""The clouds of the pool, for the HTTP API, the clients and the command line. Times are RFC 3339 text in UTC."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from pelagos.model.errors import ErrorPayload
from pelagos.model.states import ServerState

__all__ = [
    "CloudCheck",
    "CloudCheckRequest",
    "CloudChecks",
    "CloudList",
    "CloudServerView",
    "CloudServers",
    "CloudView",
    "FlavorList",
    "FlavorView",
    "ImageList",
    "ImageView",
    "PoolChangeView",
    "PoolReload",
]

CloudState = Literal["unknown", "ok", "limited", "unreachable", "refused", "failing", "broken", "draining", "removed"]


class CloudView(msgspec.Struct, frozen=True, kw_only=True):
    """An account of the pool, and how it is as far as its calls tell.

    ``state`` is ``unknown`` before anything was asked of it; ``refused``: its credentials are not accepted;
    ``limited``: too many requests, it is left alone for a while; ``broken``: it cannot be opened; ``draining``: it was
    replaced or removed, and its last calls end; ``removed``: the pool has it no more, and it has servers or journaled
    work still.
    """

    name: str
    driver: str = ""
    endpoint: str = ""
    region: str = ""
    default: bool = False
    source: str = ""
    """Who names it: the configuration, a file, a description."""
    state: CloudState
    opened: bool = False
    """Whether its driver is open in the process that answers."""
    served: Literal["here", "elsewhere", "nowhere"] = "nowhere"
    """Which process carries out its operations now; nowhere: nobody has to."""
    servers: int = 0
    """Living servers of all projects."""
    operations: dict[str, int] = {}
    """Unfinished operations by their states."""
    in_flight: int = 0
    """Calls that are out now."""
    held_for: float = 0.0
    """Seconds for which it wants to be left alone."""
    circuit: str = ""
    """``open`` while its driver sends nothing, since earlier calls do not come back; empty where it has none."""
    answered_at: str | None = None
    latency: float | None = None
    """Seconds that its answers take, the last ones counting more."""
    error: ErrorPayload | None = None
    """The last one, whether or not it has answered since."""
    error_at: str | None = None
    details: dict[str, Any] = {}
    """Capabilities and the driver's own facts, where one cloud is asked for."""


class CloudList(msgspec.Struct, frozen=True):
    items: tuple[CloudView, ...]


class CloudCheckRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``cloud`` is one account; empty: all of the pool."""

    cloud: str = ""


class CloudCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What came of asking a cloud for its servers, now."""

    cloud: str
    ok: bool
    seconds: float | None
    """How long the answer took."""
    error: ErrorPayload | None


class CloudChecks(msgspec.Struct, frozen=True):
    items: tuple[CloudCheck, ...]


class ImageView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    """What a resource section names it by."""
    name: str
    size_bytes: int | None
    created_at: str | None


class ImageList(msgspec.Struct, frozen=True):
    items: tuple[ImageView, ...]


class FlavorView(msgspec.Struct, frozen=True, kw_only=True):
    """A size of servers; null where the cloud does not say."""

    id: str
    """What a resource section names it by."""
    name: str
    vcpus: float | None
    ram_mb: int | None
    disk_gb: float | None
    price_per_hour: float | None
    currency: str


class FlavorList(msgspec.Struct, frozen=True):
    items: tuple[FlavorView, ...]


class CloudServerView(msgspec.Struct, frozen=True, kw_only=True):
    """A server as its cloud shows it now. The ids are those of the project's records; null for what is not its own."""

    provider_id: str
    name: str
    state: ServerState
    ours: bool
    """Whether Pelagos made or adopted it: it carries a token."""
    addresses: tuple[str, ...]
    server_id: str | None
    infrastructure_id: str | None
    instance_id: str | None
    created_at: str | None


class CloudServers(msgspec.Struct, frozen=True):
    items: tuple[CloudServerView, ...]


class PoolReload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``cloud``: also open this one anew, which reads its secrets again; empty: none."""

    cloud: str = ""


class PoolChangeView(msgspec.Struct, frozen=True, kw_only=True):
    """What another configuration of the pool changed, by names. ``renewed`` are as before, and were opened anew since a
    secret of theirs was rotated, or since that was asked for."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renewed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
