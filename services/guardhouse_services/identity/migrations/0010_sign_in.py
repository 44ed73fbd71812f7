"""Signing in at a terminal."""

import sqlalchemy as sa
from alembic import op

revision = "identity_0010"
down_revision = "identity_0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("organization", sa.Column("device_flow", sa.Boolean, nullable=False, server_default=sa.false()))
