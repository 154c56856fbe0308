"""All conversations of one process: opens them, routes what comes, and forgets them when they have ended.

An id alone does not name a side, since a process may talk to itself: messages of the initiator carry ``reply_to``,
those of the participant do not, so each finds the other's side. (The ancestor kept one object an id, and such a call
never got an answer.) A conversation that has ended leaves a tombstone, its id and the time, bounded in number and age:
what comes late is counted and not answered. Everything else that comes for no conversation is told so, and whoever is
told ends its side. Time-outs of all of them stand on one timer.

What opens a conversation is settled at once: agreeing is a promise, and the other side watches by deadline or lease.
Work that may take minutes so holds no slot of a mailbox, and CANCEL comes through; how many may be open is bounded by
refusing, not by waiting, so no circle of waiting exists.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from pelagos.exchange import Address, Delivery, Envelope, Kind, Performative, Status, encode_error, kind_of
from pelagos.model.errors import (
    DeadlineExceeded,
    Gone,
    InvalidInput,
    PelagosError,
    Refused,
    Retry,
    Unavailable,
    Unsupported,
)
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.process.context import CONTEXT, Context
from pelagos.process.conversations.conversation import Conversation
from pelagos.process.conversations.handling import start_handler
from pelagos.process.conversations.machine import Said, Violation, step
from pelagos.process.conversations.message import NOT_UNDERSTOOD
from pelagos.process.conversations.protocol import Outcome, Protocol
from pelagos.process.conversations.registry import Protocols
from pelagos.process.deadlines import DeadlineWatch
from pelagos.process.host import begin_of
from pelagos.process.log import get_logger

if TYPE_CHECKING:
    from pelagos.process.process import Process

__all__ = ["Conversations", "ConversationsSnapshot"]

log = get_logger(__name__)

_TOMBSTONES = 1024
_TOMBSTONE_AGE = 120.0
_SWEEP_GRAIN = 1.0
"""Seconds between two sweeps at the least; what is left may round to no time at all."""
_BUFFER = 256
"""Messages that may wait in a participant's side."""


class ConversationsSnapshot(msgspec.Struct, frozen=True):
    """Counters rise from the start of the process."""

    open: tuple[str, ...]
    """The first hundred: id, protocol, role, state."""
    initiated: int
    """Open as initiator."""
    taken: int
    """Open as participant."""
    handlers: int
    tombstones: int
    begun: int
    ended: dict[Outcome, int]
    violations: int
    """Messages that came and are not in the table."""
    vetoed: int
    """Messages that the table kept from being sent."""
    not_understood: int
    """Messages sent that the other side found not in the table."""
    duplicates: int
    gaps: int
    late: int
    """Messages for conversations that had ended."""
    strays: int
    """Messages of nobody's conversation, or from somebody who takes no part in it."""
    dropped: int
    """Oldest messages pushed out of full buffers, as asked."""
    overloaded: int
    """Conversations refused because too many were open."""


class Conversations:
    """See the module's head. Made by :attr:`pelagos.process.Process.conversations`."""

    def __init__(self, process: Process) -> None:
        host = process.container
        self.process = process
        self.transport = host.transport
        self.now = host.world.now
        self.monotonic = host.world.monotonic
        self.loop = asyncio.get_running_loop()
        self.address = process.address
        self.label = process.label
        self.protocols = Protocols(type(process).protocols)
        self.handlers: dict[asyncio.Task[None], Conversation] = {}
        self.duplicates = 0
        self.gaps = 0
        self.violations = 0
        self.vetoed = 0
        self.not_understood = 0
        self.strays = 0
        self.dropped = 0
        self.most_bytes = host.max_message_bytes
        self._names = host.names
        self._default_timeout = host.call_timeout
        self._limit = type(process).max_conversations
        self._initiated: dict[str, Conversation] = {}
        self._taken: dict[str, Conversation] = {}
        self._tombstones: OrderedDict[tuple[str, bool], float] = OrderedDict()
        self._sweeper: asyncio.TimerHandle | None = None
        self._watch: DeadlineWatch[Conversation, None] = DeadlineWatch(
            self.loop, self.monotonic, lambda conversation, _: conversation.expire()
        )
        self._renewals: DeadlineWatch[Conversation, None] = DeadlineWatch(self.loop, self.monotonic, self._renew)
        self._prefix = f"{begin_of(process.id, process.world.now())}~"
        self._count = 0
        self._begun = 0
        self._ended = dict.fromkeys(Outcome, 0)
        self._late = 0
        self._overloaded = 0
        self._closed = False
        self._heed_no_breaks = host.transport.on_disconnect(self.disconnected)
        self._drained: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """How many are open."""
        return len(self._initiated) + len(self._taken)

    def open_ones(self) -> tuple[Conversation, ...]:
        """All that are open, those of this process's asking first."""
        return (*self._initiated.values(), *self._taken.values())

    def register(self, protocol: Protocol) -> None:
        """Speak one more protocol; see :meth:`Protocols.register`."""
        self.protocols.register(protocol)

    # -- opening -----------------------------------------------------------------------------------------------

    async def open(
        self,
        protocol: Protocol | str,
        address: Address | str,
        op: str,
        content: object,
        *,
        timeout: float | None,
        buffer: int,
        drop_oldest: bool,
    ) -> Conversation:
        """See ``Process.converse``."""
        if isinstance(protocol, Protocol):
            self.protocols.register(protocol)
            table = protocol
        else:
            table = self.protocols.get(protocol)
        if table.name == "rpc" or len(table.roles) != 2:
            raise Unsupported(
                f"{table.name} is not spoken by conversations",
                advice="Use call() or a client for rpc; tables of more than two roles are for monitors.",
            )
        if self._closed:
            raise Unavailable(f"{self.label} has ended; it converses with nobody any more")
        if self._full():
            raise self._too_many()
        target = self._names.full(address)
        if kind_of(target) not in (Kind.PROCESS, Kind.SERVICE):
            raise InvalidInput(f"{address} is not a process or service", advice="One talks with one; publish to many.")
        here = CONTEXT.get()
        now = self.monotonic()
        if timeout is None and table.needs_deadline:
            timeout = self._default_timeout
        deadline = None if timeout is None else now + timeout
        if here.deadline is not None and (deadline is None or here.deadline < deadline):
            deadline = here.deadline
        if deadline is not None and deadline <= now:
            late = DeadlineExceeded(f"no time was left to ask {op} of {address}; nothing was done")
            late.retry = Retry.TRANSIENT
            raise late
        self._count += 1
        conversation_id = f"{self._prefix}{self._count}"
        context = Context(
            here.scope,
            deadline,
            conversation_id,
            here.trace or conversation_id,
            here.request_id if here.depth == 0 else None,
            here.depth,
            here.process,
            here.assertion,
            here.expiry,
        )
        conversation = Conversation(
            self,
            table,
            conversation_id=conversation_id,
            initiated=True,
            target=target,
            peer=target if kind_of(target) is Kind.PROCESS else None,
            op=op,
            context=context,
            deadline=deadline,
            buffer=max(1, buffer),
            drop_oldest=drop_oldest,
        )
        self._initiated[conversation_id] = conversation
        self._begun += 1
        try:
            await conversation.send(_opening(table), content)
        except BaseException:
            conversation.lose(Unavailable(f"{op} of {address} was not sent"))
            raise
        return conversation

    # -- what comes --------------------------------------------------------------------------------------------

    def receive(self, delivery: Delivery) -> None:
        """A message came from the transport. Returns at once, never raises, and settles it."""
        envelope = delivery.envelope
        asked = envelope.reply_to is not None
        conversation = (self._taken if asked else self._initiated).get(envelope.conv_id)
        if conversation is not None:
            conversation.take(envelope)
        elif (envelope.conv_id, not asked) in self._tombstones:
            self._late += 1
        elif asked and envelope.conv_seq == 1:
            self._admit(envelope, delivery.deadline)
        else:
            self.strays += 1
            self._answer(envelope, NOT_UNDERSTOOD, Gone(f"{self.label} knows no conversation {envelope.conv_id}"))
        # Settled last: it may bring the next message at once, and order must hold.
        delivery.ack()

    def _admit(self, envelope: Envelope, deadline: float | None) -> None:
        """Somebody opens a conversation with this process."""
        error = self._objection(envelope, deadline)
        if error is not None:
            self._answer(envelope, "", error)
            return
        protocol = self.protocols.get(envelope.protocol)
        if isinstance(
            reached := step(protocol, protocol.initial, Said(protocol.roles[0], envelope.performative, envelope.op)),
            Violation,
        ):
            self.violations += 1
            self._answer(envelope, "", Unsupported(str(reached)))
            return
        context = Context(
            envelope.identity or DEFAULT_SCOPE,
            deadline,
            envelope.conv_id,
            envelope.trace,
            envelope.request_id or envelope.conv_id,
            envelope.depth + 1,
            self.process.id,
            envelope.assertion,
            envelope.expiry,
        )
        conversation = Conversation(
            self,
            protocol,
            conversation_id=envelope.conv_id,
            initiated=False,
            target=envelope.sender,
            peer=envelope.sender,
            op=envelope.op,
            context=context,
            deadline=deadline,
            buffer=_BUFFER,
            drop_oldest=False,
        )
        self._taken[envelope.conv_id] = conversation
        self._begun += 1
        conversation.take_opening(envelope, reached)
        if conversation.outcome is None:
            start_handler(self, conversation, envelope.content)

    def _objection(self, envelope: Envelope, deadline: float | None) -> PelagosError | None:
        """Why no conversation may begin, if so."""
        if self._closed or not self.process.serves:
            return Unavailable(f"{self.label} is not active", advice="Try again later.")
        if envelope.protocol not in self.protocols or envelope.protocol == "rpc":
            return Unsupported(
                f"{self.label} does not speak the protocol {envelope.protocol!r}",
                advice=f"It speaks {', '.join(known.name for known in self.protocols)}.",
            )
        if len(self.protocols.get(envelope.protocol).roles) != 2:
            return Unsupported(f"{envelope.protocol} has more than two roles")
        if self._full():
            return self._too_many()
        if not 0 <= envelope.depth <= self.process.max_depth:
            return Refused(
                f"calls nested {envelope.depth} deep; {self.label} takes part in at most {self.process.max_depth}",
                advice="Services probably call each other in a circle.",
                details={"depth": envelope.depth},
            )
        if deadline is not None and deadline <= self.monotonic():
            late = DeadlineExceeded(f"{envelope.op} came after its deadline; nothing was done")
            late.retry = Retry.TRANSIENT
            return late
        return None

    def _full(self) -> bool:
        """No more may be open. An operation that outlives its conversation counts too."""
        return len(self._initiated) + max(len(self._taken), len(self.handlers)) >= self._limit

    def _too_many(self) -> Unavailable:
        self._overloaded += 1
        return Unavailable(
            f"{self.label} is overloaded: {len(self)} conversations are open",
            advice="Try again later.",
            details={"overloaded": True},
        )

    def answer_not_understood(self, envelope: Envelope, conversation: Conversation, error: PelagosError) -> None:
        """Tell the sender of a message which the table does not allow."""
        self._answer(envelope, NOT_UNDERSTOOD, error, conversation)

    def _answer(
        self, envelope: Envelope, op: str, error: PelagosError, conversation: Conversation | None = None
    ) -> None:
        """An error reply outside of the table. A failure is never answered, so two sides never complain in turn."""
        if envelope.performative is Performative.FAILURE:
            return
        asked = envelope.reply_to is not None
        if conversation is not None:
            conversation.seq += 1
        self.transport.post(
            Envelope(
                envelope.reply_to or envelope.sender,
                self.address,
                op or envelope.op,
                Performative.FAILURE if op or not isinstance(error, Refused) else Performative.REFUSE,
                envelope.conv_id,
                encode_error(error),
                envelope.conv_seq + 1 if conversation is None else conversation.seq,
                envelope.protocol,
                Status.ERROR,
                None if asked else self.address,
                int(self.now() * 1000),
                trace=envelope.trace,
                sender_name=self.label,
            )
        )

    # -- ends --------------------------------------------------------------------------------------------------

    def ended(self, conversation: Conversation) -> None:
        """A conversation has its outcome: only a tombstone stays."""
        assert conversation.outcome is not None
        self._ended[conversation.outcome] += 1
        (self._initiated if conversation.initiated else self._taken).pop(conversation.id, None)
        self._watch.entries.pop(conversation, None)
        self._renewals.entries.pop(conversation, None)
        graves = self._tombstones
        graves[(conversation.id, conversation.initiated)] = self.monotonic()
        if len(graves) > _TOMBSTONES:
            graves.popitem(last=False)
        if self._sweeper is None and not self._closed:
            self._sweeper = self.loop.call_later(_TOMBSTONE_AGE, self._sweep)

    def _sweep(self) -> None:
        """Forget old tombstones."""
        self._sweeper = None
        graves = self._tombstones
        now = self.monotonic()
        while graves:
            oldest = next(iter(graves.values()))
            if now - oldest < _TOMBSTONE_AGE:
                left = oldest + _TOMBSTONE_AGE - now
                self._sweeper = self.loop.call_later(max(left, _SWEEP_GRAIN), self._sweep)
                return
            graves.popitem(last=False)

    def handler_done(self, task: asyncio.Task[None]) -> None:
        """A handler's task is over."""
        conversation = self.handlers.pop(task, None)
        if conversation is not None and conversation.outcome is not None:
            self._watch.entries.pop(conversation, None)
        if not self.handlers and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def drain(self, timeout: float) -> float:
        """The process serves no more: end what is leased, which would never end by itself, and wait up to ``timeout``
        seconds until no operation runs; what does then is ended too. Returns the seconds left."""
        for conversation in list(self._taken.values()):
            if conversation.protocol.lease is not None:
                conversation.abandon(Unavailable(f"{self.label} is stopping", advice="Subscribe again."))
        if not self.handlers:
            return timeout
        begun = self.monotonic()
        self._drained = self.loop.create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._drained
        except TimeoutError:
            log.warning("conversations cut at shutdown", process=self.process.id, name=self.label, open=len(self))
            for conversation in list(self.handlers.values()):
                conversation.abandon(_ended(conversation, f"{self.label} is stopping"))
        finally:
            self._drained = None
        return max(0.0, timeout - (self.monotonic() - begun))

    def disconnected(self) -> None:
        """The transport lost its connection: answers to what this process asked for may be lost, so all that ends.

        What others asked of it goes on. Whoever asked over a connection that holds gets the answer once this one is
        back; for the rest there are deadlines and leases.
        """
        for conversation in list(self._initiated.values()):
            conversation.lose(_ended(conversation, "the connection to the exchange was lost"))

    def close(self) -> None:
        """The process ends: so do all conversations, and the other sides are told. Idempotent."""
        self._closed = True
        self._heed_no_breaks()
        for conversation in self.open_ones():
            gone = _ended(conversation, f"{self.label} has ended")
            if conversation.initiated and conversation.peer is not None and conversation.may(Performative.CANCEL):
                conversation.cancel()
                conversation.lose(gone)
            else:
                conversation.abandon(gone)
        self._watch.close()
        self._renewals.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._tombstones.clear()

    # -- time --------------------------------------------------------------------------------------------------

    def watch(self, conversation: Conversation, due: float | None) -> None:
        """Have it expire then, and not before."""
        if due is None:
            self._watch.entries.pop(conversation, None)
        elif not self._closed:
            self._watch.add(conversation, due, None)

    def renew_later(self, conversation: Conversation) -> None:
        """Begin to renew its lease."""
        lease = conversation.protocol.lease
        if lease is not None and conversation.initiated and conversation.outcome is None and not self._closed:
            self._renewals.add(conversation, self.monotonic() + lease.every, None)

    def _renew(self, conversation: Conversation, _: None) -> None:
        conversation.renew()
        self.renew_later(conversation)

    def snapshot(self) -> ConversationsSnapshot:
        everyone = self.open_ones()
        return ConversationsSnapshot(
            open=tuple(f"{c.id} {c.protocol.name} {c.role} {c.state}" for c in everyone[:100]),
            initiated=len(self._initiated),
            taken=len(self._taken),
            handlers=len(self.handlers),
            tombstones=len(self._tombstones),
            begun=self._begun,
            ended={outcome: count for outcome, count in self._ended.items() if count},
            violations=self.violations,
            vetoed=self.vetoed,
            not_understood=self.not_understood,
            duplicates=self.duplicates,
            gaps=self.gaps,
            late=self._late,
            strays=self.strays,
            dropped=self.dropped,
            overloaded=self._overloaded,
        )


def _ended(conversation: Conversation, why: str) -> Unavailable:
    gone = Unavailable(f"{why} while {conversation.op} of {conversation.target} was not done")
    gone.retry = Retry.UNCERTAIN
    return gone


def _opening(protocol: Protocol) -> Performative:
    """What the initiator says first: REQUEST if the table has it, else the first row's."""
    first = [performative for state, _, performative in protocol.says if state == protocol.initial]
    return Performative.REQUEST if Performative.REQUEST in first else first[0]
