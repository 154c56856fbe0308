"""The harness: one exchange, the containers on it, and the check at the end that nothing went wrong unseen.

A test of a service asserts what it asked for. What it did not ask for goes unnoticed: a process that died and was
started again, a request that never came to its end, a stop that had to be forced. The ancestor's test case looked for
messages in progress when it stopped its container (reference section 12), and needed a broker to do so. Here the
exchange is in memory unless a test wants another, the containers are as a program has them (tap, interceptors), and at
the end :class:`Harness` looks at each of their processes and fails with names.

What is meant to fail is announced: ``harness.expect_failure("counter", ValueError)``; a failure that was announced and
did not come is a mistake, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from pelagos.container import Container, ContainerConfig
from pelagos.exchange import Address, Kind, MemoryTransport, Names, Transport
from pelagos.exchange.interceptors import (
    DEFAULT_STACK,
    InterceptedTransport,
    KeyRing,
    OwnerLookup,
    PolicyInterceptor,
    ServiceNames,
    Surroundings,
    build_stack,
    issue_assertion,
    parse_policy,
)
from pelagos.exchange.observing import Tap
from pelagos.model.errors import InvalidInput
from pelagos.model.policy import ANONYMOUS_SCOPE
from pelagos.model.scope import Scope
from pelagos.model.world import SystemWorld, World
from pelagos.process import Context, acting_as, current_context, use_context
from pelagos.process.conversations import Protocol
from pelagos.simulation import SimulatedWorld, VirtualLoop
from pelagos.testing.checked import CheckedContainer
from pelagos.testing.recorder import Recorder

if TYPE_CHECKING:
    from pelagos.store import SimulatedDatabase, Store

__all__ = ["Harness", "running_container", "world_of_this_loop"]

_GRACE = 2.0
_LOOK = 0.005
_KEPT = 1 << 20
"""Bytes of a message's content that a recorder gets to see."""


def world_of_this_loop(seed: int | str = 1) -> World:
    """The world that fits the running loop: simulated on a virtual one, else the system's."""
    if isinstance(asyncio.get_running_loop(), VirtualLoop):
        return SimulatedWorld(seed)
    return SystemWorld()


class _Expected:
    """A failure that a test has announced."""

    def __init__(self, label: str, kind: type[BaseException], times: int | None) -> None:
        self.label = label
        self.kind = kind
        self.times = times
        self.seen = 0

    def takes(self, label: str, cause: BaseException) -> bool:
        if label != self.label or not isinstance(cause, self.kind) or self.seen == self.times:
            return False
        self.seen += 1
        return True


class Harness:
    """One system for one test; an asynchronous context manager.

    ``world``: that of the running loop if None. ``transport`` makes each container's transport from its names; without
    it all share one exchange in memory. ``policy`` is the text or the path of a policy file; with ``owners`` somebody
    says who owns what. ``check`` says whether leaving fails with :class:`AssertionError` for what :meth:`problems`
    finds; it never does on top of another error. What is in progress at the end gets ``grace`` seconds.
    """

    def __init__(
        self,
        world: World | None = None,
        *,
        transport: Callable[[Names], Transport] | None = None,
        system: str = "test",
        policy: str | Path = "",
        owners: OwnerLookup | None = None,
        check: bool = True,
        grace: float = _GRACE,
    ) -> None:
        self.system = system
        self.check = check
        self.containers: list[CheckedContainer] = []
        self._given_world = world
        self._make_transport = transport
        self._owners = owners
        self._grace = grace
        self._policy = parse_policy(*_policy_text(policy)) if policy else None
        self._policies: list[PolicyInterceptor] = []
        self._expected: list[_Expected] = []
        self._may_stay_open: set[str] = set()
        self._found: list[str] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._taps: list[Tap] = []
        self._recorder: Recorder | None = None
        self._database: SimulatedDatabase | None = None
        self._ring: KeyRing | None = None
        self._below = AsyncExitStack()
        """What is ended after all containers."""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.world = world_of_this_loop() if self._given_world is None else self._given_world
        if self._given_world is None and isinstance(self.world, SystemWorld):
            self._below.callback(self.world.close)
        self._memory = MemoryTransport(self.world)
        if self._make_transport is None:
            await self._memory.start()
            self._below.push_async_callback(self._memory.stop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None and self.check:
            await self._look_for_work()
        try:
            await self._stack.aclose()
        finally:
            await self._below.aclose()
        if error is None and self.check and (problems := self.problems()):
            listed = "\n".join(f"- {problem}" for problem in problems)
            raise AssertionError(f"the containers did not end well:\n{listed}")

    # -- containers --------------------------------------------------------------------------------------------

    async def container(self, name: str = "", *, settings: dict[str, Any] | None = None, **config: Any) -> Container:
        """One more container, started; it is stopped at the end. ``name`` is its id, made up if empty; ``config`` as
        the fields of :class:`ContainerConfig`."""
        name = name or f"c{len(self.containers) + 1}"
        if any(other.id == name for other in self.containers):
            raise InvalidInput(f"there was a container {name!r} already", advice="An id is never used twice.")
        services = ServiceNames(system=self.system, container=name)
        container = CheckedContainer(
            self.world,
            ContainerConfig(system=self.system, id=name, settings=settings or {}, **config),
            transport=lambda names: self._transport(names, services),
            shared_transport=self._make_transport is None,
            service_names=services,
            on_failure=self._somebody_failed,
        )
        await container.start()
        self.containers.append(container)
        self._stack.push_async_callback(self._stop, container)
        return container

    def lose(self, container: Container) -> None:
        """It was killed with all that was in it: it is not stopped, and not looked at."""
        self.containers = [one for one in self.containers if one is not container]

    async def _stop(self, container: CheckedContainer) -> None:
        if container in self.containers:
            await container.stop()

    def _transport(self, names: Names, services: ServiceNames) -> Transport:
        inner = self._memory if self._make_transport is None else self._make_transport(names)
        ring = self.ring
        around = Surroundings(
            self.world, names.container, names.system, services, local=True, owners=self._owners, ring=ring
        )
        stack = build_stack([name for name in DEFAULT_STACK if name != "signature"], around)
        for interceptor in stack.interceptors:
            if isinstance(interceptor, PolicyInterceptor):
                self._policies.append(interceptor)
                if self._policy is not None:
                    interceptor.replace(self._policy)
        tap = Tap(InterceptedTransport(inner, stack.interceptors, self.world), self.world, held=_KEPT)
        tap.container = names.container
        self._taps.append(tap)
        if self._recorder is not None:
            self._recorder.follow(tap)
        return tap

    @property
    def recorder(self) -> Recorder:
        """Records what passes from its first use on, in all containers."""
        if self._recorder is None:
            self._recorder = Recorder(self.system)
            for tap in self._taps:
                self._recorder.follow(tap)
        return self._recorder

    def protocols(self) -> tuple[Protocol, ...]:
        """Those that processes of its containers brought along."""
        return tuple({one.name: one for container in self.containers for one in container.protocols}.values())

    def database(self) -> SimulatedDatabase:
        """The one in memory that all stores of this harness are on."""
        if self._database is None:
            from pelagos.store import SimulatedDatabase

            self._database = SimulatedDatabase(self.world)
            self._below.callback(self._database.close)
        return self._database

    async def store(self) -> Store:
        """A store in memory, opened and migrated, closed after the containers. All of a harness have one database."""
        from pelagos.store import open_simulated_store

        store = open_simulated_store(self.world, database=self.database())
        await store.start()
        self.at_the_end(store.stop)
        return store

    def at_the_end(self, end: Callable[[], Awaitable[object]]) -> None:
        """Have something ended when all containers have stopped; what came last is first."""
        self._below.push_async_callback(end)

    # -- who asks ----------------------------------------------------------------------------------------------

    @property
    def ring(self) -> KeyRing:
        """The key ring that all containers of the harness trust; made from the world's chance."""
        if self._ring is None:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

            self._ring = KeyRing(Ed25519PrivateKey.from_private_bytes(self.world.rng("testing.keys").randbytes(32)))
        return self._ring

    def assertion(self, user: str, *roles: str, project: str = "project", lifetime: float = 3600.0) -> bytes:
        """What an identity service would issue for a user."""
        scope = Scope(project_id=project, user_id=user)
        return issue_assertion(self.ring, self.world, scope, roles=roles, lifetime=lifetime)

    @contextmanager
    def user(self, user: str, *roles: str, project: str = "project") -> Iterator[Context]:
        """The block's calls are made by this user, who has these roles."""
        with use_context(acting_as(current_context(), self.assertion(user, *roles, project=project))) as context:
            yield context

    @contextmanager
    def anonymous(self) -> Iterator[Context]:
        """The block's calls are made by nobody in particular. Without it they are the system's own."""
        here = msgspec.structs.replace(current_context(), scope=ANONYMOUS_SCOPE, assertion=b"", expiry=0)
        with use_context(here) as context:
            yield context

    def set_policy(self, policy: str | Path) -> None:
        """Have all containers use another policy, from the next message on."""
        self._policy = parse_policy(*_policy_text(policy))
        for interceptor in self._policies:
            interceptor.replace(self._policy)

    # -- the check ---------------------------------------------------------------------------------------------

    def expect_failure(self, label: str, kind: type[BaseException] = Exception, *, times: int | None = 1) -> None:
        """Processes of that label (a service's name, or a class's) will fail so; ``times`` None: once or more."""
        self._expected.append(_Expected(label, kind, times))

    def may_stay_open(self, *operations: str) -> None:
        """Operations, as ``queue.next``, whose requests may be in progress at the end, since they are made to wait."""
        self._may_stay_open.update(operations)

    async def failed(self, label: str, *, times: int = 1, timeout: float = 5.0) -> BaseException:
        """Returns the cause once so many processes of that label have failed since the harness began.

        Raises :class:`AssertionError` after ``timeout`` seconds without."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while len(causes := self._causes(label)) < times:
            changed = loop.create_future()
            self._waiting.append(changed)
            try:
                async with asyncio.timeout_at(until):
                    await changed
            except TimeoutError:
                raise AssertionError(
                    f"{label} did not fail {times} times within {timeout:g} s, only {len(causes)} times"
                ) from None
        return causes[times - 1]

    async def served(self, service: str, timeout: float = 5.0) -> None:
        """Returns when somebody serves that service, for example again after a failure. Raises :class:`AssertionError`
        after ``timeout`` seconds without."""
        container = self.containers[0]
        if not await container.transport.wait_served(container.names.full(Address(Kind.SERVICE, service)), timeout):
            raise AssertionError(f"nobody served {service} within {timeout:g} s")

    def _somebody_failed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for changed in waiting:
            if not changed.done():
                changed.set_result(None)

    def _causes(self, wanted: str) -> list[BaseException]:
        return [cause for container in self.containers for _, label, cause in container.failures if label == wanted]

    def problems(self) -> list[str]:
        """What is wrong with how the containers fared, a line each. Complete after the harness was left."""
        for expected in self._expected:
            expected.seen = 0
        problems = list(self._found)
        for container in self.containers:
            for process_id, label, cause in container.failures:
                if not any(expected.takes(label, cause) for expected in self._expected):
                    problems.append(f"process {label} ({process_id}) {_died(cause)}")
        for expected in self._expected:
            if expected.seen < (expected.times or 1):
                wanted = f"{expected.times} times" if (expected.times or 1) > 1 else "once"
                problems.append(
                    f"process {expected.label} should have failed {wanted} with {expected.kind.__name__}; "
                    f"it did so {expected.seen} times"
                )
        return problems

    async def _look_for_work(self) -> None:
        """What is still in progress when the grace is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._grace
        await asyncio.sleep(_LOOK)  # what a test has started last has not begun yet
        while (busy := self._busy()) and loop.time() < until:  # noqa: ASYNC110 - anybody's work, which rings no bell
            await asyncio.sleep(_LOOK)
        self._found += [f"at the end, {one}" for one in busy]

    def _busy(self) -> list[str]:
        return [one for container in self.containers for one in container.busy(self._may_stay_open)]


@asynccontextmanager
async def running_container(world: World | None = None, **options: Any) -> AsyncIterator[Container]:
    """One checked container in a harness of its own; ``options`` as :class:`Harness` takes them."""
    async with Harness(world, **options) as harness:
        yield await harness.container("c")


def _policy_text(policy: str | Path) -> tuple[str, str]:
    if isinstance(policy, Path):
        return policy.read_text("utf-8"), str(policy)
    return policy, "policy"


def _died(cause: BaseException) -> str:
    if isinstance(cause, asyncio.CancelledError):
        return "was cancelled: it did not end within its shutdown time"
    return f"failed: {type(cause).__name__}: {cause}"
