"""The tables of identity."""

import sqlalchemy as sa
from alembic import op

revision = "identity_0001"
down_revision = None
branch_labels = ("identity",)
depends_on = "platform_0001"


def upgrade() -> None:
    op.create_table(
        "organization",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("display_name", sa.String(100), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "seat_pool",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("purchased", sa.BigInteger),
        sa.Column("used", sa.BigInteger, nullable=False),
        sa.CheckConstraint("used >= 0 AND (purchased IS NULL OR used <= purchased)", name="seat_pool_bounds"),
    )
    op.create_table(
        "api_key",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("api_key_id", sa.String(40), primary_key=True),
        sa.Column("display_name", sa.String(100), nullable=False),
        sa.Column("role", sa.SmallInteger, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("expire_time", sa.BigInteger),
        sa.Column("revoke_time", sa.BigInteger),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "identity_provider",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("identity_provider_id", sa.String(40), primary_key=True),
        sa.Column("display_name", sa.String(100), nullable=False),
        sa.Column("issuer", sa.String(255), nullable=False),
        sa.Column("client_ids", sa.JSON, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("organization_id", "issuer", name="provider_by_issuer"),
    )
    op.create_table(
        "service_token",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("service_token_id", sa.String(40), primary_key=True),
        sa.Column("display_name", sa.String(100), nullable=False),
        sa.Column("client_id", sa.String(40), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("expire_time", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("organization_id", "client_id", name="service_token_by_client"),
    )
    op.create_table(
        "enrollment_policy",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("enrollment_policy_id", sa.String(40), primary_key=True),
        sa.Column("display_name", sa.String(100), nullable=False),
        sa.Column("decision", sa.SmallInteger, nullable=False),
        sa.Column("precedence", sa.Integer, nullable=False),
        sa.Column("include", sa.JSON, nullable=False),
        sa.Column("require", sa.JSON, nullable=False),
        sa.Column("exclude", sa.JSON, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("organization_id", "precedence", name="policy_by_precedence"),
    )
    op.create_table(
        "policy_token",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("service_token_id", sa.String(40), primary_key=True),
        sa.Column("enrollment_policy_id", sa.String(40), primary_key=True),
        sa.ForeignKeyConstraint(
            ["organization_id", "service_token_id"],
            ["service_token.organization_id", "service_token.service_token_id"],
            name="policy_token_service_token",
        ),
    )
    op.create_table(
        "users",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("user_id", sa.String(40), primary_key=True),
        sa.Column("issuer", sa.String(255), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("email_key", sa.String(254), nullable=False),
        sa.Column("display_name", sa.String(1024), nullable=False),
        sa.Column("groups", sa.JSON, nullable=False),
        sa.Column("create_time", sa.BigInteger),
        sa.Column("authenticate_time", sa.BigInteger),
        sa.Column("seat_time", sa.BigInteger),
        sa.Column("removed_revision", sa.BigInteger, nullable=False),
        sa.Column("revoked_revision", sa.BigInteger, nullable=False),
        sa.Column("registrations_revoked_revision", sa.BigInteger, nullable=False),
        sa.Column("removal_id", sa.String(40), nullable=False),
        sa.UniqueConstraint("organization_id", "issuer", "subject", name="user_by_subject"),
    )
    op.create_index("user_by_email", "users", ["organization_id", "email_key"])
    op.create_table(
        "used_token",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("token_hash", sa.LargeBinary, primary_key=True),
        sa.Column("use", sa.String(200), nullable=False),
        sa.Column("use_time", sa.BigInteger, nullable=False),
    )
    op.create_index("used_token_by_time", "used_token", ["use_time"])
    op.create_table(
        "intent",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("intent_id", sa.String(40), primary_key=True),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("user_id", sa.String(40), nullable=False),
        sa.Column("service_token_id", sa.String(40), nullable=False),
        sa.Column("enrollment_policy_id", sa.String(40), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("display_name", sa.String(1024), nullable=False),
        sa.Column("groups", sa.JSON, nullable=False),
        sa.Column("authenticate_time", sa.BigInteger, nullable=False),
        sa.Column("authorize_revision", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("ask_time", sa.BigInteger),
        sa.Column("end_time", sa.BigInteger),
    )
    op.create_index("intent_by_user", "intent", ["organization_id", "user_id"])
    op.create_index("intent_by_ask_time", "intent", ["ask_time"])
    op.create_index("intent_by_end_time", "intent", ["end_time"])
    op.create_table(
        "registration",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("registration_id", sa.String(40), primary_key=True),
        sa.Column("user_id", sa.String(40), nullable=False),
        sa.Column("service_token_id", sa.String(40), nullable=False),
        sa.Column("authorize_revision", sa.BigInteger, nullable=False),
        sa.Column("authenticate_time", sa.BigInteger, nullable=False),
        sa.Column("lease_id", sa.String(40), nullable=False),
        sa.Column("delete_time", sa.BigInteger),
        sa.Column("release_time", sa.BigInteger),
    )
    op.create_index("registration_by_user", "registration", ["organization_id", "user_id"])
    op.create_index("registration_by_lease", "registration", ["organization_id", "lease_id"])
    op.create_index("registration_by_delete_time", "registration", ["delete_time"])
    op.create_index("registration_by_release_time", "registration", ["release_time"])
    op.create_table(
        "authentication",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("registration_id", sa.String(40), primary_key=True),
        sa.Column("authenticate_time", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "removal",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("removal_id", sa.String(40), primary_key=True),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("users", sa.BigInteger, nullable=False),
        sa.Column("seats_freed", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "removal_item",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("removal_id", sa.String(40), primary_key=True),
        sa.Column("registration_id", sa.String(40), primary_key=True),
    )
    op.create_index("removal_item_by_registration", "removal_item", ["organization_id", "registration_id"])
