"""The SQLite store in bad times: a full disk, no permission, a busy file. Nothing is lost, and it works again after."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, text

from pelagos.model import SystemWorld
from pelagos.model.errors import StoreUnavailable
from pelagos.store import open_store
from pelagos.store.reserve import Reserve
from pelagos.store.schema import quota_limits

pytestmark = pytest.mark.anyio


@pytest.fixture
def world():
    made = SystemWorld(threads=1)
    yield made
    made.close()


def fill(resource, size=0):
    def transaction(connection):
        connection.execute(insert(quota_limits).values(project_id="p" * 36, resource=resource, limit=1))
        if size:
            connection.execute(text("CREATE TABLE IF NOT EXISTS ballast (content BLOB)"))
            connection.execute(text("INSERT INTO ballast VALUES (zeroblob(:size))"), {"size": size})
        return resource

    return transaction


def count(connection):
    return connection.execute(select(func.count()).select_from(quota_limits)).scalar_one()


async def small_store(world, path):
    """With room for twenty pages beside the tables."""
    store = open_store(path, world, reserve=0)
    await store.start()
    used = await store.run(lambda c: c.execute(text("PRAGMA page_count")).scalar())
    await store.stop()
    store = open_store(path, world, reserve=0, pragmas={"max_page_count": used + 20})
    await store.start()
    return store


async def test_a_full_database_fails_the_whole_batch_and_heals(world, tmp_path):
    store = await small_store(world, tmp_path / "s.db")
    assert await store.run(fill("a")) == "a"
    outcomes = await asyncio.gather(
        store.run(fill("b")), store.run(fill("big", 1_000_000)), store.run(fill("c")), return_exceptions=True
    )
    assert all(isinstance(error, StoreUnavailable) for error in outcomes)
    assert "full" in outcomes[0].message and "space" in outcomes[0].advice
    assert len({id(error) for error in outcomes}) == 3
    assert await store.read(count) == 1
    assert await store.run(fill("d")) == "d"
    assert await store.read(count) == 2
    assert store.snapshot()["faults"] > 0
    await store.stop()


async def test_with_a_job_that_swallows_the_stores_fault_both_count_or_the_batch_fails(world, tmp_path):
    store = await small_store(world, tmp_path / "s.db")

    def swallow(connection):
        try:
            fill("big", 1_000_000)(connection)
        except Exception:
            connection.exec_driver_sql("INSERT INTO quota_limits VALUES ('p', 'swallowed', 1)")

    outcomes = await asyncio.gather(store.run(fill("a")), store.run(swallow), return_exceptions=True)
    found = await store.read(lambda c: set(c.execute(select(quota_limits.c.resource)).scalars()))
    # Either SQLite undid the statement alone and both count, or it undid everything and neither does.
    if all(isinstance(error, StoreUnavailable) for error in outcomes):
        assert found <= {"swallowed"}
    else:
        assert outcomes == ["a", None] and "a" in found
    await store.stop()


_ON_A_SMALL_DISK = textwrap.dedent(
    """
    import asyncio, os, sys
    from pathlib import Path
    from sqlalchemy import insert, text
    from pelagos.model import SystemWorld
    from pelagos.model.errors import StoreUnavailable
    from pelagos.store import LeaseKeeper, SystemHostFacts, open_store
    from pelagos.store.schema import quota_limits

    def limit(resource):
        return lambda c: c.execute(insert(quota_limits).values(project_id="p", resource=resource, limit=1)) and None

    async def main():
        disk = Path(sys.argv[1])
        store = open_store(disk / "s.db", SystemWorld(), reserve=256 * 1024)
        await store.start()
        assert store.snapshot()["reserve"], "no reserve was made"
        await store.stop()
        with open(disk / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                pass
        # A new command, begun on the full disk: it must be able to hold leases and to write.
        store = open_store(disk / "s.db", SystemWorld(), reserve=256 * 1024)
        await store.start()
        keeper = LeaseKeeper(store, SystemWorld(), SystemHostFacts(disk / "locks"))
        async with keeper.running():
            await keeper.acquire("x")
        done = 0
        try:
            for i in range(2000):
                await store.run(limit(f"r{i}"))
                done += 1
        except StoreUnavailable as error:
            assert "full" in error.message, error
        assert not store.snapshot()["reserve"], "the reserve was not given up"
        print("written on a full disk:", done)
        (disk / "filler").unlink()
        await store.run(limit("after"))
        found = await store.read(lambda c: c.execute(text("SELECT count(*) FROM quota_limits")).scalar())
        assert found == done + 1, (found, done)
        await store.stop()
        again = open_store(disk / "s.db", SystemWorld(), reserve=256 * 1024)
        await again.start()
        assert again.snapshot()["reserve"], "the reserve was not made again"
        await again.stop()
        print("ok", done)

    asyncio.run(main())
    """
)


_LOOKING_ON_A_FULL_DISK = textwrap.dedent(
    """
    import asyncio, os, sys
    from pathlib import Path
    from sqlalchemy import func, insert, select
    from pelagos.model import SystemWorld
    from pelagos.model.errors import StoreUnavailable
    from pelagos.store import open_store
    from pelagos.store.schema import quota_limits

    disk = Path(sys.argv[1])
    count = select(func.count()).select_from(quota_limits)

    def fill():
        with open(disk / "filler", "ab", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                pass

    async def prepare():
        store = open_store(disk / "s.db", SystemWorld())
        await store.start()
        await store.run(
            lambda c: c.execute(insert(quota_limits).values(project_id="p", resource="r", limit=1)) and None
        )
        await store.stop()

    async def look():
        store = open_store(disk / "s.db", SystemWorld())
        await store.start()
        found = await store.read(lambda c: c.execute(count).scalar())
        await store.stop()
        return found

    asyncio.run(prepare())
    # No log and no index remain: whoever opens the store next has to make them.
    assert sorted(p.name for p in disk.iterdir()) == ["s.db", "s.db.reserve"], sorted(disk.iterdir())
    kept = (disk / "s.db.reserve").stat().st_size
    for _ in range(3):
        fill()
        assert os.statvfs(disk).f_bavail == 0
        child = os.fork()
        if child == 0:
            os._exit(0 if asyncio.run(look()) == 1 else 1)
        assert os.waitpid(child, 0)[1] == 0, "a fresh process could not read on the full disk"
        # Looking used nothing up: the next one finds the reserve again.
        assert (disk / "s.db.reserve").stat().st_size == kept
    (disk / "s.db.reserve").unlink()
    fill()
    try:
        asyncio.run(look())
    except StoreUnavailable as error:
        assert "full" in error.message, error
    else:
        raise AssertionError("it was expected to need the reserve")
    (disk / "filler").unlink()
    assert asyncio.run(look()) == 1
    assert (disk / "s.db.reserve").stat().st_size >= kept * 0.9, "no reserve was made once there was room"
    print(kept)
    """
)


def on_a_small_disk(tmp_path, size, program):
    """What ``program`` printed last, run on a real, small file system: a tmpfs in a mount namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f'mount -t tmpfs -o size={size} none "{disk}" && exec "$0" -c "$1" "{disk}"'
    own_namespace = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    probe = subprocess.run(
        [*own_namespace, "mount", "-t", "tmpfs", "none", str(disk)], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        pytest.skip(f"no mount namespace can be made here: {probe.stderr.strip()}")
    ran = subprocess.run(
        [*own_namespace, "sh", "-c", script, sys.executable, program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return int(ran.stdout.split()[-1])


def test_on_a_full_disk_the_reserve_lets_work_go_on(tmp_path):
    assert on_a_small_disk(tmp_path, "3m", _ON_A_SMALL_DISK) >= 50


@pytest.mark.parametrize(("size", "least"), [("9m", 2 * 1024 * 1024), ("1300k", 256 * 1024), ("40m", 4 * 1024 * 1024)])
def test_on_a_full_disk_a_fresh_process_reads_and_uses_nothing_up(tmp_path, size, least):
    """Also on small disks, whose reserve is a quarter of what was free."""
    assert least <= on_a_small_disk(tmp_path, size, _LOOKING_ON_A_FULL_DISK) <= 4 * 1024 * 1024


class IndexHasNoRoom(sqlite3.OperationalError):
    """As SQLite tells it where the log's index cannot be given its size: no word of a full disk in it."""

    sqlite_errorname = "SQLITE_IOERR_SHMSIZE"


async def test_a_query_that_meets_a_full_disk_gives_the_reserve_up_once(world, tmp_path):
    store = open_store(tmp_path / "s.db", world, reserve=256 * 1024)
    await store.start()
    kept = tmp_path / "s.db.reserve"

    def as_if_full(connection):
        if kept.exists():
            raise IndexHasNoRoom("disk I/O error")
        return count(connection)

    assert await store.read(as_if_full) == 0 and not kept.exists()

    def full(connection):
        raise IndexHasNoRoom("disk I/O error")

    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await store.read(full)
    await store.stop()
    assert kept.stat().st_size == 256 * 1024, "what was given up was not set aside again"


async def test_a_directory_that_may_not_be_written_is_told_with_advice(world, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    store = open_store(blocked / "s.db", world)
    with pytest.raises(StoreUnavailable, match="cannot be opened") as refused:
        await store.start()
    assert "PELAGOS_HOME" in refused.value.advice


async def test_what_is_no_database_is_told(world, tmp_path):
    path = tmp_path / "s.db"
    path.write_bytes(b"this is a text file, not a database\n" * 200)
    store = open_store(path, world)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await store.start()
    assert path.read_bytes().startswith(b"this is")


async def test_an_unknown_kind_of_store_is_refused(world):
    with pytest.raises(StoreUnavailable, match="mysql"):
        open_store("mysql://host/db", world)


async def test_a_busy_file_is_waited_for_and_then_told(world, tmp_path):
    path = tmp_path / "s.db"
    store = open_store(path, world, patience=0.2)
    await store.start()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="another process is writing"):
        await store.run(fill("a"))
    # Readers never wait for a writer.
    assert await store.read(count) == 0
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(store.run(fill("b")))
        before = store.snapshot()["retries"]
        while store.snapshot()["retries"] == before:  # noqa: ASYNC110 - the writer's thread counts them
            await asyncio.sleep(0)
        other.execute("COMMIT")
    assert waiting.result() == "b"
    other.close()
    await store.stop()


async def test_the_file_is_for_its_owner_alone(world, tmp_path):
    store = open_store(tmp_path / "home" / "s.db", world)
    await store.start()
    await store.run(fill("a"))
    modes = {path.name: path.stat().st_mode & 0o077 for path in (tmp_path / "home").iterdir()}
    assert set(modes) == {"s.db", "s.db-wal", "s.db-shm", "s.db.reserve"}
    assert set(modes.values()) == {0}
    await store.stop()


def test_the_reserve_is_real_space_and_is_given_up_once(tmp_path: Path):
    reserve = Reserve(tmp_path / "r", 1024 * 1024)
    reserve.make()
    assert reserve.kept and (tmp_path / "r").stat().st_blocks * 512 >= 1024 * 1024
    assert reserve.release() and not reserve.kept and not reserve.release()
    reserve.restore()
    assert reserve.kept == 1024 * 1024
    (tmp_path / "r").unlink()
    reserve.restore()
    assert not reserve.kept, "only what was given up is set aside again"
    nothing = Reserve(tmp_path / "none", 0)
    nothing.make()
    assert not nothing.kept and not nothing.release() and not (tmp_path / "none").exists()
