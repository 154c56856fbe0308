"""PostgreSQL in bad times: lost connections, and commits that are cut off, which must be told truly."""

import asyncio
import contextlib
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy import insert, select

from pelagos.model.errors import DeadlineExceeded, InvalidInput, Retry, StoreUnavailable
from pelagos.store import open_store
from pelagos.store.schema import quota_limits
from support.databases import throw_away_postgresql

pytestmark = [pytest.mark.anyio, pytest.mark.postgresql]


@pytest.fixture
def url():
    with throw_away_postgresql() as made:
        yield made


def limit(resource):
    def transaction(connection):
        connection.execute(insert(quota_limits).values(project_id="p", resource=resource, limit=1))
        return resource

    return transaction


def resources(connection):
    return sorted(connection.execute(select(quota_limits.c.resource)).scalars())


def terminate(url, application):
    with psycopg.connect(url, autocommit=True) as admin:
        found = admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = %s",
            (application,),
        ).fetchall()
    assert found


async def test_lost_connections_are_made_again(url, world):
    store = open_store(url, world)
    await store.start()
    await store.run(limit("a"))
    assert await store.read(resources) == ["a"]
    terminate(url, "pelagos")
    assert await store.run(limit("b")) == "b"
    assert await store.read(resources) == ["a", "b"]
    await store.stop()


async def test_a_lost_listener_rings_and_listens_again(url, world, monkeypatch):
    monkeypatch.setattr("pelagos.store.postgresql_store._NET_EVERY", 0.05)
    store, other = open_store(url, world), open_store(url, world)
    await store.start()
    await other.start()
    bell = store.watch()
    async with asyncio.TaskGroup() as group:
        waiter = group.create_task(bell.changed(20))
        await asyncio.sleep(0)
        terminate(url, "pelagos listener")
    assert waiter.result() is True
    async with asyncio.timeout(20):
        while not store.snapshot()["listening"]:
            await bell.changed(0.1)
    while await bell.changed(0.2):
        pass
    async with asyncio.TaskGroup() as group:
        waiter = group.create_task(bell.changed(20))
        await asyncio.sleep(0)
        group.create_task(other.run(limit("a")))
    assert waiter.result() is True
    await store.stop()
    await other.stop()


class Proxy:
    """Passes bytes on to the server, until it is told to cut a connection at its COMMIT."""

    def __init__(self, url):
        self.server = urlsplit(url)
        self.cut = ""
        self.refuse = False
        self.cuts = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self):
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._listener.sockets[0].getsockname()[1]
        self.url = f"postgresql://{self.server.username}@127.0.0.1:{port}{self.server.path}?sslmode=disable"
        return self

    async def __aexit__(self, *_):
        self._listener.close()
        for writer in self._writers:
            writer.close()
        await self._listener.wait_closed()

    async def _serve(self, reader, writer):
        self._writers.append(writer)
        if self.refuse:
            writer.close()
            return
        up_reader, up_writer = await asyncio.open_connection(self.server.hostname, self.server.port or 5432)
        self._writers.append(up_writer)
        state = {"cutting": False}

        async def up():
            while data := await reader.read(65536):
                if self.cut and b"COMMIT" in data:
                    self.cuts += 1
                    state["cutting"] = True
                    how, self.cut = self.cut, ""
                    if how == "before":
                        break
                up_writer.write(data)
                await up_writer.drain()
            up_writer.close()
            writer.close()

        async def down():
            while data := await up_reader.read(65536):
                if state["cutting"]:
                    # The commit's answer: it is done, and nobody shall hear of it.
                    break
                writer.write(data)
                await writer.drain()
            writer.close()
            up_writer.close()

        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(up(), down(), return_exceptions=True)


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_commit_cut_off_is_looked_up(url, world, cut):
    async with Proxy(url) as proxy:
        store = open_store(proxy.url, world, slots=1)
        await store.start()
        await store.run(limit("a"))
        proxy.cut = cut
        outcomes = await asyncio.gather(store.run(limit("b")), store.run(limit("c")))
        assert outcomes == ["b", "c"]
        assert proxy.cuts == 1
        assert await store.read(resources) == ["a", "b", "c"]
        await store.stop()


@pytest.mark.parametrize(("cut", "found"), [("before", ["a"]), ("after", ["a", "b"])])
async def test_a_commit_that_cannot_be_looked_up_is_uncertain(url, world, cut, found):
    async with Proxy(url) as proxy:
        store = open_store(proxy.url, world, slots=1, patience=0.3)
        await store.start()
        await store.run(limit("a"))
        proxy.cut, proxy.refuse = cut, True
        with pytest.raises(DeadlineExceeded) as uncertain:
            await store.run(limit("b"))
        assert uncertain.value.retry is Retry.UNCERTAIN and uncertain.value.advice
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await store.run(limit("c"))
        proxy.refuse = False
        assert await store.read(resources) == found
        assert await store.run(limit("d")) == "d"
        await store.stop()


async def test_a_server_that_is_not_there_is_told_at_once(world):
    store = open_store("postgresql://postgres:secret@127.0.0.1:1/none", world)
    with pytest.raises(StoreUnavailable) as refused:
        await store.start()
    assert "127.0.0.1/none" in refused.value.message and "secret" not in refused.value.message
    assert refused.value.advice


async def test_a_conflicting_batch_is_run_again(url, world):
    """Two stores whose batches read what the other writes: serializable, or one of them is run again."""
    one, two = open_store(url, world), open_store(url, world)
    await one.start()
    await two.start()

    def at_most_one_more(name):
        def transaction(connection):
            if not resources(connection):
                limit(name)(connection)
                return True
            return False

        return transaction

    for _ in range(10):
        outcomes = await asyncio.gather(*[s.run(at_most_one_more(n)) for s, n in ((one, "x"), (two, "y"))])
        assert sorted(outcomes) == [False, True]
        await one.run(lambda c: c.execute(quota_limits.delete()) and None)
    await one.stop()
    await two.stop()


@pytest.mark.parametrize("rest", ["ann:s3c/ret@h/db", "ann:12/s3c@h/db", "ann:x@s3c@h/db", "ann:s3c%ret@h/db"])
async def test_a_password_that_cuts_the_url_is_told_and_not_shown(world, rest):
    with pytest.raises(StoreUnavailable, match="character of URLs") as raised:
        await open_store(f"postgresql://{rest}", world).start()
    assert "s3c" not in f"{raised.value} {raised.value.advice}" and raised.value.__context__ is None


async def test_what_a_column_cannot_hold_is_the_callers_mistake(world, url):
    store = open_store(url, world)
    await store.start()
    with pytest.raises(InvalidInput, match="cannot hold"):
        await store.run(limit("a\x00b"))
    await store.run(limit("good"))
    assert await store.read(resources) == ["good"]
    await store.stop()
