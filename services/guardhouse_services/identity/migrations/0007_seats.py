"""The seat ledger and expiration."""

import sqlalchemy as sa
from alembic import op

revision = "identity_0007"
down_revision = "identity_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("organization", sa.Column("seat_expiration", sa.BigInteger))
    for column in (
        sa.Column("seat_event", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("seat_event_id", sa.String(64), nullable=False, server_default=""),
        sa.Column("access_seat", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("gateway_seat", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("seen_time", sa.BigInteger),
    ):
        op.add_column("users", column)
    held = sa.text("seat_time IS NOT NULL")
    for name, columns in (
        ("user_with_seat", ["organization_id", "user_id"]),
        ("user_by_seat_time", ["organization_id", "seat_time"]),
    ):
        op.create_index(name, "users", columns, sqlite_where=held, postgresql_where=held)
    op.create_table(
        "freed_seat",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("user_id", sa.String(40), primary_key=True),
        sa.Column("take_time", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("free_time", sa.BigInteger, nullable=False),
        sa.Column("seat_event", sa.SmallInteger, nullable=False),
        sa.Column("seat_event_id", sa.String(64), nullable=False),
        sa.Column("cause", sa.SmallInteger, nullable=False),
        sa.Column("removal_id", sa.String(40), nullable=False),
    )
    op.create_index("freed_seat_by_free_time", "freed_seat", ["organization_id", "free_time"])
    op.create_table(
        "seat_activity",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("watermark_time", sa.BigInteger),
        sa.Column("sweep_time", sa.BigInteger),
    )
