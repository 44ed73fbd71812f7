"""Settings of organizations that other services act on, and organizations that go."""

revision = "identity_0011"
down_revision = "identity_0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""
