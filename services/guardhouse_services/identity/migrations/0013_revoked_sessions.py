"""When the sessions of single registrations were revoked."""

import sqlalchemy as sa
from alembic import op

revision = "identity_0013"
down_revision = "identity_0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("authentication", sa.Column("revoked_revision", sa.BigInteger, nullable=False, server_default="0"))
