"""The serving side of a process: admits requests, runs handlers, and answers each request exactly once.

Slots by depth. A request of depth d (d others wait for its answer) takes one of ``max_concurrent`` slots of level d,
and the calls its handler makes have depth d + 1. So whoever holds a slot waits only for higher levels, and the highest
makes no calls: processes that call each other with every slot taken cannot lock, and what runs is still bounded, by
slots times levels. One pool of slots locks up; admitting nested calls without bound does not, but a wide fan-out of
them then exhausts memory.

Workers are tasks that serve one request after another: creating a task and its context for each request costs more than
all the rest of the dispatch. A worker starts in an empty context and is retired when a handler left context variables
behind, so nothing leaks from one request into the next. What a worker has in hand is noted in the worker itself, and
looked for there by whoever cancels or counts: that is rare, and requests are not.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec

from pelagos.exchange import Delivery, Envelope
from pelagos.model.errors import (
    Conflict,
    InvalidInput,
    PelagosError,
    Refused,
    Retry,
    Unavailable,
    Unsupported,
)
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.process.context import CONTEXT, Context
from pelagos.process.deadlines import Alarm
from pelagos.process.duplicates import Key, by_request_id
from pelagos.process.failures import defect, single, too_large, too_late
from pelagos.process.host import Host
from pelagos.process.lanes import Bound, Item, Lane, Level
from pelagos.process.log import get_logger
from pelagos.process.settling import Settler
from pelagos.process.statistics import Meter, OperationStatistics, ServingSnapshot

__all__ = ["RequestServer"]

log = get_logger(__name__)

_WAITING_PER_LEVEL = 4096
"""Admitted but without a slot; more are answered ``overloaded``. Level 0 never comes near: prefetch bounds it."""

_SPARE_WORKERS = 32
"""Workers kept for later when there is nothing to do."""

_UNKNOWN = "(unknown)"
"""All unknown operations are counted as one: their names come from outside."""


class _Worker:
    """A task that serves one request after another, and what it has in hand."""

    __slots__ = ("answered", "cancelled", "context", "deadline", "item", "task", "why")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.item: Item | None = None
        """None: nothing is in hand."""
        self.context: Context | None = None
        self.deadline = math.inf
        self.answered = False
        """The request was answered before its handler's end."""
        self.cancelled = False
        """The handler was cancelled by the server; ``why`` is None if at its deadline."""
        self.why: PelagosError | None = None

    def cancel(self, why: PelagosError | None) -> None:
        assert self.task is not None
        self.cancelled = True
        self.why = why
        self.task.cancel()


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
        converse: Callable[[Delivery], None],
        on_defect: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.open = False
        """Whether requests are admitted: the process is ACTIVE."""
        self.lane = Lane(max_concurrent)
        """That of the mailbox, and of receivers without a concurrency of their own."""
        self._monotonic = host.world.monotonic
        self._most_bytes = host.max_message_bytes
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._process_id = process_id
        self._label = label
        self._operations = operations
        self._max_depth = max_depth
        self._start_worker = start_worker
        self._converse = converse
        """Takes the messages of other protocols."""
        self._on_defect = on_defect
        self._levels = [self.lane.levels]
        self._ready: deque[Item] = deque()
        self._spare: list[asyncio.Future[None]] = []
        self._workers: dict[_Worker, None] = {}
        self._waking = 0
        """Workers that were woken or made and have not looked at ``_ready`` yet."""
        self._alarm = Alarm(self._loop, self._monotonic, self._end_late)
        """Of what runs, until its deadline."""
        self._settler = Settler(host, address=address, label=label, admit=self.admit)
        self._repeats = self._settler.repeats
        self._known = self._repeats.entries
        self._meters: dict[str, Meter] = {}
        self._drained: asyncio.Future[None] | None = None
        self._failed = self._repeated = 0

    def receiver_lane(
        self, *, bound: Bound | None, events: bool = False, durable: bool = False, max_concurrent: int | None = None
    ) -> Lane:
        """A lane for one more receiver; with slots of its own if ``max_concurrent`` is given."""
        if max_concurrent is None:
            return Lane(self.lane.limit, self.lane.levels, bound=bound, events=events, durable=durable)
        lane = Lane(max_concurrent, bound=bound, events=events, durable=durable)
        self._levels.append(lane.levels)
        return lane

    def drop_lane(self, lane: Lane) -> None:
        """Its receiver is gone for good: its slots are forgotten, unless something still runs in them."""
        if not any(level.running or level.waiting for level in lane.levels) and lane.levels is not self.lane.levels:
            self._levels.remove(lane.levels)

    # -- admission ---------------------------------------------------------------------------------------------

    def admit(self, delivery: Delivery, lane: Lane | None = None) -> None:
        """Take a message from the transport. Returns at once and never raises."""
        if lane is None:
            lane = self.lane
        envelope = delivery.envelope
        if envelope.protocol != "rpc" and envelope.protocol != "none" and not lane.events:
            self._converse(delivery)
            return
        if not self.open:
            self._turn_away(
                delivery, lane, None, Unavailable(f"{self._label} is not active", advice="Try again later.")
            )
            return
        depth = envelope.depth
        if not 0 <= depth <= self._max_depth:
            self._turn_away(
                delivery,
                lane,
                None,
                Refused(
                    f"calls nested {depth} deep; {self._label} takes part in at most {self._max_depth}",
                    advice="Services probably call each other in a circle.",
                    details={"depth": depth},
                ),
            )
            return
        key: Key | None = None
        if not lane.events:
            key = envelope.conv_id if envelope.request_id is None else by_request_id(envelope)
            if key in self._known:
                key = self._repeats.true_key(key, envelope)
                if key in self._known:
                    self._repeated += 1
                    recorded = self._repeats.join(key, delivery, lane)
                    if recorded is not None:
                        self._settler.answer_again(delivery, recorded)
                    return
            self._known[key] = delivery
        levels = lane.levels
        while depth >= len(levels):
            levels.append(Level(lane.limit))
        level = levels[depth]
        if level.running < level.limit and not level.waiting:
            level.running += 1
            self._ready.append((delivery, level, lane, key))
            if not self._waking:
                self._wake()
        elif len(level.waiting) < _WAITING_PER_LEVEL:
            level.waiting.append((delivery, level, lane, key))
        else:
            self._turn_away(
                delivery,
                lane,
                key,
                Unavailable(f"{self._label} is overloaded", advice="Try again later.", details={"overloaded": True}),
            )

    def give_back(self) -> None:
        """Admit nothing more, and return to the transport what has not begun."""
        self.open = False
        not_begun: list[tuple[Delivery, Key | None]] = []
        for delivery, level, _, key in self._ready:
            level.running -= 1
            not_begun.append((delivery, key))
        self._ready.clear()
        for levels in self._levels:
            for level in levels:
                not_begun.extend((delivery, key) for delivery, _, _, key in level.waiting)
                level.waiting.clear()
        repeats: list[tuple[Delivery, Key | None]] = []
        for _, key in not_begun:
            if key is not None:
                repeats.extend((delivery, None) for delivery, _ in self._repeats.forget(key) or ())
        repeats.extend((delivery, None) for delivery in self._settler.take_paused())
        for delivery, _ in reversed([*not_begun, *repeats]):
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
        self._alarm.close()
        for worker in list(self._workers):
            assert worker.task is not None
            worker.task.cancel()

    def cancel_requests(self, error: Callable[[], PelagosError], request_id: str | None = None) -> int:
        """Cancel what runs (of that request id, if given): it is answered with the error. Returns how many."""
        own = asyncio.current_task()  # its cancellation would hit the next request, should it wait for nothing more
        found = [
            worker
            for worker in self._workers
            if worker.context is not None
            and (request_id is None or worker.context.request_id == request_id)
            and not worker.cancelled
            and worker.task is not own
        ]
        for worker in found:
            worker.cancel(error())
        return len(found)

    def snapshot(self) -> ServingSnapshot:
        running = [level.running for level in self.lane.levels]
        while running and not running[-1]:
            running.pop()
        return ServingSnapshot(
            running=tuple(running),
            waiting=sum(len(level.waiting) for levels in self._levels for level in levels),
            workers=len(self._workers),
            done=sum(meter.count - meter.failed - meter.refused for meter in self._meters.values()),
            failed=self._failed,
            unanswerable=self._settler.unanswerable,
            repeated=self._repeated,
            requeued=self._settler.requeued,
            rejected=self._settler.rejected,
        )

    def statistics(self) -> tuple[OperationStatistics, ...]:
        """By operation, in the order of their first calls."""
        running: dict[str, int] = {}
        for worker in self._workers:
            if worker.item is not None:
                delivery, _, lane, _ = worker.item
                op = self._counted_as(delivery.envelope.op, lane)
                running[op] = running.get(op, 0) + 1
        known = {**self._meters, **{op: Meter() for op in running if op not in self._meters}}
        return tuple(meter.statistics(op, running.get(op, 0)) for op, meter in known.items())

    def reply(self, value: object) -> None:
        """Answer the request in whose handler this is called, before the handler's end.

        Raises :class:`Conflict` outside of a handler, for a message that wants no answer, and the second time;
        :class:`InvalidInput` if the reply is too large.
        """
        here = CONTEXT.get()
        worker = next((worker for worker in self._workers if worker.context is here), None)
        if worker is None or worker.item is None:
            raise Conflict("there is no request to reply to", advice="Call reply() in the handler of a request.")
        delivery, _, lane, key = worker.item
        envelope = delivery.envelope
        if envelope.reply_to is None:
            raise Conflict(f"{envelope.op} from {envelope.sender} wants no reply")
        if worker.answered:
            raise Conflict(f"{envelope.op} in conversation {envelope.conv_id} was answered already")
        operation, _ = self._operations[envelope.op] if lane.bound is None else lane.bound
        content = operation.encode(value)
        if len(content) > self._most_bytes:
            raise too_large(f"the reply to {envelope.op}", len(content), self._most_bytes)
        worker.answered = True
        self._settler.reply(envelope, content, key)

    def _busy(self) -> bool:
        return any(level.running or level.waiting for levels in self._levels for level in levels)

    # -- workers -----------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._waking += 1
        spare = self._spare
        while spare:
            future = spare.pop()
            if not future.done():
                future.set_result(None)
                return
        worker = _Worker()
        worker.task = self._start_worker(self._work(worker))
        self._workers[worker] = None

    async def _work(self, worker: _Worker) -> None:
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
                item = ready.popleft()
                if ready and not self._waking:
                    # Should this handler wait for something, others go on. Two, so that many handlers which all wait
                    # are under way after few turns of the loop; not one a request, since most end without waiting.
                    self._wake()
                    if len(ready) > 1:
                        self._wake()
                await self._serve(item, worker)
                level = item[1]
                if level.waiting and level.running < level.limit:
                    level.running += 1
                    ready.append(level.waiting.popleft())
                if len(copy_context()) > 1:
                    if ready and not self._waking:
                        self._wake()
                    return
        finally:
            del self._workers[worker]

    def _end_late(self, reached: float) -> float:
        earliest = math.inf
        for worker in self._workers:
            if worker.deadline > reached:
                earliest = min(earliest, worker.deadline)
            else:
                worker.deadline = math.inf
                if not worker.cancelled:
                    worker.cancel(None)
        return earliest

    # -- one request -------------------------------------------------------------------------------------------

    async def _serve(self, item: Item, worker: _Worker) -> None:
        """Run one handler to its end, reply, settle. Raises only what ends the worker."""
        delivery, level, lane, key = item
        envelope = delivery.envelope
        deadline = delivery.deadline
        began = self._monotonic()
        context = Context(
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
        CONTEXT.set(context)
        worker.item, worker.context = item, context
        error: PelagosError | None = None
        fatal: BaseException | None = None
        foreign: BaseException | None = None
        content = b"\xc0"
        try:
            if deadline is not None:
                if deadline <= began:
                    raise too_late(envelope, begun=False)
                worker.deadline = deadline
                if deadline < self._alarm.armed:
                    self._alarm.arm(deadline)
            found = self._operations.get(envelope.op) if lane.bound is None else lane.bound
            if found is None:
                raise self._unknown(envelope.op)
            operation, method = found
            if operation.takes_argument:
                try:
                    argument = operation.decode_argument(envelope.content)
                except (msgspec.DecodeError, RecursionError) as problem:
                    raise InvalidInput(
                        f"{operation.qualified}: {problem}", advice="Send what the operation's annotations say."
                    ) from problem
                result = await method(argument)
            else:
                result = await method()
            if envelope.reply_to is not None and not worker.answered:
                content = operation.encode(result)
                if len(content) > self._most_bytes:
                    raise too_large(f"the reply to {envelope.op}", len(content), self._most_bytes)
        except PelagosError as raised:
            error = raised
        except asyncio.CancelledError as cancelled:
            assert worker.task is not None
            if worker.cancelled:
                error = worker.why or too_late(envelope, begun=True)
            elif worker.task.cancelling():
                error = Unavailable(f"{self._label} ended while it worked on {envelope.op}")
                error.retry = Retry.UNCERTAIN
                fatal = cancelled
            else:  # the handler waited for something that somebody else cancelled: no reason to end the worker
                foreign = cancelled
        except Exception as raised:  # noqa: BLE001 - the edge between a handler and its callers: logged and sent
            error = single(raised)
            foreign = raised if error is None else None
        except BaseException as raised:  # noqa: BLE001 - answered, and raised again below
            foreign = fatal = raised
        if foreign is not None:
            error = self._unexpected(envelope, foreign, lane)
        worker.item = worker.context = None
        worker.deadline = math.inf
        if worker.cancelled:
            assert worker.task is not None
            worker.cancelled = False
            if worker.task.uncancel() and fatal is None:  # meanwhile the process ended too: so must the worker
                fatal = asyncio.CancelledError()
            if error is None:  # it swallowed the cancellation and went on to a result: nobody waits for that any more
                error = worker.why or too_late(envelope, begun=True)
        level.running -= 1
        meter = self._meters.get(envelope.op) or self._new_meter(envelope.op, lane)
        took = self._monotonic() - began
        meter.count += 1
        meter.total += took
        if took > meter.longest:
            meter.longest = took
        if error is not None:
            self._failed += 1
            meter.fail(error)
        if error is None and envelope.reply_to is not None and not worker.answered:
            self._settler.reply(envelope, content, key)
            delivery.ack()
        else:
            early, worker.answered = worker.answered, False
            self._settler.finish(item, content, error, early, fatal)
        if self._drained is not None and not self._busy() and not self._drained.done():
            self._drained.set_result(None)
        if foreign is not None and self._on_defect is not None:
            self._on_defect(foreign)
        if fatal is not None:
            raise fatal

    def _new_meter(self, op: str, lane: Lane) -> Meter:
        return self._meters.setdefault(self._counted_as(op, lane), Meter())

    def _counted_as(self, op: str, lane: Lane) -> str:
        if lane.bound is not None:
            return lane.bound[0].qualified
        return op if op in self._operations else _UNKNOWN

    def _turn_away(self, delivery: Delivery, lane: Lane, key: Key | None, error: PelagosError) -> None:
        self._failed += 1
        self._settler.turn_away(delivery, lane, key, error)

    def _unknown(self, op: str) -> PelagosError:
        known = ", ".join(sorted(self._operations))
        return Unsupported(f"{self._label} has no operation {op!r}", advice=f"It has: {known}.")

    def _unexpected(self, envelope: Envelope, raised: BaseException, lane: Lane) -> PelagosError:
        log.error(
            "operation failed unexpectedly",
            op=envelope.op,
            process=self._process_id,
            conversation=envelope.conv_id,
            trace=envelope.trace,
            exc_info=raised,
        )
        bound = self._operations.get(envelope.op) if lane.bound is None else lane.bound
        handler = None if bound is None else bound[1]
        return defect(envelope, raised, label=self._label, process_id=self._process_id, handler=handler)
