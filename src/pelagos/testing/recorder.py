"""The recorder: every message of the containers under test, in order, to be counted, waited for and drawn.

It follows each container's tap (:mod:`pelagos.exchange.observing`), so it sees messages as processes see them, on any
transport, and also those that nobody took. A message between two containers is seen twice, and a fan-out as often as it
is heard: :meth:`Recorder.sent` has each once, as its sender said it.

The way not chosen, a process of its own that is sent copies, changes what is tested; replacing methods by mocks tests
the replacement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import msgspec

from pelagos.exchange import Envelope, Performative, Status, decode_error
from pelagos.exchange.charts import mermaid
from pelagos.exchange.observing import Direction, Feed, Observation, Tap
from pelagos.exchange.sequences import arrange
from pelagos.process.conversations import BUILT_IN, Breach, Monitor, Protocol

__all__ = ["Message", "Recorder"]

T = TypeVar("T")

_SHOWN = 100


class Message(msgspec.Struct, frozen=True):
    """One message as one container saw it. ``seen`` has its times, direction, error and size, ``envelope`` the rest."""

    seen: Observation
    envelope: Envelope

    @property
    def op(self) -> str:
        """The operation; of an answer the one that was asked for."""
        return self.seen.answers_op or self.envelope.op

    @property
    def error(self) -> str:
        """Code of the error that it carries, or for which nobody took it; empty without one."""
        return self.seen.error

    @property
    def content(self) -> Any:
        """As plain values; of an error its payload."""
        if self.envelope.status is Status.ERROR:
            return decode_error(self.envelope.content)
        return self.read(Any)

    def read(self, kind: type[T] | Any) -> T:
        """The content as that type. Raises :class:`msgspec.ValidationError` if it is another, and
        :class:`msgspec.DecodeError` if the tap did not keep it, for its size."""
        value: T = msgspec.msgpack.decode(self.envelope.content, type=kind)
        return value

    def __str__(self) -> str:
        one = self.seen
        sender = one.sender_name or one.sender
        text = f"{sender} -> {one.receiver}: {self.op} {one.performative}"
        return f"{text} {one.error}" if one.error else text


class Recorder:
    """Records what passes the taps that it follows. Operations are named ``greet`` or ``hello.greet``."""

    def __init__(self, system: str = "test") -> None:
        self.messages: list[Message] = []
        """All that was seen: sent, received and failed, in the order in which it was."""
        self._system = system
        self._feeds: list[Feed] = []
        self._waiting: list[asyncio.Event] = []

    def follow(self, tap: Tap) -> None:
        """Record what passes a tap from now on."""
        feeds: list[Feed] = []
        feed = tap.follow(partial(self._take, feeds))
        feeds.append(feed)
        self._feeds.append(feed)

    def close(self) -> None:
        """Record nothing more."""
        while self._feeds:
            self._feeds.pop().close()

    def clear(self) -> None:
        """Forget what was recorded."""
        self.messages.clear()

    # -- what was said -----------------------------------------------------------------------------------------

    def sent(
        self,
        operation: str = "",
        *,
        performative: Performative | None = None,
        where: Callable[[Message], bool] | None = None,
    ) -> list[Message]:
        """Each message once, as its sender said it, also if nobody took it."""
        return [
            one
            for one in self.messages
            if one.seen.direction is Direction.SENT
            and (performative is None or one.envelope.performative is performative)
            and _concerns(one, operation)
            and (where is None or where(one))
        ]

    def requests(self, operation: str = "") -> list[Message]:
        """Requests, also those that open conversations."""
        return self.sent(operation, performative=Performative.REQUEST)

    def results(self, operation: str = "") -> list[Message]:
        """Answers with a result."""
        return self.sent(operation, performative=Performative.INFORM_RESULT)

    def errors(self, operation: str = "") -> list[Message]:
        """Failures, refusals, and what could not be delivered."""
        return [
            one
            for one in self.messages
            if one.error and one.seen.direction is not Direction.RECEIVED and _concerns(one, operation)
        ]

    def published(self, address: str) -> list[Message]:
        """What was published to a topic or fan-out, ``topic:news.local`` or by its full address."""
        return self.sent(where=lambda one: _is_at(one.envelope.receiver, address))

    # -- waiting -----------------------------------------------------------------------------------------------

    async def wait_for(
        self,
        operation: str = "",
        *,
        performative: Performative | None = None,
        where: Callable[[Message], bool] | None = None,
        count: int = 1,
        timeout: float = 5.0,
    ) -> Message:
        """The ``count``-th message of that kind since the recording began, when it has been sent.

        Raises :class:`AssertionError` with all that was recorded after ``timeout`` seconds without it."""
        something = asyncio.Event()
        self._waiting.append(something)
        try:
            async with asyncio.timeout(timeout):
                while len(found := self.sent(operation, performative=performative, where=where)) < count:
                    something.clear()
                    await something.wait()
        except TimeoutError:
            wanted = " ".join(str(word) for word in (operation or "any message", performative) if word)
            raise AssertionError(
                f"{wanted} did not come {count} times within {timeout:g} s, only {len(found)} times:\n{self}"
            ) from None
        finally:
            self._waiting.remove(something)
        return found[count - 1]

    # -- conformance, charts -----------------------------------------------------------------------------------

    def breaches(self, *protocols: Protocol) -> list[Breach]:
        """Messages that the tables of their conversations do not allow. ``protocols``: beside the built-in ones."""
        return Monitor((*BUILT_IN, *protocols), capacity=len(self.messages) + 1).watch(
            one.seen for one in self.messages if one.seen.direction is Direction.SENT
        )

    def check_conversations(self, *protocols: Protocol) -> None:
        """Raises :class:`AssertionError` for :meth:`breaches`."""
        breaches = self.breaches(*protocols)
        if breaches:
            listed = "\n".join(f"- {one.sender} to {one.receiver}: {one.reason}" for one in breaches)
            raise AssertionError(f"conversations broke their protocols:\n{listed}\n{self}")

    def chart(self, title: str = "", *, last: int | None = None) -> str:
        """A Mermaid sequence diagram of all that was recorded, or of the ``last`` so many, without what containers tell
        each other anyhow."""
        seen = [one.seen for one in self.messages if not one.seen.plumbing]
        return mermaid(arrange(seen[-last:] if last else seen, self._system), title=title)

    def __str__(self) -> str:
        """What was said, a line each; only the last of much."""
        lines = [str(one) for one in self.messages if one.seen.direction is not Direction.RECEIVED]
        left_out = [f"({len(lines) - _SHOWN} messages before)"] if len(lines) > _SHOWN else []
        return "\n".join(left_out + lines[-_SHOWN:]) or "(nothing was said)"

    def _take(self, feeds: list[Feed]) -> None:
        for feed in feeds:
            self.messages.extend(Message(seen, envelope) for seen, envelope in feed.take_messages())
        for something in self._waiting:
            something.set()


def _concerns(one: Message, operation: str) -> bool:
    """``hello.greet``, ``greet``, or nothing in particular."""
    if not operation:
        return True
    service, _, op = operation.rpartition(".")
    if op != one.op:
        return False
    return not service or _is_at(one.seen.answers or one.envelope.receiver, service)


def _is_at(address: str, wanted: str) -> bool:
    if ":" in wanted:
        kind, _, wanted = wanted.partition(":")
        if not address.startswith(f"{kind}:"):
            return False
    name = address.partition(":")[2]
    return name == wanted or name.endswith(f".{wanted}")
