"""More than one subnet of an organization, and the profiles that choose."""

import sqlalchemy as sa
from alembic import op

revision = "ipam_0002"
down_revision = "ipam_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("subnet", sa.Column("last_number", sa.Integer, nullable=False, server_default="0"))
    op.add_column("subnet", sa.Column("profiles_version", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("subnet", sa.Column("is_told", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("lease", sa.Column("subnet", sa.Integer, nullable=False, server_default="0"))
    op.add_column("lease", sa.Column("revoke_time", sa.BigInteger))
    is_resting = sa.text("rest_time IS NOT NULL")
    op.create_index(
        "lease_rested",
        "lease",
        ["organization_id", "subnet", "rest_time"],
        postgresql_where=is_resting,
        sqlite_where=is_resting,
    )
    is_reserved = sa.text("state = 'RESERVED'")
    op.create_index(
        "lease_reserved",
        "lease",
        ["organization_id", "subnet"],
        postgresql_where=is_reserved,
        sqlite_where=is_reserved,
    )
    op.create_table(
        "pool",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("subnet_id", sa.String(40), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("display_name", sa.String(100), nullable=False),
        sa.Column("description", sa.String(500), nullable=False),
        sa.Column("ipv4", sa.String(18), nullable=False),
        sa.Column("is_default", sa.Boolean, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
        sa.Column("next_ipv4", sa.BigInteger, nullable=False),
        sa.Column("rested_time", sa.BigInteger, nullable=False),
        sa.Column("held", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger, nullable=False),
    )
    op.create_index("pool_by_number", "pool", ["organization_id", "number"], unique=True)
    is_default = sa.text("is_default")
    op.create_index(
        "pool_default",
        "pool",
        ["organization_id"],
        unique=True,
        postgresql_where=is_default,
        sqlite_where=is_default,
    )
    op.create_table(
        "pool_usage",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("subnet_id", sa.String(40), primary_key=True),
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("held", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "ip_profile",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("ip_profile_id", sa.String(40), primary_key=True),
        sa.Column("display_name", sa.String(100), nullable=False),
        sa.Column("description", sa.String(500), nullable=False),
        sa.Column("expression", sa.Text, nullable=False),
        sa.Column("precedence", sa.Integer, nullable=False),
        sa.Column("subnet_id", sa.String(40), nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
    )
    op.create_index("ip_profile_by_precedence", "ip_profile", ["organization_id", "precedence"], unique=True)
