"""Calls: one driver call under its deadline, and what its answer or error means for the operation.

This is the only module that touches a driver's verbs. :func:`judge` is pure: an error's retry class and the step's
effect decide, never a message. What a driver raises outside the family counts as uncertain: nothing is known of it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar, assert_never

import msgspec
import structlog

from pelagos.clouds.errors import CloudUncertain, CloudUnreachable, ServerNotFound
from pelagos.clouds.port import CloudDriver, ForeignReader, PartsDriver, ServerAdopter, ServerUpdater
from pelagos.clouds.values import Capabilities, CloudPart, CloudServer, ServerSpec
from pelagos.model.errors import InternalError, PelagosError, Unsupported
from pelagos.model.errors import Retry as RetryClass
from pelagos.model.failpoints import Step, through
from pelagos.model.redaction import without_secrets
from pelagos.model.world import World
from pelagos.operations.health import AccountHealth
from pelagos.operations.kinds import Effect, step_of
from pelagos.operations.pacer import Pacer, backoff
from pelagos.operations.records import Absent, Call, Done, Failed, Found, Made, Reached, Result, Retry, Uncertain

__all__ = ["Backoff", "Cloud", "Listing", "PartListing", "judge"]

T = TypeVar("T")

_STEPS = {
    "delete": Step.DELETE,
    "discard": Step.DISCARD,
    "start": Step.START,
    "stop": Step.STOP,
    "reboot": Step.REBOOT,
    "unpart": Step.UNPART,
    "update": Step.UPDATE,
}
_log = structlog.get_logger("pelagos.operations")
_decode_spec = msgspec.msgpack.Decoder(ServerSpec).decode


class Backoff(msgspec.Struct, frozen=True):
    """Seconds between attempts: the first, and the longest."""

    base: float = 0.2
    cap: float = 30.0


class Listing(msgspec.Struct, frozen=True):
    """All servers of the account, as a listing that began at ``started_at`` (wall clock) showed them."""

    started_at: float
    servers: Sequence[CloudServer]
    seconds: float


class PartListing(msgspec.Struct, frozen=True):
    """The same of the account's parts."""

    started_at: float
    parts: Sequence[CloudPart]
    seconds: float


def judge(call: Call, error: PelagosError, now: float, delay: float) -> Result:
    """What ``error`` means for the operation; ``delay`` is the back-off where one applies. Pure."""
    if call.verb == "lookup" or call.resent:
        return Uncertain(error.payload(), now + max(delay, error.retry_after or 0.0))
    if isinstance(error, ServerNotFound) and call.verb in ("delete", "discard", "unpart"):
        return Done()
    match error.retry:
        case RetryClass.NEVER:
            return Failed(error.payload())
        case RetryClass.TRANSIENT:
            return Retry(error.payload(), now + delay)
        case RetryClass.AFTER:
            return Retry(error.payload(), now + max(delay, error.retry_after or 0.0))
        case RetryClass.UNCERTAIN:
            if step_of(call.kind, call.step).effect is Effect.ONCE:
                return Failed(error.payload())
            if call.verb == "update":
                # A late arrival must not undo what a later call sets: the repeat waits until this one has had its time.
                return Uncertain(error.payload(), max(now + delay, call.not_after))
            return Uncertain(error.payload(), now + delay)
        case _:
            assert_never(error.retry)


class _Shared(Generic[T]):
    """A listing for all who ask: what they get began after they asked, and those who ask while one is under way share
    the next."""

    def __init__(self, take: Callable[[], Awaitable[T | PelagosError]]) -> None:
        self._take = take
        self._lock = asyncio.Lock()
        self._begun = 0
        self._last: T | PelagosError | None = None

    async def get(self) -> T:
        ticket = self._begun
        async with self._lock:
            if self._begun == ticket:
                # All who are about to ask in this turn of the loop share it, also where a listing takes no time.
                await asyncio.sleep(0)
                self._begun += 1
                self._last = None
                self._last = await self._take()
            last = self._last
        if last is None:
            raise CloudUnreachable("the listing was interrupted")
        if isinstance(last, PelagosError):
            raise last
        return last


class Cloud:
    """An account's driver as the worker uses it: deadlines, the pacer, and listings that are shared."""

    def __init__(
        self,
        driver: CloudDriver,
        capabilities: Capabilities,
        pacer: Pacer,
        world: World,
        rng: random.Random,  # noqa: TID251 - its type
        pauses: Backoff,
        *,
        health: AccountHealth | None = None,
        grace: float = 2.0,
    ) -> None:
        self.capabilities = capabilities
        self.health = health or AccountHealth(world)
        self._driver = driver
        self._pacer = pacer
        self._world = world
        self._rng = rng
        self._pauses = pauses
        self._grace = grace
        self._listings = _Shared(self._list)
        self._part_listings = _Shared(self._list_parts)
        self.parts_driver: PartsDriver | None = driver if isinstance(driver, PartsDriver) else None
        """The driver, if some of its servers need parts."""
        self.last_error: tuple[float, str] | None = None
        self.calls = 0

    async def carry_out(self, call: Call, *, many: bool) -> Result:
        """Make the call and say what it came to. ``many``: several look-ups are under way, a listing serves all."""
        try:
            if call.verb == "lookup":
                return await self._look_up(call, many)
            timeout = call.deadline - self._world.now()
            if timeout <= 0:
                raise CloudUnreachable("the call was not sent in time")
            self.calls += 1
            return await self._send(call, timeout)
        except PelagosError as error:
            now = self._world.now()
            self.last_error = (now, without_secrets(str(error)))
            if error.retry is RetryClass.AFTER and error.retry_after is not None:
                self._pacer.hold(error.retry_after)
            return judge(call, error, now, self._pause(call.attempts))

    async def listing(self) -> Listing:
        """A listing that began after this was called; all who ask while one is under way share the next."""
        return await self._listings.get()

    async def part_listing(self) -> PartListing:
        """The same of parts. Raises Unsupported if the account has none."""
        return await self._part_listings.get()

    async def read(
        self,
        verb: Callable[..., Awaitable[T]],
        *arguments: Any,
        timeout: float,
        step: Step | None = None,
        of_account: bool = False,
        **options: Any,
    ) -> T:
        """A call that only reads: its time-out and its driver's defects certainly did nothing. ``of_account``: it asks
        for the account's servers, which every such cloud tells."""
        await self._pacer.turn()
        self.calls += 1
        asked = verb(*arguments, timeout=timeout, **options)
        return await self._guarded(asked, timeout, CloudUnreachable, step, of_account=of_account)

    async def get(self, provider_id: str) -> CloudServer:
        timeout = self.capabilities.call_timeout
        return await self.read(self._driver.get_server, provider_id, timeout=timeout, step=Step.GET)

    async def foreign(self) -> Sequence[CloudServer] | None:
        """The servers of the account that are not ours; None where the driver cannot look at them."""
        if not isinstance(self._driver, ForeignReader):
            return None
        return await self.read(self._driver.list_foreign_servers, timeout=self.capabilities.call_timeout)

    @property
    def driver(self) -> CloudDriver:
        return self._driver

    async def _send(self, call: Call, left: float) -> Result:
        driver, capabilities = self._driver, self.capabilities
        timeout = min(
            left, capabilities.create_timeout if call.verb in ("create", "part") else capabilities.call_timeout
        )
        target = call.provider_id or ""
        match call.verb:
            case "create":
                server = await self._guarded(
                    driver.create_server(_spec_of(call), token=call.token, timeout=timeout),
                    timeout,
                    CloudUncertain,
                    Step.CREATE,
                )
                return Found(server)
            case "part":
                assert call.part is not None
                making = self._parts_verbs().create_part(call.part.spec, token=call.token, timeout=timeout)
                return Made(await self._guarded(making, timeout, CloudUncertain, Step.PART))
            case "finish":
                finishing = self._parts_verbs().finish_server(target, _spec_of(call), timeout=timeout)
                return Reached(await self._guarded(finishing, timeout, CloudUncertain, Step.FINISH))
            case "unpart":
                part = call.stray or (None if call.part is None else call.part.cloud)
                assert part is not None
                verb = self._parts_verbs().delete_part(part, timeout=timeout)
            case "adopt":
                if not isinstance(driver, ServerAdopter):
                    raise Unsupported("this cloud's servers cannot be adopted")
                adoption = driver.adopt_server(target, token=call.token, timeout=timeout)
                return Found(await self._guarded(adoption, timeout, CloudUncertain))
            case "delete" | "discard":
                verb = driver.delete_server(target, timeout=timeout)
            case "start":
                verb = driver.start_server(target, timeout=timeout)
            case "stop":
                verb = driver.stop_server(target, timeout=timeout)
            case "reboot":
                verb = driver.reboot_server(target, timeout=timeout)
            case "update":
                if not isinstance(driver, ServerUpdater):
                    raise Unsupported("this cloud's servers cannot be changed in place")
                verb = driver.update_server(target, call.values, timeout=timeout)
            case _:
                raise InternalError(f"no call carries out {call.verb!r} of {call.kind}")
        await self._guarded(verb, timeout, CloudUncertain, _STEPS[call.verb])
        return Done()

    async def _look_up(self, call: Call, many: bool) -> Result:
        began = self._world.now()
        if call.part is not None:
            parts = await self.part_listing()
            began = parts.started_at
            part = next((p for p in parts.parts if p.token == call.token), None)
            return self._absent(call, began) if part is None else Made(part)
        if many:
            listing = await self.listing()
            began = listing.started_at
            server = next((s for s in listing.servers if s.token == call.token), None)
        else:
            timeout = self.capabilities.call_timeout
            server = await self.read(self._driver.find_by_token, call.token, timeout=timeout, step=Step.LOOKUP)
        return self._absent(call, began) if server is None else Found(server)

    def _absent(self, call: Call, began: float) -> Absent:
        now = self._world.now()
        if began >= call.not_after:
            return Absent(counts=True, next_at=now + self._pauses.base)
        pause = self._pause(call.attempts)
        return Absent(counts=False, next_at=min(now + pause, max(now, call.not_after) + 0.001))

    async def _list(self) -> Listing | PelagosError:
        return await self._take(self._driver.list_servers, Listing, Step.LIST)

    async def _list_parts(self) -> PartListing | PelagosError:
        try:
            verb = self._parts_verbs().list_parts
        except Unsupported as error:
            return error
        return await self._take(verb, PartListing, Step.LIST_PARTS)

    async def _take(
        self, verb: Callable[..., Awaitable[Any]], made: Callable[[float, Any, float], T], step: Step
    ) -> T | PelagosError:
        started, began = self._world.now(), self._world.monotonic()
        try:
            listed = await self.read(
                verb, timeout=self.capabilities.call_timeout, step=step, of_account=step is Step.LIST
            )
        except PelagosError as error:
            self.last_error = (self._world.now(), without_secrets(str(error)))
            if error.retry is RetryClass.AFTER and error.retry_after is not None:
                self._pacer.hold(error.retry_after)
            return error
        return made(started, listed, self._world.monotonic() - began)

    def _parts_verbs(self) -> PartsDriver:
        if self.parts_driver is None:
            raise Unsupported(
                "the account's driver knows nothing of parts of servers any more",
                advice="Give the account the driver again that made them, or delete them in the cloud's own console.",
            )
        return self.parts_driver

    async def _guarded(
        self,
        verb: Awaitable[T],
        timeout: float,
        otherwise: type[PelagosError],
        step: Step | None = None,
        *,
        of_account: bool = False,
    ) -> T:
        began = self._world.monotonic()
        try:
            answer = await self._bounded(verb, timeout, otherwise, step)
        except PelagosError as error:
            self.health.failed(error, of_account=of_account)
            raise
        self.health.answered(self._world.monotonic() - began)
        return answer

    async def _bounded(self, verb: Awaitable[T], timeout: float, otherwise: type[PelagosError], step: Step | None) -> T:
        try:
            async with asyncio.timeout(timeout + self._grace):
                return await (verb if step is None else through(step, verb))
        except PelagosError:
            raise
        except TimeoutError as error:
            raise otherwise(f"no answer within {timeout + self._grace:.0f} s") from error
        except Exception as error:
            _log.exception("the driver raised what no driver may raise")
            raise otherwise(f"{type(error).__name__}: {error}") from error

    def _pause(self, attempts: int) -> float:
        return backoff(max(1, attempts), self._rng, base=self._pauses.base, cap=self._pauses.cap)


def _spec_of(call: Call) -> ServerSpec:
    """The server as its driver is asked for it: with what was made for it."""
    spec = _decode_spec(call.spec_blob)
    if not call.parts:
        return spec
    made = {part.key: part.provider_id for part in call.parts if part.provider_id is not None}
    return msgspec.structs.replace(spec, parts=made)
