"""What else devices say of themselves, their tags, and orders of lists."""

import sqlalchemy as sa
from alembic import op

revision = "registry_0006"
down_revision = "registry_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("mac_address", "os_version_extra"):
        op.add_column("device", sa.Column(name, sa.String(255), nullable=False, server_default=""))
    op.add_column("device", sa.Column("tags", sa.JSON))
    op.add_column("device", sa.Column("update_time", sa.BigInteger))
    op.add_column("registration", sa.Column("update_time", sa.BigInteger))
    # SQLite compares text by its bytes, and PostgreSQL when it is told to.
    collation = ' COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else ""
    enrolled = sa.text("create_time IS NOT NULL")
    for name, column in (("name", "display_name"), ("version", "client_version")):
        op.create_index(
            f"device_by_{name}",
            "device",
            ["organization_id", sa.text(f"{column}{collation}"), "device_id"],
            sqlite_where=enrolled,
            postgresql_where=enrolled,
        )
