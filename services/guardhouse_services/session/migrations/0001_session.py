"""Gateway policies."""

import sqlalchemy as sa
from alembic import op

revision = "session_0001"
down_revision = None
branch_labels = ("session",)
depends_on = "platform_0001"


def upgrade() -> None:
    op.create_table(
        "policy",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("policy_id", sa.String(40), primary_key=True),
        sa.Column("display_name", sa.String(100), nullable=False),
        sa.Column("description", sa.String(500), nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("filter", sa.SmallInteger, nullable=False),
        sa.Column("action", sa.SmallInteger, nullable=False),
        sa.Column("enforce", sa.Boolean),
        sa.Column("duration", sa.BigInteger),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
    )
