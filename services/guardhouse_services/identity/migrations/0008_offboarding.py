"""Off-boarding, erasing, and actions that wait for approval."""

import sqlalchemy as sa
from alembic import op

revision = "identity_0008"
down_revision = "identity_0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("users", sa.Column("block_time", sa.BigInteger))
    op.create_table(
        "automatic_action",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("user_id", sa.String(40), primary_key=True),
        sa.Column("action_time", sa.BigInteger, nullable=False),
        sa.Column("frees_seat", sa.Boolean, nullable=False),
    )
    op.create_index("automatic_action_by_time", "automatic_action", ["action_time"])
    op.create_table(
        "held_action",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("held_action_id", sa.String(40), primary_key=True),
        sa.Column("source", sa.String(100), nullable=False),
        sa.Column("effect", sa.SmallInteger, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("decide_time", sa.BigInteger),
    )
    op.create_index("held_action_by_state", "held_action", ["state", "decide_time"])
    op.create_table(
        "held_user",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("held_action_id", sa.String(40), primary_key=True),
        sa.Column("user_id", sa.String(40), primary_key=True),
        sa.Column("hold_time", sa.BigInteger, nullable=False),
        sa.Column("done_time", sa.BigInteger),
        sa.Column("removal_id", sa.String(40), nullable=False),
    )
