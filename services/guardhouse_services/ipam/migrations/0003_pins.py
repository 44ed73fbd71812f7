"""Pins, exclusions, and how long history is kept."""

import sqlalchemy as sa
from alembic import op

revision = "ipam_0003"
down_revision = "ipam_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pin",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("pin_id", sa.String(40), primary_key=True),
        sa.Column("first_ipv4", sa.BigInteger, nullable=False),
        sa.Column("last_ipv4", sa.BigInteger, nullable=False),
        sa.Column("device_id", sa.String(40)),
        sa.Column("holder_id", sa.String(40)),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
    )
    op.create_index("pin_first", "pin", ["organization_id", "first_ipv4"], unique=True)
    op.create_index("pin_holder", "pin", ["organization_id", "holder_id", "device_id"], unique=True)
    op.create_index("lease_holder", "lease", ["organization_id", "holder_id", "lease_id"])
    has_ended = sa.text("release_time IS NOT NULL")
    op.create_index("holding_ended", "holding", ["release_time"], postgresql_where=has_ended, sqlite_where=has_ended)
