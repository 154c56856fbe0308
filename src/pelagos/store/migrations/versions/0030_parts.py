"""Parts of servers: volumes, ports, addresses and networks that are made before them.

Revision ID: 0030
Revises: 0020
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0020"
branch_labels = None
depends_on = None

ID = sa.String(36)


def upgrade() -> None:
    op.create_table(
        "parts",
        sa.Column("id", ID, nullable=False, comment="of its server and key"),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("server_id", ID, nullable=False, comment="made for this server; it may outlive it"),
        sa.Column("infrastructure_id", ID, nullable=True),
        sa.Column("position", sa.Integer(), nullable=False, comment="in the order of making, from 0"),
        sa.Column("key", sa.String(64), nullable=False, comment="unique in its server"),
        sa.Column("kind", sa.String(16), nullable=False, comment="PartKind"),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("provider_id", sa.String(255), nullable=True, comment="the cloud's own id, once known"),
        sa.Column("token", ID, nullable=False, comment="of the attempt that made it"),
        sa.Column("state", sa.String(16), nullable=False, comment="PartState"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("address", sa.String(255), nullable=False),
        sa.Column("keep", sa.Boolean(), nullable=False, comment="it stays when its server is deleted"),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("deleted_at", sa.Float(), nullable=True),
        sa.Column("spec_blob", sa.LargeBinary(), nullable=False, comment="PartSpec"),
        sa.PrimaryKeyConstraint("id", name="pk_parts"),
    )
    op.create_index("ix_parts_server_id", "parts", ["server_id"])
    op.create_index("ix_parts_account_deleted_at", "parts", ["account", "deleted_at"])
    op.create_index("ix_parts_project_id_deleted_at", "parts", ["project_id", "deleted_at"])


def downgrade() -> None:
    op.drop_table("parts")
