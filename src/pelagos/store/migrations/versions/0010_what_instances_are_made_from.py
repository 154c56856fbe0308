"""What an instance was made from, and what it was told of others, so that changes are known key by key.

Of instances that are there already neither is known; they are compared by their fingerprints as before.

Revision ID: 0010
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.String(36)


def upgrade() -> None:
    op.create_table(
        "instance_sources",
        sa.Column("infrastructure_id", ID, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("source_blob", sa.LargeBinary(), nullable=False, comment="what instances are made from"),
        sa.ForeignKeyConstraint(
            ["infrastructure_id"],
            ["infrastructures.id"],
            name="fk_instance_sources_infrastructure_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("infrastructure_id", "digest", name="pk_instance_sources"),
    )
    source = sa.Column(
        "source", sa.String(64), nullable=True, comment="digest of what it was made from; null: not known"
    )
    inputs = sa.Column(
        "inputs_blob", sa.LargeBinary(), nullable=True, comment="tuple[Asked, ...]: what it was told of other nodes"
    )
    outdated = sa.Column("outdated", sa.Text(), nullable=True, comment="in what it is not as described; null: it is")
    op.add_column("instances", source)
    op.add_column("instances", outdated)
    op.add_column("instances", inputs)


def downgrade() -> None:
    op.drop_column("instances", "inputs_blob")
    op.drop_column("instances", "outdated")
    op.drop_column("instances", "source")
    op.drop_table("instance_sources")
