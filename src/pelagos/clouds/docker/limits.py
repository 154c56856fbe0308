"""Limits of a container that is there: what an engine is asked in order to change them. All pure.

Docker's engine takes them by ``/containers/ID/update`` and keeps them. podman 4 does not have that endpoint, but its
own, which takes the same in the runtime's terms, and forgets them when the container is started again; so it is the
account's owner who says, by ``updates``, what is changed in place at all.

Neither can lift a limit: nothing said is nothing changed there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pelagos.clouds.docker.options import DockerAccount, DockerLimits
from pelagos.clouds.errors import CloudRejected
from pelagos.model.errors import Unsupported

__all__ = ["docker_limits", "limits_of", "podman_limits"]

_PERIOD = 100_000
"""Microseconds over which processor time is counted; what engines take if nobody says otherwise."""


def limits_of(values: Mapping[str, Any], account: DockerAccount) -> DockerLimits:
    """The limits that ``values`` mean. Raises Unsupported for keys that the account does not change, CloudRejected."""
    others = sorted(values.keys() - account.updates)
    if others:
        raise Unsupported(
            f"{', '.join(others)} of a container that is there cannot be changed",
            advice="Name it in `updates` of the account's options, if its engine can.",
        )
    lifted = sorted(key for key, value in values.items() if value is None)
    if lifted:
        raise CloudRejected(
            f"{', '.join(lifted)}: a limit of a container that is there can be changed, and not lifted",
            advice="Give a high one, or have the container made anew.",
        )
    try:
        return msgspec.convert(dict(values), DockerLimits)
    except msgspec.ValidationError as error:
        raise CloudRejected(f"the limits are wrong: {error}") from error


def docker_limits(limits: DockerLimits) -> dict[str, int]:
    """The body of ``POST /containers/ID/update``. Swap is twice the memory, as for a container that is made."""
    body: dict[str, int] = {}
    if limits.memory_mb is not None:
        body |= {"Memory": limits.memory_mb << 20, "MemorySwap": limits.memory_mb << 21}
    if limits.cpus is not None:
        body["NanoCpus"] = int(limits.cpus * 1_000_000_000)
    if limits.pids is not None:
        body["PidsLimit"] = limits.pids
    return body


def podman_limits(limits: DockerLimits) -> dict[str, dict[str, int]]:
    """The body of ``POST /libpod/containers/ID/update``: the runtime's resources."""
    body: dict[str, dict[str, int]] = {}
    if limits.memory_mb is not None:
        body["memory"] = {"limit": limits.memory_mb << 20, "swap": limits.memory_mb << 21}
    if limits.cpus is not None:
        body["cpu"] = {"quota": int(limits.cpus * _PERIOD), "period": _PERIOD}
    if limits.pids is not None:
        body["pids"] = {"limit": limits.pids}
    return body
