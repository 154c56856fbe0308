"""What a process says and hears: calls, one-way messages, hints, replies, and its receivers beside the mailbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

import msgspec

from pelagos.exchange import Address, Delivery, Kind, Receiver, Subscription
from pelagos.exchange.address import kind_of
from pelagos.model.errors import Cancelled, Conflict, InvalidInput, Refused
from pelagos.process.calling import Caller
from pelagos.process.context import Context, current_context
from pelagos.process.lanes import Bound, Lane
from pelagos.process.lifecycle import State
from pelagos.process.operation import Operation, operations_of
from pelagos.process.serving import RequestServer

if TYPE_CHECKING:
    from pelagos.model.world import World
    from pelagos.process.host import Host

__all__ = ["Messenger", "Served"]

T = TypeVar("T")


class Served:
    """An address that a process receives from beside its mailbox; it follows the process's life cycle."""

    __slots__ = ("_bound", "_durable", "_events", "_lane", "_max_concurrent", "_owner", "_subscription", "receiver")

    def __init__(
        self,
        owner: Messenger,
        receiver: Receiver,
        bound: Bound | None,
        *,
        events: bool,
        max_concurrent: int | None,
    ) -> None:
        self.receiver = receiver
        self._owner = owner
        self._bound = bound
        self._events = events
        self._durable = receiver.durable
        self._max_concurrent = max_concurrent
        self._lane: Lane | None = None
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        """Begin to receive."""
        owner = self._owner
        server = owner._pelagos_server
        if self._lane is None:
            self._lane = server.receiver_lane(
                bound=self._bound, events=self._events, durable=self._durable, max_concurrent=self._max_concurrent
            )
        plain = self._bound is None and not (self._events or self._durable or self._max_concurrent)
        handler = server.admit if plain else partial(server.admit, lane=self._lane)
        self._subscription = await owner.container.transport.subscribe(self.receiver, handler)

    async def close(self) -> None:
        """Receive nothing more, until it is opened again."""
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await subscription.cancel()

    async def cancel(self) -> None:
        """Receive nothing more, for good; what has been taken is served to its end. Idempotent."""
        if self in self._owner._pelagos_served:
            self._owner._pelagos_served.remove(self)
            await self.close()
            if self._lane is not None:
                self._owner._pelagos_server.drop_lane(self._lane)


class Messenger:
    """The part of :class:`pelagos.process.Process` that other processes hear and see."""

    name: ClassVar[str] = ""
    max_concurrent: ClassVar[int] = 64
    """Requests served at once, for each depth of nesting."""
    max_depth: ClassVar[int] = 16
    """How many requests may wait for a request made to this process."""
    fail_fast: ClassVar[bool] = False
    """An exception that no handler should raise takes the process to ERROR once it is answered, so that its supervisor
    starts it anew. Otherwise it is logged and answered, and the process goes on.
    """

    world: World
    container: Host
    id: str

    def __init__(self) -> None:
        self._pelagos_hosted = False
        self._pelagos_served: list[Served] = []

    @property
    def label(self) -> str:
        """For people: the service's name, or the class's."""
        return self.name or type(self).__name__

    @property
    def state(self) -> State:
        raise NotImplementedError

    @property
    def address(self) -> str:
        """The full address of its mailbox."""
        return f"{Kind.PROCESS}:{self.id}"

    @property
    def context(self) -> Context:
        """The context of the request being served."""
        return current_context()

    @property
    def caller(self) -> Caller:
        """The calling side. Raises :class:`Conflict` before the process is hosted."""
        if not self._pelagos_hosted:
            raise Conflict(f"{self.label} is not hosted by a container", advice="Spawn it first.")
        return self._pelagos_caller

    # Made at first use: an idle process neither calls nor is called.

    @cached_property
    def _pelagos_caller(self) -> Caller:
        caller = Caller(self.container, address=self.address, process_id=self.id, label=self.label)
        if self.state is State.TERMINATED:
            caller.close()
        return caller

    @cached_property
    def _pelagos_server(self) -> RequestServer:
        server = RequestServer(
            self.container,
            address=self.address,
            process_id=self.id,
            label=self.label,
            operations={name: (op, getattr(self, name)) for name, op in operations_of(type(self)).items()},
            max_concurrent=self.max_concurrent,
            max_depth=self.max_depth,
            start_worker=self._start_worker,
            converse=self._receive,
            on_defect=self._fail if self.fail_fast else None,
        )
        server.open = self._pelagos_admitting
        return server

    # -- saying ------------------------------------------------------------------------------------------------

    async def call(
        self,
        address: Address | str,
        op: str,
        content: object = None,
        *,
        result: type[T] | Any = Any,
        timeout: float | None = None,
    ) -> T:
        """Call an operation by name, without its class; prefer :func:`client`. Errors are those of a client's calls."""
        decode = msgspec.msgpack.Decoder(result).decode
        value: T = await self.caller.call(
            self.container.names.full(address), op, msgspec.msgpack.encode(content), decode, timeout, None
        )
        return value

    async def send(self, address: Address | str, op: str, content: object = None) -> None:
        """Send a one-way message to an operation of a process or service; returns when it is in the receiver's queue.

        What the operation returns is dropped; what it raises is logged and counted there, and decides about the
        message if the receiver is durable: see :mod:`pelagos.process.settling`. Raises :class:`Unavailable` if nobody
        serves the address (a durable service's queue takes it all the same) or its queue stays full, and
        :class:`InvalidInput` for another kind of address, and content that is too large.
        """
        full = self.container.names.full(address)
        if kind_of(full) not in (Kind.PROCESS, Kind.SERVICE):
            raise InvalidInput(f"{address} is not a process or service", advice="Publish to a fan-out or topic.")
        await self.caller.send(full, op, msgspec.msgpack.encode(content))

    def publish(self, address: Address | str, content: object, *, op: str = "event") -> None:
        """Send a hint to a fan-out or topic address: never waits, nobody may be listening."""
        full = self.container.names.full(address)
        if kind_of(full) not in (Kind.FANOUT, Kind.TOPIC):
            raise InvalidInput(f"{address} is not a fan-out or topic", advice="Use a client to call a service.")
        self.caller.post(full, op, msgspec.msgpack.encode(content))

    def reply(self, value: object = None) -> None:
        """Answer the request in whose handler this is called, at once; the handler goes on, to its deadline at most.

        What it returns is dropped, what it raises is logged. A handler need not call this: what it returns is the
        reply. Raises :class:`Conflict` outside of a request, and the second time.
        """
        self._pelagos_server.reply(value)

    def refuse(self, reason: str, *, advice: str | None = None, details: dict[str, Any] | None = None) -> NoReturn:
        """Refuse the request being served: raises :class:`Refused`, which the caller gets."""
        raise Refused(reason, advice=advice, details=details)

    def cancel_request(self, request_id: str) -> int:
        """Cancel the handlers that serve that request id: their callers get :class:`Cancelled`. Returns how many."""
        return self._pelagos_server.cancel_requests(
            lambda: Cancelled(f"request {request_id} was cancelled"), request_id
        )

    # -- hearing -----------------------------------------------------------------------------------------------

    async def serve(
        self,
        address: Address | str,
        handler: Callable[[Any], Awaitable[Any]] | None = None,
        content: Any = Any,
        *,
        result: Any = Any,
        prefetch: int | None = None,
        max_concurrent: int | None = None,
        durable: bool = False,
        capacity: int = 1024,
        delivery_limit: int = 5,
    ) -> Served:
        """Receive from one more address: compete for the messages of a service's queue, or get each of a fan-out.

        A message goes to the operation it names, or to ``handler``, decoded as ``content``; what that returns is
        the reply if there is somebody to reply to. ``max_concurrent`` gives the address slots of its own (without it,
        those of the process are shared), ``prefetch`` is how many messages may be in the process's hands (twice the
        slots if None); the rest is of :class:`pelagos.exchange.Receiver`. To be called from ``on_init`` or later;
        messages come while the process is ACTIVE.
        """
        full = self.container.names.full(address)
        kind = kind_of(full)
        if kind is Kind.PROCESS:
            raise InvalidInput(f"{address} is a mailbox; only its own process receives from it")
        bound = None if handler is None else (Operation.for_handler(str(address), content, result), handler)
        receiver = Receiver(
            full,
            prefetch=prefetch or 2 * (max_concurrent or self.max_concurrent),
            capacity=capacity,
            durable=durable,
            delivery_limit=delivery_limit,
        )
        return await self._receive_from(
            Served(self, receiver, bound, events=kind is not Kind.SERVICE, max_concurrent=max_concurrent)
        )

    async def listen(
        self,
        address: Address | str,
        handler: Callable[[Any], Awaitable[None]],
        content: Any = Any,
        *,
        capacity: int = 1024,
    ) -> Served:
        """Have ``handler`` called with what is published to a fan-out or topic pattern, decoded as ``content``.

        To be called from ``on_init`` or later. Events come from activation on, and take the process's slots. A handler
        that raises is logged; the next event comes all the same.
        """
        receiver = Receiver(self.container.names.full(address), prefetch=self.max_concurrent, capacity=capacity)
        bound = (Operation.for_events(str(address), content), handler)
        return await self._receive_from(Served(self, receiver, bound, events=True, max_concurrent=None))

    async def _receive_from(self, served: Served) -> Served:
        if not self._pelagos_hosted:
            raise Conflict(f"{self.label} is not hosted by a container", advice="Call it from on_init or later.")
        self._pelagos_served.append(served)
        if self.state is State.ACTIVE:
            await served.open()
        return served

    # -- of the process itself -----------------------------------------------------------------------------------

    _pelagos_admitting = False
    """Whether requests are admitted: the process is ACTIVE."""

    def _receive(self, delivery: Delivery) -> None:
        raise NotImplementedError

    def _start_worker(self, coroutine: Any) -> Any:
        raise NotImplementedError

    def _fail(self, cause: BaseException) -> None:
        raise NotImplementedError
