"""Where messages go on the broker, as data: names, routing keys and the arguments of queues. No I/O.

=====================  ============================================  ===========================================
address                exchange and routing key                      queue
=====================  ============================================  ===========================================
``process:c.7``        ``<system>.calls``, ``process.c``             ``<system>.mailbox.c``, exclusive to one
                                                                     connection; parted inside by address
``service:s.x``        calls, ``service.s.x``                        one a service, shared by its processes
the same, nested       calls, ``nested.service.s.x``                 a second one, without bound or prefetch
``service:s.x``        (the same keys)                               quorum queues ``<system>.work.s.x``, and
durable                                                              ``...nested``
``fanout:s.y``         calls, ``fanout.s.y``                         one of the container's for all its events
``topic:s.a.b``        ``<system>.events``, ``s.a.b``                the same
``topic:s.stream.b``   ``<system>.streams``, ``s.stream.b``          the same
=====================  ============================================  ===========================================

Queues of services are "durable, deleted with the last consumer", and expire when unused: what RabbitMQ calls a
transient queue that is not exclusive is on its way out (deprecated in 4.x), and after a restart of the broker nobody
would delete a queue whose consumers never came back. Their messages are not persistent. Quorum queues keep every
message, whatever its delivery mode, so a sender need not know whether a service is durable.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from pelagos.exchange.address import Address, Kind
from pelagos.model.errors import InvalidInput

__all__ = ["FAILED", "NESTED", "Binding", "Route", "Topology"]

NESTED = "nested."
FAILED = "failed."
_UNUSED_MS = 60_000
_RETURNED_TTL_MS = 60_000
_KEY_BYTES = 255
_EVENTS_BUFFER = 65_536


class Route(msgspec.Struct, frozen=True):
    """How a message to an address is published."""

    kind: Kind
    exchange: str
    key: str
    mandatory: bool


class Binding(msgspec.Struct, frozen=True):
    exchange: str
    key: str


class Topology:
    """The names of one system's things, for one container."""

    def __init__(self, system: str, container: str, dead_letter_limit: int) -> None:
        self.calls = f"{system}.calls"
        self.events = f"{system}.events"
        self.streams = f"{system}.streams"
        self.returned = f"{system}.returned"
        """What expired in a service's queue: some container answers for it."""
        self.failed = f"{system}.failed"
        """What left a durable queue undone: some container makes a dead letter of it."""
        self.dead = f"{system}.dead"
        self.dead_lock = f"{system}.dead.lock"
        self.mailbox = f"{system}.mailbox.{container}"
        """The container's own queue. Whoever has it declared is the container of that id."""
        self.mailbox_key = f"process.{container}"
        self.prefix = f"process:{container}."
        self._system = system
        self._stream_words = (*system.split("."), "stream")
        self._dead_letter_limit = dead_letter_limit
        self.route = functools.lru_cache(4096)(self._route)

    @property
    def exchanges(self) -> tuple[str, ...]:
        return (self.calls, self.events, self.streams)

    def _route(self, address: str) -> Route:
        """Raises :class:`InvalidInput` for what is no address, or too long for a broker."""
        kind, name = Address.parse(address).kind, address.partition(":")[2]
        match kind:
            case Kind.PROCESS:
                route = Route(kind, self.calls, mailbox_key(address), True)
            case Kind.SERVICE:
                route = Route(kind, self.calls, f"service.{name}", True)
            case Kind.FANOUT:
                route = Route(kind, self.calls, f"fanout.{name}", False)
            case Kind.TOPIC:
                words = tuple(name.split("."))
                stream = words[: len(self._stream_words)] == self._stream_words
                route = Route(kind, self.streams if stream else self.events, name, False)
        if len(route.key.encode()) + len(NESTED) > _KEY_BYTES:
            raise InvalidInput(f"the address {address[:80]}... is too long for a broker: at most 240 bytes")
        return route

    def bindings(self, address: str) -> tuple[Binding, ...]:
        """What a subscriber of a fan-out or topic pattern binds its container's queue to."""
        route = self.route(address)
        if route.kind is not Kind.TOPIC:
            return (Binding(route.exchange, route.key),)
        words = route.key.split(".")
        found = []
        if tuple(words[: len(self._stream_words)]) != self._stream_words:
            found.append(Binding(self.events, route.key))
        if self._may_be_stream(words):
            found.append(Binding(self.streams, route.key))
        return tuple(found)

    def service_queue(self, address: str) -> str:
        return f"{self._system}.service.{address.partition(':')[2]}"

    def work_queue(self, address: str) -> str:
        return f"{self._system}.work.{address.partition(':')[2]}"

    def service_arguments(self, capacity: int | None) -> dict[str, Any]:
        """Of a service's queue; without a capacity, of its queue for nested requests."""
        arguments: dict[str, Any] = {
            "x-expires": _UNUSED_MS,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self.returned,
        }
        if capacity is not None:
            arguments |= {"x-max-length": capacity, "x-overflow": "reject-publish"}
        return arguments

    def work_arguments(self, capacity: int | None, delivery_limit: int) -> dict[str, Any]:
        """The broker counts how often a message came back, not how often it was handed out: one less. It does not say
        how often that was when it gives up, so the key of what failed does."""
        arguments: dict[str, Any] = {
            "x-queue-type": "quorum",
            "x-delivery-limit": delivery_limit - 1,
            "x-dead-letter-exchange": self.calls,
            "x-dead-letter-routing-key": f"{FAILED}{delivery_limit}",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        if capacity is not None:
            arguments["x-max-length"] = capacity
        return arguments

    def events_arguments(self) -> dict[str, Any]:
        """A container that reads nothing for a while loses the oldest events; they are hints."""
        return {"x-max-length": _EVENTS_BUFFER, "x-overflow": "drop-head"}

    def shared_queues(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Queues of the system that every container declares, with their arguments; durable all."""
        return (
            (self.returned, {"x-message-ttl": _RETURNED_TTL_MS, "x-max-length": 100_000, "x-overflow": "drop-head"}),
            (self.failed, {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}),
            (
                self.dead,
                {
                    "x-max-length": self._dead_letter_limit,
                    "x-overflow": "drop-head",
                    "x-dead-letter-exchange": "",
                    "x-dead-letter-routing-key": self.returned,
                },
            ),
        )

    def _may_be_stream(self, words: list[str]) -> bool:
        for word, wanted in zip(words, self._stream_words, strict=False):
            if word == "#":
                return True
            if word not in ("*", wanted):
                return False
        return len(words) >= len(self._stream_words)


def mailbox_key(address: str) -> str:
    """Of the container that hosts a process: its id is the container's, a dot, and one word."""
    name = address.partition(":")[2]
    head, dot, _ = name.rpartition(".")
    return f"process.{head if dot else name}"
