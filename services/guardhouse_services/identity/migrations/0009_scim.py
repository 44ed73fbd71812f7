"""SCIM."""

import sqlalchemy as sa
from alembic import op

revision = "identity_0009"
down_revision = "identity_0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("identity_provider", sa.Column("scim", sa.JSON))
    op.create_table(
        "scim_secret",
        sa.Column("identity_provider_id", sa.String(40), primary_key=True),
        sa.Column("organization_id", sa.String(40), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "scim_resource",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("identity_provider_id", sa.String(40), primary_key=True),
        sa.Column("resource_id", sa.String(40), primary_key=True),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("name_key", sa.String(255), nullable=False),
        sa.Column("external_id", sa.String(255)),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
        sa.Column("user_id", sa.String(40)),
    )
    of_provider = ["organization_id", "identity_provider_id"]
    op.create_index("scim_resource_by_name", "scim_resource", [*of_provider, "kind", "name_key"])
    users = sa.text("kind = 1")
    op.create_index(
        "scim_user_by_name",
        "scim_resource",
        [*of_provider, "name_key"],
        unique=True,
        sqlite_where=users,
        postgresql_where=users,
    )
    op.create_index("scim_resource_by_external_id", "scim_resource", [*of_provider, "kind", "external_id"], unique=True)
    op.create_index("scim_resource_by_user", "scim_resource", ["organization_id", "user_id"], unique=True)
    op.create_table(
        "scim_member",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("identity_provider_id", sa.String(40), primary_key=True),
        sa.Column("group_id", sa.String(40), primary_key=True),
        sa.Column("member_id", sa.String(40), primary_key=True),
        sa.Column("display", sa.String(255)),
    )
    op.create_index("scim_member_by_member", "scim_member", [*of_provider, "member_id"])
    op.create_table(
        "scim_event",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("identity_provider_id", sa.String(40), primary_key=True),
        sa.Column("scim_event_id", sa.String(40), primary_key=True),
        sa.Column("event_time", sa.BigInteger, nullable=False),
        sa.Column("method", sa.String(10), nullable=False),
        sa.Column("resource_type", sa.String(10), nullable=False),
        sa.Column("resource_id", sa.String(40), nullable=False),
        sa.Column("external_id", sa.String(255), nullable=False),
        sa.Column("user_id", sa.String(40), nullable=False),
        sa.Column("status", sa.SmallInteger, nullable=False),
        sa.Column("error", sa.String(300), nullable=False),
        sa.Column("held", sa.Boolean, nullable=False),
    )
    op.create_index("scim_event_by_time", "scim_event", ["event_time"])
