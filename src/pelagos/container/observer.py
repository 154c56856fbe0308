"""The observer of one container: answers what its tap has seen, and publishes what it sees while somebody watches.

Watching is a lease. Who watches renews it; who is killed, is not, and a few seconds later nothing is published any
more. So an abandoned terminal costs nothing, which a subscription that is switched on and off would not give.

Every container has one, reached as ``service:observer.<container id>``; observations of all come to whoever listens on
the topic pattern ``observe.#``. What an observer says and is asked is recorded by no tap, or by all as plumbing which
is not shown: watching itself does not feed what is watched.
"""

from __future__ import annotations

import asyncio

import msgspec

from pelagos.exchange import Address, Kind
from pelagos.exchange.observing import OBSERVED, OBSERVER, Feed, Observation, ObservationFilter, Tap
from pelagos.process import ServiceProcess, operation

__all__ = [
    "OBSERVATIONS",
    "ObservationBatch",
    "ObserverProcess",
    "RecentRequest",
    "WatchLease",
    "WatchRequest",
    "observer_of",
]

OBSERVATIONS = "topic:observe.#"
"""Where the observations of all containers come."""
_LEASE = 15.0
"""Seconds for which nobody needs to renew."""
_PAUSE = 0.1
"""Seconds that a batch is gathered for."""
_BATCH = 250
_MOST_WATCHERS = 64


def observer_of(container_id: str) -> str:
    """The address of one container's observer."""
    return f"service:{OBSERVER}.{container_id}"


class RecentRequest(msgspec.Struct, frozen=True):
    filter: ObservationFilter = ObservationFilter()
    limit: int = 100


class WatchRequest(msgspec.Struct, frozen=True):
    filter: ObservationFilter = ObservationFilter()
    id: str = ""
    """Of the lease to renew; empty for a new one."""


class WatchLease(msgspec.Struct, frozen=True):
    id: str
    container: str
    seconds: float
    """How long it lasts; renew it well before."""


class ObservationBatch(msgspec.Struct, frozen=True):
    container: str
    observations: tuple[Observation, ...]
    dropped: int = 0
    """How many were lost since the watching began, because too many came."""


class ObserverProcess(ServiceProcess):
    """See the module's head. ``tap`` is what the container's transport is wrapped in."""

    name = OBSERVER

    def __init__(self, tap: Tap) -> None:
        super().__init__()
        self._tap = tap
        self._leases: dict[str, tuple[float, ObservationFilter]] = {}
        self._feed: Feed | None = None
        self._something = asyncio.Event()

    @property
    def service_address(self) -> str:
        return self.container.names.full(Address(Kind.SERVICE, f"{OBSERVER}.{self.container.id}"))

    async def on_init(self) -> None:
        self._tap.container = self.container.id

    async def on_terminate(self) -> None:
        self._stop()

    @operation
    async def recent(self, request: RecentRequest) -> tuple[Observation, ...]:
        """What was seen lately, the oldest first."""
        return tuple(self._tap.recent(request.filter, max(0, request.limit)))

    @operation
    async def watch(self, request: WatchRequest) -> WatchLease:
        """Publish what the filter admits, for as long as the lease is renewed."""
        self._expire()
        lease = request.id or self.world.new_id()
        self._leases.pop(lease, None)
        while len(self._leases) >= _MOST_WATCHERS:  # those who left without a word are the oldest
            del self._leases[next(iter(self._leases))]
        self._leases[lease] = (self.world.monotonic() + _LEASE, request.filter)
        if self._feed is None:
            self._feed = self._tap.follow(self._something.set)
            self.start_task(self._publish(self._feed), name="publish")
        return WatchLease(lease, self.container.id, _LEASE)

    @operation
    async def unwatch(self, lease: str) -> None:
        """Give a lease back; one that is not known any more is given back already."""
        self._leases.pop(lease, None)
        if not self._leases:
            self._stop()

    async def _publish(self, feed: Feed) -> None:
        address = f"topic:observe.{self.container.id}"
        while self._feed is feed:
            try:
                async with asyncio.timeout(_LEASE):
                    await self._something.wait()
            except TimeoutError:
                self._expire()
                continue
            await asyncio.sleep(_PAUSE)
            self._something.clear()
            self._expire()
            filters = [wanted for _, wanted in self._leases.values()]
            found = feed.take(content=any(one.content for one in filters))
            wanted = [one for one in found if any(one_filter.admits(one) for one_filter in filters)]
            for start in range(0, len(wanted), _BATCH):
                batch = ObservationBatch(self.container.id, tuple(wanted[start : start + _BATCH]), feed.dropped)
                self.publish(address, batch, op=OBSERVED)

    def _expire(self) -> None:
        now = self.world.monotonic()
        for lease in [lease for lease, (until, _) in self._leases.items() if until <= now]:
            del self._leases[lease]
        if not self._leases:
            self._stop()

    def _stop(self) -> None:
        if self._feed is not None:
            self._feed.close()
            self._feed = None
            self._something.set()
