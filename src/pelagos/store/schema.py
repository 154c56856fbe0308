"""The tables, as SQLAlchemy Core values. Migrations bring a database to this state; a test holds the two together.

Conventions: ids are 36-character UUIDs; times are seconds since the epoch by the world's clock (`leases` alone uses
the store's clock); `*_blob` columns are msgpack of the Struct named in their comment; nothing is deleted when a thing
is gone: `deleted_at` makes it a tombstone, which retention prunes. Every server, part, infrastructure, instance,
operation, run and event carries the project that owns it and the user who asked.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

__all__ = [
    "ID",
    "api_tokens",
    "attempts",
    "events",
    "infrastructure_nodes",
    "infrastructures",
    "instance_sources",
    "instances",
    "leases",
    "metadata",
    "node_definitions",
    "operations",
    "parts",
    "quota_holdings",
    "quota_limits",
    "quota_reservations",
    "runs",
    "servers",
]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ID = String(36)
# SQLite makes only INTEGER PRIMARY KEY columns count by themselves.
_POSITION = BigInteger().with_variant(Integer, "sqlite")

leases = Table(
    "leases",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("epoch", BigInteger, nullable=False, comment="rises with each change of holder, never falls"),
    Column("holder", ID, nullable=True, comment="the holding container's id; null: free"),
    Column("host", String(255), nullable=False, default=""),
    Column("boot_id", String(64), nullable=False, default=""),
    Column("pid", Integer, nullable=False, default=0),
    Column("pid_started", String(64), nullable=False, default="", comment="start time of that pid, from /proc"),
    Column("lock_path", Text, nullable=False, default="", comment="file whose lock the holder's process keeps"),
    Column("purpose", Text, nullable=False, default="", comment="what the holder does, for people"),
    Column("acquired_at", Float, nullable=False, default=0.0, comment="store clock"),
    Column("expires_at", Float, nullable=False, default=0.0, comment="store clock"),
)

events = Table(
    "events",
    metadata,
    Column("position", _POSITION, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("project_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("kind", String(64), nullable=False, comment="for example instance.ready"),
    Column("infrastructure_id", ID, nullable=True),
    Column("node", String(64), nullable=True),
    Column("instance_id", ID, nullable=True),
    Column("server_id", ID, nullable=True),
    Column("operation_id", ID, nullable=True),
    Column("run_id", ID, nullable=True),
    Column("data", Text, nullable=False, default="{}", comment="a JSON object"),
    Column("origin", String(200), nullable=True, comment="what a published event is about; null: an id tells it"),
    Index(None, "infrastructure_id", "position"),
    Index(None, "project_id", "position"),
    sqlite_autoincrement=True,
)

infrastructures = Table(
    "infrastructures",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("name", String(64), nullable=False),
    Column("state", String(16), nullable=False, comment="InfrastructureState"),
    Column("reason", Text, nullable=False, default=""),
    Column("generation", Integer, nullable=False, default=1, comment="rises with each accepted description"),
    Column("maintained", Boolean, nullable=False, default=True, comment="serve keeps it alive"),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("deleted_at", Float, nullable=True),
    # Last: what stands behind a long value is read by walking through all of it.
    Column("compiled_blob", LargeBinary, nullable=False, comment="CompiledInfrastructure"),
    Index(None, "project_id", "name"),
)

infrastructure_nodes = Table(
    "infrastructure_nodes",
    metadata,
    Column("infrastructure_id", ID, ForeignKey("infrastructures.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("target", Integer, nullable=False, comment="the one desired number of instances"),
    Column("implementation", Integer, nullable=True, comment="index of the chosen implementation; sticky"),
    Column("failures", Integer, nullable=False, default=0, comment="creations failed in a row"),
    Column("retry_at", Float, nullable=True, comment="not before then is the next creation tried"),
    Column("error_blob", LargeBinary, nullable=True, comment="ErrorPayload of the last failure"),
    Column("healing_blob", LargeBinary, nullable=True, comment="HealingRecord"),
    Column("autoscaling_blob", LargeBinary, nullable=True, comment="AutoscalingRecord"),
    PrimaryKeyConstraint("infrastructure_id", "name"),
)

instances = Table(
    "instances",
    metadata,
    Column("id", ID, primary_key=True),
    Column("infrastructure_id", ID, ForeignKey("infrastructures.id", ondelete="CASCADE"), nullable=False),
    Column("project_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("node", String(64), nullable=False),
    Column("ordinal", Integer, nullable=False, default=1, comment="1, 2, ...: unique among the node's living"),
    Column("state", String(16), nullable=False, comment="InstanceState"),
    Column("reason", Text, nullable=False, default=""),
    Column("server_id", ID, nullable=True),
    Column("account", String(64), nullable=False, default=""),
    Column("address", String(255), nullable=False, default=""),
    Column("implementation", Integer, nullable=False, default=0),
    Column("fingerprint", String(64), nullable=False, default="", comment="of the definition it was made from"),
    Column("run_id", ID, nullable=True, comment="the run that made it"),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("ready_at", Float, nullable=True),
    Column("failing_since", Float, nullable=True, comment="first failed health check in a row"),
    Column("check_failures", Integer, nullable=False, default=0, comment="failed health checks in a row"),
    Column("deleted_at", Float, nullable=True),
    Column("source", String(64), nullable=True, comment="digest of what it was made from; null: not known"),
    Column("outdated", Text, nullable=True, comment="in what it is not as described; null: it is"),
    Column("inputs_blob", LargeBinary, nullable=True, comment="tuple[Asked, ...]: what it was told of other nodes"),
    Column("protected", Boolean, nullable=False, default=False, comment="nobody destroys it"),
    Column("restarts", Integer, nullable=False, default=0, comment="restarts by healing since it was well for long"),
    Column("restarting_since", Float, nullable=True, comment="a restart was asked for, and it is not well yet"),
    Column("adoption_blob", LargeBinary, nullable=True, comment="AdoptedServer: it was not made, but adopted"),
    Index(None, "infrastructure_id", "deleted_at"),
)

instance_sources = Table(
    "instance_sources",
    metadata,
    Column("infrastructure_id", ID, ForeignKey("infrastructures.id", ondelete="CASCADE"), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("source_blob", LargeBinary, nullable=False, comment="what instances are made from"),
    PrimaryKeyConstraint("infrastructure_id", "digest"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", ID, primary_key=True),
    Column("infrastructure_id", ID, ForeignKey("infrastructures.id", ondelete="CASCADE"), nullable=False),
    Column("project_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("kind", String(16), nullable=False, comment="up, down, scale, maintain, adopt"),
    Column("state", String(16), nullable=False, comment="RunState"),
    Column("request_id", String(64), nullable=False),
    Column("warnings_blob", LargeBinary, nullable=True, comment="tuple[Diagnostic, ...]"),
    Column("position", _POSITION, nullable=False, comment="of the last event before the run's first"),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("keep", Boolean, nullable=False, default=False, comment="when cancelled or failed, what it made stays"),
    Column("error_blob", LargeBinary, nullable=True, comment="ErrorPayload"),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float, nullable=True),
    Column("finished_at", Float, nullable=True),
    # Last: what stands behind a long value is read by walking through all of it.
    Column("parameters_blob", LargeBinary, nullable=False, comment="RunParameters"),
    UniqueConstraint("project_id", "request_id"),
    Index(None, "infrastructure_id", "created_at"),
)

node_definitions = Table(
    "node_definitions",
    metadata,
    Column("project_id", ID, nullable=False),
    Column("type", String(200), nullable=False),
    Column("user_id", ID, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("digest", String(64), nullable=False, comment="of the object that holds it"),
    PrimaryKeyConstraint("project_id", "type"),
)

servers = Table(
    "servers",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("name", String(255), nullable=False),
    Column("account", String(64), nullable=False, comment="name of the cloud account in the pool"),
    Column("provider_id", String(255), nullable=True, comment="the cloud's own id, once known"),
    Column("state", String(16), nullable=False, comment="ServerState"),
    Column("reason", Text, nullable=False, default=""),
    Column("addresses", Text, nullable=False, default="[]", comment="a JSON list, most public first"),
    Column("private_addresses", Text, nullable=False, default="[]"),
    Column("infrastructure_id", ID, nullable=True),
    Column("instance_id", ID, nullable=True),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("observed_at", Float, nullable=True, comment="when the cloud last said anything of it"),
    Column("deleted_at", Float, nullable=True),
    # Last: what stands behind a long value is read by walking through all of it.
    Column("spec_blob", LargeBinary, nullable=False, comment="ServerSpec"),
    Index(None, "project_id", "deleted_at"),
    Index(None, "account", "deleted_at"),
    Index(None, "infrastructure_id", "deleted_at"),
)

parts = Table(
    "parts",
    metadata,
    Column("id", ID, primary_key=True, comment="of its server and key"),
    Column("project_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("account", String(64), nullable=False),
    Column("server_id", ID, nullable=False, comment="made for this server; it may outlive it"),
    Column("infrastructure_id", ID, nullable=True),
    Column("position", Integer, nullable=False, comment="in the order of making, from 0"),
    Column("key", String(64), nullable=False, comment="unique in its server"),
    Column("kind", String(16), nullable=False, comment="PartKind"),
    Column("name", String(255), nullable=False),
    Column("provider_id", String(255), nullable=True, comment="the cloud's own id, once known"),
    Column("token", ID, nullable=False, default="", comment="of the attempt that made it"),
    Column("state", String(16), nullable=False, comment="PartState"),
    Column("reason", Text, nullable=False, default=""),
    Column("address", String(255), nullable=False, default=""),
    Column("keep", Boolean, nullable=False, default=False, comment="it stays when its server is deleted"),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("deleted_at", Float, nullable=True),
    # Last: what stands behind a long value is read by walking through all of it.
    Column("spec_blob", LargeBinary, nullable=False, comment="PartSpec"),
    Index(None, "server_id"),
    Index(None, "account", "deleted_at"),
    Index(None, "project_id", "deleted_at"),
)

operations = Table(
    "operations",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("kind", String(32), nullable=False, comment="server.create, server.delete, ..."),
    Column("account", String(64), nullable=False),
    Column("target_id", ID, nullable=False, comment="id of the server (later: volume, ...)"),
    Column("infrastructure_id", ID, nullable=True),
    Column("request_id", String(64), nullable=False, comment="a repeat of the request finds this row"),
    Column("state", String(16), nullable=False, comment="OperationState"),
    Column("step", Integer, nullable=False, default=0, comment="index of the step being carried out"),
    Column("attempts", Integer, nullable=False, default=0, comment="attempts made at this step"),
    Column("next_at", Float, nullable=False, default=0.0, comment="not before then is it taken up again"),
    Column("expires_at", Float, nullable=True, comment="after then no new attempt is made"),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("parameters_blob", LargeBinary, nullable=False, comment="the kind's own Struct"),
    Column("error_blob", LargeBinary, nullable=True, comment="ErrorPayload of the last failure"),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("finished_at", Float, nullable=True),
    UniqueConstraint("project_id", "request_id"),
    Index(None, "account", "finished_at", "next_at"),
    Index(None, "target_id"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("token", ID, primary_key=True, comment="written into the cloud with what the call makes"),
    Column("operation_id", ID, ForeignKey("operations.id", ondelete="CASCADE"), nullable=False),
    Column("account", String(64), nullable=False),
    Column("step", Integer, nullable=False),
    Column("state", String(16), nullable=False, comment="open, done, refused, absent, released"),
    Column("epoch", BigInteger, nullable=False, comment="of the account's lease when it was sent last"),
    Column("sent_at", Float, nullable=True, comment="null: journaled, not sent"),
    Column("not_after", Float, nullable=True, comment="after then, what is absent was not made"),
    Column("negatives", Integer, nullable=False, default=0, comment="look-ups after not_after that found nothing"),
    Column("provider_id", String(255), nullable=True),
    Column("error_blob", LargeBinary, nullable=True, comment="ErrorPayload"),
    Column("closed_at", Float, nullable=True),
    Index(None, "operation_id"),
    Index(None, "account", "closed_at"),
)

quota_limits = Table(
    "quota_limits",
    metadata,
    Column("project_id", ID, nullable=False),
    Column("resource", String(64), nullable=False, comment="servers, cores, ram_mb, ..."),
    Column("limit", BigInteger, nullable=False),
    PrimaryKeyConstraint("project_id", "resource"),
)

quota_holdings = Table(
    "quota_holdings",
    metadata,
    Column("project_id", ID, nullable=False),
    Column("resource", String(64), nullable=False),
    Column("used", BigInteger, nullable=False, default=0),
    Column("reserved", BigInteger, nullable=False, default=0),
    PrimaryKeyConstraint("project_id", "resource"),
)

quota_reservations = Table(
    "quota_reservations",
    metadata,
    Column("operation_id", ID, nullable=False),
    Column("resource", String(64), nullable=False),
    Column("project_id", ID, nullable=False),
    Column("amount", BigInteger, nullable=False, comment="negative: a release, taken at commit"),
    Column("state", String(16), nullable=False, comment="reserved, committed, cancelled"),
    PrimaryKeyConstraint("operation_id", "resource"),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("digest", String(64), primary_key=True, comment="SHA-256 of the token, hexadecimal"),
    Column("project_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("description", Text, nullable=False, default=""),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)
