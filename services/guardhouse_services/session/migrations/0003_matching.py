"""What policies match, and named lists."""

import sqlalchemy as sa
from alembic import op

revision = "session_0003"
down_revision = "session_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("precedence", sa.Integer),
        sa.Column("traffic", sa.Text),
        sa.Column("identity", sa.Text),
        sa.Column("device_posture", sa.Text),
        sa.Column("schedule", sa.JSON(none_as_null=True)),
        sa.Column("expire_time", sa.BigInteger),
        sa.Column("lists", sa.JSON(none_as_null=True)),
    ):
        op.add_column("policy", column)
    op.create_table(
        "value_list",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("list_id", sa.String(40), primary_key=True),
        sa.Column("name", sa.String(50), nullable=False),
        sa.Column("description", sa.String(500), nullable=False),
        sa.Column("type", sa.SmallInteger, nullable=False),
        sa.Column("value_count", sa.Integer, nullable=False),
        sa.Column("values", sa.JSON, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
    )
    op.create_index("value_list_by_name", "value_list", ["organization_id", "name"], unique=True)
