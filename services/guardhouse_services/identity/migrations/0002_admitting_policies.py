"""Which enrollment policy admitted a registration. Of those from before, nobody remembers it."""

import sqlalchemy as sa
from alembic import op

revision = "identity_0002"
down_revision = "identity_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    admitted = sa.Column("enrollment_policy_id", sa.String(40), nullable=False, server_default="")
    op.add_column("registration", admitted)
