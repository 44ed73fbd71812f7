"""Finding people by their e-mail addresses."""

from alembic import op

revision = "registry_0009"
down_revision = "registry_0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("person_by_email", "person", ["organization_id", "email"])
