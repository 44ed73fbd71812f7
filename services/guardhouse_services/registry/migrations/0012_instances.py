"""Which process speaks under a gateway's name, and whether there are several."""

import sqlalchemy as sa
from alembic import op

revision = "registry_0012"
down_revision = "registry_0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("gateway", sa.Column("instance", sa.String(64), nullable=False, server_default=""))
    op.add_column("gateway", sa.Column("former", sa.JSON, nullable=False, server_default="[]"))
    op.add_column("gateway", sa.Column("shared_time", sa.BigInteger, nullable=False, server_default="0"))
