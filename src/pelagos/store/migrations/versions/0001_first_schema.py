"""The first schema: leases, events, infrastructures, servers, operations, quotas, tokens.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.String(36)
# SQLite makes only INTEGER PRIMARY KEY columns count by themselves.
POSITION = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "api_tokens",
        sa.Column("digest", sa.String(64), nullable=False, comment="SHA-256 of the token, hexadecimal"),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_api_tokens"),
    )
    op.create_table(
        "events",
        sa.Column("position", POSITION, autoincrement=True, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False, comment="for example instance.ready"),
        sa.Column("infrastructure_id", ID, nullable=True),
        sa.Column("node", sa.String(64), nullable=True),
        sa.Column("instance_id", ID, nullable=True),
        sa.Column("server_id", ID, nullable=True),
        sa.Column("operation_id", ID, nullable=True),
        sa.Column("run_id", ID, nullable=True),
        sa.Column("data", sa.Text(), nullable=False, comment="a JSON object"),
        sa.PrimaryKeyConstraint("position", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_infrastructure_id_position", "events", ["infrastructure_id", "position"])
    op.create_index("ix_events_project_id_position", "events", ["project_id", "position"])
    op.create_table(
        "infrastructures",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False, comment="InfrastructureState"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False, comment="rises with each accepted description"),
        sa.Column("maintained", sa.Boolean(), nullable=False, comment="serve keeps it alive"),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("deleted_at", sa.Float(), nullable=True),
        sa.Column(
            "sources_blob", sa.LargeBinary(), nullable=False, comment="dict[str, str]: the bundle it was described by"
        ),
        sa.Column("compiled_blob", sa.LargeBinary(), nullable=False, comment="CompiledInfrastructure"),
        sa.PrimaryKeyConstraint("id", name="pk_infrastructures"),
    )
    op.create_index("ix_infrastructures_project_id_name", "infrastructures", ["project_id", "name"])
    op.create_table(
        "leases",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False, comment="rises with each change of holder, never falls"),
        sa.Column("holder", ID, nullable=True, comment="the holding container's id; null: free"),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("boot_id", sa.String(64), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("pid_started", sa.String(64), nullable=False, comment="start time of that pid, from /proc"),
        sa.Column("lock_path", sa.Text(), nullable=False, comment="file whose lock the holder's process keeps"),
        sa.Column("purpose", sa.Text(), nullable=False, comment="what the holder does, for people"),
        sa.Column("acquired_at", sa.Float(), nullable=False, comment="store clock"),
        sa.Column("expires_at", sa.Float(), nullable=False, comment="store clock"),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    op.create_table(
        "node_definitions",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("type", sa.String(200), nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("file", sa.Text(), nullable=False, comment="name of the file in the bundle that defines it"),
        sa.Column("sources_blob", sa.LargeBinary(), nullable=False, comment="dict[str, str]: the bundle"),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "type", name="pk_node_definitions"),
    )
    op.create_table(
        "operations",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False, comment="server.create, server.delete, ..."),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("target_id", ID, nullable=False, comment="id of the server (later: volume, ...)"),
        sa.Column("infrastructure_id", ID, nullable=True),
        sa.Column("request_id", sa.String(64), nullable=False, comment="a repeat of the request finds this row"),
        sa.Column("state", sa.String(16), nullable=False, comment="OperationState"),
        sa.Column("step", sa.Integer(), nullable=False, comment="index of the step being carried out"),
        sa.Column("attempts", sa.Integer(), nullable=False, comment="attempts made at this step"),
        sa.Column("next_at", sa.Float(), nullable=False, comment="not before then is it taken up again"),
        sa.Column("expires_at", sa.Float(), nullable=True, comment="after then no new attempt is made"),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("parameters_blob", sa.LargeBinary(), nullable=False, comment="the kind's own Struct"),
        sa.Column("error_blob", sa.LargeBinary(), nullable=True, comment="ErrorPayload of the last failure"),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_operations"),
        sa.UniqueConstraint("project_id", "request_id", name="uq_operations_project_id_request_id"),
    )
    op.create_index("ix_operations_account_finished_at_next_at", "operations", ["account", "finished_at", "next_at"])
    op.create_index("ix_operations_target_id", "operations", ["target_id"])
    op.create_table(
        "quota_holdings",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("resource", sa.String(64), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "resource", name="pk_quota_holdings"),
    )
    op.create_table(
        "quota_limits",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("resource", sa.String(64), nullable=False, comment="servers, cores, ram_mb, ..."),
        sa.Column("limit", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "resource", name="pk_quota_limits"),
    )
    op.create_table(
        "quota_reservations",
        sa.Column("operation_id", ID, nullable=False),
        sa.Column("resource", sa.String(64), nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False, comment="negative: a release, taken at commit"),
        sa.Column("state", sa.String(16), nullable=False, comment="reserved, committed, cancelled"),
        sa.PrimaryKeyConstraint("operation_id", "resource", name="pk_quota_reservations"),
    )
    op.create_table(
        "servers",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("account", sa.String(64), nullable=False, comment="name of the cloud account in the pool"),
        sa.Column("provider_id", sa.String(255), nullable=True, comment="the cloud's own id, once known"),
        sa.Column("state", sa.String(16), nullable=False, comment="ServerState"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("addresses", sa.Text(), nullable=False, comment="a JSON list, most public first"),
        sa.Column("private_addresses", sa.Text(), nullable=False),
        sa.Column("infrastructure_id", ID, nullable=True),
        sa.Column("instance_id", ID, nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("observed_at", sa.Float(), nullable=True, comment="when the cloud last said anything of it"),
        sa.Column("deleted_at", sa.Float(), nullable=True),
        sa.Column("spec_blob", sa.LargeBinary(), nullable=False, comment="ServerSpec"),
        sa.PrimaryKeyConstraint("id", name="pk_servers"),
    )
    op.create_index("ix_servers_account_deleted_at", "servers", ["account", "deleted_at"])
    op.create_index("ix_servers_infrastructure_id_deleted_at", "servers", ["infrastructure_id", "deleted_at"])
    op.create_index("ix_servers_project_id_deleted_at", "servers", ["project_id", "deleted_at"])
    op.create_table(
        "attempts",
        sa.Column("token", ID, nullable=False, comment="written into the cloud with what the call makes"),
        sa.Column("operation_id", ID, nullable=False),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False, comment="open, done, refused, absent"),
        sa.Column("epoch", sa.BigInteger(), nullable=False, comment="of the account's lease when it was sent last"),
        sa.Column("sent_at", sa.Float(), nullable=True, comment="null: journaled, not sent"),
        sa.Column("not_after", sa.Float(), nullable=True, comment="after then, what is absent was not made"),
        sa.Column("negatives", sa.Integer(), nullable=False, comment="look-ups after not_after that found nothing"),
        sa.Column("provider_id", sa.String(255), nullable=True),
        sa.Column("error_blob", sa.LargeBinary(), nullable=True, comment="ErrorPayload"),
        sa.Column("closed_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.id"], name="fk_attempts_operation_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("token", name="pk_attempts"),
    )
    op.create_index("ix_attempts_account_closed_at", "attempts", ["account", "closed_at"])
    op.create_index("ix_attempts_operation_id", "attempts", ["operation_id"])
    op.create_table(
        "infrastructure_nodes",
        sa.Column("infrastructure_id", ID, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("target", sa.Integer(), nullable=False, comment="the one desired number of instances"),
        sa.Column("implementation", sa.Integer(), nullable=True, comment="index of the chosen implementation; sticky"),
        sa.Column("failures", sa.Integer(), nullable=False, comment="creations failed in a row"),
        sa.Column("retry_at", sa.Float(), nullable=True, comment="not before then is the next creation tried"),
        sa.Column("error_blob", sa.LargeBinary(), nullable=True, comment="ErrorPayload of the last failure"),
        sa.ForeignKeyConstraint(
            ["infrastructure_id"],
            ["infrastructures.id"],
            name="fk_infrastructure_nodes_infrastructure_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("infrastructure_id", "name", name="pk_infrastructure_nodes"),
    )
    op.create_table(
        "instances",
        sa.Column("id", ID, nullable=False),
        sa.Column("infrastructure_id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("node", sa.String(64), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False, comment="1, 2, ...: unique among the node's living"),
        sa.Column("state", sa.String(16), nullable=False, comment="InstanceState"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("server_id", ID, nullable=True),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("address", sa.String(255), nullable=False),
        sa.Column("implementation", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False, comment="of the definition it was made from"),
        sa.Column("run_id", ID, nullable=True, comment="the run that made it"),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("ready_at", sa.Float(), nullable=True),
        sa.Column("failing_since", sa.Float(), nullable=True, comment="first failed health check in a row"),
        sa.Column("check_failures", sa.Integer(), nullable=False, comment="failed health checks in a row"),
        sa.Column("deleted_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["infrastructure_id"], ["infrastructures.id"], name="fk_instances_infrastructure_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
    )
    op.create_index("ix_instances_infrastructure_id_deleted_at", "instances", ["infrastructure_id", "deleted_at"])
    op.create_table(
        "runs",
        sa.Column("id", ID, nullable=False),
        sa.Column("infrastructure_id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False, comment="up, down, scale, maintain"),
        sa.Column("state", sa.String(16), nullable=False, comment="RunState"),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("warnings_blob", sa.LargeBinary(), nullable=True, comment="tuple[Diagnostic, ...]"),
        sa.Column("position", POSITION, nullable=False, comment="of the last event before the run's first"),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("keep", sa.Boolean(), nullable=False, comment="when cancelled or failed, what it made stays"),
        sa.Column("error_blob", sa.LargeBinary(), nullable=True, comment="ErrorPayload"),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("parameters_blob", sa.LargeBinary(), nullable=False, comment="RunParameters"),
        sa.ForeignKeyConstraint(
            ["infrastructure_id"], ["infrastructures.id"], name="fk_runs_infrastructure_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.UniqueConstraint("project_id", "request_id", name="uq_runs_project_id_request_id"),
    )
    op.create_index("ix_runs_infrastructure_id_created_at", "runs", ["infrastructure_id", "created_at"])


def downgrade() -> None:
    for table in (
        "runs",
        "instances",
        "infrastructure_nodes",
        "attempts",
        "servers",
        "quota_reservations",
        "quota_limits",
        "quota_holdings",
        "operations",
        "node_definitions",
        "leases",
        "infrastructures",
        "events",
        "api_tokens",
    ):
        op.drop_table(table)
