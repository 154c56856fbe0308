"""What servers are made of: images, flavors, networks and security groups, by name or id.

Names are looked up before a create is sent, so that a wrong one is told with what there is. What was found is kept for
a minute: a build of many servers asks once. An id that looks like one is believed without a look; the cloud checks it.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pelagos.clouds.errors import CloudRejected
from pelagos.clouds.openstack.connection import Client
from pelagos.clouds.values import CloudFlavor, CloudImage

if TYPE_CHECKING:
    from openstack.compute.v2.flavor import Flavor

__all__ = ["Lookup", "flavors", "images", "timestamp"]

_KEPT = 60.0
_SHOWN = 12
_ID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\Z")


class Lookup:
    """Look-ups of one account, used in its threads; each raises CloudRejected for what is not there or not unique."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._flavors: tuple[float, list[Flavor]] | None = None
        self._ids: dict[tuple[str, str], tuple[float, str]] = {}

    @contextlib.contextmanager
    def trusted(self) -> Iterator[None]:
        """Whatever fails in this block, may have failed for what was found here and has changed since: forget it."""
        try:
            yield
        except Exception:
            self._flavors = None
            self._ids.clear()
            raise

    def flavor(self, key: str) -> Flavor:
        """The flavor with this id or name."""
        kept = self._flavors
        known = kept[1] if kept is not None and kept[0] >= self._clock() else self._list_flavors()
        found = _pick_flavor(known, key)
        if found is None and kept is not None and known is kept[1]:
            known = self._list_flavors()
            found = _pick_flavor(known, key)
        if found is None:
            raise _missing("flavor", key, [str(flavor.name) for flavor in known])
        return found

    def image(self, key: str) -> str:
        """Id of the image with this id or name."""

        def look() -> dict[str, str]:
            found = self._client.image().images(name=key, status="active")
            return {str(image.id): str(image.name) for image in found}

        return self._id("image", key, look)

    def network(self, key: str) -> str:
        """Id of the network with this id or name."""

        def look() -> dict[str, str]:
            return {str(one.id): str(one.name) for one in self._client.network().networks(name=key)}

        return self._id("network", key, look)

    def external_network(self, key: str) -> str:
        """Id of the external network with this id or name; an empty key means the only one."""

        def look() -> dict[str, str]:
            found = self._client.network().networks(is_router_external=True, **({"name": key} if key else {}))
            return {str(one.id): str(one.name) for one in found}

        return self._id("external network", key, look)

    def security_group(self, key: str) -> str:
        """Id of the project's security group with this id or name."""

        def look() -> dict[str, str]:
            found = self._client.network().security_groups(name=key, project_id=self._client.project)
            return {str(one.id): str(one.name) for one in found}

        return self._id("security group", key, look)

    def _list_flavors(self) -> list[Flavor]:
        found = list(self._client.compute().flavors(details=True))
        self._flavors = (self._clock() + _KEPT, found)
        return found

    def _id(self, kind: str, key: str, look: Callable[[], dict[str, str]]) -> str:
        if _ID.match(key):
            return key
        kept = self._ids.get((kind, key))
        if kept is not None and kept[0] >= self._clock():
            return kept[1]
        found = look()
        if not found:
            raise _missing(kind, key, [])
        if len(found) > 1:
            what = f"{len(found)} {kind}s are called {key!r}" if key else f"there are {len(found)} {kind}s"
            raise CloudRejected(
                what,
                advice=f"Name one by its id: {', '.join(f'{i} ({n})' for i, n in sorted(found.items())[:_SHOWN])}.",
                details={"ids": sorted(found)},
            )
        only = next(iter(found))
        self._ids[kind, key] = (self._clock() + _KEPT, only)
        return only


def images(client: Client) -> Sequence[CloudImage]:
    """All images that can be booted now."""
    return [
        CloudImage(
            id=str(image.id),
            name=str(image.name or ""),
            size_bytes=image.size,
            created_at=timestamp(image.created_at),
        )
        for image in client.image().images(status="active")
    ]


def flavors(client: Client) -> Sequence[CloudFlavor]:
    """All flavors; OpenStack knows no prices."""
    return [
        CloudFlavor(
            id=str(flavor.id),
            name=str(flavor.name),
            vcpus=flavor.vcpus,
            ram_mb=flavor.ram,
            disk_gb=flavor.disk,
        )
        for flavor in client.compute().flavors(details=True)
    ]


def timestamp(text: str | None) -> float | None:
    """Seconds since the epoch of an ISO 8601 time (UTC if it says no zone); None for what is none."""
    if not text:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _pick_flavor(known: Iterable[Flavor], key: str) -> Flavor | None:
    by_name = None
    for flavor in known:
        if flavor.id == key:
            return flavor
        if flavor.name == key:
            by_name = flavor
    return by_name


def _missing(kind: str, key: str, names: list[str]) -> CloudRejected:
    if not key:
        return CloudRejected(f"the cloud has no {kind}")
    close = difflib.get_close_matches(key, names, 1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    more = ", ..." if len(names) > _SHOWN else ""
    listed = f"There are: {', '.join(sorted(names)[:_SHOWN])}{more}." if names else "Give its name, or its id."
    return CloudRejected(f"the cloud has no {kind} {key!r}", advice=hint + listed)
