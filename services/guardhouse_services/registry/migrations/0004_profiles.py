"""Device profiles, and what is known of the people whom they match."""

revision = "registry_0004"
down_revision = "registry_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""
