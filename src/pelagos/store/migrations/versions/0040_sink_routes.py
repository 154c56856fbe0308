"""Routes of notifications: sinks that are told of an infrastructure besides those whose configuration names it.

Revision ID: 0040
Revises: 0020
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0040"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sink_routes",
        sa.Column("infrastructure_id", sa.String(36), nullable=False),
        sa.Column("sink", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["infrastructure_id"],
            ["infrastructures.id"],
            name="fk_sink_routes_infrastructure_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("infrastructure_id", "sink", name="pk_sink_routes"),
    )


def downgrade() -> None:
    op.drop_table("sink_routes")
