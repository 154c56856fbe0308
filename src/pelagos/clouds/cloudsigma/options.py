"""The keys of an account and of a resource section with ``type: cloudsigma`` (reference, section 4.7)."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from pelagos.clouds.libcloud.options import AccountTimes, Secret

__all__ = ["CloudSigmaAccount", "CloudSigmaResource"]

_NEEDED = ("cpu", "mem", "vnc_password")
_OURS = ("name", "uuid", "status", "runtime")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class CloudSigmaAccount(AccountTimes, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An account's options with ``driver: cloudsigma``."""

    email: Secret
    password: Secret
    endpoint: str = "https://zrh.cloudsigma.com/api/2.0"
    """URL of a location's API. Plain HTTP is for this machine alone, since the password goes with each request."""
    settle: Annotated[float, msgspec.Meta(ge=0)] = 20.0
    poll_interval: Annotated[float, msgspec.Meta(gt=0)] = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        url = urlsplit(self.endpoint)
        if url.scheme != "https" and not (url.scheme == "http" and url.hostname in _LOOPBACK):
            raise ValueError("`endpoint` is a URL that begins with https://")


class CloudSigmaResource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The keys of a ``resource`` section with ``type: cloudsigma``, less ``type``, ``name`` and ``endpoint``."""

    libdrive_id: str
    """The library drive that the server's own boot drive is cloned from."""
    description: dict[str, Any]
    """The server in CloudSigma's words; ``cpu`` (MHz), ``mem`` (bytes) and ``vnc_password`` must be there. ``drives``
    are attached after the boot drive; without ``nics`` it gets one with a public address by DHCP."""
    keep_drive: bool = False
    """The boot drive stays when the server is deleted."""

    def __post_init__(self) -> None:
        missing = [key for key in _NEEDED if self.description.get(key) in (None, "")]
        if missing:
            raise ValueError(f"`description` lacks {', '.join(missing)}")
        ours = [key for key in _OURS if key in self.description]
        if ours:
            raise ValueError(f"`description` holds what is not for users: {', '.join(ours)}")
