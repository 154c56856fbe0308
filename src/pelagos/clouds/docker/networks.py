"""The network of a group: there from its first container's creation to its last one's deletion.

Making and removing are told apart from what others do at the same time by one lock and a count of the creates under
way: so no network goes between the moment that a create sees it and the moment that its container is in it. One worker
serves an account, so a lock in this process is enough; and an engine refuses to remove a network that is in use.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator

import docker.errors

from pelagos.clouds.docker.containers import GROUP, SCOPE, network_name
from pelagos.clouds.docker.engine import Client
from pelagos.clouds.docker.errors import SDK_ERRORS, NotSent

__all__ = ["Networks"]


class Networks:
    """The groups' networks of one account. All methods block; they are called in the engine's threads."""

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._lock = threading.Lock()
        self._creating: Counter[str] = Counter()

    @contextlib.contextmanager
    def joined(self, client: Client, group: str) -> Iterator[None]:
        """As long as it lasts the group's network is there. Without a group nothing is done.

        If it ends by an error, nothing may have been made, and the network goes if nobody else needs it."""
        if not group:
            yield
            return
        with self._lock:
            self._creating[group] += 1
        try:
            self._ensure(client, group)
            yield
        except BaseException:
            self._leave(group)
            # What went wrong is told, not that the engine cannot be asked to tidy up; the next delete does it.
            with contextlib.suppress(NotSent, ValueError, *SDK_ERRORS):
                self.release(client, group)
            raise
        else:
            self._leave(group)

    def release(self, client: Client, group: str) -> None:
        """Remove the group's network if no container is left in the group."""
        with self._lock:
            if self._creating[group]:
                return
            left = client.containers(all=True, limit=1, filters={"label": self._labels(group)})
            if left:
                return
            with contextlib.suppress(docker.errors.NotFound):
                try:
                    client.remove_network(network_name(self._scope, group))
                except docker.errors.APIError as error:
                    if not _in_use(error):
                        raise

    def sweep(self, client: Client) -> None:
        """Remove all networks of this account that no container is left for."""
        for network in client.networks(filters={"label": [f"{SCOPE}={self._scope}", GROUP]}):
            group = (network.get("Labels") or {}).get(GROUP)
            if group and network["Name"] == network_name(self._scope, group):
                self.release(client, group)

    def _leave(self, group: str) -> None:
        with self._lock:
            self._creating[group] -= 1
            if not self._creating[group]:
                del self._creating[group]

    def _ensure(self, client: Client, group: str) -> None:
        name = network_name(self._scope, group)
        with self._lock:
            if any(network["Name"] == name for network in client.networks(names=[name])):
                return
            labels = dict(label.partition("=")[::2] for label in self._labels(group))
            try:
                client.create_network(name, driver="bridge", labels=labels, check_duplicate=True)
            except docker.errors.APIError as error:
                # Made meanwhile by a request of an earlier life whose reply nobody saw.
                if error.status_code not in (409, 500) or "already" not in str(error.explanation):
                    raise

    def _labels(self, group: str) -> list[str]:
        return [f"{SCOPE}={self._scope}", f"{GROUP}={group}"]


def _in_use(error: docker.errors.APIError) -> bool:
    """Somebody else's container is in it; it goes when that one is gone and another of ours is deleted."""
    words = str(error.explanation).lower()
    return error.status_code in (403, 409, 500) and any(
        w in words for w in ("active endpoints", "in use", "being used")
    )
