"""What becomes of traffic that no policy covers, and providers that must have people sign in anew."""

import sqlalchemy as sa
from alembic import op

revision = "identity_0003"
down_revision = "identity_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("organization", sa.Column("default_action", sa.SmallInteger, nullable=False, server_default="1"))
    op.add_column(
        "identity_provider", sa.Column("force_interaction", sa.Boolean, nullable=False, server_default=sa.false())
    )
    op.add_column("identity_provider", sa.Column("update_time", sa.BigInteger, nullable=False, server_default="0"))
