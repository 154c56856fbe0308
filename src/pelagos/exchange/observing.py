"""Observation: what passes between processes, kept for a while and shown to whoever watches.

The ancestor bound a queue to ``#`` of the broker (reference section 5.5): all traffic twice, and none of it seen on a
transport without a broker. A :class:`Tap` is a transport around a transport instead, nearest to the processes, so it
sees messages as they see them, on any transport, in both directions, and also those that could not be delivered.

Its cost for a message is one clock and one append of a reference to the envelope, which exists anyhow; everything else
(times, names, filters) is worked out when somebody asks. Large contents are not held: only their size. Nobody sees a
content who has not asked for it, and then only redacted.
"""

from __future__ import annotations

import enum
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from pelagos.exchange.envelope import Envelope, Performative, Status, decode_error
from pelagos.exchange.transport import (
    DeadLetters,
    Delivery,
    Handler,
    Receiver,
    Subscription,
    Transport,
    TransportSnapshot,
)
from pelagos.model.errors import PelagosError
from pelagos.model.redaction import redact
from pelagos.model.world import World

__all__ = ["OBSERVED", "OBSERVER", "Direction", "Feed", "Observation", "ObservationFilter", "Tap"]

OBSERVER = "observer"
"""Name of the service of those who answer questions about a tap; that of one container has its id behind a dot."""
OBSERVED = "observed"
"""The operation under which observations are published: the one message that no tap records."""

_RING = 3000
_LIVE = 2000
"""Messages that may wait for whoever follows; then the oldest is dropped and counted."""
_HELD = 1024
"""Bytes of content that the ring holds on to; of a larger one it keeps the size."""
_OPEN = 4096
"""Requests remembered for the times of their answers."""
_CLIP = 400
_QUESTIONS = frozenset(
    {"info", "nodes", "identify", "processes", "all_processes", "local_services", "services", "exchange_names"}
)
"""What agents are asked by everybody who only looks."""


class Direction(enum.StrEnum):
    SENT = "sent"
    RECEIVED = "received"
    FAILED = "failed"
    """It was sent, and the transport did not take it: ``error`` says why."""


class Observation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message as one container saw it. Addresses are full; ``at`` is in seconds since the epoch."""

    seq: int
    """Rising in one container."""
    at: float
    direction: Direction
    container: str
    sender: str
    receiver: str
    op: str
    performative: Performative
    conv_id: str
    conv_seq: int = 1
    protocol: str = "rpc"
    status: Status = Status.OK
    sender_name: str = ""
    bytes: int = 0
    """Size of the content."""
    trace: str = ""
    took: float | None = None
    """Of an answer: milliseconds since this container saw its request."""
    error: str = ""
    """Code of the error it carries, or for which it could not be delivered."""
    answers: str = ""
    """Of an answer: the address that its request was sent to, which its sender stood for."""
    answers_op: str = ""
    """Of an answer: the operation that was asked for."""
    receiver_name: str = ""
    """What comes to whoever opened the conversation: its name, as its request said it."""
    plumbing: bool = False
    """What containers tell each other all the time: announcements, and questions to observers."""
    content: str = ""
    """As text, redacted and clipped, where it was asked for."""

    @property
    def key(self) -> tuple[str, int, str, str]:
        """The same for all who saw the message."""
        return (self.conv_id, self.conv_seq, self.performative, self.sender)


class ObservationFilter(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which messages are meant; what is empty admits all."""

    conversation: str = ""
    """A conversation's id, or a trace: then also what was asked on its behalf."""
    service: str = ""
    """A service's name, a process's id or a label, as sender or receiver; the answers that it gives and gets are
    included."""
    op: str = ""
    """An operation; its answers are included."""
    errors: bool = False
    """Only failures, refusals, and what could not be delivered."""
    plumbing: bool = False
    content: bool = False
    """With the content, redacted."""

    def admits(self, one: Observation) -> bool:
        if one.plumbing and not self.plumbing:
            return False
        if self.errors and not (one.error or one.status is Status.ERROR or one.performative is Performative.REFUSE):
            return False
        if self.conversation and self.conversation not in (one.conv_id, one.trace):
            return False
        if self.op and self.op not in (one.op, one.answers_op):
            return False
        return not self.service or any(
            _names(self.service, address)
            for address in (one.sender, one.receiver, one.answers, one.sender_name, one.receiver_name)
        )


def _names(wanted: str, address: str) -> bool:
    """``hello`` is ``service:demo.hello``, and so is ``demo.hello``; ``c-1.7`` is ``process:c-1.7``."""
    name = address.partition(":")[2] or address
    return name == wanted or (address.startswith(("service:", "topic:", "fanout:")) and name.endswith(f".{wanted}"))


_Record = tuple[int, float, Direction, Envelope, int, str]
"""Number, monotonic seconds, direction, envelope, size of the content, error code. A bare tuple, since one is made for
each message that passes, and a class of any kind costs several times as much to make."""

_SENT, _RECEIVED, _FAILED = Direction.SENT, Direction.RECEIVED, Direction.FAILED


class Feed:
    """What comes from now on, until it is closed. ``wake`` is called when something comes after there was nothing."""

    def __init__(self, tap: Tap, wake: Callable[[], None]) -> None:
        self.dropped = 0
        self._tap = tap
        self._wake = wake
        self._records: deque[_Record] = deque()

    def push(self, record: _Record) -> None:
        """For the tap alone."""
        records = self._records
        if len(records) >= _LIVE:
            records.popleft()
            self.dropped += 1
        records.append(record)
        if len(records) == 1:
            self._wake()

    def take(self, *, content: bool = False) -> list[Observation]:
        """All there is, the oldest first."""
        records, self._records = self._records, deque()
        return self._tap.read(records, content=content)

    def take_messages(self) -> list[tuple[Observation, Envelope]]:
        """As :meth:`take`, each with the message itself; a content above what the tap holds on to is gone from it."""
        records, self._records = self._records, deque()
        return [(one, record[3]) for one, record in zip(self._tap.read(records), records, strict=True)]

    def close(self) -> None:
        self._tap.forget(self)


class _Opened(NamedTuple):
    at: float
    receiver: str
    op: str
    plumbing: bool
    asker: str
    asker_name: str


class Tap:
    """A transport that remembers what passed. ``redact`` makes a content fit to be shown;
    ``ring`` is how many messages are remembered. With 0 none is, and it costs next to nothing until somebody follows.

    It is told the id of its container by its observer (:class:`pelagos.container.observer.ObserverProcess`).
    """

    def __init__(
        self,
        transport: Transport,
        world: World,
        *,
        ring: int = _RING,
        held: int = _HELD,
        redact: Callable[[Any], Any] = redact,
    ) -> None:
        self.container = ""
        self.is_agent: Callable[[str], bool] = lambda address: False
        """Whether a full address of a process is that of an agent here, who is asked there by those nearby."""
        self._inner = transport
        self._world = world
        self._monotonic = world.monotonic
        self._redact = redact
        self._held = held
        self._ring: deque[_Record] = deque(maxlen=ring)
        self._feeds: tuple[Feed, ...] = ()
        self._append = self._ring.append
        self._next = itertools.count(1).__next__
        self._opened: dict[str, _Opened] = {}

    # -- what passes -------------------------------------------------------------------------------------------

    def _note(self, direction: Direction, envelope: Envelope, error: str = "") -> None:
        if envelope.op == OBSERVED or not (self._ring.maxlen or self._feeds):
            return
        size = len(envelope.content)
        if size > self._held and envelope.status is not Status.ERROR:
            envelope = msgspec.structs.replace(envelope, content=b"")
        record = (self._next(), self._monotonic(), direction, envelope, size, error)
        self._append(record)
        if self._feeds:
            for feed in self._feeds:
                feed.push(record)

    async def publish(self, envelope: Envelope) -> None:
        self._note(_SENT, envelope)
        try:
            await self._inner.publish(envelope)
        except PelagosError as error:
            self._note(_FAILED, envelope, error.code)
            raise

    def post(self, envelope: Envelope) -> None:
        self._note(_SENT, envelope)
        self._inner.post(envelope)

    async def subscribe(self, receiver: Receiver, handler: Handler) -> Subscription:
        note = self._note

        def handle(delivery: Delivery) -> None:
            note(_RECEIVED, delivery.envelope)
            handler(delivery)

        return await self._inner.subscribe(receiver, handle)

    async def start(self) -> None:
        await self._inner.start()

    async def stop(self) -> None:
        await self._inner.stop()

    async def wait_served(self, address: str, timeout: float) -> bool:
        return await self._inner.wait_served(address, timeout)

    async def delete_durable(self, address: str, *, reason: str | None = None) -> int:
        return await self._inner.delete_durable(address, reason=reason)

    def on_disconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._inner.on_disconnect(callback)

    @property
    def dead_letters(self) -> DeadLetters:
        return self._inner.dead_letters

    def snapshot(self) -> TransportSnapshot:
        return self._inner.snapshot()

    # -- who asks ----------------------------------------------------------------------------------------------

    def recent(self, wanted: ObservationFilter, limit: int) -> list[Observation]:
        """The last ``limit`` messages that ``wanted`` admits, the oldest first."""
        found = self.read(self._ring, content=wanted.content)
        admitted = [one for one in found if wanted.admits(one)]
        return admitted[max(0, len(admitted) - limit) :]

    def follow(self, wake: Callable[[], None]) -> Feed:
        self.read(self._ring)  # so that answers find the requests that were seen before
        feed = Feed(self, wake)
        self._feeds = (*self._feeds, feed)
        return feed

    def forget(self, feed: Feed) -> None:
        self._feeds = tuple(one for one in self._feeds if one is not feed)

    def read(self, records: Iterable[_Record], *, content: bool = False) -> list[Observation]:
        """Records as observations."""
        offset = self._world.now() - self._monotonic()
        found = []
        for record in records:
            seq, monotonic, direction, envelope, size, error = record
            opened = self._open(envelope, monotonic)
            plumbing = opened.plumbing if opened is not None else self._is_plumbing(envelope)
            answer = opened if envelope.is_reply else None
            found.append(
                Observation(
                    seq=seq,
                    at=monotonic + offset,
                    direction=direction,
                    container=self.container,
                    sender=envelope.sender,
                    receiver=envelope.receiver,
                    op=envelope.op,
                    performative=envelope.performative,
                    conv_id=envelope.conv_id,
                    conv_seq=envelope.conv_seq,
                    protocol=envelope.protocol,
                    status=Status.ERROR if error else envelope.status,
                    sender_name=envelope.sender_name,
                    bytes=size,
                    trace=envelope.trace,
                    took=None if answer is None else max(0.0, (monotonic - answer.at) * 1000),
                    error=error or _error_of(envelope),
                    answers="" if answer is None else answer.receiver,
                    answers_op="" if answer is None else answer.op,
                    receiver_name=opened.asker_name if opened is not None and envelope.receiver == opened.asker else "",
                    plumbing=plumbing,
                    content=self._text(envelope, size) if content else "",
                )
            )
        return found

    def _open(self, envelope: Envelope, monotonic: float) -> _Opened | None:
        """The request that a message belongs to; a request is remembered when it is seen first."""
        opened = self._opened.get(envelope.conv_id)
        if opened is None and envelope.performative is Performative.REQUEST:
            opened = _Opened(
                monotonic,
                envelope.receiver,
                envelope.op,
                self._is_plumbing(envelope),
                envelope.sender,
                envelope.sender_name,
            )
            self._opened[envelope.conv_id] = opened
            if len(self._opened) > _OPEN:
                del self._opened[next(iter(self._opened))]
        return opened

    def _is_plumbing(self, envelope: Envelope) -> bool:
        kind, _, name = envelope.receiver.partition(":")
        if kind == "service":
            agents = ".agent." in name or name.endswith(".agent")
            return f".{OBSERVER}." in name or (envelope.op in _QUESTIONS and agents)
        if kind == "process":
            return envelope.op in _QUESTIONS and self.is_agent(envelope.receiver)
        return kind == "fanout" and name.endswith(".agents")

    def _text(self, envelope: Envelope, size: int) -> str:
        content = envelope.content
        if len(content) != size:
            return f"({size} bytes)"
        try:
            value = msgspec.msgpack.decode(content)
            text = msgspec.json.encode(self._redact(value), enc_hook=repr).decode()
        except (msgspec.DecodeError, ValueError, TypeError, RecursionError):
            return f"({size} bytes that cannot be shown)"
        return text if len(text) <= _CLIP else f"{text[:_CLIP]}…"


def _error_of(envelope: Envelope) -> str:
    return decode_error(envelope.content).code if envelope.status is Status.ERROR else ""
