"""The keeper when the store is slow or away: it must know by itself, in time, that it holds nothing any more."""

import asyncio
from functools import partial

import pytest

from pelagos.model import SystemWorld
from pelagos.model.errors import LeaseHeld, StoreUnavailable
from pelagos.store import Holder, LeaseKeeper, acquire, check_fence, open_simulated_store, read_lease, release_all

pytestmark = pytest.mark.anyio


class Facts:
    """No files: who is dead is said by the test."""

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.ended: list[bool] = []

    def hold(self, holder_id):
        return Holder(holder_id, "host", "boot", 7, "1", "")

    def let_go(self, *, clean):
        self.ended.append(clean)

    def is_dead(self, row):
        return row.holder in self.dead


class Unsteady:
    """The simulated store, which can be made to hang or to fail; both without doing anything."""

    def __init__(self, store) -> None:
        self._store = store
        self.mode = "well"
        self.tried = asyncio.Event()

    async def run(self, transaction):
        self.tried.set()
        if self.mode == "hangs":
            await asyncio.Event().wait()
        if self.mode == "fails":
            raise StoreUnavailable("away")
        return await self._store.run(transaction)

    def __getattr__(self, name):
        return getattr(self._store, name)


@pytest.fixture
def world():
    made = SystemWorld(threads=1)
    yield made
    made.close()


@pytest.fixture
async def store(world):
    inner = open_simulated_store(world)
    await inner.start()
    yield Unsteady(inner)
    await inner.stop()


@pytest.mark.parametrize("mode", ["hangs", "fails"])
async def test_without_renewal_a_lease_is_lost_before_the_store_lets_it_go(store, world, mode):
    facts = Facts()
    async with LeaseKeeper(store, world, facts, ttl=0.4).running() as keeper:
        before = world.monotonic()
        held = await keeper.acquire("x")
        assert before + 0.4 <= held.valid_until <= world.monotonic() + 0.4
        promised = held.valid_until
        told = []
        held.on_lost(lambda: told.append(world.monotonic()))
        store.mode = mode
        async with asyncio.timeout(10):
            await held.lost.wait()
        assert told and told[0] >= min(promised, held.valid_until)
        assert keeper.held("x") is None and keeper.valid_until("x") is None
        late = []
        held.on_lost(lambda: late.append(True))
        assert late == [True]
        store.mode = "well"
        # It comes back with a new epoch: fences given out before stay dead.
        again = await keeper.acquire("x", wait=10)
        assert again.epoch > held.epoch
        with pytest.raises(Exception, match="was lost"):
            await store.run(partial(check_fence, fence=held.fence))
    assert facts.ended == [True]


async def test_a_short_absence_of_the_store_loses_nothing(store, world):
    async with LeaseKeeper(store, world, Facts(), ttl=0.9).running() as keeper:
        held = await keeper.acquire("x")
        first = held.valid_until
        store.mode = "fails"
        store.tried.clear()
        await store.tried.wait()
        store.mode = "well"
        bell = store.watch()
        async with asyncio.timeout(10):
            while held.valid_until == first:
                await bell.changed(0.2)
        assert not held.lost.is_set()


async def test_at_the_end_what_could_not_be_released_keeps_its_proof_of_death(store, world):
    facts = Facts()
    async with LeaseKeeper(store, world, facts, ttl=5).running() as keeper:
        held = await keeper.acquire("x")
        store.mode = "fails"
    assert held.lost.is_set()
    assert facts.ended == [False]
    store.mode = "well"
    row = await store.read(partial(read_lease, name="x"))
    assert row.holder == keeper.holder_id
    # The next one takes it at once, because the proof says so.
    facts.dead.add(keeper.holder_id)
    async with LeaseKeeper(store, world, facts, ttl=5).running() as next_one:
        assert (await next_one.acquire("x")).epoch == 2


async def test_a_failed_release_is_made_up_for(store, world):
    async with LeaseKeeper(store, world, Facts(), ttl=0.6).running() as keeper:
        held = await keeper.acquire("x")
        store.mode = "fails"
        await keeper.release(held)
        assert keeper.held("x") is None
        store.mode = "well"
        bell = store.watch()
        async with asyncio.timeout(10):
            while (await store.read(partial(read_lease, name="x"))).holder is not None:
                await bell.changed(0.2)


async def test_an_idle_keeper_writes_nothing(store, world):
    async with LeaseKeeper(store, world, Facts(), ttl=0.03).running() as keeper:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await store.tried.wait()
        assert keeper.snapshot()["renewals"] == 0


async def test_only_a_running_keeper_acquires(store, world):
    keeper = LeaseKeeper(store, world, Facts())
    with pytest.raises(StoreUnavailable, match="not running"):
        await keeper.acquire("x")
    async with keeper.running():
        await keeper.acquire("x")
    with pytest.raises(StoreUnavailable, match="not running"):
        await keeper.acquire("y")
    await keeper.stop()


async def test_waiting_has_an_end_and_then_tells_who_holds_it(store, world):
    other = Holder("other", "elsewhere", "", 99, "", "")
    await store.run(partial(acquire, name="x", holder=other, ttl=60, purpose="heal guestbook"))
    async with LeaseKeeper(store, world, Facts()).running() as keeper:
        with pytest.raises(LeaseHeld, match="process 99 on elsewhere to heal guestbook"):
            await keeper.acquire("x", wait=0.05)
        await store.run(partial(release_all, holder_id="other"))
        assert (await keeper.acquire("x", wait=5)).epoch == 2
