"""What devices said of their posture checks, since when, and when for the last time."""

import sqlalchemy as sa
from alembic import op

revision = "registry_0003"
down_revision = "registry_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("registration", sa.Column("posture", sa.JSON))
    op.add_column("registration", sa.Column("posture_change_time", sa.BigInteger))
    op.add_column("registration", sa.Column("posture_time", sa.BigInteger))
