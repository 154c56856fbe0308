"""The schema's way up and down, on both engines; the fast way for a fresh database ends in the same place."""

import asyncio
import contextlib
import sys

import pytest
from msgspec.msgpack import decode, encode
from sqlalchemy import inspect, text

from pelagos.model import Scope
from pelagos.model.errors import StoreUnavailable
from pelagos.services.infrastructure.importing import stored_definitions
from pelagos.services.infrastructure.revisions import read_revision, want
from pelagos.services.infrastructure.values import RunParameters
from pelagos.store import open_store
from pelagos.store.container_schema import metadata
from pelagos.store.migrating import HEAD, bring_up_to_date, downgrade, upgrade
from pelagos.store.migrations.running import scripts
from pelagos.store.postgresql import _Session
from pelagos.store.sqlite import connect_sqlite, raw_sqlite

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def engine(request):
    """The simulated store is SQLite: it has no schema of its own."""
    return request.param


@pytest.fixture
def connect(engine, database):
    """A connection and the function that sends its BEGIN and COMMIT, on a database without a schema."""
    opened = []

    def make():
        if engine == "sqlite":
            connection = connect_sqlite(str(database), lambda: 0.0)
            opened.append(connection.close)
            return connection, raw_sqlite(connection).execute
        session = _Session(database)
        opened.append(session.close)
        return session.connection, session.control

    yield make
    for close in opened:
        close()


def described(connection) -> dict:
    """Everything the schema says, as comparable values; Alembic's own table apart."""
    inspector = inspect(connection)
    tables = {}
    for name in inspector.get_table_names():
        if name == "alembic_version":
            continue
        tables[name] = {
            "columns": [
                (c["name"], str(c["type"]), c["nullable"], c["default"], c.get("comment"), bool(c["primary_key"]))
                if "primary_key" in c
                else (c["name"], str(c["type"]), c["nullable"], str(c["default"]), c.get("comment"))
                for c in inspector.get_columns(name)
            ],
            "primary key": inspector.get_pk_constraint(name),
            "foreign keys": sorted(map(str, inspector.get_foreign_keys(name))),
            "indexes": sorted(map(str, inspector.get_indexes(name))),
            "unique": sorted(map(str, inspector.get_unique_constraints(name))),
        }
    return tables


def autoincrementing(connection) -> list[str]:
    if connection.dialect.name != "sqlite":
        return []
    rows = connection.execute(text("SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'"))
    return sorted(rows.scalars())


def test_the_head_is_the_newest_revision():
    assert scripts().get_heads() == [HEAD]


def test_the_way_through_all_migrations_ends_where_the_tables_say(connect):
    connection, control = connect()
    control("BEGIN")
    upgrade(connection)
    migrated, counting = described(connection), autoincrementing(connection)
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    assert compare_metadata(context, metadata) == []
    downgrade(connection, "base")
    assert described(connection) == {}
    connection.execute(text("DROP TABLE alembic_version"))
    control("COMMIT")

    bring_up_to_date(connection, control, "test")
    assert described(connection) == migrated
    assert autoincrementing(connection) == counting
    assert set(migrated) == set(metadata.tables)


def test_up_and_down_and_up_again(connect):
    connection, control = connect()
    for _ in range(2):
        control("BEGIN")
        upgrade(connection)
        control("COMMIT")
        assert set(described(connection)) == set(metadata.tables)
        control("BEGIN")
        downgrade(connection, "base")
        control("COMMIT")
        assert described(connection) == {}


async def test_a_newer_database_is_refused_and_left_alone(connect, database, world):
    connection, control = connect()
    bring_up_to_date(connection, control, "test")
    connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    store = open_store(database, world)
    with pytest.raises(StoreUnavailable, match="newer Pelagos") as refused:
        await store.start()
    assert refused.value.advice
    assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"


async def test_many_that_start_at_once_on_an_empty_database_all_succeed(database, world):
    stores = [open_store(database, world) for _ in range(4)]
    await asyncio.gather(*[store.start() for store in stores])
    for store in stores:
        assert await store.run(lambda c: c.execute(text("SELECT version_num FROM alembic_version")).scalar()) == HEAD
    await asyncio.gather(*[store.stop() for store in stores])


async def test_processes_that_start_at_once_on_an_empty_database_all_succeed(database):
    program = (
        "import asyncio, sys\n"
        "from pelagos.model import SystemWorld\n"
        "from pelagos.store import open_store\n"
        "async def main():\n"
        "    store = open_store(sys.argv[1], SystemWorld())\n"
        "    sys.stdin.readline()\n"
        "    await store.start()\n"
        "    await store.stop()\n"
        "    print('alembic' in sys.modules)\n"
        "asyncio.run(main())\n"
    )
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(database),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(3)
    ]  # fmt: skip
    answers = await asyncio.gather(*[process.communicate(b"go\n") for process in processes])
    # A fresh database, and one that is up to date, need no Alembic.
    assert [(out.strip(), err) for out, err in answers] == [(b"False", b"")] * 3


SOURCES = {"infra.yaml": "infra_name: shop\nnodes: []\n", "nodes.yaml": "é" * 300_000, "note.txt": ""}


def test_descriptions_move_into_repositories_and_back(connect, engine):
    """What a store of 0002 holds is read through the repository by this program, and by the older one afterwards."""
    connection, control = connect()
    with written(connection, control):
        upgrade(connection, "0002")
        old_rows(connection)
    with written(connection, control):
        upgrade(connection)
    scope = Scope("default", "ann")
    info, bundle = read_revision(connection, scope, "i-1", "HEAD")
    assert (info.generation, info.user_id) == (1, "ann") and bundle.entries == ("infra.yaml", "nodes.yaml")
    assert bundle.sources == SOURCES and list(bundle.definitions) == ["db"]
    assert bundle.definitions == stored_definitions(connection, scope), "the same object"
    assert bundle.definitions["db"].sources == {"d.yaml": "'node_def:db': []"}
    with written(connection, control):
        made = want(connection, scope, "i-1", "shop", bundle, message="again", at=9.0)
    assert made == info.digest, "our own digests are those that the migration made"
    parameters = decode(connection.execute(text("SELECT parameters_blob FROM runs")).scalar(), type=RunParameters)
    assert parameters.previous is not None and parameters.previous.bundle is not None
    assert parameters.previous.bundle.sources == {"x.yaml": "x"}
    with written(connection, control):
        downgrade(connection, "0002")
    found = connection.execute(text("SELECT sources_blob FROM infrastructures")).scalar()
    assert decode(found) == SOURCES
    row = connection.execute(text("SELECT file, sources_blob FROM node_definitions")).one()
    assert (row.file, decode(row.sources_blob)) == ("d.yaml", {"d.yaml": "'node_def:db': []"})
    back = decode(connection.execute(text("SELECT parameters_blob FROM runs")).scalar())
    assert back["previous"]["sources"] == {"x.yaml": "x"}


@contextlib.contextmanager
def written(connection, control):
    control("BEGIN")
    yield
    control("COMMIT")


def old_rows(connection) -> None:
    place = {"position": {"file": "infra.yaml", "line": 1, "column": 1}}
    elsewhere = {"resource_type": "simulated", "position": {"file": "d.yaml", "line": 1, "column": 1}}
    here = {"resource_type": "simulated", "position": {"file": "nodes.yaml", "line": 1, "column": 1}}
    compiled = {
        "name": "shop",
        "nodes": [{"name": "web", "type": "web", **place}],
        "definitions": {"web": [here], "db": [elsewhere]},
    }
    run = {"previous": {"compiled": compiled, "sources": {"x.yaml": "x"}, "targets": {}}}
    rows = {
        "infrastructures": {
            "id": "i-1",
            "name": "shop",
            "state": "ready",
            "reason": "",
            "generation": 1,
            "maintained": True,
            "created_at": 1.0,
            "updated_at": 2.0,
            "sources_blob": encode(SOURCES),
            "compiled_blob": encode(compiled),
        },
        "node_definitions": {
            "type": "db",
            "file": "d.yaml",
            "sources_blob": encode({"d.yaml": "'node_def:db': []"}),
            "updated_at": 1.0,
        },
        "runs": {
            "id": "r-1",
            "infrastructure_id": "i-1",
            "kind": "up",
            "state": "running",
            "request_id": "q",
            "position": 0,
            "cancel_requested": False,
            "keep": False,
            "created_at": 1.0,
            "parameters_blob": encode(run),
        },
    }
    for table, values in rows.items():
        values = {"project_id": "default", "user_id": "ann", **values}
        columns, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        connection.execute(text(f"INSERT INTO {table} ({columns}) VALUES ({marks})"), values)
