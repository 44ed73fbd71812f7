"""Access applications, the sessions of devices that they take, and the keys of their tokens."""

import sqlalchemy as sa
from alembic import op

revision = "session_0004"
down_revision = "session_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "application",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("application_id", sa.String(40), primary_key=True),
        sa.Column("display_name", sa.String(100), nullable=False),
        sa.Column("description", sa.String(500), nullable=False),
        sa.Column("session_duration", sa.BigInteger, nullable=False),
        sa.Column("identity_provider_ids", sa.JSON, nullable=False),
        sa.Column("binding_cookie", sa.Boolean, nullable=False),
        sa.Column("device_session", sa.Boolean),
        sa.Column("policies", sa.JSON, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "device_session_settings",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("session_duration", sa.BigInteger),
        sa.Column("apply_by_default", sa.Boolean, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "signing_key",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("key_id", sa.String(40), primary_key=True),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("sign_time", sa.BigInteger, nullable=False),
        sa.Column("expire_time", sa.BigInteger),
    )
