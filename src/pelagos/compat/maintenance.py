"""The ancestor's maintenance process (reference, section 2.3): keeps one infrastructure alive until it is ended.

There it was a child of the program, which knew nothing of how it fared. Here it is either a task beside the sync client
that asks for a maintenance run again and again (the services run in this process), or the wish, kept by a daemon, that
the infrastructure be maintained. Either way it ends cooperatively: a pass under way is cancelled, what it made stays.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, cast

from pelagos.compat.connecting import Services, default_services
from pelagos.compat.errors import ConfigurationError, InfrastructureIDTakenException, as_ancestor
from pelagos.model.errors import Gone, NotFound, PelagosError, from_payload
from pelagos.wire.infrastructures import RunRequest, Strategy

if TYPE_CHECKING:
    from pelagos.clients import Client

__all__ = ["InfrastructureMaintenanceProcess", "strategy_of"]

_CANCELLED = 30.0
"""Seconds that a cancelled pass may take to end."""


def strategy_of(name: str) -> Strategy:
    """The strategy of that name. Raises ConfigurationError for any other."""
    if name not in ("sequential", "parallel"):
        raise ConfigurationError(f"there is no strategy {name!r}", advice="There are 'sequential' and 'parallel'.")
    return cast(Strategy, name)


class InfrastructureMaintenanceProcess:
    """``enactor_interval``: seconds between two passes; a daemon has its own. ``first``: the run that builds it."""

    def __init__(
        self,
        infra_id: str,
        enactor_interval: float = 10.0,
        process_strategy: str = "sequential",
        *,
        services: Services | None = None,
        first: RunRequest | None = None,
    ) -> None:
        self.infra_id = infra_id
        self.enactor_interval = enactor_interval
        self.process_strategy = strategy_of(process_strategy)
        self.last_error: PelagosError | None = None
        """Why the last pass did not succeed; None if it did."""
        self.passes = 0
        """Passes that ended."""
        self._services = services or default_services()
        self._first = first
        self._work: Future[None] | None = None
        self._stopping = asyncio.Event()
        self._run_id: str | None = None

    # -- the face of a process ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin. The first run is accepted when this returns; it goes on beside the caller.

        Raises SchemaError and InfrastructureIDNotFoundException; InfrastructureIDTakenException if it was started
        before."""
        if self._work is not None:
            raise InfrastructureIDTakenException(f"infrastructure {self.infra_id!r} is maintained by this already")
        client = self._services.client
        with as_ancestor():
            run = client.runs.start(self._first) if self._first is not None else None
            if not self._services.embedded:
                client.infrastructures.attach(self.infra_id)
        if self._services.embedded:
            self._work = client.start(lambda asynchronous: self._maintain(asynchronous, run.id if run else None))
        else:
            self._work = client.start(self._watch)

    def is_alive(self) -> bool:
        """Whether it is maintained still."""
        return self._work is not None and not self._work.done()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it ends: stopped, detached by another, or destroyed; at most ``timeout`` seconds."""
        if self._work is not None:
            try:
                self._work.result(timeout)
            except (TimeoutError, CancelledError):
                pass  # as a process's join: is_alive tells

    def graceful_terminate(self, timeout: float = 60.0) -> None:
        """Maintain it no longer; instances stay. A pass under way has ``timeout`` seconds to end; then it is cancelled,
        and what it has made is kept. Raises InfrastructureIDNotFoundException if it is gone from a daemon."""
        if not self._services.embedded:
            with as_ancestor():
                self._services.client.infrastructures.detach(self.infra_id)
        self.let_go(timeout)

    def let_go(self, timeout: float = 60.0) -> None:
        """Do nothing for it in this program any more; a daemon that maintains it goes on."""
        if self._work is None:
            return
        if not self._work.done():
            self._services.client.start(self._stop).result()
            self.join(timeout)
        if not self._work.done():
            self._services.client.start(self._cancel).result()
            self.join(_CANCELLED)
        self._work.cancel()

    def snapshot(self) -> dict[str, Any]:
        """For people and tests."""
        return {
            "infrastructure": self.infra_id,
            "alive": self.is_alive(),
            "embedded": self._services.embedded,
            "passes": self.passes,
            "run": self._run_id,
            "last_error": None if self.last_error is None else str(self.last_error),
        }

    # -- on the client's loop ------------------------------------------------------------------------------------------

    async def _maintain(self, client: Client, run_id: str | None) -> None:
        """Passes until stopped, or until there is nothing left to maintain."""
        while not self._stopping.is_set():
            try:
                await self._pass(client, run_id)
            except (NotFound, Gone):
                return  # destroyed by somebody else
            except PelagosError as error:
                self.last_error = error
            run_id = None
            await self._pause()

    async def _pass(self, client: Client, run_id: str | None) -> None:
        """Follow a run to its end: the one that builds, or a new one that maintains."""
        if run_id is None:
            request = RunRequest(kind="maintain", infrastructure=self.infra_id, strategy=self.process_strategy)
            run_id = (await client.runs.start(request)).id
        self._run_id = run_id
        try:
            async for _ in client.runs.follow(run_id):
                pass
            final = await client.runs.get(run_id)
        finally:
            self._run_id = None
        self.passes += 1
        self.last_error = None if final.error is None else from_payload(final.error)

    async def _watch(self, client: Client) -> None:
        """While the daemon maintains it."""
        while not self._stopping.is_set():
            try:
                known = await client.infrastructures.list()
                if not any(one.id == self.infra_id and one.maintained for one in known):
                    return
                self.last_error = None
            except PelagosError as error:
                self.last_error = error
            await self._pause()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self.enactor_interval):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _stop(self, client: Client) -> None:
        self._stopping.set()

    async def _cancel(self, client: Client) -> None:
        if self._run_id is not None:
            try:
                await client.runs.cancel(self._run_id, keep=True)
            except PelagosError as error:
                self.last_error = error
