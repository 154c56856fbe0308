"""Requests answered, versioned objects, resources, subscriptions, schedules; and what a published event is about.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.String(36)


def upgrade() -> None:
    with op.batch_alter_table("events") as events:
        events.add_column(
            sa.Column(
                "origin", sa.String(200), nullable=True, comment="what a published event is about; null: an id tells it"
            )
        )
    op.create_table(
        "request_records",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("op", sa.String(128), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("reply_blob", sa.LargeBinary(), nullable=False, comment="the encoded result of the first time"),
        sa.PrimaryKeyConstraint("project_id", "request_id", name="pk_request_records"),
    )
    op.create_index("ix_request_records_created_at", "request_records", ["created_at"], unique=False)
    op.create_table(
        "objects",
        sa.Column("digest", sa.String(64), nullable=False, comment="over type, version and value"),
        sa.Column("type", sa.String(200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False, comment="of the type"),
        sa.Column("created_at", sa.Float(), nullable=False, comment="a grace for what no commit reaches yet"),
        sa.Column(
            "links_blob", sa.LargeBinary(), nullable=False, comment="tuple[str, ...]: digests it refers to, in order"
        ),
        sa.Column("value_blob", sa.LargeBinary(), nullable=False, comment="canonical msgpack of the type's Struct"),
        sa.PrimaryKeyConstraint("digest", name="pk_objects"),
    )
    op.create_table(
        "repositories",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False, comment="for example infrastructure, node-definition"),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("deleted_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_repositories"),
    )
    op.create_index(
        "ix_repositories_project_id_kind_name", "repositories", ["project_id", "kind", "name"], unique=False
    )
    op.create_table(
        "refs",
        sa.Column("repository_id", ID, nullable=False),
        sa.Column("name", sa.String(200), nullable=False, comment="branch/<name> or tag/<name>"),
        sa.Column("digest", sa.String(64), nullable=False, comment="of a commit"),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name="fk_refs_repository_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("repository_id", "name", name="pk_refs"),
    )
    op.create_table(
        "commits",
        sa.Column("repository_id", ID, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, comment="of the commit, which is an object itself"),
        sa.Column("generation", sa.Integer(), nullable=False, comment="1 + the highest of its parents"),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("parents_blob", sa.LargeBinary(), nullable=False, comment="tuple[str, ...]"),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name="fk_commits_repository_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("repository_id", "digest", name="pk_commits"),
    )
    op.create_table(
        "associations",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("predicate", sa.String(128), nullable=False),
        sa.Column("object", sa.String(255), nullable=False),
        sa.Column("created_by", ID, nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("ended_by", ID, nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True, comment="null: it holds"),
        sa.PrimaryKeyConstraint("id", name="pk_associations"),
    )
    op.create_index(
        "ix_associations_project_id_object_predicate",
        "associations",
        ["project_id", "object", "predicate"],
        unique=False,
    )
    op.create_index("ix_associations_project_id_predicate", "associations", ["project_id", "predicate"], unique=False)
    op.create_index(
        "ix_associations_project_id_subject_predicate",
        "associations",
        ["project_id", "subject", "predicate"],
        unique=False,
    )
    op.create_table(
        "resources",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False, comment="its owner"),
        sa.Column("type", sa.String(128), nullable=False, comment="for example service, container, exchange"),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False, comment="ResourceState"),
        sa.Column("version", sa.Integer(), nullable=False, comment="rises with each change: optimistic locking"),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_resources"),
    )
    op.create_index("ix_resources_project_id_name", "resources", ["project_id", "name"], unique=False)
    op.create_index("ix_resources_project_id_type_name", "resources", ["project_id", "type", "name"], unique=False)
    op.create_table(
        "resource_attributes",
        sa.Column("resource_id", ID, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("value", sa.Text(), nullable=False, comment="JSON"),
        sa.ForeignKeyConstraint(
            ["resource_id"], ["resources.id"], name="fk_resource_attributes_resource_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("resource_id", "name", name="pk_resource_attributes"),
    )
    op.create_index("ix_resource_attributes_name", "resource_attributes", ["name"], unique=False)
    op.create_table(
        "event_subscriptions",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("patterns", sa.Text(), nullable=False, comment="a JSON list of type.origin patterns"),
        sa.Column("position", sa.BigInteger(), nullable=False, comment="of the last event that its reader has done"),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event_subscriptions"),
        sa.UniqueConstraint("project_id", "name", name="uq_event_subscriptions_project_id_name"),
    )
    op.create_table(
        "streams",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_streams"),
        sa.UniqueConstraint("project_id", "name", name="uq_streams_project_id_name"),
    )
    op.create_table(
        "stream_subscriptions",
        sa.Column("id", ID, nullable=False),
        sa.Column("stream_id", ID, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("patterns", sa.Text(), nullable=False, comment="a JSON list of topic patterns"),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["stream_id"], ["streams.id"], name="fk_stream_subscriptions_stream_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_stream_subscriptions"),
        sa.UniqueConstraint("stream_id", "name", name="uq_stream_subscriptions_stream_id_name"),
    )
    op.create_table(
        "schedules",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False, comment="interval, cron, once"),
        sa.Column("origin", sa.String(200), nullable=False, comment="of the events it publishes"),
        sa.Column("interval", sa.Float(), nullable=True, comment="seconds"),
        sa.Column("cron", sa.String(200), nullable=True),
        sa.Column("timezone", sa.String(64), nullable=False),
        sa.Column(
            "starts_at", sa.Float(), nullable=False, comment="intervals are counted from it, so they do not drift"
        ),
        sa.Column("ends_at", sa.Float(), nullable=True),
        sa.Column("next_at", sa.Float(), nullable=True, comment="null: it fires no more"),
        sa.Column("last_at", sa.Float(), nullable=True),
        sa.Column("fired", sa.Integer(), nullable=False),
        sa.Column("max_count", sa.Integer(), nullable=True, comment="it ends after so many; null: never"),
        sa.Column("missed", sa.String(8), nullable=False, comment="skip, once, all"),
        sa.Column("version", sa.Integer(), nullable=False, comment="rises with each change: optimistic locking"),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("payload_blob", sa.LargeBinary(), nullable=False, comment="msgpack, the caller's own"),
        sa.PrimaryKeyConstraint("id", name="pk_schedules"),
        sa.UniqueConstraint("project_id", "name", name="uq_schedules_project_id_name"),
    )
    op.create_index("ix_schedules_next_at", "schedules", ["next_at"], unique=False)
    op.create_table(
        "attributes",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False, comment="rises with each put"),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("value_blob", sa.LargeBinary(), nullable=False, comment="msgpack, the caller's own"),
        sa.PrimaryKeyConstraint("project_id", "name", name="pk_attributes"),
    )


def downgrade() -> None:
    for table in (
        "attributes",
        "schedules",
        "stream_subscriptions",
        "streams",
        "event_subscriptions",
        "resource_attributes",
        "resources",
        "associations",
        "commits",
        "refs",
        "repositories",
        "objects",
        "request_records",
    ):
        op.drop_table(table)
    with op.batch_alter_table("events") as events:
        events.drop_column("origin")
