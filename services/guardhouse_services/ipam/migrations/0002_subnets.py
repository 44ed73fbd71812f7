"""More than one subnet of an organization, and the profiles that choose."""

revision = "ipam_0002"
down_revision = "ipam_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""
