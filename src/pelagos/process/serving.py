"""The serving side of a process: admits requests, runs handlers, and answers each request exactly once.

Slots by depth. A request of depth d (d others wait for its answer) takes one of ``max_concurrent`` slots of level d,
and the calls its handler makes have depth d + 1. So whoever holds a slot waits only for higher levels, and the highest
makes no calls: processes that call each other with every slot taken cannot lock, and what runs is still bounded, by
slots times levels. One pool of slots locks up; admitting nested calls without bound does not, but a wide fan-out of
them then exhausts memory.

Workers are tasks that serve one request after another: creating a task and its context for each request costs more than
all the rest of the dispatch. A worker starts in an empty context and is retired when a handler left context variables
behind, so nothing leaks from one request into the next.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import msgspec

from pelagos.exchange import Delivery, Envelope, Performative, Status, encode_error, reply_to
from pelagos.model.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    PelagosError,
    Refused,
    Retry,
    Unavailable,
    Unsupported,
)
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.process.context import CONTEXT, Context
from pelagos.process.deadlines import DeadlineWatch
from pelagos.process.host import Host
from pelagos.process.log import get_logger
from pelagos.process.operation import Operation

__all__ = ["Bound", "RequestServer", "ServingSnapshot"]

log = get_logger(__name__)

Bound = tuple[Operation, Callable[..., Awaitable[Any]]]
"""An operation and the method of the instance that carries it out."""

_WAITING_PER_LEVEL = 4096
"""Admitted but without a slot; more are answered ``overloaded``. Level 0 never comes near: prefetch bounds it."""

_SPARE_WORKERS = 32
"""Workers kept for later when there is nothing to do."""


class ServingSnapshot(msgspec.Struct, frozen=True):
    running: tuple[int, ...]
    """Taken slots, by depth; trailing zeros left out."""
    waiting: int
    workers: int
    done: int
    """Requests answered with a result, and events handled."""
    failed: int
    """Requests answered with an error or a refusal, and events whose handler raised."""
    unanswerable: int
    """Requests without an address to reply to."""


class _Level:
    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting: deque[tuple[Delivery, _Level, Bound | None]] = deque()


class RequestServer:
    """Serves the requests of one process; see the module's head."""

    def __init__(
        self,
        host: Host,
        *,
        address: str,
        process_id: str,
        label: str,
        operations: Mapping[str, Bound],
        max_concurrent: int,
        max_depth: int,
        start_worker: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self.open = False
        """Whether requests are admitted: the process is ACTIVE."""
        self._transport = host.transport
        self._now = host.world.now
        self._monotonic = host.world.monotonic
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._process_id = process_id
        self._label = label
        self._operations = operations
        self._max_concurrent = max_concurrent
        self._max_depth = max_depth
        self._levels = [_Level()]
        """By depth; made when a request of the depth comes, since most processes never see one above 0."""
        self._start_worker = start_worker
        self._ready: deque[tuple[Delivery, _Level, Bound | None]] = deque()
        self._spare: list[asyncio.Future[None]] = []
        self._workers: dict[asyncio.Task[None], None] = {}
        self._waking = 0
        """Workers that were woken or made and have not looked at ``_ready`` yet."""
        self._watch: DeadlineWatch[asyncio.Task[None], None] = DeadlineWatch(self._loop, self._monotonic, self._expire)
        self._expired: dict[asyncio.Task[None], None] = {}
        self._drained: asyncio.Future[None] | None = None
        self._done = 0
        self._failed = 0
        self._unanswerable = 0

    # -- admission ---------------------------------------------------------------------------------------------

    def admit(self, delivery: Delivery, listener: Bound | None = None) -> None:
        """Take a request, or an event for ``listener``, from the transport. Returns at once and never raises."""
        if not self.open:
            self._turn_away(delivery, Unavailable(f"{self._label} is not active", advice="Try again later."))
            return
        depth = delivery.envelope.depth
        if not 0 <= depth <= self._max_depth:
            self._turn_away(
                delivery,
                Refused(
                    f"calls nested {depth} deep; {self._label} takes part in at most {self._max_depth}",
                    advice="Services probably call each other in a circle.",
                    details={"depth": depth},
                ),
            )
            return
        levels = self._levels
        while depth >= len(levels):
            levels.append(_Level())
        level = levels[depth]
        if level.running < self._max_concurrent and not level.waiting:
            level.running += 1
            self._ready.append((delivery, level, listener))
            if not self._waking:
                self._wake()
        elif len(level.waiting) < _WAITING_PER_LEVEL:
            level.waiting.append((delivery, level, listener))
        else:
            self._turn_away(
                delivery,
                Unavailable(f"{self._label} is overloaded", advice="Try again later.", details={"overloaded": True}),
            )

    def give_back(self) -> None:
        """Admit nothing more, and return to the transport what has not begun."""
        self.open = False
        not_begun = [*self._ready]
        for _, level, _ in not_begun:
            level.running -= 1
        self._ready.clear()
        for level in self._levels:
            not_begun.extend(level.waiting)
            level.waiting.clear()
        for delivery, _, _ in reversed(not_begun):
            if delivery.envelope.receiver == self._address:
                delivery.reject(f"{self._label} is stopping")
            else:
                delivery.requeue()

    async def drain(self, timeout: float) -> bool:
        """Wait until nothing runs; False if something still does after ``timeout`` seconds."""
        if not self._busy():
            return True
        self._drained = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._drained
        except TimeoutError:
            return False
        finally:
            self._drained = None
        return True

    def cancel(self) -> None:
        """Cancel what runs; each request gets its error. To be called when the process ends."""
        self.open = False
        self._watch.close()
        for worker in list(self._workers):
            worker.cancel()

    def snapshot(self) -> ServingSnapshot:
        running = [level.running for level in self._levels]
        while running and not running[-1]:
            running.pop()
        return ServingSnapshot(
            running=tuple(running),
            waiting=sum(len(level.waiting) for level in self._levels),
            workers=len(self._workers),
            done=self._done,
            failed=self._failed,
            unanswerable=self._unanswerable,
        )

    def _busy(self) -> bool:
        return any(level.running or level.waiting for level in self._levels)

    # -- workers -----------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._waking += 1
        spare = self._spare
        while spare:
            future = spare.pop()
            if not future.done():
                future.set_result(None)
                return
        self._workers[self._start_worker(self._work())] = None

    async def _work(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        ready = self._ready
        copy_context = contextvars.copy_context
        self._waking -= 1
        try:
            while True:
                if not ready:
                    if len(self._spare) >= _SPARE_WORKERS:
                        return
                    future = self._loop.create_future()
                    self._spare.append(future)
                    await future
                    self._waking -= 1
                    continue
                delivery, level, listener = ready.popleft()
                if ready and not self._waking:
                    # Should this handler wait for something, others go on. Two, so that many handlers which all wait
                    # are under way after few turns of the loop; not one a request, since most end without waiting.
                    self._wake()
                    if len(ready) > 1:
                        self._wake()
                await self._serve(delivery, level, listener, task)
                if level.waiting and level.running < self._max_concurrent:
                    level.running += 1
                    ready.append(level.waiting.popleft())
                if len(copy_context()) > 1:
                    if ready and not self._waking:
                        self._wake()
                    return
        finally:
            del self._workers[task]

    def _expire(self, task: asyncio.Task[None], value: None) -> None:
        self._expired[task] = None
        task.cancel()

    # -- one request -------------------------------------------------------------------------------------------

    async def _serve(self, delivery: Delivery, level: _Level, listener: Bound | None, task: asyncio.Task[None]) -> None:
        """Run one handler to its end, reply, settle. Raises only what ends the worker."""
        envelope = delivery.envelope
        deadline = delivery.deadline
        CONTEXT.set(
            Context(
                envelope.identity or DEFAULT_SCOPE,
                deadline,
                envelope.conv_id,
                envelope.trace,
                envelope.request_id or envelope.conv_id,
                envelope.depth + 1,
                self._process_id,
                envelope.assertion,
                envelope.expiry,
            )
        )
        error: PelagosError | None = None
        fatal: BaseException | None = None
        content = b"\xc0"
        try:
            if deadline is not None:
                if deadline <= self._monotonic():
                    raise _too_late(envelope, begun=False)
                self._watch.add(task, deadline, None)
            found = self._operations.get(envelope.op) if listener is None else listener
            if found is None:
                raise self._unknown(envelope.op)
            operation, method = found
            if operation.takes_argument:
                try:
                    argument = operation.decode_argument(envelope.content)
                except msgspec.DecodeError as problem:
                    raise InvalidInput(
                        f"{operation.qualified}: {problem}", advice="Send what the operation's annotations say."
                    ) from problem
                result = await method(argument)
            else:
                result = await method()
            content = operation.encode(result)
        except PelagosError as raised:
            error = raised
        except asyncio.CancelledError as cancelled:
            if task in self._expired:
                error = _too_late(envelope, begun=True)
            elif task.cancelling():
                error = Unavailable(f"{self._label} ended while it worked on {envelope.op}")
                error.retry = Retry.UNCERTAIN
                fatal = cancelled
            else:  # the handler waited for something that somebody else cancelled: no reason to end the worker
                error = self._unexpected(envelope, cancelled)
        except Exception as raised:  # noqa: BLE001 - the edge between a handler and its callers: logged and sent
            error = _single(raised) or self._unexpected(envelope, raised)
        except BaseException as raised:  # noqa: BLE001 - answered, and raised again below
            error = self._unexpected(envelope, raised)
            fatal = raised
        if deadline is not None:
            self._watch.entries.pop(task, None)
            if task in self._expired:
                del self._expired[task]
                task.uncancel()
                if (
                    error is None
                ):  # it swallowed the cancellation and went on to a result: nobody waits for that any more
                    error = _too_late(envelope, begun=True)
        level.running -= 1
        self._finish(delivery, envelope, content, error, listener)
        if self._drained is not None and not self._busy() and not self._drained.done():
            self._drained.set_result(None)
        if fatal is not None:
            raise fatal

    def _finish(
        self, delivery: Delivery, envelope: Envelope, content: bytes, error: PelagosError | None, listener: Bound | None
    ) -> None:
        if error is None:
            self._done += 1
            if envelope.reply_to is not None:
                self._transport.post(
                    Envelope(
                        envelope.reply_to,
                        self._address,
                        "result",
                        Performative.INFORM_RESULT,
                        envelope.conv_id,
                        content,
                        envelope.conv_seq + 1,
                        envelope.protocol,
                        Status.OK,
                        None,
                        int(self._now() * 1000),
                        trace=envelope.trace,
                        sender_name=self._label,
                    )
                )
        else:
            self._failed += 1
            if listener is not None:
                log.error("event handler failed", address=envelope.receiver, op=envelope.op, error=str(error))
            else:
                self._reply_error(envelope, error)
        delivery.ack()

    def _turn_away(self, delivery: Delivery, error: PelagosError) -> None:
        self._failed += 1
        self._reply_error(delivery.envelope, error)
        delivery.ack()

    def _reply_error(self, envelope: Envelope, error: PelagosError) -> None:
        if envelope.reply_to is None:
            self._unanswerable += 1
            log.warning("nobody to tell", op=envelope.op, sender=envelope.sender, code=error.code, error=str(error))
            return
        performative = Performative.REFUSE if isinstance(error, Refused) else Performative.FAILURE
        self._transport.post(
            reply_to(
                envelope,
                performative,
                encode_error(error),
                sender=self._address,
                status=Status.ERROR,
                ts=int(self._now() * 1000),
            )
        )

    def _unknown(self, op: str) -> PelagosError:
        known = ", ".join(sorted(self._operations))
        return Unsupported(f"{self._label} has no operation {op!r}", advice=f"It has: {known}.")

    def _unexpected(self, envelope: Envelope, raised: BaseException) -> PelagosError:
        log.error(
            "operation failed unexpectedly",
            op=envelope.op,
            process=self._process_id,
            conversation=envelope.conv_id,
            trace=envelope.trace,
            exc_info=raised,
        )
        said = str(raised).partition("\n")[0]
        return InternalError(
            f"{self._label}.{envelope.op} failed unexpectedly: {type(raised).__name__}: {said} "
            f"(the log has the traceback under trace {envelope.trace})",
            details={"trace": envelope.trace, "exception": type(raised).__name__},
        )


def _too_late(envelope: Envelope, *, begun: bool) -> DeadlineExceeded:
    if begun:
        return DeadlineExceeded(f"{envelope.op} was cancelled at its deadline; it may have been done in part")
    error = DeadlineExceeded(f"{envelope.op} came after its deadline; nothing was done")
    error.retry = Retry.TRANSIENT
    return error


def _single(raised: BaseException) -> PelagosError | None:
    """The one error of ours in a task group's exception group, however deep."""
    while isinstance(raised, BaseExceptionGroup) and len(raised.exceptions) == 1:
        raised = raised.exceptions[0]
    return raised if isinstance(raised, PelagosError) else None
