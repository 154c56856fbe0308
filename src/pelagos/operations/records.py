"""The values that go into the journal and come out of it."""

from __future__ import annotations

from typing import Any

import msgspec

from pelagos.clouds.values import CloudPart, CloudServer, PartKind, PartSpec, ServerSpec
from pelagos.model.errors import ErrorPayload
from pelagos.model.scope import Scope
from pelagos.model.states import OperationState, PartState

__all__ = [
    "SERVER_QUOTA",
    "WAITING",
    "Absent",
    "AdoptParameters",
    "Adoption",
    "Again",
    "Call",
    "Done",
    "Failed",
    "Found",
    "Made",
    "NewServer",
    "OperationRecord",
    "OrphanRemoval",
    "Outcome",
    "PartRecord",
    "PartSweepParameters",
    "Reached",
    "Result",
    "Retry",
    "ServerAction",
    "ServerUpdate",
    "SweepParameters",
    "Uncertain",
    "UpdateParameters",
    "part_quota",
]

WAITING = 1e15
"""``next_at`` of what no clock takes up: an operation behind another of its target, or one a worker has in hand."""

SERVER_QUOTA = {"servers": 1}
"""What a server holds of its project's quota."""

_PART_QUOTA = {
    PartKind.VOLUME: "volumes",
    PartKind.PORT: "ports",
    PartKind.ADDRESS: "addresses",
    PartKind.NETWORK: "networks",
}


def part_quota(spec: PartSpec) -> dict[str, int]:
    """What a part holds of its project's quota."""
    held = {_PART_QUOTA[spec.kind]: 1}
    if spec.kind is PartKind.VOLUME and spec.size_gb:
        held["volume_gb"] = spec.size_gb
    return held


class NewServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server to create. All ids are chosen beforehand: the transaction that writes them may run twice."""

    operation_id: str
    request_id: str
    server_id: str
    account: str
    spec: ServerSpec
    infrastructure_id: str | None = None
    instance_id: str | None = None
    expires_at: float | None = None
    parts: tuple[PartSpec, ...] | None = ()
    """What it needs beforehand, in the order of making. None: not known yet; the account's worker asks its driver."""


class ServerAction(msgspec.Struct, frozen=True, kw_only=True):
    """A delete, start, stop or reboot of a server that has a record."""

    operation_id: str
    request_id: str
    server_id: str
    expires_at: float | None = None


class ServerUpdate(ServerAction, frozen=True, kw_only=True):
    """Keys of a server's resource that are to have these values while it goes on running."""

    values: dict[str, Any]
    label: str = ""
    """What whoever asks calls a server with these values; it is found again in the server's facts."""
    former: str = ""
    """What whoever asks calls it as it is on record there."""


class Adoption(msgspec.Struct, frozen=True, kw_only=True):
    """A server that is there already, to be taken on record. All ids are chosen beforehand."""

    operation_id: str
    request_id: str
    server_id: str
    account: str
    provider_id: str
    token: str = ""
    """What it carries already, where its record was lost; empty: it is somebody else's and gets a new one."""
    spec: ServerSpec
    """What is known of it, as if it had been asked for so."""
    infrastructure_id: str | None = None
    instance_id: str | None = None
    expires_at: float | None = None


class OrphanRemoval(msgspec.Struct, frozen=True, kw_only=True):
    """A server of ours that no record knows, to be deleted."""

    operation_id: str
    request_id: str
    account: str
    provider_id: str
    token: str


class AdoptParameters(msgspec.Struct, frozen=True):
    """Parameters of ``server.adopt``: which server of the cloud, and the token it carries already, if it does."""

    provider_id: str
    token: str = ""


class UpdateParameters(msgspec.Struct, frozen=True):
    """Parameters of ``server.update``, as of :class:`ServerUpdate`."""

    values: dict[str, Any]
    label: str = ""
    former: str = ""


class SweepParameters(msgspec.Struct, frozen=True):
    """Parameters of ``server.sweep``: which server of the cloud is one too many."""

    provider_id: str


class PartSweepParameters(msgspec.Struct, frozen=True):
    """Parameters of ``part.sweep``: which part of the cloud is one too many."""

    part: CloudPart


class PartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a server as the store has it."""

    id: str
    server_id: str
    key: str
    kind: PartKind
    name: str
    provider_id: str | None
    token: str
    state: PartState
    address: str
    keep: bool
    spec: PartSpec

    @property
    def cloud(self) -> CloudPart:
        """As its driver knows it."""
        return CloudPart(
            provider_id=self.provider_id or "",
            kind=self.kind,
            name=self.name,
            token=self.token,
            address=self.address,
        )


class OperationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An operation as it stands in the journal. Times in wall-clock seconds."""

    id: str
    project_id: str
    user_id: str
    kind: str
    account: str
    target_id: str
    infrastructure_id: str | None
    request_id: str
    state: OperationState
    step: int
    attempts: int
    next_at: float | None
    """When it is taken up next; None: it waits for something else than the clock."""
    error: ErrorPayload | None
    created_at: float
    updated_at: float
    finished_at: float | None


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is to do now for one operation, as the claim wrote it into the journal."""

    operation_id: str
    kind: str
    step: int
    verb: str
    """A step's verb, or ``lookup``: find what the open attempt made."""
    scope: Scope
    server_id: str
    infrastructure_id: str | None = None
    instance_id: str | None = None
    provider_id: str | None = None
    spec_blob: bytes = b""
    token: str = ""
    attempts: int = 0
    """Attempts at this step, this one included."""
    deadline: float = 0.0
    """Wall-clock time by which the call has ended one way or another."""
    not_after: float = 0.0
    since: float = 0.0
    """When the step began."""
    resent: bool = False
    """A create that was sent before with this token, and whose outcome is not known: an error of this call says nothing
    of that one."""
    parts: tuple[PartRecord, ...] = ()
    """The server's living parts in the order of making, where it is made or deleted with parts."""
    part: PartRecord | None = None
    """The one of them that the step is about."""
    stray: CloudPart | None = None
    """``part.sweep``: what is one too many."""
    values: dict[str, Any] = {}
    """``server.update``: the keys' wanted values."""
    counted: bool = True
    """The server is counted as used in its project's quota."""

    @property
    def awaited_id(self) -> str:
        """The cloud's id of what the step is about."""
        if self.stray is not None:
            return self.stray.provider_id
        return (self.provider_id if self.part is None else self.part.provider_id) or ""

    def carry(self) -> dict[str, Any]:
        """The columns that its events carry."""
        return {
            "infrastructure_id": self.infrastructure_id,
            "instance_id": self.instance_id,
            "server_id": self.server_id,
            "operation_id": self.operation_id,
        }


class Found(msgspec.Struct, frozen=True):
    """The server is there: the create call answered with it, or a look-up found it."""

    server: CloudServer


class Made(msgspec.Struct, frozen=True):
    """The part is there, ready or not: the call answered with it, a look-up found it, or a listing shows it ready."""

    part: CloudPart


class Done(msgspec.Struct, frozen=True):
    """The call took effect; ``reason`` says why where that was no call's doing (it was gone already)."""

    reason: str = ""


class Reached(msgspec.Struct, frozen=True):
    """An awaited state is there."""

    server: CloudServer


class Retry(msgspec.Struct, frozen=True):
    """Certainly nothing was done; again at ``next_at``, with the same token."""

    error: ErrorPayload
    next_at: float


class Uncertain(msgspec.Struct, frozen=True):
    """It may have been done; look at ``next_at``."""

    error: ErrorPayload
    next_at: float


class Absent(msgspec.Struct, frozen=True):
    """A look-up found nothing. Counts only if it began after the attempt's ``not_after``."""

    counts: bool
    next_at: float


class Again(msgspec.Struct, frozen=True):
    """What was awaited does not come; the call before it is sent again at ``next_at``."""

    error: ErrorPayload
    next_at: float


class Failed(msgspec.Struct, frozen=True):
    """It will not succeed. ``gone``: the cloud has nothing of it (any more), so there is nothing to take back."""

    error: ErrorPayload
    gone: bool = False


Result = Found | Made | Done | Reached | Retry | Uncertain | Absent | Again | Failed


class Outcome(msgspec.Struct, frozen=True):
    """What a call came to."""

    call: Call
    result: Result
