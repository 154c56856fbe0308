"""Looking at the cloud: boots are awaited by listing the account, and refreshes write what a listing shows.

A boot is never asked after by itself: one listing serves all that are awaited. Its pause grows with the age of the
youngest change, three per cent of it, so that the wait costs a build at most that, whether a cloud boots in a tenth of
a second or in five minutes; it is never longer than the driver says. Nor is it shorter than the last listing took (so
that the cloud has as long without us as with us), or than ten times what looking at it cost our own loop.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

from pelagos.clouds.errors import CloudBusy, CloudError, ServerNotFound
from pelagos.clouds.values import CloudServer
from pelagos.model.errors import ErrorPayload, PelagosError
from pelagos.model.states import ServerState
from pelagos.operations.calls import Cloud, Listing
from pelagos.operations.kinds import KINDS
from pelagos.operations.observation import (
    compare,
    known_servers,
    strays,
    unknown_events,
    write_changes,
    write_sweeps,
)
from pelagos.operations.records import Again, Call, Done, Failed, Reached, Result

if TYPE_CHECKING:
    from pelagos.operations.worker import AccountWorker

__all__ = ["Boots", "Elsewhere", "Observer"]

_log = structlog.get_logger("pelagos.operations")

_SHARE = 0.03
_COST = 10.0
_MOST_ASKED = 200
"""Absent servers asked after by id in one pass; the others have to be absent a second time."""


class Boots:
    """The operations that wait for a server's state, by the cloud's id of it."""

    def __init__(self, worker: AccountWorker, cloud: Cloud) -> None:
        self._worker = worker
        self._cloud = cloud
        self._calls: dict[str, Call] = {}
        self._missed: dict[str, int] = {}
        self._ring = asyncio.Event()
        self._youngest = 0.0
        self._cost = 0.0
        """The least seconds from the last listing's beginning to the next one's."""

    def __len__(self) -> int:
        return len(self._calls)

    def server_ids(self) -> list[str]:
        return [call.server_id for call in self._calls.values()]

    def add(self, call: Call) -> None:
        """Await the state that the call's step names."""
        assert call.provider_id is not None
        self._calls[call.provider_id] = call
        self._missed.pop(call.provider_id, None)
        self._youngest = max(self._youngest, call.since)
        self._ring.set()

    async def poll(self) -> None:
        """List the account as long as something is awaited."""
        world = self._worker.world
        polled_at = world.now()
        failures = 0
        while True:
            if not self._calls:
                self._ring.clear()
                await self._ring.wait()
                polled_at = world.now()
            while (left := polled_at + self._pause(failures) - world.now()) > 0:
                self._ring.clear()
                try:
                    async with asyncio.timeout(left):
                        await self._ring.wait()
                except TimeoutError:
                    break
            began = world.monotonic()
            try:
                listing = await self._cloud.listing()
                failures = 0
            except PelagosError as error:
                failures += 1
                _log.info("listing failed", account=self._worker.name, error=str(error))
            else:
                taken_at = world.monotonic()
                self.match(listing)
                self._cost = max(2.0 * listing.seconds, _COST * (world.monotonic() - taken_at))
            polled_at = world.now() + min(0.0, began - world.monotonic())

    def match(self, listing: Listing) -> None:
        """End what a listing shows ended."""
        listed: dict[str, CloudServer] = {}
        for server in listing.servers:
            if server.provider_id in self._calls:
                listed[server.provider_id] = server
        for provider_id, call in list(self._calls.items()):
            if call.since > listing.started_at:
                continue
            result = self._judge(call, listed.get(provider_id), listing.started_at)
            if result is not None:
                del self._calls[provider_id]
                self._missed.pop(provider_id, None)
                self._worker.put(call, result)

    def _judge(self, call: Call, server: CloudServer | None, at: float) -> Result | None:
        if call.verb == "gone":
            return self._judge_gone(call, server, at)
        if server is None:
            if at - call.since <= self._cloud.capabilities.settle:
                return None
            missed = self._missed[call.provider_id or ""] = self._missed.get(call.provider_id or "", 0) + 1
            return Failed(_vanished(), gone=True) if missed >= 2 else None
        if server.state in KINDS[call.kind].steps[call.step].until:
            return Reached(server)
        if server.state is ServerState.ERROR:
            return Failed(
                CloudError(
                    f"the cloud could not build server {server.name}: {server.reason or 'no reason given'}",
                    advice="Look at its console output; another flavor, image or cloud may do.",
                ).payload()
            )
        if server.state is ServerState.DELETED:
            return Failed(_vanished(), gone=True)
        return None

    def _judge_gone(self, call: Call, server: CloudServer | None, at: float) -> Result | None:
        if server is None or server.state is ServerState.DELETED:
            return Done()
        patience = self._cloud.capabilities.settle
        if server.state is ServerState.DELETING:
            patience += self._worker.config.deleting_patience
        if at - call.since <= patience:
            return None
        error = CloudBusy(
            f"the cloud took the delete, and the server is {server.state.value} still",
            advice="It is asked again; if it never goes, look at it in the cloud's own console.",
        )
        # The call itself succeeded, so there is nothing to back off from but its silence.
        return Again(error.payload(), self._worker.world.now())

    def _pause(self, failures: int) -> float:
        longest = self._cloud.capabilities.poll_interval
        age = self._worker.world.now() - self._youngest
        pause = max(self._worker.config.first_poll, _SHARE * age, self._cost)
        if failures:
            pause = max(pause, self._worker.config.pauses.base * 2.0 ** min(failures, 8))
            longest = max(longest, self._worker.config.pauses.cap)
        return min(longest, pause)


def _vanished() -> ErrorPayload:
    return CloudError("the server vanished while it was waited for", advice="Make a new one.").payload()


class Elsewhere(Exception):
    """The account is another process's: ask it through the journal."""


class Observer:
    """Refreshes of one account: asked for by many, done once."""

    def __init__(self, worker: AccountWorker) -> None:
        self._worker = worker
        self._asked: list[asyncio.Future[float]] = []
        self._ring = asyncio.Event()
        self._absent_once: set[str] = set()
        self._told: set[str] = set()
        self.observed_at: float | None = None
        """Wall-clock time of the listing that is in the store now, as far as this process knows."""

    @property
    def asked(self) -> bool:
        return bool(self._asked)

    def ask(self) -> asyncio.Future[float]:
        """The time of a listing that begins after now and is in the store; may raise Elsewhere."""
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._asked.append(future)
        self._ring.set()
        self._worker.poke()
        return future

    def refer(self) -> None:
        """Another process does this account's work."""
        self.fail(Elsewhere())

    def fail(self, error: Exception) -> None:
        """Tell all who asked."""
        asked, self._asked = self._asked, []
        for future in asked:
            if not future.done():
                future.set_exception(error)

    async def serve(self, cloud: Cloud) -> None:
        """Answer who asks, as long as the worker serves."""
        while True:
            if not self._asked:
                self._ring.clear()
                await self._ring.wait()
                continue
            asked, self._asked = self._asked, []
            try:
                at = await self.observe(cloud)
            except PelagosError as error:
                for future in asked:
                    if not future.done():
                        future.set_exception(error)
                continue
            except BaseException:
                # The serving ends under us: the next one answers.
                self._asked = asked + self._asked
                raise
            for future in asked:
                if not future.done():
                    future.set_result(at)
            self._worker.poke()

    async def carry_out(self) -> Result:
        """A refresh that another process asked for through the journal."""
        try:
            await self.observe(await self._worker.cloud())
        except PelagosError as error:
            return Failed(error.payload())
        return Done()

    async def observe(self, cloud: Cloud) -> float:
        """List once, write what changed, sweep what is one too many; the listing's time."""
        worker = self._worker
        listing = await cloud.listing()
        worker.match(listing)
        settle = cloud.capabilities.settle
        known = await worker.store.read(partial(known_servers, account=worker.name))
        changes = compare(
            known,
            listing.servers,
            started_at=listing.started_at,
            settle=settle,
            in_hand=worker.busy_servers(),
        )
        vanished, seen = await self._confirm(cloud, changes.absent)
        now = worker.world.now()
        if changes.changed or seen or vanished:
            await worker.store.run(
                partial(
                    write_changes,
                    fence=worker.held.fence,
                    changed=[*changes.changed, *seen],
                    vanished=vanished,
                    now=now,
                )
            )
        if changes.unclaimed:
            await self._sweep(changes.unclaimed, listing.started_at, settle)
        self.observed_at = listing.started_at
        return listing.started_at

    async def _confirm(
        self, cloud: Cloud, absent: tuple[tuple[str, float, str], ...]
    ) -> tuple[list[tuple[str, float]], list[tuple[str, float, CloudServer]]]:
        """Which of the absent are gone, and which the cloud shows all the same."""
        vanished: list[tuple[str, float]] = []
        seen: list[tuple[str, float, CloudServer]] = []
        again = {entry[0] for entry in absent if entry[0] in self._absent_once}
        self._absent_once = {entry[0] for entry in absent}
        doubtful = [entry for entry in absent if entry[0] not in again]
        vanished += [(id_, updated_at) for id_, updated_at, _ in absent if id_ in again]
        limit = asyncio.Semaphore(cloud.capabilities.parallel_calls)

        async def ask(id_: str, updated_at: float, provider_id: str) -> None:
            async with limit:
                try:
                    server = await cloud.get(provider_id)
                except ServerNotFound:
                    vanished.append((id_, updated_at))
                except PelagosError as error:
                    # Then a second absence decides.
                    _log.info("absent server not asked after", server_id=id_, error=str(error))
                else:
                    if server.state is ServerState.DELETED:
                        vanished.append((id_, updated_at))
                    else:
                        self._absent_once.discard(id_)
                        seen.append((id_, updated_at, server))

        async with asyncio.TaskGroup() as group:
            for entry in doubtful[:_MOST_ASKED]:
                group.create_task(ask(*entry))
        return sorted(vanished), sorted(seen, key=lambda entry: entry[0])

    async def _sweep(self, unclaimed: tuple[CloudServer, ...], started_at: float, settle: float) -> None:
        worker = self._worker
        found, unknown = await worker.store.read(
            partial(strays, unclaimed=unclaimed, started_at=started_at, settle=settle)
        )
        if found:
            for stray in found:
                _log.warning("sweeping a server", account=worker.name, provider_id=stray.provider_id, why=stray.why)
            ids = [worker.world.new_id() for _ in found]
            await worker.store.run(
                partial(
                    write_sweeps,
                    fence=worker.held.fence,
                    account=worker.name,
                    found=found,
                    ids=ids,
                    settle=settle,
                    now=worker.world.now(),
                )
            )
        fresh = [server for server in unknown if server.provider_id not in self._told]
        if fresh:
            await worker.store.run(
                partial(
                    unknown_events,
                    fence=worker.held.fence,
                    account=worker.name,
                    found=fresh,
                    now=worker.world.now(),
                )
            )
            self._told.update(server.provider_id for server in fresh)
