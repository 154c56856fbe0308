"""Looking at the cloud: boots are awaited by listing the account, and refreshes write what a listing shows.

A boot is never asked after by itself: one listing serves all that are awaited. Its pause grows with the age of the
youngest change, three per cent of it, so that the wait costs a build at most that, whether a cloud boots in a tenth of
a second or in five minutes; it is never longer than the driver says. Nor is it shorter than what the last listing
took, shared by those who wait: for one server the cloud has as long without us as with us; for forty, each second that
a listing comes later is forty seconds of waiting, and a listing at a time is less than any of them asked after by
itself. Ten times what looking at it cost our own loop passes in any case.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

from pelagos.clouds.errors import CloudBusy, CloudError, ServerGone, ServerNotFound
from pelagos.clouds.values import CloudPart, CloudServer, PartKind
from pelagos.model.errors import PelagosError
from pelagos.model.failpoints import Step
from pelagos.model.states import ServerState
from pelagos.operations.calls import Cloud, Listing, PartListing
from pelagos.operations.kinds import KINDS
from pelagos.operations.observation import (
    compare,
    known_servers,
    strays,
    unknown_events,
    write_changes,
    write_sweeps,
)
from pelagos.operations.part_observation import (
    StrayPart,
    assembling,
    compare_parts,
    known_parts,
    stranded,
    stray_parts,
    write_part_changes,
)
from pelagos.operations.records import Again, Call, Done, Failed, Made, Reached, Result

if TYPE_CHECKING:
    from pelagos.operations.worker import AccountWorker

__all__ = ["Boots", "Elsewhere", "Observer", "PartBoots", "part_key"]

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
        self._listed_in = 0.0
        """Seconds that the last listing took."""
        self._looked_in = 0.0
        """Seconds that our own loop took to look at it."""

    def __len__(self) -> int:
        return len(self._calls)

    def server_ids(self) -> list[str]:
        return [call.server_id for call in self._calls.values()]

    def add(self, call: Call) -> None:
        """Await the state that the call's step names."""
        key = self._key(call)
        self._calls[key] = call
        self._missed.pop(key, None)
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
                await self._look()
                failures = 0
            except PelagosError as error:
                failures += 1
                _log.info("listing failed", account=self._worker.name, error=str(error))
            polled_at = world.now() + min(0.0, began - world.monotonic())

    def _key(self, call: Call) -> str:
        """What tells the awaited thing from others of its listing."""
        return call.awaited_id

    async def _look(self) -> None:
        listing = await self._cloud.listing()
        taken_at = self._worker.world.monotonic()
        self.match(listing)
        self._took(listing.seconds, taken_at)

    def _took(self, seconds: float, taken_at: float) -> None:
        self._listed_in = seconds
        self._looked_in = self._worker.world.monotonic() - taken_at

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
            return Failed(_vanished().payload(), gone=True) if missed >= 2 else None
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
            return Failed(_vanished().payload(), gone=True)
        return None

    def _judge_gone(self, call: Call, server: CloudServer | None, at: float) -> Result | None:
        if server is None or server.state is ServerState.DELETED:
            return Done()
        patience = self._cloud.capabilities.settle
        if server.state is ServerState.DELETING:
            patience += self._worker.config.deleting_patience
        if at - call.since <= patience:
            return None
        # The call itself succeeded, so there is nothing to back off from but its silence.
        return Again(_still_there(f"server is {server.state.value}").payload(), self._worker.world.now())

    def _pause(self, failures: int) -> float:
        longest = self._cloud.capabilities.poll_interval
        age = self._worker.world.now() - self._youngest
        rested = self._listed_in + self._listed_in / max(1, len(self._calls))
        pause = max(self._worker.config.first_poll, _SHARE * age, rested, _COST * self._looked_in)
        if failures:
            pause = max(pause, self._worker.config.pauses.base * 2.0 ** min(failures, 8))
            longest = max(longest, self._worker.config.pauses.cap)
        return min(longest, pause)


class PartBoots(Boots):
    """The operations that wait for a part: to be ready, or to be gone."""

    def __init__(self, worker: AccountWorker, cloud: Cloud) -> None:
        super().__init__(worker, cloud)
        self._leaving: set[str] = set()
        """Keys of those that are to go and were in a listing meanwhile."""

    def _key(self, call: Call) -> str:
        part = call.stray or call.part
        assert part is not None
        return part_key(part.kind, call.awaited_id)

    async def _look(self) -> None:
        listing = await self._cloud.part_listing()
        taken_at = self._worker.world.monotonic()
        self.match_parts(listing)
        self._took(listing.seconds, taken_at)

    def match_parts(self, listing: PartListing) -> None:
        """End what a listing shows ended."""
        listed = {part_key(part.kind, part.provider_id): part for part in listing.parts}
        for key, call in list(self._calls.items()):
            if call.since > listing.started_at:
                continue
            result = self._judge_part(key, call, listed.get(key), listing.started_at)
            if result is not None:
                del self._calls[key]
                self._missed.pop(key, None)
                self._leaving.discard(key)
                self._worker.put(call, result)

    def _judge_part(self, key: str, call: Call, part: CloudPart | None, at: float) -> Result | None:
        settle = self._cloud.capabilities.settle
        if call.verb == "unparted":
            if part is None:
                # One that was made just before may only not be visible yet, and its deletion may come to nothing.
                visible = call.kind != "server.create" or key in self._leaving or at - call.since > settle
                return Done() if visible else None
            self._leaving.add(key)
            if at - call.since <= settle + self._worker.config.deleting_patience:
                return None
            return Again(_still_there(f"{part.kind.value} is there").payload(), self._worker.world.now())
        if part is None:
            if at - call.since <= settle:
                return None
            missed = self._missed[key] = self._missed.get(key, 0) + 1
            return Failed(_vanished("part").payload(), gone=True) if missed >= 2 else None
        return Made(part) if part.ready or part.failed else None


def part_key(kind: PartKind, provider_id: str) -> str:
    """What tells a part from all others of its account: clouds number each kind by itself."""
    return f"{kind.value} {provider_id}"


def _still_there(what: str) -> CloudBusy:
    return CloudBusy(
        f"the cloud took the delete, and the {what} still",
        advice="It is asked again; if it never goes, look at it in the cloud's own console.",
    )


def _vanished(what: str = "server") -> CloudError:
    return CloudError(f"the {what} vanished while it was waited for", advice="Make a new one.")


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
        self._absent_parts: set[str] = set()
        self._told_parts: set[tuple[str, str]] = set()
        self.observed_at: float | None = None
        """Wall-clock time of the listing that is in the store now, as far as this process knows."""
        self.doubts: dict[str, float] = {}
        """Servers that this listing lacks, of which it does not say yet whether they are gone -> when one will."""

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
        with_parts = cloud.parts_driver is not None and await worker.knows_parts()
        busy = worker.busy_servers()
        if with_parts:
            busy |= await worker.store.read(partial(assembling, account=worker.name))
        known = await worker.store.read(partial(known_servers, account=worker.name))
        changes = compare(known, listing.servers, started_at=listing.started_at, settle=settle, in_hand=busy)
        vanished, seen = await self._confirm(cloud, changes.absent)
        vanished += [*changes.gone, *await self._ended(cloud, changes.early)]
        now = worker.world.now()
        doubtful = {id_: at for id_, _, _, at in changes.early} | {id_: now for id_, *_ in changes.absent}
        known_now = {id_ for id_, *_ in (*vanished, *seen)}
        self.doubts = {id_: at for id_, at in doubtful.items() if id_ not in known_now}
        if changes.changed or seen or vanished:
            await worker.write(
                Step.OBSERVE,
                partial(
                    write_changes,
                    fence=worker.held.fence,
                    changed=[*changes.changed, *seen],
                    vanished=vanished,
                    now=now,
                ),
            )
        if changes.unclaimed:
            await self._sweep(changes.unclaimed, listing.started_at, settle)
        if with_parts:
            await self._observe_parts(cloud, settle)
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

    async def _ended(self, cloud: Cloud, early: tuple[tuple[str, float, str, float], ...]) -> list[tuple[str, float]]:
        """Those of which the cloud says that it has ended them: of the others it may not tell yet."""
        ended: list[tuple[str, float]] = []
        limit = asyncio.Semaphore(cloud.capabilities.parallel_calls)

        async def ask(id_: str, updated_at: float, provider_id: str) -> None:
            async with limit:
                try:
                    server = await cloud.get(provider_id)
                except ServerGone:
                    ended.append((id_, updated_at))
                except PelagosError as error:
                    # Then its absence decides, when the time has come.
                    _log.debug("absent server not asked after", server_id=id_, error=str(error))
                else:
                    if server.state is ServerState.DELETED:
                        ended.append((id_, updated_at))

        async with asyncio.TaskGroup() as group:
            for id_, updated_at, provider_id, _ in early[:_MOST_ASKED]:
                group.create_task(ask(id_, updated_at, provider_id))
        return sorted(ended)

    async def _sweep(self, unclaimed: tuple[CloudServer, ...], started_at: float, settle: float) -> None:
        worker = self._worker
        found, unknown = await worker.store.read(
            partial(strays, unclaimed=unclaimed, started_at=started_at, settle=settle)
        )
        if found:
            for stray in found:
                _log.warning("sweeping a server", account=worker.name, provider_id=stray.provider_id, why=stray.why)
            ids = [worker.world.next_id() for _ in found]
            await worker.write(
                Step.SWEEP,
                partial(
                    write_sweeps,
                    fence=worker.held.fence,
                    account=worker.name,
                    found=found,
                    ids=ids,
                    settle=settle,
                    now=worker.world.now(),
                ),
            )
        fresh = [server for server in unknown if server.provider_id not in self._told]
        if fresh:
            await worker.write(
                Step.SWEEP,
                partial(
                    unknown_events,
                    fence=worker.held.fence,
                    account=worker.name,
                    found=fresh,
                    now=worker.world.now(),
                ),
            )
            self._told.update(server.provider_id for server in fresh)

    async def _observe_parts(self, cloud: Cloud, settle: float) -> None:
        """The same of parts: an absent one is gone when it was absent twice."""
        worker = self._worker
        listing = await cloud.part_listing()
        worker.match_parts(listing)
        started_at = listing.started_at
        known = await worker.store.read(partial(known_parts, account=worker.name))
        changes = compare_parts(known, listing.parts, started_at=started_at, settle=settle)
        vanished = [entry for entry in changes.absent if entry[0] in self._absent_parts]
        self._absent_parts = {id_ for id_, _ in changes.absent}
        left = await worker.store.read(partial(stranded, account=worker.name, now=worker.world.now()))
        strays_found: list[StrayPart] = []
        unknown: list[CloudPart] = []
        if changes.unclaimed:
            strays_found, unknown = await worker.store.read(
                partial(stray_parts, unclaimed=changes.unclaimed, started_at=started_at, settle=settle)
            )
        unknown = [part for part in unknown if (part.kind.value, part.provider_id) not in self._told_parts]
        for stray in strays_found:
            _log.warning("sweeping a part", account=worker.name, provider_id=stray.part.provider_id, why=stray.why)
        if vanished or strays_found or left or unknown:
            await worker.write(
                Step.OBSERVE_PARTS,
                partial(
                    write_part_changes,
                    fence=worker.held.fence,
                    account=worker.name,
                    vanished=vanished,
                    strays=strays_found,
                    left=left,
                    unknown=unknown,
                    ids=[worker.world.next_id() for _ in range(len(strays_found) + len(left))],
                    settle=settle,
                    now=worker.world.now(),
                ),
            )
            self._told_parts.update((part.kind.value, part.provider_id) for part in unknown)
            worker.poke()
