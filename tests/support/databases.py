"""Databases for contract suites: each test that asks for ``make_store`` runs on every engine.

``make_store`` opens stores on one and the same database, as several processes would, and stops them at the end. Use it
by importing the fixtures into the folder's conftest.py, as `tests/contract/store/conftest.py` does.
"""

import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pelagos.model import SystemWorld
from pelagos.store import Store, open_simulated_store, open_store
from pelagos.store.simulated import SimulatedDatabase

ENGINES = ["sqlite", "simulated", pytest.param("postgresql", marks=pytest.mark.postgresql)]
MakeStore = Callable[..., Awaitable[Store]]

__all__ = ["database", "engine", "make_store", "postgresql_url", "sqlite_path", "throw_away_postgresql", "world"]


def postgresql_url() -> str:
    """The server that tests may make databases on."""
    return os.environ.get("PELAGOS_TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/postgres")


@contextlib.contextmanager
def throw_away_postgresql() -> Iterator[str]:
    """The URL of an empty database, dropped at the end; skips the test where no server answers."""
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    url = postgresql_url()
    try:
        admin = psycopg.connect(url, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        pytest.skip(f"no PostgreSQL server answers at {url}: {error}")
    name = f"pelagos_test_{uuid.uuid4().hex[:12]}"
    with admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            base, _, _ = url.partition("?")
            yield f"{base.rpartition('/')[0]}/{name}"
        finally:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    admin.close()


@pytest.fixture
def world() -> Iterator[SystemWorld]:
    real = SystemWorld(threads=4)
    yield real
    real.close()


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(engine: str, sqlite_path: Path, world: SystemWorld) -> Iterator[Any]:
    """What stores are opened on: a path, a URL or a simulated database."""
    match engine:
        case "sqlite":
            yield sqlite_path
        case "simulated":
            shared = SimulatedDatabase(world)
            yield shared
            shared.close()
        case _:
            with throw_away_postgresql() as url:
                yield url


@pytest.fixture
async def make_store(database: Any, world: SystemWorld) -> AsyncIterator[MakeStore]:
    """``await make_store(**options)``: one more started store on the test's database."""
    made: list[Store] = []

    async def make(**options: Any) -> Store:
        store: Store
        if isinstance(database, SimulatedDatabase):
            store = open_simulated_store(world, database=database, **options)
        else:
            store = open_store(database, world, **options)
        await store.start()
        made.append(store)
        return store

    yield make
    for store in reversed(made):
        await store.stop()
