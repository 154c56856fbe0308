"""The reference driver: calls to a simulated cloud, with its latencies, limits and faults, in the port's terms.

A call draws all its chance when it is sent, puts its effect on its way to the datacenter, and then only waits. So
cancelling it at any await, or killing its process, takes nothing back: what was sent arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from pelagos.clouds.errors import (
    CloudAuthFailed,
    CloudBusy,
    CloudCapacity,
    CloudError,
    CloudRateLimited,
    CloudRejected,
    CloudUncertain,
    CloudUnreachable,
)
from pelagos.clouds.simulated.cloud import SimulatedCloud
from pelagos.clouds.simulated.faults import Fault, Injection, Verb
from pelagos.clouds.simulated.options import SimulatedResource, capabilities_of, sampler
from pelagos.clouds.simulated.records import Command, Outcome
from pelagos.clouds.values import (
    Capabilities,
    CloudFlavor,
    CloudImage,
    CloudPart,
    CloudServer,
    CommandResult,
    PartKind,
    PartSpec,
    ServerSpec,
)
from pelagos.model.errors import Unsupported
from pelagos.model.states import ServerState

__all__ = ["SimulatedDriver"]

T = TypeVar("T")

_DOOM = {"stopped": ServerState.STOPPED, "error": ServerState.ERROR, "vanish": ServerState.DELETED}
_WITHOUT_EFFECT = frozenset(
    {
        Fault.UNREACHABLE,
        Fault.RATE_LIMITED,
        Fault.AUTH_FAILED,
        Fault.REJECTED,
        Fault.NO_CAPACITY,
        Fault.ERROR_BEFORE,
        Fault.REQUEST_LOST,
    }
)
_LOST = frozenset({Fault.REQUEST_LOST, Fault.REPLY_LOST, Fault.LATE})


class _Call(msgspec.Struct):
    """One call, all of whose chance is drawn."""

    verb: Verb
    deadline: float
    arrives: float
    """In the cloud's own time."""
    before: float
    """Seconds until it arrives."""
    after: float
    """Seconds until its reply, from then."""
    fault: Injection | None
    fate: Injection | None


class SimulatedDriver:
    """Opened for one account on its :class:`SimulatedCloud`; several may be open on one cloud."""

    def __init__(self, cloud: SimulatedCloud) -> None:
        self._cloud = cloud
        self._place = cloud.datacenter
        self._closed = False
        options = cloud.options
        self._options = options
        self._capabilities = capabilities_of(options)
        rng = cloud.rng
        get, power = sampler(options.get_latency, rng), sampler(options.power_latency, rng)
        part = sampler(options.part_latency, rng)
        self._latency: dict[Verb, Callable[[], float]] = {
            Verb.LIST: sampler(options.list_latency, rng),
            Verb.GET: get,
            Verb.FIND: get,
            Verb.CONSOLE: get,
            Verb.CREATE: sampler(options.create_latency, rng),
            Verb.DELETE: sampler(options.delete_latency, rng),
            Verb.START: power,
            Verb.STOP: power,
            Verb.REBOOT: power,
            Verb.EXECUTE: power,
            Verb.PART: part,
            Verb.PARTS: part,
            Verb.UNPART: part,
            Verb.FINISH: part,
            Verb.ADOPT: get,
            Verb.UPDATE: power,
        }
        self._boot = sampler(options.boot_seconds, rng)
        self._delete = sampler(options.delete_seconds, rng)
        self._power = sampler(options.power_seconds, rng)
        self._part_ready = sampler(options.part_seconds, rng)
        self._part_delete = sampler(options.part_delete_seconds, rng)
        self._lag = sampler(options.visibility_delay, rng)
        self._late = sampler(options.late_by, rng)
        self._slow = sampler(options.slow_by, rng)
        self._refuse = sampler(options.refuse_for, rng)
        self._spot = sampler(options.spot_after, rng)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def cloud(self) -> SimulatedCloud:
        """The cloud behind it, for tests and simulation."""
        return self._cloud

    # -- reads -----------------------------------------------------------------------------------------------------

    async def list_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        return await self._read(Verb.LIST, timeout, self._place.listing)

    async def get_server(self, provider_id: str, *, timeout: float) -> CloudServer:
        return await self._read(Verb.GET, timeout, lambda t: self._place.seen(provider_id, t))

    async def find_by_token(self, token: str, *, timeout: float) -> CloudServer | None:
        return await self._read(Verb.FIND, timeout, lambda t: self._place.find(token, t))

    async def list_foreign_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        return await self._read(Verb.LIST, timeout, self._place.foreign)

    async def console(self, provider_id: str, *, max_bytes: int, timeout: float) -> str:
        self._need(self._capabilities.console, "console")

        def text(t: float) -> str:
            self._place.seen(provider_id, t)
            encoded = self._console_text(provider_id, t).encode()
            return encoded[max(0, len(encoded) - max_bytes) :].decode(errors="ignore")

        return await self._read(Verb.CONSOLE, timeout, text)

    async def list_images(self, *, timeout: float) -> Sequence[CloudImage]:
        names = self._options.images or ("default",)
        return await self._read(Verb.LIST, timeout, lambda t: [CloudImage(id=name, name=name) for name in names])

    async def list_flavors(self, *, timeout: float) -> Sequence[CloudFlavor]:
        """Each twice the size of the one before."""
        prices = self._options.prices
        sizes = [
            CloudFlavor(
                id=name,
                name=name,
                vcpus=2.0**index,
                ram_mb=2048 << index,
                disk_gb=20.0 * 2**index,
                price_per_hour=prices.get(name),
                currency=self._options.currency if name in prices else "",
            )
            for index, name in enumerate(self._options.flavors or tuple(prices) or ("small", "medium", "large"))
        ]
        return await self._read(Verb.LIST, timeout, lambda t: sizes)

    # -- writes ----------------------------------------------------------------------------------------------------

    async def create_server(self, spec: ServerSpec, *, token: str, timeout: float) -> CloudServer:
        resource = self._admit(spec)
        boot = self._boot() if resource.boot_seconds is None else resource.boot_seconds
        call = self._begin(Verb.CREATE, timeout)
        life = math.inf if resource.lifetime_seconds is None else resource.lifetime_seconds
        doom = _DOOM[self._options.spot_state]
        if call.fate is not None and call.fate.fault is Fault.SPOT_KILL:
            life = min(life, self._spot() if call.fate.delay is None else call.fate.delay)
        lag = min(self._lag(), self._options.settle)
        made = await self._write(
            call,
            timeout,
            lag=lag,
            token=token,
            name=spec.name,
            parts=list(spec.parts.values()),
            hostname=spec.hostname or spec.name,
            group=spec.group,
            user_data=spec.user_data,
            metadata=spec.metadata,
            options=spec.options,
            takes=boot,
            doom_after=life,
            doom_state=doom,
        )
        assert made.server is not None
        return made.server

    async def delete_server(self, provider_id: str, *, timeout: float) -> None:
        call = self._begin(Verb.DELETE, timeout)
        lag = min(self._lag(), self._options.settle)
        await self._write(call, timeout, lag=lag, provider_id=provider_id, takes=self._delete())

    async def adopt_server(self, provider_id: str, *, token: str, timeout: float) -> CloudServer:
        call = self._begin(Verb.ADOPT, timeout)
        adopted = await self._write(call, timeout, provider_id=provider_id, token=token)
        assert adopted.server is not None
        return adopted.server

    async def start_server(self, provider_id: str, *, timeout: float) -> None:
        await self._switch(Verb.START, provider_id, timeout)

    async def stop_server(self, provider_id: str, *, timeout: float) -> None:
        await self._switch(Verb.STOP, provider_id, timeout)

    async def reboot_server(self, provider_id: str, *, timeout: float) -> None:
        await self._switch(Verb.REBOOT, provider_id, timeout)

    async def update_server(self, provider_id: str, values: Mapping[str, Any], *, timeout: float) -> None:
        """Keys that are set to nothing have their defaults again."""
        others = sorted(values.keys() - self._capabilities.updates)
        if others:
            raise Unsupported(
                f"the account {self._cloud.name} cannot change {', '.join(others)} of a server",
                advice="Name it in `updates` of the account's options.",
            )
        options = {key: value for key, value in values.items() if value is not None}
        self._admit(ServerSpec(name=provider_id, options=options))
        call = self._begin(Verb.UPDATE, timeout)
        await self._write(call, timeout, provider_id=provider_id, options=dict(values))

    async def execute(self, provider_id: str, argv: Sequence[str], *, timeout: float) -> CommandResult:
        self._need(self._capabilities.execute, "execute")

        def run(t: float) -> CommandResult:
            server = self._place.find_real(provider_id, t)
            state = server.state_at(t)
            if state is not ServerState.ACTIVE:
                raise CloudBusy(f"{server.name} is in state {state.value}, where no command can run")
            scripted = self._cloud.answer_to(argv)
            return scripted or CommandResult(0 if server.healthy_at(t) else 1, "")

        return await self._read(Verb.EXECUTE, timeout, run)

    # -- parts -----------------------------------------------------------------------------------------------------

    def parts(self, spec: ServerSpec) -> Sequence[PartSpec]:
        if "volumes" not in spec.options and "address" not in spec.options:
            return ()
        try:
            resource = msgspec.convert(spec.options, SimulatedResource)
        except msgspec.ValidationError:
            return ()
        wanted = [
            PartSpec(
                key=f"volume-{number}",
                kind=PartKind.VOLUME,
                name=f"{spec.name}-volume-{number}",
                size_gb=resource.volume_gb,
                keep=resource.keep_volumes,
            )
            for number in range(1, resource.volumes + 1)
        ]
        if resource.address:
            wanted.append(PartSpec(key="address", kind=PartKind.ADDRESS, name=f"{spec.name}-address"))
        return wanted

    async def create_part(self, part: PartSpec, *, token: str, timeout: float) -> CloudPart:
        takes = self._part_ready() if part.kind is PartKind.VOLUME else 0.0
        call = self._begin(Verb.PART, timeout)
        lag = min(self._lag(), self._options.settle)
        made = await self._write(call, timeout, lag=lag, token=token, name=part.name, part_kind=part.kind, takes=takes)
        assert made.part is not None
        return made.part

    async def list_parts(self, *, timeout: float) -> Sequence[CloudPart]:
        return await self._read(Verb.PARTS, timeout, self._place.list_parts)

    async def delete_part(self, part: CloudPart, *, timeout: float) -> None:
        call = self._begin(Verb.UNPART, timeout)
        lag = min(self._lag(), self._options.settle)
        await self._write(call, timeout, lag=lag, provider_id=part.provider_id, takes=self._part_delete())

    async def finish_server(self, provider_id: str, spec: ServerSpec, *, timeout: float) -> CloudServer:
        call = self._begin(Verb.FINISH, timeout)
        finished = await self._write(call, timeout, provider_id=provider_id, parts=list(spec.parts.values()))
        assert finished.server is not None
        return finished.server

    # -- the rest --------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        self._closed = True

    def snapshot(self) -> dict[str, Any]:
        return {"account": self._cloud.name, "closed": self._closed, **self._cloud.snapshot()}

    # -- one call --------------------------------------------------------------------------------------------------

    def _begin(self, verb: Verb, timeout: float) -> _Call:
        cloud = self._cloud
        cloud.calls[verb.value] += 1
        fault, fate = cloud.fault_plan.choose(verb)
        for chosen in (fault, fate):
            if chosen is not None:
                cloud.calls[f"fault.{chosen.fault.value}"] += 1
        half = self._latency[verb]() / 2
        before = after = half
        if fault is not None and fault.fault is Fault.SLOW:
            longer = (self._slow() if fault.delay is None else fault.delay) / 2
            before, after = before + longer, after + longer
        if fault is None:
            wait = cloud.throttle()
            if wait > 0:
                fault = Injection(verb, Fault.RATE_LIMITED, 0, retry_after=wait)
        now = self._place.now()
        return _Call(verb, now + timeout, now + before, before, after, fault, fate)

    def _send(self, call: _Call, lag: float, effect: dict[str, Any]) -> Command | None:
        """Put the call's effect on its way, unless its fault is to have none."""
        fault = call.fault
        if fault is not None and fault.fault in _WITHOUT_EFFECT:
            return None
        refuse_for = 0.0
        if fault is not None and fault.fault is Fault.LATE:
            if fault.delay is not None:
                call.arrives += fault.delay
            else:
                promised = call.deadline + self._options.settle - lag
                call.arrives = max(call.arrives, min(call.arrives + self._late(), promised))
        elif fault is not None and fault.fault is Fault.BUSY:
            refuse_for = self._refuse() if fault.delay is None else fault.delay
        command = Command(
            number=self._place.next_number(),
            at=call.arrives,
            verb=call.verb.value,
            wanted=fault is None or fault.fault not in _LOST,
            fate="" if call.fate is None else call.fate.fault.value,
            lag=lag,
            refuse_for=refuse_for,
            **effect,
        )
        self._place.submit(command)
        return command

    async def _write(self, call: _Call, timeout: float, *, lag: float = 0.0, **effect: Any) -> Outcome:
        """Send a call with an effect, wait for its reply as long as it takes or ``timeout``."""
        try:
            with self._place.access():
                self._place.advance()
                command = self._send(call, lag, effect)
        except OSError as error:
            raise CloudUnreachable(f"{call.verb.value}: the cloud's state file cannot be used: {error}") from error
        collected = command is None

        def collect(_: float) -> Outcome:
            nonlocal collected
            collected = True
            assert command is not None
            return self._place.collect(command.number, command.at)

        try:
            return await self._wait(call, timeout, collect)
        finally:
            if command is not None and command.wanted and not collected:
                # A full disk keeps it from being forgotten now; unclaimed outcomes expire.
                with contextlib.suppress(OSError), self._place.access():
                    self._place.abandon(command.number)

    async def _read(self, verb: Verb, timeout: float, answer: Callable[[float], T]) -> T:
        return await self._wait(self._begin(verb, timeout), timeout, answer)

    async def _wait(self, call: _Call, timeout: float, answer: Callable[[float], T]) -> T:
        """Wait out the call as its caller lives it: half its latency, the effect, the other half."""
        cloud = self._cloud
        cloud.in_flight += 1
        cloud.most_in_flight = max(cloud.most_in_flight, cloud.in_flight)
        try:
            fault = None if call.fault is None else call.fault.fault
            if fault in _LOST or call.before + call.after >= timeout:
                await asyncio.sleep(timeout)
                raise _timed_out(call.verb, timeout)
            if call.before > 0:
                await asyncio.sleep(call.before)
            if fault in _WITHOUT_EFFECT:
                assert call.fault is not None
                if call.after > 0:
                    await asyncio.sleep(call.after)
                raise self._error(call.verb, call.fault)
            refused: CloudError | None = None
            result: T | None = None
            try:
                with self._place.access():
                    result = answer(self._place.advance(call.arrives))
            except CloudError as error:
                refused = error
            except OSError as error:
                raise _lost(call.verb, f"the cloud's state file cannot be used: {error}") from error
            if fault is Fault.CONNECTION_CLOSED:
                raise _lost(call.verb, "the connection was closed before the reply")
            if call.after > 0:
                await asyncio.sleep(call.after)
            if fault is Fault.ERROR_AFTER:
                raise _lost(call.verb, "the provider answered 500")
            if refused is not None:
                raise refused
            return result  # type: ignore[return-value]  # T may itself admit None
        finally:
            cloud.in_flight -= 1

    async def _switch(self, verb: Verb, provider_id: str, timeout: float) -> None:
        self._need(self._capabilities.power, verb.value)
        await self._write(self._begin(verb, timeout), timeout, provider_id=provider_id, takes=self._power())

    def _error(self, verb: Verb, fault: Injection) -> CloudError:
        """The error of a fault that has no effect."""
        match fault.fault:
            case Fault.UNREACHABLE:
                return CloudUnreachable(f"{verb.value}: the simulated cloud refused the connection")
            case Fault.RATE_LIMITED:
                after = self._options.retry_after if fault.retry_after is None else fault.retry_after
                return CloudRateLimited(f"{verb.value}: too many requests", retry_after=after)
            case Fault.AUTH_FAILED:
                return CloudAuthFailed(f"{verb.value}: the simulated cloud does not know these credentials")
            case Fault.REJECTED:
                return CloudRejected(f"{verb.value}: the simulated cloud will not accept this request")
            case Fault.NO_CAPACITY:
                return CloudCapacity(f"{verb.value}: the simulated cloud has no room")
            case _:
                return _lost(verb, "the provider answered 500")

    def _need(self, there: bool, what: str) -> None:
        if not there:
            raise Unsupported(
                f"the account {self._cloud.name} cannot {what}",
                advice=f"Set `{'power' if what not in ('console', 'execute') else what}: true` in its options.",
            )

    def _admit(self, spec: ServerSpec) -> SimulatedResource:
        """The spec's options, if this cloud takes such a server. Raises CloudRejected."""
        try:
            resource = msgspec.convert(spec.options, SimulatedResource)
        except msgspec.ValidationError as error:
            raise CloudRejected(f"the options of {spec.name} are wrong: {error}") from error
        options = self._options
        for what, value, known in (
            ("flavor", resource.flavor, options.flavors),
            ("image", resource.image, options.images),
        ):
            if known and value not in known:
                raise CloudRejected(f"there is no {what} {value!r}", advice=f"There are: {', '.join(known)}.")
        limit = options.user_data_limit
        if limit is not None and len(spec.user_data.encode()) > limit:
            raise CloudRejected(f"the user data of {spec.name} is longer than {limit} bytes")
        return resource

    def _console_text(self, provider_id: str, t: float) -> str:
        server = self._place.find_shown(provider_id)
        start = server.changes[0].at
        host = server.hostname or server.name
        lines = [
            f"[{max(0.0, change.at - start):12.6f}] {host}: {change.state.value} ({change.cause})"
            for change in server.changes
            if change.at <= t
        ]
        if server.user_data:
            data = server.user_data.encode()
            digest = hashlib.sha256(data).hexdigest()[:12]
            first = server.user_data.splitlines()[0][:80]
            lines.insert(1, f"[{0:12.6f}] cloud-init: {len(data)} bytes of user data, sha256 {digest}: {first}")
        return "\n".join(lines) + "\n"


def _lost(verb: Verb, what: str) -> CloudError:
    """The honest error when no reply came: uncertain for a verb with an effect."""
    if verb.reads:
        return CloudUnreachable(f"{verb.value}: {what}")
    return CloudUncertain(f"{verb.value}: {what}; it may have been done")


def _timed_out(verb: Verb, timeout: float) -> CloudError:
    return _lost(verb, f"no reply within {timeout:g} s")
