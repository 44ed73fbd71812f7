"""Which registration of a shared device is the current one, and which was."""

revision = "registry_0005"
down_revision = "registry_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""
