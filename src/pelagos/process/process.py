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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from itertools import takewhile
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar

from pelagos.exchange import Delivery, Performative, Receiver, Subscription
from pelagos.model.errors import Conflict, NotFound, Retry, Unavailable
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.process.child import ChildSnapshot, ExitReason, Restart, RestartStrategy
from pelagos.process.context import CONTEXT, Context, current_context
from pelagos.process.dependencies import wait_for_dependencies
from pelagos.process.host import Host
from pelagos.process.lifecycle import IllegalTransition, Input, LifeCycle, State
from pelagos.process.log import get_logger
from pelagos.process.messaging import Messenger
from pelagos.process.operation import operation, operations_of
from pelagos.process.speaking import Speaker
from pelagos.process.statistics import OperationStatistics, ProcessDescription, ProcessSnapshot, ServingSnapshot

if TYPE_CHECKING:
    from pelagos.process.children import Children

__all__ = ["Process", "ProcessSnapshot"]

log = get_logger(__name__)

# Looking a member up in its enum costs almost as much as making a message.
_RESULT = Performative.INFORM_RESULT

_HARD_END = 1.0
"""Seconds that ``on_terminate`` gets when the process failed or was cancelled."""


class Process(Messenger, Speaker):
    """Base of all processes. Subclasses add operations and override hooks; a member named like any other of this class
    is refused with a :class:`TypeError`.

    The hooks, each of which may call other services:

    * ``on_init``: ``world``, ``container`` and ``id`` are there; nobody can call this process yet. Raise to give up.
    * ``on_activate``: the services it ``depends`` on are served; after it, requests are admitted.
    * ``on_deactivate``: no request is running any more, and none will come; tasks and children still run. A process may
      be activated again.
    * ``on_terminate``: no task and no child runs any more; release what ``on_init`` took. It also runs after a
      failure, also of a hook before it: then not everything may be there.
    """

    version: ClassVar[str] = "1.0"
    """As Python packages are numbered (PEP 440)."""
    depends: ClassVar[tuple[str, ...]] = ()
    """Services (or addresses) waited for before activation, with ranges of versions if need be: ``catalog>=1.2,<2``."""
    child_strategy: ClassVar[RestartStrategy] = RestartStrategy.ONE_FOR_ONE
    """Which of its children are restarted when one fails."""
    max_child_restarts: ClassVar[int] = 3
    """Above so many restarts of children in ``child_restart_period`` seconds the process fails itself."""
    child_restart_period: ClassVar[float] = 5.0

    vital: ClassVar[bool] = False
    """Its container cannot do without it: it ends with the container, and nobody may terminate it alone."""

    supervisor_id: str = ""
    """The process that keeps this one alive; empty for a root."""

    _pelagos_mailbox: Subscription | None = None
    _pelagos_taken: ClassVar[frozenset[str]] = frozenset()
    """Members that nobody may hide by one of the same name; of the kinds of processes, each has its own beside."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__.startswith("pelagos.process."):
            cls._pelagos_taken = cls._pelagos_taken | _members(cls)
        for owner in takewhile(_is_users, cls.__mro__):
            _refuse_names(cls, cls._pelagos_taken, vars(owner))

    def __init__(self) -> None:
        super().__init__()
        self.__life = LifeCycle(
            {
                "on_init": self.on_init,
                "on_activate": self._activate,
                "on_deactivate": self.on_deactivate,
                "on_terminate": self.on_terminate,
            },
            name=self.label,
        )
        self.__group: asyncio.TaskGroup | None = None
        self.__stopping: asyncio.Future[float] | None = None
        self.__stop_requested: float | None = None
        self.__tasks: dict[asyncio.Task[None], None] = {}
        self.__switching: asyncio.Lock | None = None
        self.__kept: Children | None = None
        self._pelagos_hurried = False
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

    @operation
    async def describe(self) -> ProcessDescription:
        """Answered by every process: what it is, and what it can be asked."""
        operations = tuple(sorted(operations_of(type(self))))
        return ProcessDescription(self.id, self.name, self.version, type(self).__name__, operations)

    def on_child_exit(self, name: str, reason: ExitReason) -> None:
        """A child has ended; whether it is restarted is its spec's affair. Must return at once."""

    # -- what subclasses use -----------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self.__life.state

    @property
    def cause(self) -> BaseException | None:
        """Why it went to ERROR, if it did."""
        return self.__life.cause

    @property
    def serves(self) -> bool:
        """Whether requests are admitted now."""
        return self._pelagos_admitting

    def start_task(self, coroutine: Coroutine[Any, Any, Any], *, name: str = "") -> asyncio.Task[None]:
        """Run a coroutine as long as the process lives. If it raises, the process goes to ERROR with that cause.

        It keeps scope and trace of whoever starts it, but neither deadline nor conversation: nobody waits for it.
        Raises :class:`Conflict` when the process does not run.
        """
        if self.__group is None or self.__stopping is None:
            coroutine.close()
            raise Conflict(f"{self.label} is {self.state}; it cannot start tasks")
        here = current_context()
        context = Context(here.scope, trace=here.trace, process=self.id)
        task = self._start(self._guard(coroutine), name or getattr(coroutine, "__name__", "task"), context)
        self.__tasks[task] = None
        task.add_done_callback(self._forget_task)
        return task

    def stop(self, drain: float = 5.0) -> None:
        """Ask the process to end in good order; running requests get ``drain`` seconds. Returns at once. Idempotent."""
        self.__stop_requested = drain
        if self.__stopping is not None and not self.__stopping.done():
            self.__stopping.set_result(drain)

    async def deactivate(self, drain: float = 5.0) -> None:
        """From ACTIVE to READY: receive nothing more and give back what has not begun; what runs may end within
        ``drain`` seconds and is cancelled then. Whoever asks the mailbox meanwhile gets :class:`Unavailable`; tasks and
        children go on.

        Not for its own handlers, which it would wait for. Raises :class:`IllegalTransition` in another state; if the
        hook raises, so does this, and the process fails.
        """
        async with self._one_switch():
            self._require(State.ACTIVE, Input.DEACTIVATE)
            try:
                await self._close()
                await self._drain(drain, end=True)
                await self.__life.feed(Input.DEACTIVATE)
            except Exception as error:
                self._fail(error)
                raise

    async def activate(self) -> None:
        """From READY, after :meth:`deactivate`, to ACTIVE again. Raises as that does."""
        async with self._one_switch():
            self._require(State.READY, Input.ACTIVATE)
            try:
                await self.__life.feed(Input.ACTIVATE)
                await self._open()
            except Exception as error:
                self._fail(error)
                raise

    async def spawn_child(
        self,
        process: Process | Callable[[], Process],
        *,
        name: str = "",
        restart: Restart = Restart.PERMANENT,
        shutdown: float | None = 5.0,
    ) -> str:
        """Start a process that this one keeps alive, by ``child_strategy``; returns its id when it is ACTIVE.

        Children end before ``on_terminate`` of this process. If they fail too often, it fails too. Arguments and errors
        are those of :meth:`pelagos.container.Container.spawn`.
        """
        if self.__kept is None:
            from pelagos.process.children import Children

            self.__kept = Children(self, self._start, self._fail)
        return await self.__kept.spawn(process, name, restart, shutdown)

    async def stop_child(self, name: str) -> None:
        """Stop a child in good order and forget it. Raises :class:`NotFound`."""
        if self.__kept is None:
            raise NotFound(f"{self.label} has no child {name!r}")
        await self.__kept.stop_child(name)

    def children(self) -> tuple[ChildSnapshot, ...]:
        """Its children in the order of their start."""
        return () if self.__kept is None else self.__kept.children()

    def statistics(self) -> tuple[OperationStatistics, ...]:
        """What each operation that was called has cost."""
        return self._pelagos_server.statistics() if "_pelagos_server" in vars(self) else ()

    def snapshot(self) -> ProcessSnapshot:
        caller = self._pelagos_caller if "_pelagos_caller" in vars(self) else None
        return ProcessSnapshot(
            id=getattr(self, "id", ""),
            name=self.name,
            kind=type(self).__name__,
            state=self.state,
            cause=None if self.cause is None else f"{type(self.cause).__name__}: {self.cause}",
            serving=self._pelagos_server.snapshot() if "_pelagos_server" in vars(self) else ServingSnapshot(),
            calls=0 if caller is None else caller.pending,
            late_replies=0 if caller is None else caller.late_replies,
            tasks=tuple(task.get_name() for task in self.__tasks),
            unknown_replies=0 if caller is None else caller.unknown_replies,
            supervisor=self.supervisor_id,
            operations=self.statistics(),
            conversations=() if self._pelagos_conversations is None else self._pelagos_conversations.snapshot().open,
        )

    # -- its life ----------------------------------------------------------------------------------------------

    async def run(self, host: Host, started: Callable[[], None]) -> None:
        """Live, from INIT to TERMINATED; for supervisors. ``started`` is called once it is ACTIVE.

        Returns after :meth:`stop`. Raises the cause if it fails, and :class:`asyncio.CancelledError` if it is
        cancelled. An object lives once: a second call raises :class:`Conflict`.
        """
        if self._pelagos_hosted:
            raise Conflict(f"{self.label} has lived already", advice="Give the supervisor a factory, not an object.")
        self._attach(host)
        try:
            try:
                async with asyncio.TaskGroup() as group:
                    self.__group = group
                    await self._live(started)
            except BaseExceptionGroup as group_error:
                leaf = _leaf(group_error)
                raise leaf from leaf.__cause__  # not "from None", which would take its cause away
            await self.__life.feed(Input.TERMINATE)
        except BaseException as cause:
            await self._end_after(cause)
            raise
        finally:
            await self._detach()

    async def _live(self, started: Callable[[], None]) -> None:
        assert self.__stopping is not None
        try:
            self._pelagos_mailbox = await self.container.transport.subscribe(
                Receiver(self.address, prefetch=self.max_concurrent), self._receive
            )
            await self._before_init()
            await self.__life.feed(Input.INITIALIZE)
            self._check_names()
            await self.__life.feed(Input.ACTIVATE)
            await self._open()
            started()
            drain = await self.__stopping
            async with self._one_switch():
                await self._close()
                await self._drain(drain)
                if self.state is State.ACTIVE:
                    await self.__life.feed(Input.DEACTIVATE)
                if self.__kept is not None:
                    await self.__kept.stop()
        except asyncio.CancelledError:
            self._pelagos_hurried = True
            raise
        finally:
            try:
                await self._close()
            finally:
                self._end_all()

    def _end_all(self) -> None:
        """Whatever still goes on in its task group."""
        if "_pelagos_server" in vars(self):
            self._pelagos_server.cancel()
        if self._pelagos_conversations is not None:
            self._pelagos_conversations.close()
        if self.__kept is not None:
            self.__kept.cancel()
        for task in list(self.__tasks):
            task.cancel()
        self.__group = None

    async def _before_init(self) -> None:
        """What a kind of process does before its subclasses' ``on_init``."""

    async def _open(self) -> None:
        """Begin to receive."""
        self._pelagos_admitting = True
        if "_pelagos_server" in vars(self):
            self._pelagos_server.open = True
        for served in list(self._pelagos_served):
            await served.open()

    async def _close(self) -> None:
        """Receive nothing more, and give back what has not begun."""
        self._pelagos_admitting = False
        if "_pelagos_server" in vars(self):
            self._pelagos_server.open = False
        try:
            for served in reversed(self._pelagos_served):
                await served.close()
        finally:
            if "_pelagos_server" in vars(self):
                self._pelagos_server.give_back()

    async def _drain(self, timeout: float, *, end: bool = False) -> None:
        """Wait for what runs; ``end``: and cancel the rest, since the process goes on."""
        if self._pelagos_conversations is not None:
            timeout = await self._pelagos_conversations.drain(timeout)
        if "_pelagos_server" in vars(self) and not await self._pelagos_server.drain(timeout):
            log.warning("requests cancelled at shutdown", process=self.id, name=self.label, seconds=timeout)
            if end:
                self._pelagos_server.cancel_requests(self._deactivated)
                if not await self._pelagos_server.drain(_HARD_END):
                    raise Unavailable(f"{self.label}: handlers went on after they were cancelled")

    def _deactivated(self) -> Unavailable:
        error = Unavailable(f"{self.label} was deactivated while it worked on this")
        error.retry = Retry.UNCERTAIN
        return error

    @asynccontextmanager
    async def _one_switch(self) -> AsyncIterator[None]:
        """One change between READY and ACTIVE at a time; the lock is made at the first, most processes see none."""
        if self.__switching is None:
            self.__switching = asyncio.Lock()
        async with self.__switching:
            yield

    def _require(self, state: State, event: Input) -> None:
        if self.state is not state or self.__stopping is None or self.__stopping.done():
            raise IllegalTransition(
                f"{self.label} is {self.state if self.state is not state else 'ending'}; {event} is not possible",
                details={"state": str(self.state), "input": str(event)},
            )

    def _check_names(self) -> None:
        if not self._pelagos_taken.isdisjoint(vars(self)):
            _refuse_names(type(self), self._pelagos_taken, vars(self))

    def _attach(self, host: Host) -> None:
        self._check_names()
        self.container = host
        self.world = host.world
        self.id = host.new_process_id()
        self._pelagos_hosted = True
        CONTEXT.set(Context(DEFAULT_SCOPE, process=self.id))
        self.__stopping = asyncio.get_running_loop().create_future()
        if self.__stop_requested is not None:
            self.__stopping.set_result(self.__stop_requested)
        host.process_started(self)

    async def _detach(self) -> None:
        assert self.__stopping is not None
        try:
            if self._pelagos_mailbox is not None:
                await self._pelagos_mailbox.close()
            for served in self._pelagos_served:  # mostly closed long ago, but an end may be cut short
                await served.close()
        finally:
            if "_pelagos_caller" in vars(self):
                self._pelagos_caller.close()
            if not self.__stopping.done():
                self.__stopping.cancel()
            self.container.process_ended(self)

    async def _end_after(self, cause: BaseException) -> None:
        """To ERROR, and from there to TERMINATED; the hook's own failure must not hide the first cause."""
        if self.state is not State.TERMINATED:
            await self.__life.feed(Input.FAIL, cause)
        try:
            async with asyncio.timeout(_HARD_END):
                await self.__life.feed(Input.TERMINATE)
        except Exception as error:
            log.error("on_terminate failed after a failure", process=self.id, name=self.label, exc_info=error)

    async def _activate(self) -> None:
        if self.depends:
            await wait_for_dependencies(self, self.depends)
        await self.on_activate()

    # -- messages ----------------------------------------------------------------------------------------------

    def _receive(self, delivery: Delivery) -> None:
        """The mailbox's handler."""
        envelope = delivery.envelope
        if envelope.protocol != "rpc" and envelope.protocol != "none":
            self.conversations.receive(delivery)
        elif envelope.performative is _RESULT or envelope.is_reply:
            self._pelagos_caller.take_reply(envelope)
            delivery.ack()
        else:
            self._pelagos_server.admit(delivery)

    # -- tasks -------------------------------------------------------------------------------------------------

    def _start(
        self, coroutine: Coroutine[Any, Any, None], name: str, context: Context | None = None
    ) -> asyncio.Task[None]:
        """A task with none of the context variables of whoever starts it."""
        assert self.__group is not None
        variables = contextvars.Context()
        if context is not None:
            variables.run(CONTEXT.set, context)
        return self.__group.create_task(coroutine, name=f"{self.label} {name}", context=variables)

    def _start_worker(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._start(coroutine, "worker")

    def start_handler(self, coroutine: Coroutine[Any, Any, None], op: str, context: Context) -> asyncio.Task[None]:
        """For conversations: a task in a request's context, which ends without raising."""
        return self._start(coroutine, op, context)

    async def _guard(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            await coroutine
        except Exception as error:  # noqa: BLE001 - forwarded: it ends the process, whose supervisor acts
            self._fail(error)

    def _fail(self, cause: BaseException) -> None:
        assert self.__stopping is not None
        if not self.__stopping.done():
            self.__stopping.set_exception(cause)
        else:
            log.error("task failed while its process was stopping", process=self.id, name=self.label, exc_info=cause)

    def _forget_task(self, task: asyncio.Task[None]) -> None:
        self.__tasks.pop(task, None)


_FREE = frozenset({"on_init", "on_activate", "on_deactivate", "on_terminate", "on_child_exit", "label"})
"""What subclasses are meant to override."""


def _members(owner: type) -> frozenset[str]:
    """Methods and properties that a subclass's own would hide, operations as well. Attributes of processes have names
    that nobody else takes."""
    return frozenset(
        name
        for name, value in vars(owner).items()
        if isinstance(value, FunctionType | property) and not name.endswith("__") and name not in _FREE
    )


Process._pelagos_taken = _members(Messenger) | _members(Speaker) | _members(Process)


def _is_users(owner: type) -> bool:
    return not owner.__module__.startswith("pelagos.")


def _refuse_names(cls: type, taken: frozenset[str], names: Iterable[str]) -> None:
    hidden = sorted(taken.intersection(names))
    if hidden:
        raise TypeError(
            f"{cls.__module__}.{cls.__qualname__} has {', '.join(hidden)}, which every process needs for itself; "
            "choose another name"
        )


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
