"""The records that a simulated cloud's reality consists of; all of them plain values, so that a file can hold it."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from pelagos.clouds.values import CloudPart, CloudServer, PartKind
from pelagos.model.errors import ErrorPayload
from pelagos.model.states import ServerState

__all__ = ["Change", "Command", "Happening", "Outcome", "Part", "Reality", "Server"]

FLAP_SECONDS = 30.0
_ADDRESSES = 1 << 23
_FLAVOR, _IMAGE = "small", "default"
"""What a resource that names none gets."""


class Change(msgspec.Struct, frozen=True, array_like=True):
    """A server's new state, when it holds and from when on reads show it."""

    at: float
    state: ServerState
    cause: str
    seen_at: float


class Server(msgspec.Struct):
    """A server that was really made. Its life is ``changes``, by rising time; those ahead are only planned."""

    number: int
    provider_id: str
    name: str
    token: str
    created_at: float
    """Wall-clock seconds."""
    changes: list[Change]
    hostname: str = ""
    group: str = ""
    user_data: str = ""
    metadata: dict[str, str] = {}
    options: dict[str, Any] = {}
    health: str = "ok"
    refuses_until: float = -math.inf
    parts: list[str] = []
    """Provider ids of the parts that it has."""
    given: list[str] = []
    """Addresses that it was given when it was finished."""
    updates: int = 0
    """How often its options were changed."""

    def change_at(self, t: float) -> Change | None:
        """The change whose state really holds at ``t``."""
        for change in reversed(self.changes):
            if change.at <= t:
                return change
        return None

    def state_at(self, t: float) -> ServerState:
        """The real state at ``t``; DELETED before its time as well as after it."""
        change = self.change_at(t)
        return ServerState.DELETED if change is None else change.state

    def plan(self, at: float, *changes: Change) -> None:
        """Replace what was planned after ``at`` by ``changes``. A doom stays, unless the server is deleted."""
        ahead = [c for c in self.changes if c.at > at and c.cause == "spot"]
        deleted = any(c.state is ServerState.DELETING or c.state is ServerState.DELETED for c in changes)
        kept = [c for c in self.changes if c.at <= at]
        kept.extend(changes)
        if ahead and not deleted:
            kept = [c for c in kept if c.at <= ahead[0].at]
            kept.extend(ahead)
        self.changes = kept

    def in_transit(self, t: float) -> bool:
        """Whether a state is planned to follow, other than by doom."""
        return any(c.at > t and c.cause != "spot" for c in self.changes)

    def booted_by(self, t: float) -> float | None:
        """When it first became ACTIVE, if it has by ``t``."""
        for change in self.changes:
            if change.at > t:
                return None
            if change.state is ServerState.ACTIVE:
                return change.at
        return None

    def healthy_at(self, t: float) -> bool:
        """What a probe of it finds."""
        booted = self.booted_by(t)
        if booted is None or self.state_at(t) is not ServerState.ACTIVE:
            return False
        match self.health:
            case "bad":
                return False
            case "flapping":
                return int((t - booted) / FLAP_SECONDS) % 2 == 0
            case _:
                return True

    @property
    def address(self) -> str:
        """In 10.0.0.0/9."""
        return _address(0, self.number)

    @property
    def private_address(self) -> str:
        """In 10.128.0.0/9."""
        return _address(128, self.number)

    def show(self, change: Change, booted: bool) -> CloudServer:
        """The server as the provider tells it when ``change`` is the last it tells of."""
        return CloudServer(
            provider_id=self.provider_id,
            name=self.name,
            state=change.state,
            token=self.token,
            addresses=(*self.given, self.address) if booted else (),
            private_addresses=(self.private_address,) if booted else (),
            reason=_REASONS.get((change.state, change.cause), ""),
            created_at=self.created_at,
            flavor=str(self.options.get("flavor", _FLAVOR)),
            image=str(self.options.get("image", _IMAGE)),
        )

    def seen_at(self, t: float) -> tuple[CloudServer | None, float]:
        """What reads show at ``t`` (None: nothing), and until when that holds."""
        shown: Change | None = None
        booted = False
        until = math.inf
        for change in self.changes:
            if change.seen_at > t:
                until = change.seen_at
                break
            shown = change
            booted = booted or change.state is ServerState.ACTIVE
        if shown is None or shown.state is ServerState.DELETED:
            return None, until
        return self.show(shown, booted), until

    def truth_at(self, t: float) -> CloudServer:
        """The server as it really is, whatever reads show."""
        change = self.change_at(t) or self.changes[0]
        return self.show(change, self.booted_by(t) is not None)


_REASONS = {
    (ServerState.ERROR, "boot"): "the simulated boot failed",
    (ServerState.ERROR, "spot"): "taken away by the provider",
    (ServerState.STOPPED, "spot"): "stopped by the provider",
    (ServerState.ERROR, "kill"): "killed out of band",
    (ServerState.STOPPED, "kill"): "stopped out of band",
}


def _address(second: int, number: int) -> str:
    host = number % _ADDRESSES
    return f"10.{second + (host >> 16)}.{(host >> 8) & 255}.{host & 255}"


class Part(msgspec.Struct):
    """A part that was really made. Times in the cloud's own."""

    number: int
    provider_id: str
    kind: PartKind
    name: str
    token: str
    made_at: float
    seen_at: float
    ready_at: float
    """Infinite: never."""
    fails: bool = False
    """It fails in place of becoming ready."""
    gone_at: float = math.inf
    gone_seen_at: float = math.inf
    refuses_until: float = -math.inf

    def there(self, t: float) -> bool:
        """Whether it really is."""
        return self.made_at <= t < self.gone_at

    def shown(self, t: float) -> bool:
        """Whether reads show it."""
        return self.seen_at <= t < self.gone_seen_at

    def show(self, t: float) -> CloudPart:
        """As the provider tells it."""
        done = t >= self.ready_at
        return CloudPart(
            provider_id=self.provider_id,
            kind=self.kind,
            name=self.name,
            token=self.token,
            ready=done and not self.fails,
            failed="the simulated part failed" if done and self.fails else "",
            address=_address(64, self.number) if self.kind is PartKind.ADDRESS else "",
        )


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A request with an effect on its way to the provider. All chance in it has been drawn when it was sent."""

    number: int
    at: float
    """When it arrives."""
    verb: str
    wanted: bool
    """Whether anybody will collect the outcome."""
    provider_id: str = ""
    token: str = ""
    name: str = ""
    hostname: str = ""
    group: str = ""
    user_data: str = ""
    metadata: dict[str, str] = {}
    options: dict[str, Any] = {}
    part_kind: PartKind = PartKind.VOLUME
    parts: list[str] = []
    """Provider ids of the parts that a server is made with, or given."""
    takes: float = 0.0
    """How long the change takes: boot, delete or power."""
    lag: float = 0.0
    """How long reads show what was before."""
    fate: str = ""
    """A fault that befalls the server."""
    doom_after: float = math.inf
    doom_state: ServerState = ServerState.DELETED
    refuse_for: float = 0.0


class Outcome(msgspec.Struct, frozen=True):
    """What became of a command: a server, a part, an error, or just done."""

    at: float
    server: CloudServer | None = None
    part: CloudPart | None = None
    error: ErrorPayload | None = None


class Happening(msgspec.Struct, frozen=True):
    """One real change of one server, for invariants: history is a list of these."""

    at: float
    provider_id: str
    name: str
    token: str
    state: ServerState
    cause: str
    """create, boot, start, stop, reboot, delete, spot, kill, vanish, foreign; an adoption changes no state."""


class Reality(msgspec.Struct):
    """The whole of it, as a file holds it."""

    next_server: int = 1
    next_command: int = 1
    servers: list[Server] = []
    """Those that reads may show, by arrival."""
    gone: list[Server] = []
    commands: list[Command] = []
    """On their way."""
    outcomes: dict[int, Outcome] = {}
    """Of commands, until collected."""
    next_part: int = 1
    parts: list[Part] = []
    """Those that reads may show, by arrival."""
    gone_parts: list[Part] = []
