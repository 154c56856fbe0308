"""The tables of what processes share: requests answered, versioned objects, resources, subscriptions, schedules.

Beside :mod:`pelagos.store.schema`, whose conventions and metadata they have. Whoever makes a whole schema imports both.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from pelagos.store.schema import ID, metadata

__all__ = [
    "associations",
    "attributes",
    "commits",
    "event_subscriptions",
    "metadata",
    "objects",
    "refs",
    "repositories",
    "request_records",
    "resource_attributes",
    "resources",
    "schedules",
    "sink_routes",
    "stream_subscriptions",
    "streams",
]

DIGEST = String(64)
"""SHA-256, hexadecimal."""

request_records = Table(
    "request_records",
    metadata,
    Column("project_id", ID, nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("op", String(128), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("reply_blob", LargeBinary, nullable=False, comment="the encoded result of the first time"),
    PrimaryKeyConstraint("project_id", "request_id"),
    Index(None, "created_at"),
)

objects = Table(
    "objects",
    metadata,
    Column("digest", DIGEST, primary_key=True, comment="over type, version and value"),
    Column("type", String(200), nullable=False),
    Column("version", Integer, nullable=False, comment="of the type"),
    Column("created_at", Float, nullable=False, comment="a grace for what no commit reaches yet"),
    Column("links_blob", LargeBinary, nullable=False, comment="tuple[str, ...]: digests it refers to, in order"),
    Column("value_blob", LargeBinary, nullable=False, comment="canonical msgpack of the type's Struct"),
)

repositories = Table(
    "repositories",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("kind", String(64), nullable=False, comment="for example infrastructure, node-definition"),
    Column("name", String(200), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("deleted_at", Float, nullable=True),
    Index(None, "project_id", "kind", "name"),
)

refs = Table(
    "refs",
    metadata,
    Column("repository_id", ID, ForeignKey("repositories.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(200), nullable=False, comment="branch/<name> or tag/<name>"),
    Column("digest", DIGEST, nullable=False, comment="of a commit"),
    Column("user_id", ID, nullable=False),
    Column("updated_at", Float, nullable=False),
    PrimaryKeyConstraint("repository_id", "name"),
)

commits = Table(
    "commits",
    metadata,
    Column("repository_id", ID, ForeignKey("repositories.id", ondelete="CASCADE"), nullable=False),
    Column("digest", DIGEST, nullable=False, comment="of the commit, which is an object itself"),
    Column("generation", Integer, nullable=False, comment="1 + the highest of its parents"),
    Column("at", Float, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("message", Text, nullable=False, default=""),
    Column("parents_blob", LargeBinary, nullable=False, comment="tuple[str, ...]"),
    PrimaryKeyConstraint("repository_id", "digest"),
)

associations = Table(
    "associations",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", ID, nullable=False),
    Column("subject", String(255), nullable=False),
    Column("predicate", String(128), nullable=False),
    Column("object", String(255), nullable=False),
    Column("created_by", ID, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("ended_by", ID, nullable=True),
    Column("ended_at", Float, nullable=True, comment="null: it holds"),
    Index(None, "project_id", "subject", "predicate"),
    Index(None, "project_id", "object", "predicate"),
    Index(None, "project_id", "predicate"),
)

resources = Table(
    "resources",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", ID, nullable=False),
    Column("user_id", ID, nullable=False, comment="its owner"),
    Column("type", String(128), nullable=False, comment="for example service, container, exchange"),
    Column("name", String(255), nullable=False),
    Column("description", Text, nullable=False, default=""),
    Column("state", String(16), nullable=False, comment="ResourceState"),
    Column("version", Integer, nullable=False, default=1, comment="rises with each change: optimistic locking"),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Index(None, "project_id", "type", "name"),
    Index(None, "project_id", "name"),
)

resource_attributes = Table(
    "resource_attributes",
    metadata,
    Column("resource_id", ID, ForeignKey("resources.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(128), nullable=False),
    Column("value", Text, nullable=False, comment="JSON"),
    PrimaryKeyConstraint("resource_id", "name"),
    Index(None, "name"),
)

event_subscriptions = Table(
    "event_subscriptions",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("name", String(200), nullable=False),
    Column("patterns", Text, nullable=False, comment="a JSON list of type.origin patterns"),
    Column("position", BigInteger, nullable=False, comment="of the last event that its reader has done"),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    UniqueConstraint("project_id", "name"),
)

streams = Table(
    "streams",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("name", String(200), nullable=False),
    Column("description", Text, nullable=False, default=""),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("project_id", "name"),
)

stream_subscriptions = Table(
    "stream_subscriptions",
    metadata,
    Column("id", ID, primary_key=True),
    Column("stream_id", ID, ForeignKey("streams.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(200), nullable=False),
    Column("patterns", Text, nullable=False, comment="a JSON list of topic patterns"),
    Column("user_id", ID, nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("stream_id", "name"),
)

schedules = Table(
    "schedules",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("name", String(200), nullable=False),
    Column("kind", String(16), nullable=False, comment="interval, cron, once"),
    Column("origin", String(200), nullable=False, comment="of the events it publishes"),
    Column("interval", Float, nullable=True, comment="seconds"),
    Column("cron", String(200), nullable=True),
    Column("timezone", String(64), nullable=False, default="UTC"),
    Column("starts_at", Float, nullable=False, comment="intervals are counted from it, so they do not drift"),
    Column("ends_at", Float, nullable=True),
    Column("next_at", Float, nullable=True, comment="null: it fires no more"),
    Column("last_at", Float, nullable=True),
    Column("fired", Integer, nullable=False, default=0),
    Column("max_count", Integer, nullable=True, comment="it ends after so many; null: never"),
    Column("missed", String(8), nullable=False, default="once", comment="skip, once, all"),
    Column("version", Integer, nullable=False, default=1, comment="rises with each change: optimistic locking"),
    Column("created_at", Float, nullable=False),
    Column("payload_blob", LargeBinary, nullable=False, comment="msgpack, the caller's own"),
    UniqueConstraint("project_id", "name"),
    Index(None, "next_at"),
)

attributes = Table(
    "attributes",
    metadata,
    Column("project_id", ID, nullable=False),
    Column("name", String(255), nullable=False),
    Column("user_id", ID, nullable=False),
    Column("version", Integer, nullable=False, default=1, comment="rises with each put"),
    Column("updated_at", Float, nullable=False),
    Column("value_blob", LargeBinary, nullable=False, comment="msgpack, the caller's own"),
    PrimaryKeyConstraint("project_id", "name"),
)

sink_routes = Table(
    "sink_routes",
    metadata,
    Column("infrastructure_id", ID, ForeignKey("infrastructures.id", ondelete="CASCADE"), nullable=False),
    Column("sink", String(64), nullable=False),
    PrimaryKeyConstraint("infrastructure_id", "sink"),
)
