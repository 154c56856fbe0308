"""A process: an object with an id, a mailbox, typed operations and a life cycle, hosted by a container.

Its whole life is one call of :meth:`Process.run`, made by its supervisor: everything it starts lives in the task group
of that call, so when the call has returned, nothing of it is left. Tasks of a process never raise into the task group;
a failure is recorded and ends the main body, which then takes its tasks down in the order they were started. (The
group's own abort cancels a set, in an order that differs from run to run, which would make a simulation
irreproducible.)
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, TypeVar

import msgspec

from pelagos.exchange import Address, Delivery, Kind, Performative, Receiver, Subscription
from pelagos.model.errors import Conflict, InvalidInput, Unavailable
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.model.world import World
from pelagos.process.calling import Caller
from pelagos.process.context import CONTEXT, Context, current_context
from pelagos.process.conversations.speaking import Speaker
from pelagos.process.host import Host
from pelagos.process.lifecycle import Input, LifeCycle, State
from pelagos.process.log import get_logger
from pelagos.process.operation import Operation, operation, operations_of
from pelagos.process.serving import Bound, RequestServer, ServingSnapshot

__all__ = ["Process", "ProcessSnapshot", "ServiceProcess"]

T = TypeVar("T")

log = get_logger(__name__)

_HARD_END = 1.0
"""Seconds that ``on_terminate`` gets when the process failed or was cancelled."""


class ProcessSnapshot(msgspec.Struct, frozen=True):
    id: str
    name: str
    kind: str
    """The class."""
    state: State
    cause: str | None
    serving: ServingSnapshot
    calls: int
    """Calls that wait for their reply."""
    late_replies: int
    tasks: tuple[str, ...]


class Process(Speaker):
    """Base of all processes. Subclasses add operations and override hooks.

    The hooks, each of which may call other services:

    * ``on_init``: ``world``, ``container`` and ``id`` are there; nobody can call this process yet. Raise to give up.
    * ``on_activate``: the services it ``depends`` on are served; after it, requests are admitted.
    * ``on_deactivate``: no request is running any more, and none will come; tasks still run.
    * ``on_terminate``: no task runs any more; release what ``on_init`` took. It also runs after a failure, also of a
      hook before it: then not everything may be there.
    """

    name: ClassVar[str] = ""
    version: ClassVar[str] = "1.0"
    depends: ClassVar[tuple[str, ...]] = ()
    """Names of services (or addresses) waited for before activation."""
    max_concurrent: ClassVar[int] = 64
    """Requests served at once, for each depth of nesting."""
    max_depth: ClassVar[int] = 16
    """How many requests may wait for a request made to this process."""

    world: World
    container: Host
    id: str

    def __init__(self) -> None:
        self._life = LifeCycle(
            {
                "on_init": self.on_init,
                "on_activate": self._activate,
                "on_deactivate": self.on_deactivate,
                "on_terminate": self.on_terminate,
            },
            name=self.label,
        )
        self._caller: Caller | None = None
        self._server: RequestServer | None = None
        self._group: asyncio.TaskGroup | None = None
        self._stopping: asyncio.Future[float] | None = None
        self._stop_requested: float | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._subscriptions: list[Subscription] = []
        self._listening: list[tuple[Receiver, Bound]] = []
        self._hurried = False
        """It was cancelled: its end should take no time."""

    # -- what subclasses override ------------------------------------------------------------------------------

    async def on_init(self) -> None:
        """Take what is needed."""

    async def on_activate(self) -> None:
        """Get ready to serve."""

    async def on_deactivate(self) -> None:
        """Stop what goes on by itself."""

    async def on_terminate(self) -> None:
        """Give back what was taken."""

    @operation
    async def ping(self) -> str:
        """Answered by every process."""
        return "pong"

    # -- what subclasses use -----------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._life.state

    @property
    def cause(self) -> BaseException | None:
        """Why it went to ERROR, if it did."""
        return self._life.cause

    @property
    def context(self) -> Context:
        """The context of the request being served."""
        return current_context()

    @property
    def label(self) -> str:
        """For people: the service's name, or the class's."""
        return self.name or type(self).__name__

    @property
    def address(self) -> str:
        """The full address of its mailbox."""
        return f"{Kind.PROCESS}:{self.id}"

    @property
    def caller(self) -> Caller:
        """The calling side. Raises :class:`Conflict` before the process is hosted."""
        if self._caller is None:
            raise Conflict(f"{self.label} is not hosted by a container", advice="Spawn it first.")
        return self._caller

    def start_task(self, coroutine: Coroutine[Any, Any, Any], *, name: str = "") -> asyncio.Task[None]:
        """Run a coroutine as long as the process lives. If it raises, the process goes to ERROR with that cause.

        It keeps scope and trace of whoever starts it, but neither deadline nor conversation: nobody waits for it.
        Raises :class:`Conflict` when the process does not run.
        """
        if self._group is None or self._stopping is None:
            coroutine.close()
            raise Conflict(f"{self.label} is {self.state}; it cannot start tasks")
        here = current_context()
        context = Context(here.scope, trace=here.trace, process=self.id)
        task = self._start(self._guard(coroutine), name or getattr(coroutine, "__name__", "task"), context)
        self._tasks[task] = None
        task.add_done_callback(self._forget_task)
        return task

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

    def publish(self, address: Address | str, content: object, *, op: str = "event") -> None:
        """Send a hint to a fan-out or topic address: never waits, nobody may be listening."""
        full = self.container.names.full(address)
        if Address.parse(full).kind not in (Kind.FANOUT, Kind.TOPIC):
            raise InvalidInput(f"{address} is not a fan-out or topic", advice="Use a client to call a service.")
        self.caller.post(full, op, msgspec.msgpack.encode(content))

    async def listen(
        self,
        address: Address | str,
        handler: Callable[[Any], Awaitable[None]],
        content: Any = Any,
        *,
        capacity: int = 1024,
    ) -> None:
        """Have ``handler`` called with what is published to a fan-out or topic pattern, decoded as ``content``.

        To be called from ``on_init`` or later. Events come from activation on, and take the process's slots. A handler
        that raises is logged; the next event comes all the same.
        """
        receiver = Receiver(self.container.names.full(address), prefetch=self.max_concurrent, capacity=capacity)
        bound = (Operation.for_events(str(address), content), handler)
        self._listening.append((receiver, bound))
        if self.state is State.ACTIVE:
            await self._subscribe_events(receiver, bound)

    def stop(self, drain: float = 5.0) -> None:
        """Ask the process to end in good order; running requests get ``drain`` seconds. Returns at once. Idempotent."""
        self._stop_requested = drain
        if self._stopping is not None and not self._stopping.done():
            self._stopping.set_result(drain)

    def snapshot(self) -> ProcessSnapshot:
        empty = ServingSnapshot((), 0, 0, 0, 0, 0)
        return ProcessSnapshot(
            id=getattr(self, "id", ""),
            name=self.name,
            kind=type(self).__name__,
            state=self.state,
            cause=None if self.cause is None else f"{type(self.cause).__name__}: {self.cause}",
            serving=empty if self._server is None else self._server.snapshot(),
            calls=0 if self._caller is None else self._caller.pending,
            late_replies=0 if self._caller is None else self._caller.late_replies,
            tasks=tuple(task.get_name() for task in self._tasks),
        )

    # -- its life ----------------------------------------------------------------------------------------------

    async def run(self, host: Host, started: Callable[[], None]) -> None:
        """Live, from INIT to TERMINATED; for supervisors. ``started`` is called once it is ACTIVE.

        Returns after :meth:`stop`. Raises the cause if it fails, and :class:`asyncio.CancelledError` if it is
        cancelled. An object lives once: a second call raises :class:`Conflict`.
        """
        if self._caller is not None:
            raise Conflict(f"{self.label} has lived already", advice="Give the supervisor a factory, not an object.")
        self._attach(host)
        try:
            try:
                async with asyncio.TaskGroup() as group:
                    self._group = group
                    await self._live(started)
            except BaseExceptionGroup as group_error:
                raise _leaf(group_error) from None
            await self._life.feed(Input.TERMINATE)
        except BaseException as cause:
            await self._end_after(cause)
            raise
        finally:
            await self._detach()

    async def _live(self, started: Callable[[], None]) -> None:
        assert self._stopping is not None and self._server is not None
        transport = self.container.transport
        try:
            self._mailbox = await transport.subscribe(
                Receiver(self.address, prefetch=self.max_concurrent), self._receive
            )
            await self._life.feed(Input.INITIALIZE)
            await self._life.feed(Input.ACTIVATE)
            self._server.open = True
            await self._open()
            started()
            drain = await self._stopping
            await self._close()
            await self._drain(drain)
            await self._life.feed(Input.DEACTIVATE)
        except asyncio.CancelledError:
            self._hurried = True
            raise
        finally:
            await self._close()
            self._server.cancel()
            if self._conversations is not None:
                self._conversations.close()
            for task in list(self._tasks):
                task.cancel()
            self._group = None

    async def _open(self) -> None:
        """Begin to receive."""
        for receiver, bound in self._listening:
            await self._subscribe_events(receiver, bound)

    async def _close(self) -> None:
        """Receive nothing more, and give back what has not begun."""
        assert self._server is not None
        self._server.open = False
        while self._subscriptions:
            await self._subscriptions.pop().cancel()
        self._server.give_back()

    async def _drain(self, timeout: float) -> None:
        assert self._server is not None
        if self._conversations is not None:
            timeout = await self._conversations.drain(timeout)
        if not await self._server.drain(timeout):
            log.warning("requests cancelled at shutdown", process=self.id, name=self.label, seconds=timeout)

    def _attach(self, host: Host) -> None:
        self.container = host
        self.world = host.world
        self.id = host.new_process_id()
        CONTEXT.set(Context(DEFAULT_SCOPE, process=self.id))
        self._caller = Caller(host, address=self.address, process_id=self.id, label=self.label)
        self._server = RequestServer(
            host,
            address=self.address,
            process_id=self.id,
            label=self.label,
            operations={name: (op, getattr(self, name)) for name, op in operations_of(type(self)).items()},
            max_concurrent=self.max_concurrent,
            max_depth=self.max_depth,
            start_worker=self._start_worker,
        )
        self._stopping = asyncio.get_running_loop().create_future()
        if self._stop_requested is not None:
            self._stopping.set_result(self._stop_requested)
        host.process_started(self)

    async def _detach(self) -> None:
        assert self._caller is not None and self._stopping is not None
        mailbox = getattr(self, "_mailbox", None)
        if mailbox is not None:
            await mailbox.close()
        self._caller.close()
        if not self._stopping.done():
            self._stopping.cancel()
        self.container.process_ended(self)

    async def _end_after(self, cause: BaseException) -> None:
        """To ERROR, and from there to TERMINATED; the hook's own failure must not hide the first cause."""
        if self.state is not State.TERMINATED:
            await self._life.feed(Input.FAIL, cause)
        try:
            async with asyncio.timeout(_HARD_END):
                await self._life.feed(Input.TERMINATE)
        except Exception as error:
            log.error("on_terminate failed after a failure", process=self.id, name=self.label, exc_info=error)

    async def _activate(self) -> None:
        await self._wait_for_dependencies()
        await self.on_activate()

    async def _wait_for_dependencies(self) -> None:
        patience = self.container.dependency_timeout
        until = self.world.monotonic() + patience
        missing = []
        for name in self.depends:
            address = self.container.names.full(name if ":" in name else Address(Kind.SERVICE, name))
            if not await self.container.transport.wait_served(address, max(0.0, until - self.world.monotonic())):
                missing.append(name)
        if missing:
            raise Unavailable(
                f"{self.label} depends on {', '.join(missing)}, which nobody served within {patience:g} s",
                advice="Start them before it, or check that two services do not wait for each other.",
                details={"missing": missing},
            )

    # -- messages ----------------------------------------------------------------------------------------------

    def _receive(self, delivery: Delivery) -> None:
        """The mailbox's handler."""
        assert self._caller is not None and self._server is not None
        envelope = delivery.envelope
        if envelope.protocol != "rpc" and envelope.protocol != "none":
            self.conversations.receive(delivery)
        elif envelope.performative is Performative.INFORM_RESULT or envelope.is_reply:
            self._caller.take_reply(envelope)
            delivery.ack()
        else:
            self._server.admit(delivery)

    async def _subscribe_events(self, receiver: Receiver, bound: Bound) -> None:
        server = self._server
        assert server is not None

        def admit(delivery: Delivery) -> None:
            server.admit(delivery, bound)

        self._subscriptions.append(await self.container.transport.subscribe(receiver, admit))

    # -- tasks -------------------------------------------------------------------------------------------------

    def _start(
        self, coroutine: Coroutine[Any, Any, None], name: str, context: Context | None = None
    ) -> asyncio.Task[None]:
        """A task with none of the context variables of whoever starts it."""
        assert self._group is not None
        variables = contextvars.Context()
        if context is not None:
            variables.run(CONTEXT.set, context)
        return self._group.create_task(coroutine, name=f"{self.label} {name}", context=variables)

    def _start_worker(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._start(coroutine, "worker")

    async def _guard(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            await coroutine
        except Exception as error:  # noqa: BLE001 - forwarded: it ends the process, whose supervisor acts
            self._fail(error)

    def _fail(self, cause: BaseException) -> None:
        assert self._stopping is not None
        if not self._stopping.done():
            self._stopping.set_exception(cause)
        else:
            log.error("task failed while its process was stopping", process=self.id, name=self.label, exc_info=cause)

    def _forget_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)


class ServiceProcess(Process):
    """A process with a name that others call it by. Several processes of one name share its requests."""

    service_capacity: ClassVar[int] = 1024
    """Requests that may wait in the service's queue."""
    durable: ClassVar[bool] = False
    """Whether work sent to it outlives its processes and the broker: see :class:`pelagos.exchange.Receiver`."""
    delivery_limit: ClassVar[int] = 5

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" in vars(cls) and not cls.name:
            raise TypeError(f"{cls.__qualname__}: a service has a name")

    @property
    def service_address(self) -> str:
        """The full address of the service's queue."""
        return self.container.names.full(Address(Kind.SERVICE, self.name))

    async def _open(self) -> None:
        assert self._server is not None
        await super()._open()
        if not self.name:
            raise InvalidInput(f"{type(self).__qualname__} has no service name", advice='Give the class name = "...".')
        receiver = Receiver(
            self.service_address,
            prefetch=2 * self.max_concurrent,
            capacity=self.service_capacity,
            durable=self.durable,
            delivery_limit=self.delivery_limit,
        )
        self._subscriptions.append(await self.container.transport.subscribe(receiver, self._admit))

    def _admit(self, delivery: Delivery) -> None:
        """The handler of the service's queue."""
        assert self._server is not None
        if delivery.envelope.protocol == "rpc":
            self._server.admit(delivery)
        else:
            self._receive(delivery)


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
