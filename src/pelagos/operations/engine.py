"""The engine: the door to operations. It journals what is asked, wakes the accounts' workers, and answers reads.

Several engines may run on one store, in one process or many: each account's work is done by whichever holds the
account's lease, the others see its outcomes in the store. What one journals, another notices by the store's bell.

The pool may change while the engine runs. An account that is as before keeps its worker; one that is not is given up
by its worker once the calls that are out have come back, and only then the next worker of its name begins, with what
the journal holds. What is journaled for an account that the pool has no more stays there until it comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog
from sqlalchemy import Connection, delete
from sqlalchemy.exc import IntegrityError

from pelagos.clouds.errors import CloudUnreachable
from pelagos.clouds.pool import Account, Pool
from pelagos.clouds.port import Catalogue, ForeignReader, ListenerOracle, PartsDriver, ServerAdopter, ServerUpdater
from pelagos.clouds.values import CloudFlavor, CloudImage, CloudServer, CommandResult
from pelagos.model.errors import (
    Conflict,
    DeadlineExceeded,
    ErrorPayload,
    PelagosError,
    Unavailable,
    Unsupported,
    from_payload,
)
from pelagos.model.failpoints import Step, through
from pelagos.model.scope import DEFAULT_SCOPE, Fence, Scope
from pelagos.model.states import OperationState
from pelagos.model.world import World
from pelagos.operations import journal
from pelagos.operations.accounts import described_accounts
from pelagos.operations.calls import Cloud
from pelagos.operations.reading import operations_by_id
from pelagos.operations.records import (
    Adoption,
    NewServer,
    OperationRecord,
    OrphanRemoval,
    ServerAction,
    ServerUpdate,
)
from pelagos.operations.surveying import Reader, Survey, survey
from pelagos.operations.watching import Elsewhere
from pelagos.operations.worker import AccountWorker, EngineConfig
from pelagos.store import LeaseKeeper, Store
from pelagos.store.schema import operations

__all__ = ["OperationsEngine", "RefreshResult"]

T = TypeVar("T")

_log = structlog.get_logger("pelagos.operations")

_FEW = 100


class RefreshResult(msgspec.Struct, frozen=True):
    """Account -> wall-clock time of the listing that is in the store now; account -> why there is none; and servers
    that the listings lack without saying yet that they are gone -> when one will (of accounts that this process looks
    after)."""

    observed_at: dict[str, float]
    errors: dict[str, ErrorPayload]
    doubts: dict[str, float]


class OperationsEngine:
    """Give :meth:`run` to a task of its owner's; :meth:`stop` ends it. Submissions need not wait for it."""

    def __init__(
        self, store: Store, pool: Pool, leases: LeaseKeeper, world: World, config: EngineConfig | None = None
    ) -> None:
        self._store = store
        self._pool = pool
        self._world = world
        self._config = config or EngineConfig()
        self._leases = leases
        self._workers: dict[str, AccountWorker] = {}
        self._reads: dict[str, asyncio.Semaphore] = {}
        for account in pool.accounts():
            self._employ(account)
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[AccountWorker, asyncio.Task[None]] = {}
        self._exchanging: set[str] = set()
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._running = False

    @property
    def pool(self) -> Pool:
        """The accounts it works for."""
        return self._pool

    async def run(self) -> None:
        """Work until :meth:`stop`. Begins with what the journal holds, also when it is run again.

        Raises Conflict if it runs already."""
        if self._running:
            raise Conflict("the operations engine runs already")
        self._running = True
        self._stopping.clear()
        self._ended.clear()
        watch = self._store.watch()
        leave = self._pool.follow(self._pool_changed)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for worker in self._workers.values():
                    self._set_to_work(worker)
                self._pool_changed()
                ear = group.create_task(self._listen(watch.changed), name="operations: bell")
                memory = group.create_task(self._remember_in_time(), name="operations: accounts")
                await self._stopping.wait()
                self._group = None
                memory.cancel()
                for worker in list(self._tasks):
                    worker.stop()
                for task in list(self._tasks.values()):
                    await asyncio.wait([task])
                ear.cancel()
        finally:
            self._group = None
            self._tasks.clear()
            leave()
            watch.close()
            self._running = False
            self._ended.set()

    async def stop(self) -> None:
        """Claim nothing more, give what is out a moment, release the accounts. What is then still out, the next
        worker finds in the journal."""
        self._stopping.set()
        if self._running:
            await self._ended.wait()

    # -- commands ---------------------------------------------------------------------------------------------------

    async def create_servers(
        self, scope: Scope, requests: Sequence[NewServer], fence: Fence | None = None
    ) -> list[OperationRecord]:
        """Journal creations; see :func:`pelagos.operations.journal.submit_creates`. Raises NotFound (account) too."""
        for request in requests:
            self._pool.know(request.account, request.spec.account)
            self._pool.account(request.account)
        requests = await self._with_parts(requests)
        return await self._submit(
            partial(journal.submit_creates, scope=scope, requests=requests, now=self._world.now(), fence=fence)
        )

    async def delete_servers(
        self, scope: Scope, actions: Sequence[ServerAction], fence: Fence | None = None
    ) -> list[OperationRecord]:
        """Journal deletions; see :func:`pelagos.operations.journal.submit_deletes`."""
        return await self._submit(
            partial(journal.submit_deletes, scope=scope, actions=actions, now=self._world.now(), fence=fence)
        )

    async def adopt_servers(
        self, scope: Scope, requests: Sequence[Adoption], fence: Fence | None = None
    ) -> list[OperationRecord]:
        """Journal adoptions; see :func:`pelagos.operations.journal.submit_adoptions`. Raises NotFound (account) and
        Unsupported (its driver cannot adopt) too."""
        for request in requests:
            self._pool.know(request.account, request.spec.account)
        for name in dict.fromkeys(request.account for request in requests):
            if not isinstance((await (await self._worker(name)).cloud()).driver, ServerAdopter):
                raise Unsupported(
                    f"servers of the cloud account {name} cannot be adopted",
                    advice="Its driver cannot mark a server that is there already as ours.",
                )
        return await self._submit(
            partial(journal.submit_adoptions, scope=scope, requests=requests, now=self._world.now(), fence=fence)
        )

    async def remove_orphans(self, scope: Scope, requests: Sequence[OrphanRemoval]) -> list[OperationRecord]:
        """Journal deletions of what no record knows; see :func:`pelagos.operations.journal.submit_orphan_removals`."""
        for request in requests:
            self._pool.account(request.account)
        return await self._submit(
            partial(journal.submit_orphan_removals, scope=scope, requests=requests, now=self._world.now())
        )

    async def power_servers(
        self, scope: Scope, verb: str, actions: Sequence[ServerAction], fence: Fence | None = None
    ) -> list[OperationRecord]:
        """Journal starts, stops or reboots; see :func:`pelagos.operations.journal.submit_power`."""
        return await self._submit(
            partial(journal.submit_power, scope=scope, verb=verb, actions=actions, now=self._world.now(), fence=fence)
        )

    async def update_servers(
        self, scope: Scope, actions: Sequence[ServerUpdate], fence: Fence | None = None
    ) -> list[OperationRecord]:
        """Journal that servers are changed in place; see :func:`pelagos.operations.journal.submit_updates`. Keys that
        the servers' clouds cannot change are refused by their drivers."""
        return await self._submit(
            partial(journal.submit_updates, scope=scope, actions=actions, now=self._world.now(), fence=fence)
        )

    async def wait(self, operation_ids: Sequence[str], timeout: float | None = None) -> dict[str, OperationRecord]:
        """Follow operations until all are final, by whichever process; their records.

        Raises DeadlineExceeded after ``timeout`` seconds."""
        watch = self._store.watch()
        found: dict[str, OperationRecord] = {}
        missing = list(reversed(operation_ids))
        try:
            async with asyncio.timeout(timeout):
                while missing:
                    # A few at a time, in order: a ring must not cost a read of ten thousand rows.
                    looked = missing[-_FEW:]
                    records = await self._store.read(partial(operations_by_id, ids=looked))
                    final = {i: r for i, r in records.items() if r.state.final}
                    found.update(final)
                    missing[-_FEW:] = [i for i in looked if i in records and i not in final]
                    if not final and missing:
                        await watch.changed(self._config.rescan)
                return found
        except TimeoutError as error:
            raise DeadlineExceeded("the operations are not finished yet") from error
        finally:
            watch.close()

    # -- reads ------------------------------------------------------------------------------------------------------

    async def refresh(self, accounts: Sequence[str], max_age: float = 0.0) -> RefreshResult:
        """List these accounts once and write what changed, unless that is younger than ``max_age`` seconds."""
        names = list(dict.fromkeys(accounts))
        observed: dict[str, float] = {}
        errors: dict[str, ErrorPayload] = {}

        async def one(name: str) -> None:
            try:
                observed[name] = await self._refresh(name, max_age)
            except PelagosError as error:
                errors[name] = error.payload()

        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(one(name))
        doubts: dict[str, float] = {}
        for name in names:
            if name in observed and not self._workers[name].elsewhere:
                doubts |= self._workers[name].observer.doubts
        return RefreshResult({n: observed[n] for n in names if n in observed}, errors, doubts)

    async def console(self, account: str, provider_id: str, max_bytes: int) -> str:
        """The end of a server's console output. Raises ServerNotFound, Unsupported, CloudUnreachable."""
        worker = await self._worker(account)
        cloud = await worker.cloud()
        if not cloud.capabilities.console:
            raise Unsupported(f"the cloud account {account} shows no console output")
        async with self._reads[account]:
            return await cloud.read(
                cloud.driver.console, provider_id, max_bytes=max_bytes, timeout=cloud.capabilities.call_timeout
            )

    async def execute(self, account: str, provider_id: str, argv: Sequence[str], timeout: float) -> CommandResult:
        """Run a command inside a server. Raises ServerNotFound, Unsupported, CloudUnreachable (also for a time-out)."""
        worker = await self._worker(account)
        cloud = await worker.cloud()
        if not cloud.capabilities.execute:
            raise Unsupported(f"the cloud account {account} cannot run commands inside its servers")
        async with self._reads[account]:
            return await cloud.read(cloud.driver.execute, provider_id, argv, timeout=timeout)

    async def owns_listener(self, account: str, provider_id: str, address: str, port: int) -> bool | None:
        """Whether what listens there belongs to the server; None where the cloud has no doubt to clear."""
        worker = await self._worker(account)
        cloud = await worker.cloud()
        driver = cloud.driver
        if not isinstance(driver, ListenerOracle):
            return None
        async with self._reads[account]:
            return await cloud.read(
                driver.verify_listener, provider_id, address, port, timeout=cloud.capabilities.call_timeout
            )

    async def check(self, account: str) -> float:
        """List the account's servers now, and forget the answer; how long it took, in seconds. What it says of the
        account is in :meth:`workers`' health from then on. Raises NotFound and what the cloud's error is."""
        worker = await self._worker(account)
        cloud = await worker.cloud()
        began = self._world.monotonic()
        async with self._reads[account]:
            await cloud.read(cloud.driver.list_servers, timeout=cloud.capabilities.call_timeout, of_account=True)
        return self._world.monotonic() - began

    async def updates(self, account: str) -> frozenset[str]:
        """The resource keys that the account's cloud changes in place. Raises NotFound, and what opening it does."""
        cloud = await (await self._worker(account)).cloud()
        return cloud.capabilities.updates if isinstance(cloud.driver, ServerUpdater) else frozenset()

    async def images(self, account: str) -> Sequence[CloudImage]:
        """The images of an account. Raises NotFound, Unsupported, CloudUnreachable."""
        cloud, driver = await self._catalogue(account, "images")
        async with self._reads[account]:
            return await cloud.read(driver.list_images, timeout=cloud.capabilities.call_timeout)

    async def flavors(self, account: str) -> Sequence[CloudFlavor]:
        """The sizes of servers of an account. Raises NotFound, Unsupported, CloudUnreachable."""
        cloud, driver = await self._catalogue(account, "flavors")
        async with self._reads[account]:
            return await cloud.read(driver.list_flavors, timeout=cloud.capabilities.call_timeout)

    async def listing(self, account: str, *, foreign: bool = False) -> list[CloudServer]:
        """The servers of an account as its cloud shows them now; with ``foreign`` also those that Pelagos did not make.
        Writes nothing. Raises NotFound, Unsupported (``foreign``), CloudUnreachable."""
        cloud = await (await self._worker(account)).cloud()
        driver, timeout = cloud.driver, cloud.capabilities.call_timeout
        if foreign and not isinstance(driver, ForeignReader):
            raise Unsupported(
                f"the driver of the cloud account {account} cannot look at servers of others",
                advice="Leave out --all.",
            )
        async with self._reads[account]:
            found = list(await cloud.read(driver.list_servers, timeout=timeout, of_account=True))
            if foreign and isinstance(driver, ForeignReader):
                found += await cloud.read(driver.list_foreign_servers, timeout=timeout)
        return found

    async def survey(self, account: str, *, known: Sequence[str] = (), foreign: bool = False) -> Survey:
        """What the account's cloud shows now; nothing is written. Raises NotFound (account)."""
        worker = await self._worker(account)
        try:
            cloud = await worker.cloud()
        except PelagosError as error:
            return Survey(account=account, started_at=self._world.now(), error=error.payload())
        async with self._reads[account]:
            return await survey(
                account,
                Reader(cloud),
                self._world.now(),
                known=known,
                foreign=foreign,
                parallel=self._config.parallel_reads,
            )

    def workers(self) -> dict[str, AccountWorker]:
        """The worker of each account, those that retire among them: for reading."""
        return dict(self._workers)

    def snapshot(self) -> dict[str, Any]:
        """What each account's worker has in hand."""
        return {name: worker.snapshot() for name, worker in self._workers.items()}

    # -- the pool's changes ------------------------------------------------------------------------------------------

    def _employ(self, account: Account) -> AccountWorker:
        worker = AccountWorker(account, self._store, self._leases, self._world, self._config)
        self._workers[account.name] = worker
        self._reads.setdefault(account.name, asyncio.Semaphore(self._config.parallel_reads))
        return worker

    def _set_to_work(self, worker: AccountWorker) -> None:
        if self._group is not None:
            task = self._group.create_task(worker.run(), name=f"operations: {worker.name}")
            self._tasks[worker] = task
            task.add_done_callback(lambda _: self._tasks.pop(worker, None))

    def _pool_changed(self) -> None:
        """See that each account of the pool, and none other, has a worker."""
        if self._group is None:
            return
        for account in self._pool.accounts():
            worker = self._workers.get(account.name)
            if worker is None:
                self._set_to_work(self._employ(account))
            elif worker.account is not account:
                self._exchange(worker)
        for name, worker in self._workers.items():
            if self._pool.find(name) is None:
                self._exchange(worker)

    def _exchange(self, worker: AccountWorker) -> None:
        if self._group is not None and worker.name not in self._exchanging:
            self._exchanging.add(worker.name)
            self._group.create_task(self._replace(worker), name=f"operations: {worker.name} retires")

    async def _replace(self, worker: AccountWorker) -> None:
        """Let a worker's calls end, close its account, and put the worker of the account there is now in its place."""
        name = worker.name
        try:
            await worker.retire()
            if self._workers.get(name) is worker:
                del self._workers[name]
            # Also those that came and went while this one's calls ended: no worker ever had them.
            for account in self._pool.retired():
                if account.name == name:
                    await self._retire(account)
        finally:
            self._exchanging.discard(name)
        self._pool_changed()

    async def _retire(self, account: Account) -> None:
        try:
            await self._pool.retire(account)
        except Exception as error:  # noqa: BLE001 - a driver that does not close must not keep its successor away
            _log.warning("a driver did not close", account=account.name, error=str(error))

    async def _remember_in_time(self) -> None:
        while True:
            try:
                return await self._remember()
            except PelagosError as error:  # a store that is away for a while
                _log.info("accounts of journaled work not looked for yet", error=str(error))
                await asyncio.sleep(self._config.rescan)

    async def _remember(self) -> None:
        """Take into the pool what descriptions meant, as it is journaled: its servers live, whoever made them."""
        found = await self._store.read(partial(described_accounts, known=frozenset(self._workers)))
        for name, described in found.items():
            if not self._pool.know(name, described):
                _log.warning("the pool has no such account any more; what is journaled for it waits", account=name)

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _worker(self, account: str) -> AccountWorker:
        if self._pool.find(account) is None:
            await self._remember()
        known = self._pool.account(account)
        worker = self._workers.get(account)
        if worker is None:
            worker = self._employ(known)
            self._set_to_work(worker)
        return worker

    async def _with_parts(self, requests: Sequence[NewServer]) -> Sequence[NewServer]:
        """The same, with what each server needs beforehand: their quota is reserved with the servers'. Where the cloud
        cannot be opened here and now, its worker says so later."""
        planners: dict[str, PartsDriver | None] = {}
        unknown: set[str] = set()
        for account in dict.fromkeys(request.account for request in requests):
            try:
                planners[account] = (await (await self._worker(account)).cloud()).parts_driver
            except PelagosError:
                unknown.add(account)
        if not unknown and not any(planners.values()):
            return requests
        found = []
        for request in requests:
            planner = planners.get(request.account)
            if request.account in unknown:
                request = msgspec.structs.replace(request, parts=None)
            elif planner is not None and (parts := tuple(planner.parts(request.spec))):
                request = msgspec.structs.replace(request, parts=parts)
            found.append(request)
        return found

    async def _catalogue(self, account: str, what: str) -> tuple[Cloud, Catalogue]:
        cloud = await (await self._worker(account)).cloud()
        driver = cloud.driver
        if not isinstance(driver, Catalogue):
            raise Unsupported(
                f"the driver of the cloud account {account} does not tell its {what}",
                advice="Look in the cloud's own console or documents.",
            )
        return cloud, driver

    async def _listen(self, changed: Callable[[float], Any]) -> None:
        while True:
            for worker in list(self._workers.values()):
                worker.poke()
            await changed(self._config.rescan)

    async def _submit(self, transaction: Callable[[Connection], list[OperationRecord]]) -> list[OperationRecord]:
        try:
            records = await through(Step.SUBMIT, self._store.run(transaction))
        except IntegrityError:
            # Another process journaled the same request at the same time: now its rows are there to be found.
            records = await self._store.run(transaction)
        for name in dict.fromkeys(record.account for record in records):
            if name in self._workers:
                self._workers[name].poke()
        return records

    async def _refresh(self, name: str, max_age: float) -> float:
        worker = await self._worker(name)
        observed_at = worker.observer.observed_at
        if observed_at is not None and self._world.now() - observed_at < max_age:
            return observed_at
        if not self._running:
            raise Unavailable("the operations engine is not running")
        if not worker.elsewhere:
            try:
                return await worker.observer.ask()
            except Elsewhere:
                pass
        return await self._refresh_elsewhere(worker, name)

    async def _refresh_elsewhere(self, worker: AccountWorker, name: str) -> float:
        """Ask the process that has the account, by a note in the journal; if it dies, our own worker takes the note."""
        note = self._world.next_id()
        await self._store.run(
            partial(journal.submit_refresh, scope=DEFAULT_SCOPE, account=name, operation_id=note, now=self._world.now())
        )
        worker.poke()
        timeout = (await worker.cloud()).capabilities.call_timeout + 30.0
        try:
            record = (await self.wait([note], timeout))[note]
        except DeadlineExceeded as error:
            raise CloudUnreachable(f"the account {name} was not refreshed within {timeout:.0f} s") from error
        finally:
            await self._store.run(lambda connection: _forget(connection, note))
        if record.state is not OperationState.SUCCEEDED or record.finished_at is None:
            assert record.error is not None
            raise from_payload(record.error)
        worker.observer.observed_at = record.created_at
        return record.created_at


def _forget(connection: Connection, note: str) -> None:
    connection.execute(delete(operations).where(operations.c.id == note))
