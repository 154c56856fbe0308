"""The keys of accounts and resource sections with ``type: libcloud``, and with its thin configurations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

__all__ = [
    "AccountTimes",
    "DummyAccount",
    "DummyResource",
    "LibcloudAccount",
    "LibcloudResource",
    "RackspaceAccount",
    "RackspaceResource",
    "Secret",
]

Secret = Annotated[str, msgspec.Meta(extra={"secret": True})]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class AccountTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every account on Libcloud may set. Times in seconds."""

    threads: Annotated[int, msgspec.Meta(ge=1)] = 4
    """Calls at once; each has a thread, a Libcloud driver object and a connection of its own."""
    stuck_limit: Annotated[int, msgspec.Meta(ge=0)] = 0
    """So many calls that do not come back, and no more are sent until one does; 0: all threads."""
    create_timeout: Seconds = 120.0
    call_timeout: Seconds = 60.0
    build_timeout: Seconds = 900.0
    poll_interval: Seconds = 10.0
    settle: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """How long after a call the cloud may not show its effect yet."""

    def __post_init__(self) -> None:
        if self.create_timeout > self.build_timeout:
            raise ValueError("`create_timeout` is above `build_timeout`")
        if self.poll_interval > self.build_timeout:
            raise ValueError("`poll_interval` is above `build_timeout`")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"  # the others may be secrets


class LibcloudAccount(AccountTimes, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An account's options with ``driver: libcloud``."""

    provider: str
    """Libcloud's name of it: ``digital_ocean``, ``vultr``, ``gce``, ..."""
    key: Secret = ""
    """User, access key, API key or token: what the provider's driver takes first."""
    secret: Secret = ""
    """Password or secret key; left out for providers that have none."""
    endpoint: str = ""
    """URL of the provider's API, where it is not the usual one."""
    region: str = ""
    api_version: str = ""
    arguments: dict[str, Any] = {}
    """What else the constructor of the provider's driver takes, by its own names."""
    token: Literal["auto", "metadata", "name"] = "auto"  # noqa: S105 - no secret
    """Where a server carries its token: in metadata where the provider takes them with the create, else in its name."""
    name_limit: Annotated[int, msgspec.Meta(ge=40)] = 63
    """Most characters of a server's name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError("`endpoint` is a URL that begins with http:// or https://")


class LibcloudResource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The keys of a ``resource`` section with ``type: libcloud``, less ``type``, ``name`` and ``endpoint``."""

    size: str
    """Id or name of a size of the provider's."""
    image: str
    """Id or name of an image."""
    location: str = ""
    """Id or name of a location; some providers demand one."""
    key_name: str = ""
    """Name of a key pair that the provider has."""
    ssh_key: str = ""
    """A public key to be let in, for providers that take one."""
    password: Secret = ""
    """For providers that take one."""
    metadata: dict[str, str] = {}
    """For providers that take it with the create."""
    extra: dict[str, Any] = {}
    """Further arguments of the create call of the provider's driver, by its own names."""

    def __post_init__(self) -> None:
        if self.ssh_key and self.password:
            raise ValueError("give one of `ssh_key` and `password`")


class DummyAccount(AccountTimes, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An account's options with ``driver: dummy``."""

    world: str = ""
    """Accounts with the same share their servers; default: an account's own. It lives as long as the process."""
    settle: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    poll_interval: Seconds = 0.5


class DummyResource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The keys of a ``resource`` section with ``type: dummy``."""

    size: str = "1"
    """1 to 4."""
    image: str = "1"
    """1 to 3."""


class RackspaceAccount(AccountTimes, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An account's options with ``driver: rackspace``."""

    username: Secret
    api_key: Secret
    region: Literal["dfw", "ord", "iad", "lon", "syd", "hkg"] = "dfw"
    endpoint: str = ""
    """URL of the identity service, where it is not the usual one."""
    tenant_name: str = ""
    arguments: dict[str, Any] = {}
    """What else Libcloud's driver takes (``ex_force_auth_version``, ...)."""


class RackspaceResource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The keys of a ``resource`` section with ``type: rackspace``, less ``type``, ``name`` and ``endpoint``."""

    flavor: str
    """Id or name."""
    image: str
    """Id or name."""
    key_name: str = ""
    metadata: dict[str, str] = {}
    config_drive: bool = False
    """User data come by a drive, for images that do not ask the network for them."""
    extra: dict[str, Any] = {}
    """Further arguments of Libcloud's create call."""
