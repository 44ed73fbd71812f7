"""Devices, registrations and fences."""

import sqlalchemy as sa
from alembic import op

revision = "registry_0001"
down_revision = None
branch_labels = ("registry",)
depends_on = "platform_0001"


def upgrade() -> None:
    op.create_table(
        "device",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("device_id", sa.String(40), primary_key=True),
        sa.Column("hardware_id", sa.String(255), nullable=False),
        sa.Column("display_name", sa.String(255), nullable=False),
        sa.Column("platform", sa.Integer, nullable=False),
        sa.Column("os_version", sa.String(255), nullable=False),
        sa.Column("client_version", sa.String(255), nullable=False),
        sa.Column("serial_number", sa.String(255), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("manufacturer", sa.String(255), nullable=False),
        sa.Column("create_time", sa.BigInteger),
    )
    op.create_index("device_by_hardware", "device", ["organization_id", "hardware_id"], unique=True)
    never = sa.text("create_time IS NULL")
    op.create_index(
        "device_never_enrolled",
        "device",
        ["organization_id", "device_id"],
        sqlite_where=never,
        postgresql_where=never,
    )
    op.create_table(
        "registration",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("registration_id", sa.String(40), primary_key=True),
        sa.Column("device_id", sa.String(40), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("key_type", sa.Integer, nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("deadline", sa.BigInteger, nullable=False),
        sa.Column("user_id", sa.String(40)),
        sa.Column("service_token_id", sa.String(40)),
        sa.Column("lease_id", sa.String(40), nullable=False),
        sa.Column("ipv4", sa.String(15), nullable=False),
        sa.Column("ipv6", sa.String(45), nullable=False),
        sa.Column("authenticate_time", sa.BigInteger, nullable=False),
        sa.Column("authorize_revision", sa.BigInteger, nullable=False),
        sa.Column("identity_token", sa.String(200), nullable=False),
        sa.Column("token_hash", sa.LargeBinary, nullable=False),
        sa.Column("create_time", sa.BigInteger),
        sa.Column("revoke_time", sa.BigInteger),
        sa.Column("end_time", sa.BigInteger),
    )
    live = "state IN ('PENDING', 'ACTIVE', 'REVOKED')"
    place = "state = 'ACTIVE' AND user_id IS NOT NULL"
    _partial("registration_key", ["public_key"], live, unique=True)
    _partial("registration_request", ["organization_id", "request_id"], live, unique=True)
    _partial("registration_place", ["organization_id", "device_id"], place, unique=True)
    op.create_index("registration_by_request", "registration", ["organization_id", "request_id"])
    op.create_index("registration_by_device", "registration", ["organization_id", "device_id"])
    op.create_index("registration_by_user", "registration", ["organization_id", "user_id"])
    op.create_index("registration_by_id", "registration", ["registration_id"])
    _partial("registration_pending", ["deadline"], "state = 'PENDING'")
    _partial("registration_ended", ["end_time"], "end_time IS NOT NULL")
    op.create_table(
        "fence",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("user_id", sa.String(40), primary_key=True),
        sa.Column("removed_revision", sa.BigInteger, nullable=False),
        sa.Column("revoked_revision", sa.BigInteger, nullable=False),
    )


def _partial(name: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    clause = sa.text(where)
    op.create_index(name, "registration", columns, unique=unique, sqlite_where=clause, postgresql_where=clause)
