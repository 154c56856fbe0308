"""Instances that are protected, restarted or adopted; what a node's healing and autoscaling remember.

Revision ID: 0020
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("instances") as table:
        table.add_column(
            sa.Column(
                "protected", sa.Boolean(), nullable=False, server_default=sa.false(), comment="nobody destroys it"
            )
        )
        table.add_column(
            sa.Column(
                "restarts",
                sa.Integer(),
                nullable=False,
                server_default="0",
                comment="restarts by healing since it was well for long",
            )
        )
        table.add_column(
            sa.Column(
                "restarting_since", sa.Float(), nullable=True, comment="a restart was asked for, and it is not well yet"
            )
        )
        table.add_column(
            sa.Column(
                "adoption_blob", sa.LargeBinary(), nullable=True, comment="AdoptedServer: it was not made, but adopted"
            )
        )
    with op.batch_alter_table("instances") as table:
        table.alter_column("protected", existing_type=sa.Boolean(), server_default=None)
        table.alter_column("restarts", existing_type=sa.Integer(), server_default=None)
    with op.batch_alter_table("infrastructure_nodes") as table:
        table.add_column(sa.Column("healing_blob", sa.LargeBinary(), nullable=True, comment="HealingRecord"))
        table.add_column(sa.Column("autoscaling_blob", sa.LargeBinary(), nullable=True, comment="AutoscalingRecord"))
    with op.batch_alter_table("attempts") as table:
        table.alter_column("state", existing_type=sa.String(16), comment="open, done, refused, absent, released")
    with op.batch_alter_table("runs") as table:
        table.alter_column("kind", existing_type=sa.String(16), comment="up, down, scale, maintain, adopt")


def downgrade() -> None:
    # What an older program does not know, it must not take for a late arrival: it would be swept.
    op.execute("UPDATE attempts SET state = 'done' WHERE state = 'released'")
    with op.batch_alter_table("runs") as table:
        table.alter_column("kind", existing_type=sa.String(16), comment="up, down, scale, maintain")
    with op.batch_alter_table("attempts") as table:
        table.alter_column("state", existing_type=sa.String(16), comment="open, done, refused, absent")
    with op.batch_alter_table("infrastructure_nodes") as table:
        table.drop_column("autoscaling_blob")
        table.drop_column("healing_blob")
    with op.batch_alter_table("instances") as table:
        table.drop_column("adoption_blob")
        table.drop_column("restarting_since")
        table.drop_column("restarts")
        table.drop_column("protected")
