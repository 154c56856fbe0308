"""Descriptions and node definitions move from columns into versioned objects.

Each infrastructure gets a repository with one commit, of what its row said; each project with node definitions gets one
for them. The digests are made here and not by the program's own code, which must be free to change.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.String(36)
PIECE = 256 * 1024

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


class Link:
    """A reference to an object."""

    def __init__(self, digest: str) -> None:
        self.digest = digest


class Objects:
    """Makes objects and inserts them."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._known: set[str] = set()

    def put(self, type_id: str, value: dict[str, Any], at: float) -> Link:
        links: dict[str, None] = {}

        def hook(item: object) -> msgspec.msgpack.Ext:
            assert isinstance(item, Link)
            links[item.digest] = None
            return msgspec.msgpack.Ext(1, bytes.fromhex(item.digest))

        raw = msgspec.msgpack.Encoder(enc_hook=hook, order="sorted").encode(value)
        name = type_id.encode()
        frame = b"pelagos.object.1\x00" + struct.pack(">IQQ", len(name), 1, len(raw))
        digest = hashlib.sha256(frame + name + raw).hexdigest()
        there = sa.text("SELECT 1 FROM objects WHERE digest = :digest")
        if digest not in self._known and self._connection.execute(there, {"digest": digest}).first() is None:
            insert(
                self._connection,
                "objects",
                digest=digest,
                type=type_id,
                version=1,
                created_at=at,
                links_blob=_encode(tuple(links)),
                value_blob=raw,
            )
        self._known.add(digest)
        return Link(digest)

    def files(self, sources: dict[str, str], at: float) -> dict[str, list[Link]]:
        return {
            name: [self.put("pelagos.text", {"content": piece}, at) for piece in cut(text)]
            for name, text in sources.items()
        }

    def repository(self, row: Any, kind: str, id_: str, name: str, root: Link, at: float) -> None:
        """With one commit."""
        author = {"project_id": row.project_id, "user_id": row.user_id}
        value = {"root": root, "parents": [], "author": author, "at": float(at), "message": "as it was"}
        digest = self.put("pelagos.repository.commit", value, at).digest
        own = {"project_id": row.project_id, "user_id": row.user_id, "created_at": at, "updated_at": at}
        insert(self._connection, "repositories", id=id_, kind=kind, name=name, **own)
        insert(
            self._connection,
            "commits",
            repository_id=id_,
            digest=digest,
            generation=1,
            at=float(at),
            user_id=row.user_id,
            message="as it was",
            parents_blob=_encode(()),
        )
        ref = {"repository_id": id_, "name": "branch/main", "digest": digest}
        insert(self._connection, "refs", user_id=row.user_id, updated_at=at, **ref)


def cut(text: str) -> list[str]:
    """Into what an object may hold."""
    piece = PIECE if text.isascii() else PIECE // 2
    return [text[start : start + piece] for start in range(0, max(len(text), 1), piece)]


def insert(connection: sa.Connection, table: str, **values: Any) -> None:
    columns = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    connection.execute(sa.text(f"INSERT INTO {table} ({columns}) VALUES ({marks})"), values)  # noqa: S608 - our names


def rows(connection: sa.Connection, query: str, **values: Any) -> list[Any]:
    return list(connection.execute(sa.text(query), values))


# -- up ----------------------------------------------------------------------------------------------------------------


def upgrade() -> None:
    connection = op.get_bind()
    objects = Objects(connection)
    with op.batch_alter_table("node_definitions") as table:
        table.add_column(sa.Column("digest", sa.String(64), nullable=True, comment="of the object that holds it"))
    definitions = _move_definitions(connection, objects)
    _move_descriptions(connection, objects, definitions)
    _move_open_runs(connection)
    with op.batch_alter_table("node_definitions") as table:
        table.alter_column("digest", existing_type=sa.String(64), nullable=False)
        table.drop_column("file")
        table.drop_column("sources_blob")
    # In place: to make the table anew, as batches do on SQLite, would drop it, and with it what refers to it.
    op.execute("ALTER TABLE infrastructures DROP COLUMN sources_blob")


def _move_definitions(connection: sa.Connection, objects: Objects) -> dict[tuple[str, str], Link]:
    made: dict[tuple[str, str], Link] = {}
    projects: dict[str, list[Any]] = {}
    for row in rows(connection, "SELECT * FROM node_definitions ORDER BY project_id, type"):
        files = objects.files(_decode(row.sources_blob), row.updated_at)
        link = objects.put(
            "pelagos.node-definition", {"type": row.type, "file": row.file, "files": files}, row.updated_at
        )
        made[row.project_id, row.type] = link
        projects.setdefault(row.project_id, []).append(row)
        connection.execute(
            sa.text("UPDATE node_definitions SET digest = :digest WHERE project_id = :project AND type = :type"),
            {"digest": link.digest, "project": row.project_id, "type": row.type},
        )
    for project, found in projects.items():
        last = max(found, key=lambda row: float(row.updated_at))
        known = {row.type: made[project, row.type] for row in found}
        root = objects.put("pelagos.node-definitions", {"definitions": known}, last.updated_at)
        new = str(uuid.uuid5(uuid.NAMESPACE_URL, f"pelagos:node-definitions:{project}"))
        objects.repository(last, "node-definitions", new, "node-definitions", root, last.updated_at)
    return made


def _move_descriptions(
    connection: sa.Connection, objects: Objects, definitions: dict[tuple[str, str], Link]
) -> None:  # fmt: skip
    ids = [row.id for row in rows(connection, "SELECT id FROM infrastructures ORDER BY created_at, id")]
    for id_ in ids:
        row = rows(connection, "SELECT * FROM infrastructures WHERE id = :id", id=id_)[0]
        sources, compiled = _decode(row.sources_blob), _decode(row.compiled_blob)
        used = {
            type_: definitions[row.project_id, type_]
            for type_, implementations in compiled.get("definitions", {}).items()
            if (row.project_id, type_) in definitions and not _within(implementations, sources)
        }
        value = {
            "name": row.name,
            "entries": _entries(compiled, sources),
            "files": objects.files(sources, row.updated_at),
            "definitions": used,
        }
        root = objects.put("pelagos.description", value, row.updated_at)
        objects.repository(row, "infrastructure", row.id, row.id, root, row.updated_at)


def _move_open_runs(connection: sa.Connection) -> None:
    """A run that has not ended keeps what it wants, and what it would go back to, as texts."""
    for row in rows(connection, "SELECT id, parameters_blob FROM runs WHERE finished_at IS NULL"):
        parameters = _decode(row.parameters_blob)
        for key in ("desired", "previous"):
            wanted = parameters.get(key)
            if wanted is not None and "sources" in wanted:
                sources = wanted.pop("sources")
                wanted["bundle"] = {"entries": _entries(wanted["compiled"], sources), "sources": sources}
        connection.execute(
            sa.text("UPDATE runs SET parameters_blob = :blob WHERE id = :id"),
            {"blob": _encode(parameters), "id": row.id},
        )


def _entries(compiled: dict[str, Any], sources: dict[str, str]) -> list[str]:
    """The texts that were named, as far as places in the compiled description tell; else all."""
    named = [*_files_of(compiled.get("nodes", ()))]
    for implementations in compiled.get("definitions", {}).values():
        named += _files_of(implementations)
    found = [name for name in dict.fromkeys(named) if name in sources]
    return found or list(sources)


def _within(implementations: Any, sources: dict[str, str]) -> bool:
    return any(file in sources for file in _files_of(implementations))


def _files_of(items: Iterable[Any]) -> list[str]:
    return [item["position"]["file"] for item in items if isinstance(item, dict) and item.get("position")]


# -- down --------------------------------------------------------------------------------------------------------------


def downgrade() -> None:
    connection = op.get_bind()
    op.execute("ALTER TABLE infrastructures ADD COLUMN sources_blob " + _bytes(connection))
    with op.batch_alter_table("node_definitions") as table:
        table.add_column(sa.Column("file", sa.Text(), nullable=False, server_default=""))
        table.add_column(sa.Column("sources_blob", sa.LargeBinary(), nullable=True))
    for row in rows(connection, "SELECT id FROM infrastructures"):
        sources = _described(connection, row.id)
        connection.execute(
            sa.text("UPDATE infrastructures SET sources_blob = :blob WHERE id = :id"),
            {"blob": _encode(sources), "id": row.id},
        )
    for row in rows(connection, "SELECT project_id, type, digest FROM node_definitions"):
        definition = _object(connection, row.digest)
        connection.execute(
            sa.text(
                "UPDATE node_definitions SET file = :file, sources_blob = :blob "
                "WHERE project_id = :project AND type = :type"
            ),
            {
                "file": definition["file"],
                "blob": _encode(_joined(connection, definition["files"])),
                "project": row.project_id,
                "type": row.type,
            },
        )
    for row in rows(connection, "SELECT id, parameters_blob FROM runs WHERE finished_at IS NULL"):
        parameters = _decode(row.parameters_blob)
        for key in ("desired", "previous"):
            wanted = parameters.get(key)
            if wanted is not None and "sources" not in wanted:
                bundle = wanted.pop("bundle", None)
                digest = wanted.pop("revision", "")
                wanted["sources"] = bundle["sources"] if bundle else _of_commit(connection, digest) if digest else {}
        connection.execute(
            sa.text("UPDATE runs SET parameters_blob = :blob WHERE id = :id"),
            {"blob": _encode(parameters), "id": row.id},
        )
    with op.batch_alter_table("node_definitions") as table:
        table.alter_column("sources_blob", existing_type=sa.LargeBinary(), nullable=False)
        table.alter_column("file", existing_type=sa.Text(), server_default=None)
        table.drop_column("digest")
    kinds = "('infrastructure', 'node-definitions')"
    for table_name in ("refs", "commits"):
        op.execute(
            f"DELETE FROM {table_name} WHERE repository_id IN (SELECT id FROM repositories WHERE kind IN {kinds})"  # noqa: S608
        )
    op.execute(f"DELETE FROM repositories WHERE kind IN {kinds}")  # noqa: S608 - constants


def _bytes(connection: sa.Connection) -> str:
    empty = "x'80'" if connection.dialect.name == "sqlite" else "'\\x80'::bytea"
    return ("BLOB" if connection.dialect.name == "sqlite" else "BYTEA") + f" DEFAULT {empty} NOT NULL"


def _object(connection: sa.Connection, digest: str) -> Any:
    row = rows(connection, "SELECT value_blob FROM objects WHERE digest = :digest", digest=digest)[0]
    return _decode(row.value_blob, ext_hook=lambda code, data: Link(bytes(data).hex()))


def _described(connection: sa.Connection, repository_id: str) -> dict[str, str]:
    query = "SELECT digest FROM refs WHERE repository_id = :id AND name = 'branch/main'"
    head = rows(connection, query, id=repository_id)
    return _of_commit(connection, head[0].digest) if head else {}


def _of_commit(connection: sa.Connection, digest: str) -> dict[str, str]:
    description = _object(connection, _object(connection, digest)["root"].digest)
    return _joined(connection, description["files"])


def _joined(connection: sa.Connection, files: dict[str, list[Link]]) -> dict[str, str]:
    return {
        name: "".join(_object(connection, piece.digest)["content"] for piece in pieces)
        for name, pieces in files.items()
    }
