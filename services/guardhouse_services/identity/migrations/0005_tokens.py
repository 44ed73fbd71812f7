"""Service tokens complete, what providers are asked for, and how people proved who they are.

A provider that was there before is fetched from as it was: from wherever its documents say.
"""

import sqlalchemy as sa
from alembic import op

revision = "identity_0005"
down_revision = "identity_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("service_token", sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("service_token", sa.Column("last_seen_time", sa.BigInteger))
    op.add_column("service_token", sa.Column("previous_secret_hash", sa.LargeBinary))
    op.add_column("service_token", sa.Column("previous_secret_expire_time", sa.BigInteger))
    op.add_column("service_token", sa.Column("update_time", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("service_token", sa.Column("secret_version", sa.BigInteger, nullable=False, server_default="1"))
    provider = "identity_provider"
    op.add_column(provider, sa.Column("groups_claim", sa.String(200), nullable=False, server_default="groups"))
    op.add_column(provider, sa.Column("allow_unverified_email", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column(provider, sa.Column("allow_private_addresses", sa.Boolean, nullable=False, server_default=sa.true()))
    op.add_column(provider, sa.Column("jwks_host", sa.String(255), nullable=False, server_default=""))
    for table in ("users", "intent"):
        op.add_column(table, sa.Column("methods", sa.JSON, nullable=False, server_default="[]"))
