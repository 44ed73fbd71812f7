"""What a policy decides by state that is too old."""

import sqlalchemy as sa
from alembic import op

revision = "session_0002"
down_revision = "session_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("policy", sa.Column("staleness_mode", sa.SmallInteger))
    op.add_column("policy", sa.Column("max_open", sa.BigInteger))
