"""When SCIM said last which groups a user is in."""

import sqlalchemy as sa
from alembic import op

revision = "identity_0014"
down_revision = "identity_0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("users", sa.Column("groups_time", sa.BigInteger))
