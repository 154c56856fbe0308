"""The driver port: what a cloud must be able to do, and how it says what went wrong.

A driver is small: five verbs it must have (list, get, find by token, create, delete), the rest declared in its
:class:`Capabilities`. It holds no truth: the store does. It does not retry, pace, journal or log what was done: the
operations room, its only caller, does. Every verb may be called concurrently, up to ``parallel_calls`` at once.

Times: ``timeout`` is in seconds from the call; socket time-outs must be shorter. When it passes, the driver raises
CloudUncertain for a verb that may have had its effect, CloudUnreachable for one that only reads. The caller also
cancels the call a little after the deadline, so a driver must bear cancellation at any await.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from pelagos.clouds.values import (
    Capabilities,
    CloudFlavor,
    CloudImage,
    CloudPart,
    CloudServer,
    CommandResult,
    PartSpec,
    ServerSpec,
)
from pelagos.model.world import World

__all__ = [
    "AccountDescriber",
    "Catalogue",
    "CloudDriver",
    "CloudReader",
    "CloudWriter",
    "DriverContext",
    "DriverPlugin",
    "ForeignReader",
    "Library",
    "LibraryUser",
    "ListenerOracle",
    "PartsDriver",
    "ServerAdopter",
    "ServerUpdater",
    "StandIn",
]


class CloudReader(Protocol):
    """The half that changes nothing."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def list_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        """All servers of this account that Pelagos made (those with a token), in any state but DELETED.

        A server may be missing for ``settle`` seconds after its create call and present as long after its delete."""
        ...

    async def get_server(self, provider_id: str, *, timeout: float) -> CloudServer:
        """What the cloud says of one server. If it says there is none, raises ServerNotFound; ServerGone if it still
        tells of one that it has ended."""
        ...

    async def find_by_token(self, token: str, *, timeout: float) -> CloudServer | None:
        """The server that the create call with this token made, or None if the cloud shows none (yet).

        If several carry the token (a cloud without idempotency), returns the oldest; the others come with the list."""
        ...

    async def console(self, provider_id: str, *, max_bytes: int, timeout: float) -> str:
        """The end of the server's console output. Raises ServerNotFound; Unsupported without the capability."""
        ...


class CloudWriter(Protocol):
    """The half with effects."""

    async def create_server(self, spec: ServerSpec, *, token: str, timeout: float) -> CloudServer:
        """Ask for a server that carries ``token`` from its first moment on; it may still be in BUILD.

        If the cloud certainly made nothing, raises CloudRejected, CloudCapacity, CloudAuthFailed, CloudRateLimited,
        CloudBusy or CloudUnreachable: the caller then may try again with the same token. If it may have made one,
        raises CloudUncertain: the caller then looks for the token until it is found or ``settle`` has passed.
        With TokenLookup.IDEMPOTENT, a second call with a known token returns that server and makes none."""
        ...

    async def delete_server(self, provider_id: str, *, timeout: float) -> None:
        """Delete it with all that came with it. Deleting what is gone succeeds (idempotent)."""
        ...

    async def start_server(self, provider_id: str, *, timeout: float) -> None:
        """Start a stopped server; a running one is left alone. Raises ServerNotFound, CloudBusy, Unsupported."""
        ...

    async def stop_server(self, provider_id: str, *, timeout: float) -> None:
        """Stop a running server, keeping its disk and addresses as far as the cloud does."""
        ...

    async def reboot_server(self, provider_id: str, *, timeout: float) -> None:
        """Stop and start it."""
        ...

    async def execute(self, provider_id: str, argv: Sequence[str], *, timeout: float) -> CommandResult:
        """Run a command inside the server and return what it said. Raises Unsupported without the capability."""
        ...


class CloudDriver(CloudReader, CloudWriter, Protocol):
    """A driver opened for one account."""

    async def close(self) -> None:
        """Let go of connections. Servers live on."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Counters and facts for people; no secrets."""
        ...


@runtime_checkable
class ListenerOracle(Protocol):
    """What a driver is besides if its servers may share an address range, and so the ports, with this host.

    There a port that answers proves nothing: a program of the host's that listens on all addresses answers for the
    server. Health checks of ports and URLs on loopback addresses ask this too. Drivers whose servers have addresses of
    their own do not have it."""

    async def verify_listener(self, provider_id: str, address: str, port: int, *, timeout: float) -> bool:
        """True if a process of this server listens for TCP at ``address`` and ``port``; False if another does, if
        nobody does, or if the server does not run. Raises ServerNotFound; only reads."""
        ...


@runtime_checkable
class Catalogue(Protocol):
    """What a driver is besides if its cloud tells what servers can be made of. Both only read."""

    async def list_images(self, *, timeout: float) -> Sequence[CloudImage]:
        """The images that the account may use, in no order."""
        ...

    async def list_flavors(self, *, timeout: float) -> Sequence[CloudFlavor]:
        """The sizes of servers there are, in no order, with prices where the cloud knows them."""
        ...


@runtime_checkable
class ForeignReader(Protocol):
    """What a driver is besides if it can look at servers that Pelagos did not make."""

    async def list_foreign_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        """All servers of the account without a token, in any state but DELETED. Only reads.

        ``get_server`` then also answers for them."""
        ...


@runtime_checkable
class ServerAdopter(Protocol):
    """What a driver is besides if a server that is there already can be given a token."""

    async def adopt_server(self, provider_id: str, *, token: str, timeout: float) -> CloudServer:
        """Write ``token`` into the server, so that listings and ``find_by_token`` have it from then on. Repeatable.

        If it carries another token already, raises CloudRejected; if it is gone, ServerNotFound."""
        ...


@runtime_checkable
class ServerUpdater(Protocol):
    """What a driver is besides if some keys of a resource can be changed on a server that is there.

    Which ones, ``Capabilities.updates`` says: none, where the account's cloud or its options do not allow it. Only keys
    that the cloud changes while the server goes on running belong there; whoever plans relies on that."""

    async def update_server(self, provider_id: str, values: Mapping[str, Any], *, timeout: float) -> None:
        """Make these keys of the server's resource have these values; None is what holds where the key is absent.

        They are wanted values, and no differences: whoever does not know what became of a call repeats it. Keys that
        are not in ``values`` stay as they are. A stopped server has them when it is started.

        Raises Unsupported, changing nothing, if one of the keys is none of ``Capabilities.updates``; ServerNotFound;
        CloudRejected for values that the cloud will never take. If it may have been done, or a part of it,
        CloudUncertain."""
        ...


@runtime_checkable
class PartsDriver(Protocol):
    """What a driver is besides if some servers need things made before them: volumes, ports, addresses.

    Operations makes each part as a journaled step with a token of its own, waits until it is ready, passes all of them
    to ``create_server`` in ``ServerSpec.parts``, calls ``finish_server`` when the server is ACTIVE (or STOPPED), and
    deletes the parts, the last one first, after the server is gone; those kept only if the create failed. A server that
    needs none is made and deleted as by any other driver. Deadlines: ``create_timeout`` for ``create_part``, else
    ``call_timeout``; a part that is not ready or not gone within ``build_timeout`` counts as failed, or is deleted
    again."""

    def parts(self, spec: ServerSpec) -> Sequence[PartSpec]:
        """What ``spec`` needs, in the order of making; often nothing. Pure: the same spec gives the same parts.

        Called when a create is asked for, before anything else is. If the options cannot be read, returns nothing:
        ``create_server`` then says what is wrong with them."""
        ...

    async def create_part(self, part: PartSpec, *, token: str, timeout: float) -> CloudPart:
        """Ask for a part that carries ``token`` from its first moment on; it need not be ready yet.

        Errors as of ``create_server``; the cloud's own quota used up: CloudCapacity. If the outcome is uncertain, the
        caller looks for the token in ``list_parts``, whatever ``token_lookup`` says (few clouds take a token with
        every kind of part): a part is in the list within ``settle`` of the call's deadline, or was not made."""
        ...

    async def list_parts(self, *, timeout: float) -> Sequence[CloudPart]:
        """All parts of this account that carry a token, and have not been deleted, ready or not.

        It fails as a whole: if one of several listings behind it does, raises what that one raised."""
        ...

    async def delete_part(self, part: CloudPart, *, timeout: float) -> None:
        """Delete it; deleting what is gone succeeds. Still in use: CloudBusy, and the caller tries again.

        Of ``part``, ``provider_id``, ``kind``, ``name``, ``token`` and ``address`` are as they were told."""
        ...

    async def finish_server(self, provider_id: str, spec: ServerSpec, *, timeout: float) -> CloudServer:
        """What is to be done once the server is there (associate an address); repeatable. The server as it is then.

        ``spec`` has its ``parts``. Raises ServerNotFound if it is gone meanwhile."""
        ...


class DriverContext(msgspec.Struct, frozen=True):
    """What a driver is opened with."""

    account: str
    """Name of the account in the pool."""
    world: World
    home: Path
    """Pelagos's state directory; a driver keeps what it must in ``home / "clouds" / account``."""
    options: Mapping[str, Any] = {}
    """The account's options from the configuration, validated against ``DriverPlugin.account_options``."""


class DriverPlugin(Protocol):
    """What a driver's module exports as ``DRIVER`` and the entry-point group ``pelagos.clouds`` names."""

    @property
    def name(self) -> str:
        """The ``type`` of resource sections: ``local``, ``simulated``, ..."""
        ...

    @property
    def resource(self) -> type[msgspec.Struct]:
        """The keys of a node definition's ``resource`` section, less ``type``, ``name`` and ``endpoint``: a frozen
        Struct that forbids unknown fields. Its values reach the driver as ``ServerSpec.options``."""
        ...

    @property
    def account_options(self) -> type[msgspec.Struct]:
        """The options of an account in the configuration: a frozen Struct that forbids unknown fields."""
        ...

    async def open(self, context: DriverContext) -> CloudDriver:
        """A driver for one account. Raises CloudAuthFailed, CloudUnreachable, Unsupported with advice."""
        ...


@runtime_checkable
class AccountDescriber(Protocol):
    """What a plug-in is besides if more of a resource section than its endpoint and region says which account it means.

    That matters for accounts that nobody configured: sections with other values mean other accounts."""

    @property
    def account_keys(self) -> Mapping[str, str] | Collection[str]:
        """Keys of a resource section that are the account's business, beside ``endpoint``. A mapping says which option
        of the account each is, and may do so for keys of ``auth_data``, too: ``{"regionname": "region", "accesskey":
        "access_key"}``; otherwise options are recognised by their names."""
        ...


class Library(NamedTuple):
    """What a driver is made with, and need not be installed."""

    package: str
    """The package to import."""
    extra: str
    """The extra of Pelagos that brings it."""


@runtime_checkable
class LibraryUser(Protocol):
    """What a plug-in is besides if its accounts can be opened only with a library that is an extra.

    The plug-in itself is loaded without: what a description says is checked wherever Pelagos is."""

    @property
    def library(self) -> Library: ...


@runtime_checkable
class StandIn(Protocol):
    """What a plug-in is besides if its clouds can stand in for others (``--map-clouds``)."""

    @property
    def stand_in_check(self) -> Sequence[str]:
        """The command that says inside a server whether it is well, where its address answers nobody; else empty."""
        ...

    def stand_in(self, type: str, keys: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options of a server that was described for a cloud of another ``type`` by these rendered keys. Pure."""
        ...
