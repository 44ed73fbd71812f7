"""What else devices say of themselves, their tags, and orders of lists."""

revision = "registry_0006"
down_revision = "registry_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""
