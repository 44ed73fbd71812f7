"""What a subnet had held on days that are long over is found, to be forgotten."""

from alembic import op

revision = "ipam_0004"
down_revision = "ipam_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("pool_usage_by_day", "pool_usage", ["day"])
