"""Registrations that expire when nothing is heard of them."""

import sqlalchemy as sa
from alembic import op

revision = "identity_0012"
down_revision = "identity_0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("service_token", sa.Column("expire_registrations_after", sa.BigInteger))
    op.add_column("intent", sa.Column("expire_after", sa.BigInteger))
