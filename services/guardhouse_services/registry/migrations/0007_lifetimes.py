"""Registrations that end by themselves, the breaker, override codes and former keys."""

revision = "registry_0007"
down_revision = "registry_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""
