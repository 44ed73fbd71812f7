"""Settings of organizations that other services act on, and organizations that go."""

import sqlalchemy as sa
from alembic import op

revision = "identity_0011"
down_revision = "identity_0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("organization", sa.Column("delete_revoked_after", sa.BigInteger))
    # Windows, as in a new organization.
    op.add_column("organization", sa.Column("multi_user_platforms", sa.JSON, nullable=False, server_default="[1]"))
    op.create_table(
        "deleted_organization",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("delete_time", sa.BigInteger, nullable=False),
    )
