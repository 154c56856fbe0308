"""What goes into a driver and comes out of it: plain values that all clouds share."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from pelagos.model.states import ServerState

__all__ = [
    "Capabilities",
    "CloudFlavor",
    "CloudImage",
    "CloudPart",
    "CloudServer",
    "CommandResult",
    "PartKind",
    "PartSpec",
    "ServerSpec",
    "TokenLookup",
]


class TokenLookup(enum.StrEnum):
    """How a driver finds what an attempt made."""

    IDEMPOTENT = "idempotent"
    """The cloud itself takes the token: a create sent again with it returns the first one's server."""
    TAG = "tag"
    """The token is written as a tag or metadata in the create call itself."""
    NAME = "name"
    """The token is part of the server's name."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a driver can do, and how its cloud behaves. Times in seconds."""

    token_lookup: TokenLookup
    settle: float
    """How long after a call's deadline its effect may still become visible; then absent means: was not made."""
    create_timeout: float = 60.0
    """Deadline of one create call."""
    call_timeout: float = 30.0
    """Deadline of any other call."""
    build_timeout: float = 900.0
    """How long a server may stay in BUILD before it counts as failed."""
    poll_interval: float = 2.0
    """Longest pause between two listings while a server changes its state."""
    parallel_calls: int = 16
    """Calls in flight an account at once."""
    calls_per_second: float = 0.0
    """Pacer's rate an account; 0: unlimited."""
    power: bool = False
    """start, stop and reboot are there."""
    console: bool = False
    """console() is there."""
    execute: bool = False
    """execute() is there: commands can be run inside an instance."""
    updates: frozenset[str] = frozenset()
    """Resource keys that ``update_server`` sets on a server while it goes on running; see ``ServerUpdater``."""
    user_data_limit: int | None = None
    """Most bytes of user data."""
    host_local: bool = False
    """Servers are processes of this machine."""


class ServerSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A server to create. ``options`` is the driver's own Struct as a plain mapping (already validated)."""

    name: str
    """Unique and readable; shown in the cloud's own console."""
    hostname: str = ""
    """What the server calls itself; an RFC 1123 label. Empty: the name."""
    group: str = ""
    """Servers of one group (an infrastructure's id) find one another by host name where the cloud can do that."""
    user_data: str = ""
    """A cloud-config document, a ``#!`` script, or nothing."""
    env: dict[str, str] = {}
    """Environment of a container's command. Clouds of machines have no use for it."""
    command: tuple[str, ...] = ()
    """What a container runs, in place of its image's own command; as ``env``."""
    metadata: dict[str, str] = {}
    options: dict[str, Any] = {}
    parts: dict[str, str] = {}
    """What was made for it beforehand: :attr:`PartSpec.key` -> the part's provider id. See ``PartsDriver``."""
    account: dict[str, Any] = {}
    """What its account was made of, if no configuration names it (``DescribedAccount``); no driver's concern."""


class CloudServer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a cloud says of a server now."""

    provider_id: str
    name: str
    state: ServerState
    token: str = ""
    """The token of the create call that made it; empty if it is not ours."""
    addresses: tuple[str, ...] = ()
    """Most public first."""
    private_addresses: tuple[str, ...] = ()
    reason: str = ""
    created_at: float | None = None
    flavor: str = ""
    """Id or name, as the account's resource sections name it; empty where the cloud does not say."""
    image: str = ""
    """As ``flavor``."""


class PartKind(enum.StrEnum):
    """What a server may need that is made, journaled and deleted by itself."""

    VOLUME = "volume"
    PORT = "port"
    ADDRESS = "address"
    """A public (floating, elastic) address."""
    NETWORK = "network"
    """A network or subnet that is the server's alone."""


class PartSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something to make before a server that needs it."""

    key: str
    """Unique in the server's parts, an RFC 1123 label: ``boot-volume``, ``address``."""
    kind: PartKind
    name: str
    options: dict[str, Any] = {}
    """The driver's own; plain values."""
    size_gb: int = 0
    """Of a volume: what it holds of the quota ``volume_gb``. 0: it is not known beforehand, and not counted."""
    keep: bool = False
    """It stays when the server is deleted (a persistent volume)."""


class CloudPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a cloud says of a part now."""

    provider_id: str
    kind: PartKind
    name: str = ""
    token: str = ""
    """Of the call that made it; empty if it is not ours."""
    ready: bool = True
    """Whether a server can be made with it now; a volume takes a while."""
    failed: str = ""
    """Why it will never be ready; empty: it may."""
    address: str = ""
    """Of an address or port."""


class CloudImage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An image that servers of the account can be made from."""

    id: str
    """What a resource section names it by."""
    name: str
    size_bytes: int | None = None
    created_at: float | None = None


class CloudFlavor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A size of servers (flavor, instance type). None where the cloud does not say."""

    id: str
    """What a resource section names it by."""
    name: str
    vcpus: float | None = None
    ram_mb: int | None = None
    disk_gb: float | None = None
    price_per_hour: float | None = None
    currency: str = ""


class CommandResult(msgspec.Struct, frozen=True):
    """What a command inside an instance did. ``output`` is stdout and stderr together, capped by the driver."""

    exit_code: int
    output: str
