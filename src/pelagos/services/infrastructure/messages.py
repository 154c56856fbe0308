"""What the infrastructure service is asked by message. Reads are in :mod:`pelagos.services.infrastructure.queries`."""

from __future__ import annotations

import msgspec

from pelagos.wire.infrastructures import LogView, ProtectRequest

__all__ = [
    "CancelRun",
    "CostsRequest",
    "DeleteDefinition",
    "ImportDefinitions",
    "InfrastructureRef",
    "Logs",
    "LogsRequest",
    "OrphansRequest",
    "Protect",
    "RefreshLive",
    "SetMaintained",
]


class InfrastructureRef(msgspec.Struct, frozen=True, kw_only=True):
    """``infrastructure`` is a name or an id of the caller's project."""

    infrastructure: str


class CancelRun(msgspec.Struct, frozen=True, kw_only=True):
    """Stop a run and roll back what it made, or keep that. Cancelling a finished run is no error."""

    run_id: str
    keep: bool = False


class SetMaintained(msgspec.Struct, frozen=True, kw_only=True):
    """attach and detach, suspend and resume: whether it is kept alive. ``suspend``: not even by a command's run, until
    it is resumed or maintained again; ``reason`` says why, for people. ``resume``: a suspension ends, and it is
    maintained if it was before; nothing happens to what is not suspended. ``strict``: it is an error if it is
    maintained already, or is not."""

    infrastructure: str
    maintained: bool
    suspend: bool = False
    reason: str = ""
    resume: bool = False
    strict: bool = False


class OrphansRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The orphans of these accounts; none named: of the whole pool."""

    clouds: tuple[str, ...] = ()


class Protect(msgspec.Struct, frozen=True, kw_only=True):
    """Protect the instances of a node, or one of them by id or address; or lift that."""

    infrastructure: str
    request: ProtectRequest


class ImportDefinitions(msgspec.Struct, frozen=True, kw_only=True):
    sources: dict[str, str]
    entries: tuple[str, ...]
    map_clouds: str = ""


class LogsRequest(msgspec.Struct, frozen=True, kw_only=True):
    infrastructure: str
    node: str = ""
    max_bytes: int = 65536


class Logs(msgspec.Struct, frozen=True):
    items: tuple[LogView, ...]


class CostsRequest(msgspec.Struct, frozen=True, kw_only=True):
    infrastructure: str


class RefreshLive(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the clouds now (``status --live``); answers when the store holds what they said."""

    infrastructure: str


class DeleteDefinition(msgspec.Struct, frozen=True, kw_only=True):
    type: str
