"""Pins, exclusions, and how long history is kept."""

revision = "ipam_0003"
down_revision = "ipam_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""
