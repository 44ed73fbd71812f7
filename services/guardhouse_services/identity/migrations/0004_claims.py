"""Which claims of a provider's ID tokens are kept, and what they said of people and of those who are enrolling."""

import sqlalchemy as sa
from alembic import op

revision = "identity_0004"
down_revision = "identity_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("identity_provider", "users", "intent"):
        op.add_column(table, sa.Column("oidc_claims", sa.JSON, nullable=False, server_default="[]"))
