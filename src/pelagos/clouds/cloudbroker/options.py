"""The keys of an account and of a resource section with ``type: cloudbroker`` (reference, section 4.7)."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from pelagos.clouds.endpoints import endpoint_problem

__all__ = ["CloudBrokerAccount", "CloudBrokerResource"]

Secret = Annotated[str, msgspec.Meta(extra={"secret": True})]
Seconds = Annotated[float, msgspec.Meta(gt=0)]

_NEEDED = ("deployment_id", "instance_type_id")
_OURS = ("id", "name", "status", "cloud_init")
_ELEMENT = re.compile(r"[A-Za-z][\w-]*\Z", re.ASCII)


class CloudBrokerAccount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An account's options with ``driver: cloudbroker``. Times in seconds."""

    endpoint: str
    """URL of the platform. Plain HTTP is for this machine alone, since the password goes with each request."""
    email: Secret
    password: Secret
    create_timeout: Seconds = 120.0
    call_timeout: Seconds = 60.0
    build_timeout: Seconds = 1800.0
    poll_interval: Seconds = 10.0
    settle: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """How long after a call the platform may not show its effect yet."""

    def __post_init__(self) -> None:
        problem = endpoint_problem(self.endpoint)
        if problem is not None:
            raise ValueError(problem)
        if max(self.create_timeout, self.poll_interval) > self.build_timeout:
            raise ValueError("`create_timeout` and `poll_interval` may not be above `build_timeout`")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(endpoint={self.endpoint!r}, ...)"  # the others may be secrets


class CloudBrokerResource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The keys of a ``resource`` section with ``type: cloudbroker``, less ``type``, ``name`` and ``endpoint``."""

    description: dict[str, Any]
    """The instance in CloudBroker's words, with ``_`` for ``-``; ``deployment_id`` and ``instance_type_id`` must be
    there. A value is text, a number, a truth value, or a mapping of such."""
    start_in_vpc: bool | None = None
    """Start it in the virtual private cloud of the account's region; left out, the platform decides."""

    def __post_init__(self) -> None:
        missing = [key for key in _NEEDED if self.description.get(key) in (None, "")]
        if missing:
            raise ValueError(f"`description` lacks {', '.join(missing)}")
        ours = [key for key in self.description if key.replace("-", "_") in _OURS]
        if ours:
            raise ValueError(f"`description` holds what is not for users: {', '.join(ours)}")
        wrong = _wrong(self.description)
        if wrong:
            raise ValueError(f"`description` holds what CloudBroker's XML cannot say: {', '.join(wrong)}")


def _wrong(values: dict[str, Any], path: str = "") -> list[str]:
    found: list[str] = []
    for key, value in values.items():
        name = f"{path}{key}"
        if not isinstance(key, str) or not _ELEMENT.match(key):
            found.append(name)
        elif isinstance(value, dict):
            found += _wrong(value, f"{name}.")
        elif not isinstance(value, str | int | float | bool | None):
            found.append(name)
    return found
