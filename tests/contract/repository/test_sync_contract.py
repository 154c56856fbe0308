"""Pull and push between two containers with a store each: only what changed travels, and either may be killed."""

import importlib
import random
from functools import partial

import pytest
from sqlalchemy import func, select

from pelagos.container import Container, ContainerConfig
from pelagos.exchange import MemoryTransport
from pelagos.model import SystemWorld
from pelagos.model.errors import InvalidInput, NotFound, Unavailable
from pelagos.process import Context, client, use_context
from pelagos.repository import (
    Diverged,
    MergeKind,
    checkout,
    commit,
    create_repository,
    find_repository,
    get,
    head,
    history,
    merge_branch,
)
from pelagos.repository.sync import RepositoryService, pull, push
from pelagos.repository.sync.messages import Carried, Fetch, GetHistory, GetObject, Receive, Which, carry, received
from pelagos.store import open_simulated_store
from pelagos.store.container_schema import objects
from support.repository_types import NOBODY, SCOPE, TYPES, Part, Rack, Site

pytestmark = pytest.mark.anyio

link = TYPES.link
save = partial(commit, author=SCOPE, types=TYPES)
WHICH = Which("site", "demo")
service_module = importlib.import_module("pelagos.repository.sync.service")
client_module = importlib.import_module("pelagos.repository.sync.client")


def big(racks=10, parts=10, changed=None):
    return Site(
        "big",
        racks={
            f"r{r}": link(
                Rack(f"r{r}", tuple(link(Part(f"p{r}.{p}", 2 if (r, p) == changed else 1)) for p in range(parts)))
            )
            for r in range(racks)
        },
    )


class Scene:
    """Two containers of one system; the other one serves its store as the process ``address``."""

    async def __aenter__(self):
        self.world = SystemWorld(threads=2)
        self.transport = MemoryTransport(self.world)
        await self.transport.start()
        self.store, self.other = open_simulated_store(self.world), open_simulated_store(self.world)
        self.containers = [
            Container(self.world, ContainerConfig(id=f"c{n}"), self.transport, shared_transport=True) for n in (1, 2)
        ]
        for store in (self.store, self.other):
            await store.start()
        for container in self.containers:
            await container.start()
        self.process = self.containers[0].edge
        self.address = f"process:{await self.containers[1].spawn(lambda: RepositoryService(self.other))}"
        self.repository = await self.other.run(
            partial(create_repository, scope=SCOPE, kind="site", name="demo", id="r-other", at=1.0)
        )
        return self

    async def __aexit__(self, *error):
        for container in self.containers:
            await container.stop()
        for store in (self.store, self.other):
            await store.stop()
        await self.transport.stop()
        self.world.close()

    async def pull(self, store=None, scope=SCOPE):
        with use_context(Context(scope, request_id=self.world.new_id())):
            return await pull(self.process, self.address, "site", "demo", store or self.store)

    async def push(self, repository, store=None):
        with use_context(Context(SCOPE)):
            return await push(self.process, self.address, repository, store or self.store)

    async def here(self):
        return await self.store.read(partial(find_repository, scope=SCOPE, kind="site", name="demo"))


def count(connection):
    return connection.execute(select(func.count()).select_from(objects)).scalar_one()


class Dying:
    """A store whose n-th transaction is the last thing its program does: committed, and then nothing."""

    def __init__(self, store, left):
        self._store, self._left = store, left
        self.read = store.read

    async def run(self, transaction):
        value = await self._store.run(transaction)
        self._left -= 1
        if self._left <= 0:
            raise KeyError("killed")
        return value


async def test_a_pull_brings_all_and_then_only_what_changed():
    async with Scene() as scene:
        await scene.other.run(partial(save, repository=scene.repository, branch="main", root=big(), at=1.0))
        first = await scene.pull()
        assert (first.objects, await scene.store.read(count)) == (112, 112)
        again = await scene.pull()
        assert (again.objects, again.rounds) == (0, 0)
        made = await scene.other.run(
            partial(save, repository=scene.repository, branch="main", root=big(changed=(3, 4)), at=2.0)
        )
        second = await scene.pull()
        assert (second.head, second.objects, second.rounds) == (made.digest, 4, 1)  # part, rack, site, commit
        here = await scene.here()
        found = await scene.store.read(partial(checkout, repository=here, types=TYPES))
        assert found.root == big(changed=(3, 4))
        part = found.root.racks["r3"]
        rack = await scene.store.read(partial(get, reference=part, types=TYPES))
        assert (await scene.store.read(partial(get, reference=rack.parts[4], types=TYPES))).size == 2.0
        assert len(await scene.store.read(partial(history, repository=here))) == 2


@pytest.mark.parametrize("seed", range(8))
async def test_a_pull_killed_at_any_chunk_goes_on_with_the_rest(seed, monkeypatch):
    monkeypatch.setattr(service_module, "CHUNK_BYTES", 1500)
    rng = random.Random(seed)
    async with Scene() as scene:
        await scene.other.run(partial(save, repository=scene.repository, branch="main", root=big(), at=1.0))
        travelled, kills = 0, 0
        while True:
            before = await scene.store.read(count)
            try:
                travelled += (await scene.pull(Dying(scene.store, rng.randint(1, 3)))).objects
                break
            except KeyError:
                kills += 1
                arrived = await scene.store.read(count) - before
                travelled += arrived
                assert kills < 100
                if await scene.here() is not None:
                    assert (await scene.pull()).objects == 0
                    break
                assert arrived > 0
        assert kills > 2 and travelled == 112 == await scene.store.read(count)
        assert (await scene.store.read(partial(checkout, repository=await scene.here(), types=TYPES))).root == big()


async def test_push_sends_only_what_is_lacking_and_goes_on_after_a_kill(monkeypatch):
    async with Scene() as scene:
        await scene.other.run(partial(save, repository=scene.repository, branch="main", root=big(), at=1.0))
        await scene.pull()
        here = await scene.here()
        changed = big(changed=(1, 1))
        made = await scene.store.run(partial(save, repository=here, branch="main", root=changed, at=2.0))
        done = await scene.push(here)
        assert (done.head, done.objects) == (made.digest, 4)
        assert (await scene.push(here)).objects == 0
        assert await scene.other.read(partial(head, repository=scene.repository)) == made.digest
        monkeypatch.setattr(client_module, "CHUNK_BYTES", 600)
        root = big(racks=12)
        await scene.store.run(partial(save, repository=here, branch="main", root=root, at=3.0))
        before, run, chunks = await scene.other.read(count), scene.other.run, []

        async def dying(transaction):
            if len(chunks) == 2:
                raise Unavailable("killed")
            chunks.append(await run(transaction))
            return chunks[-1]

        monkeypatch.setattr(scene.other, "run", dying)
        with pytest.raises(Unavailable):
            await scene.push(here)
        arrived = await scene.other.read(count) - before
        assert arrived == sum(chunks) > 0
        assert await scene.other.read(partial(head, repository=scene.repository)) == made.digest
        monkeypatch.setattr(scene.other, "run", run)
        rest = await scene.push(here)
        # Two racks of ten parts, the site and the commit; the first state's rack is there already.
        assert arrived + rest.objects == 24 and rest.objects > 0
        assert await scene.other.read(count) - before == 24
        found = await scene.other.read(partial(checkout, repository=scene.repository, types=TYPES))
        assert found.root == root


async def test_diverged_branches_are_pulled_merged_and_pushed():
    async with Scene() as scene:
        await scene.other.run(partial(save, repository=scene.repository, branch="main", root=Site("a"), at=1.0))
        await scene.pull()
        here = await scene.here()
        await scene.other.run(partial(save, repository=scene.repository, branch="main", root=Site("b"), at=2.0))
        await scene.store.run(partial(save, repository=here, branch="main", root=Site("a", size=5), at=3.0))
        with pytest.raises(Diverged):
            await scene.push(here)
        with pytest.raises(Diverged):
            await scene.pull()
        merged = await scene.store.run(
            partial(
                merge_branch, repository=here, branch="main", revision="remote/origin/main", author=SCOPE, at=4.0,
                types=TYPES,
            )
        )  # fmt: skip
        assert merged.kind is MergeKind.MERGED
        await scene.push(here)
        found = await scene.other.read(partial(checkout, repository=scene.repository, types=TYPES))
        assert found.root == Site("b", size=5) and found.info.digest == merged.digest


async def test_scope_and_bogus_objects():
    async with Scene() as scene:
        await scene.other.run(partial(save, repository=scene.repository, branch="main", root=Site("a"), at=1.0))
        with pytest.raises(NotFound):
            await scene.pull(scope=NOBODY)
        secret = await scene.other.run(
            lambda c: save(
                c, create_repository(c, NOBODY, "site", "theirs", id="r-secret", at=1.0), "main", Site("secret"), at=1.0
            )
        )
        before = await scene.other.read(count)
        with use_context(Context(SCOPE)):
            service = client(RepositoryService, scene.process, address=scene.address)
            with pytest.raises(NotFound):
                await service.objects(Fetch(WHICH, (bytes.fromhex(secret.root),)))
            good = carry(link(Part("x")).packed)
            for wrong in (
                Carried(bytes(32), good.type, 1, good.value),
                Carried(good.digest, good.type, 2, good.value),
                Carried(good.digest, good.type, 1, good.value + b"\x00"),
                Carried(b"short", good.type, 1, good.value),
            ):
                with pytest.raises(InvalidInput):
                    await service.receive(Receive(WHICH, (good, wrong)))
            dangling = carry(link(Rack("r", (link(Part("nowhere")),))).packed)
            with pytest.raises(NotFound):
                await service.receive(Receive(WHICH, (good, dangling)))
        assert await scene.other.read(count) == before


async def test_who_has_no_store_reads_revisions_and_their_history():
    async with Scene() as scene:
        for number in range(3):
            await scene.other.run(
                partial(save, repository=scene.repository, branch="main", root=Site(f"s{number}"), at=10.0 * number)
            )
        service = client(RepositoryService, scene.process, address=scene.address)
        with use_context(Context(SCOPE)):
            newest = await service.get_object(GetObject(WHICH))
            assert TYPES.decode(received(newest.root)) == Site("s2")
            older = await service.get_object(GetObject(WHICH, "main~2"))
            assert TYPES.decode(received(older.root)) == Site("s0")
            at_the_time = await service.get_object(GetObject(WHICH, as_of=15.0))
            assert TYPES.decode(received(at_the_time.root)) == Site("s1")
            page = await service.get_history(GetHistory(WHICH, limit=2))
            rest = await service.get_history(GetHistory(WHICH, before=page[-1].digest))
            assert [info.at for info in (*page, *rest)] == [20.0, 10.0, 0.0]
            assert (page[0], rest[-1]) == (newest.commit, older.commit)
            with pytest.raises(NotFound):
                await service.get_object(GetObject(WHICH, "nonesuch"))
        with use_context(Context(NOBODY)), pytest.raises(NotFound):
            await service.get_object(GetObject(WHICH))
