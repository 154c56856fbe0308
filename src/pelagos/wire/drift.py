"""Bodies about what clouds have that records do not say: drift and orphans."""

from __future__ import annotations

from typing import Literal

import msgspec

from pelagos.model.errors import ErrorPayload
from pelagos.model.states import ServerState

__all__ = [
    "DriftFinding",
    "DriftKind",
    "DriftRequest",
    "DriftRule",
    "DriftView",
    "OrphanList",
    "OrphanRemoval",
    "OrphanServer",
    "OrphanView",
    "SilentCloud",
]

DriftKind = Literal["vanished", "stopped", "changed", "unknown"]


class DriftRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is not to be reported: findings that fit every field that is given. ``*`` and ``?`` stand for any text, but
    in ``kind``, which is one of those there are or ``*``."""

    kind: Literal["vanished", "stopped", "changed", "unknown", "*"] = "*"
    infrastructure: str = "*"
    node: str = "*"
    cloud: str = "*"
    field: str = "*"
    """Of ``changed``: ``flavor``, ``image``, ``addresses`` or ``private_addresses``."""
    server: str = "*"
    """The server's name or id in its cloud."""


class DriftRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Compare an infrastructure, or with an empty name all of the project and the whole pool."""

    infrastructure: str = ""
    ignore: tuple[DriftRule, ...] = ()


class DriftFinding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One difference. ``expected`` is what the record says, ``found`` what the cloud says."""

    kind: DriftKind
    cloud: str
    provider_id: str
    server: str
    """Its name in the cloud."""
    infrastructure: str = ""
    node: str = ""
    instance_id: str = ""
    field: str = ""
    expected: str = ""
    found: str = ""


class SilentCloud(msgspec.Struct, frozen=True):
    """A cloud that could not be looked at: nothing is known of what drifted there."""

    cloud: str
    error: ErrorPayload


class DriftView(msgspec.Struct, frozen=True, kw_only=True):
    """``compared`` counts servers that were looked at; ``ignored`` findings that a rule fits."""

    at: str
    compared: int
    findings: tuple[DriftFinding, ...]
    ignored: int
    silent: tuple[SilentCloud, ...]


class OrphanView(msgspec.Struct, frozen=True, kw_only=True):
    """A server that carries a token of a create call, which no record knows."""

    cloud: str
    provider_id: str
    name: str
    state: ServerState
    addresses: tuple[str, ...]
    flavor: str
    created_at: str | None


class OrphanList(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[OrphanView, ...]
    silent: tuple[SilentCloud, ...]


class OrphanServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    cloud: str
    provider_id: str


class OrphanRemoval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Delete these orphans: all, or none if one is none."""

    servers: tuple[OrphanServer, ...]
