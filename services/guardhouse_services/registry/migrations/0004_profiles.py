"""Device profiles, and what is known of the people whom they match."""

import sqlalchemy as sa
from alembic import op

revision = "registry_0004"
down_revision = "registry_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "device_profile",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("device_profile_id", sa.String(40), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("description", sa.String(500), nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("precedence", sa.Integer),
        sa.Column("match", sa.Text, nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("settings_etag", sa.String(16), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
    )
    op.create_index("device_profile_by_precedence", "device_profile", ["organization_id", "precedence"], unique=True)
    op.create_table(
        "person",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("user_id", sa.String(40), primary_key=True),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("groups", sa.JSON, nullable=False),
        sa.Column("claims", sa.JSON, nullable=False),
    )
    op.create_table(
        "profile_matching",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("request_time", sa.BigInteger, nullable=False),
        sa.Column("end_time", sa.BigInteger),
        sa.Column("after_registration_id", sa.String(40), nullable=False),
        sa.Column("checked", sa.BigInteger, nullable=False),
        sa.Column("moved", sa.BigInteger, nullable=False),
    )
    _partial("profile_matching_under_way", "profile_matching", ["organization_id"], "end_time IS NULL")
    for column in (
        # Empty: the default profile.
        sa.Column("device_profile_id", sa.String(40), nullable=False, server_default=""),
        sa.Column("device_profile_time", sa.BigInteger),
        sa.Column("network", sa.String(100), nullable=False, server_default=""),
        sa.Column("managed", sa.Boolean, nullable=False, server_default=sa.false()),
    ):
        op.add_column("registration", column)
    scope, listed = ["organization_id", "device_profile_id", "state"], "state IN ('ACTIVE', 'REVOKED')"
    activity = sa.text("coalesce(seen_time, create_time)")
    for name, value in (("create", "create_time"), ("activity", activity)):
        _partial(f"registration_profile_by_{name}", "registration", [*scope, value, "registration_id"], listed)


def _partial(name: str, table: str, columns: "list[str | sa.TextClause]", where: str) -> None:
    clause = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=clause, postgresql_where=clause)
