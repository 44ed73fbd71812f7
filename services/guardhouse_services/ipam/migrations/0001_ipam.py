"""The tables of ipam."""

import sqlalchemy as sa
from alembic import op

revision = "ipam_0001"
down_revision = None
branch_labels = ("ipam",)
depends_on = "platform_0001"


def upgrade() -> None:
    op.create_table(
        "subnet",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("ipv4", sa.String(18), nullable=False),
        sa.Column("ipv6", sa.String(43), nullable=False),
        sa.Column("next_ipv4", sa.BigInteger, nullable=False),
        sa.Column("rested_time", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "lease",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("ipv4", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("ipv6", sa.String(39), nullable=False),
        sa.Column("lease_id", sa.String(40), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("registration_id", sa.String(40)),
        sa.Column("device_id", sa.String(40), nullable=False),
        sa.Column("holder_id", sa.String(40), nullable=False),
        sa.Column("reserve_time", sa.BigInteger, nullable=False),
        sa.Column("ask_time", sa.BigInteger),
        sa.Column("hold_time", sa.BigInteger),
        sa.Column("claim_id", sa.String(40)),
        sa.Column("claim_time", sa.BigInteger),
        sa.Column("release_time", sa.BigInteger),
        sa.Column("rest_time", sa.BigInteger),
    )
    op.create_index("lease_ipv6", "lease", ["organization_id", "ipv6"], unique=True)
    op.create_index("lease_id", "lease", ["organization_id", "lease_id"], unique=True)
    op.create_index("lease_registration", "lease", ["organization_id", "registration_id", "state"], unique=True)
    op.create_index("lease_device", "lease", ["organization_id", "device_id", "holder_id"])
    is_claimed = sa.text("claim_id IS NOT NULL")
    op.create_index(
        "lease_claim",
        "lease",
        ["organization_id", "claim_id"],
        postgresql_where=is_claimed,
        sqlite_where=is_claimed,
    )
    is_resting = sa.text("rest_time IS NOT NULL")
    op.create_index(
        "lease_resting",
        "lease",
        ["organization_id", "rest_time"],
        postgresql_where=is_resting,
        sqlite_where=is_resting,
    )
    is_asking = sa.text("ask_time IS NOT NULL")
    op.create_index("lease_asking", "lease", ["ask_time"], postgresql_where=is_asking, sqlite_where=is_asking)
    op.create_table(
        "holding",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("lease_id", sa.String(40), primary_key=True),
        sa.Column("registration_id", sa.String(40), primary_key=True),
        sa.Column("device_id", sa.String(40), nullable=False),
        sa.Column("holder_id", sa.String(40), nullable=False),
        sa.Column("ipv4", sa.BigInteger, nullable=False),
        sa.Column("ipv6", sa.String(39), nullable=False),
        sa.Column("hold_time", sa.BigInteger, nullable=False),
        sa.Column("release_time", sa.BigInteger),
    )
    op.create_index("holding_by_address", "holding", ["organization_id", "ipv4", "hold_time"])
    is_held = sa.text("release_time IS NULL")
    op.create_index(
        "holding_now",
        "holding",
        ["organization_id", "lease_id"],
        unique=True,
        postgresql_where=is_held,
        sqlite_where=is_held,
    )
    op.create_table(
        "tombstone",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("intent_id", sa.String(40), primary_key=True),
        sa.Column("bury_time", sa.BigInteger, nullable=False),
    )
    op.create_index("tombstone_by_time", "tombstone", ["organization_id", "bury_time"])
