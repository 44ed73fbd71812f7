"""Shared devices: for whom a registration is, which is current, and who had the device when."""

import sqlalchemy as sa
from alembic import op

revision = "registry_0005"
down_revision = "registry_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("registration", sa.Column("os_user", sa.String(255)))
    op.add_column("registration", sa.Column("is_current", sa.Boolean))
    # registration_place allows a device one active registration of a user. What takes its place allows no less, so the
    # release before keeps it without knowing: the one is the same outside multi-user mode, where all its registrations
    # are, so it is still kept from what it must not do; the other has a column more.
    _place("registration_exclusive", ["organization_id", "device_id"], " AND os_user IS NULL")
    _place("registration_place_of_user", ["organization_id", "device_id", "user_id"], "")
    op.drop_index("registration_place", "registration")
    _partial("registration_current", "registration", ["organization_id", "device_id"], "is_current")
    op.create_table(
        "os_session",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("device_id", sa.String(40), primary_key=True),
        sa.Column("begin_time", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("end_time", sa.BigInteger),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("os_user", sa.String(255), nullable=False),
        sa.Column("at_login_screen", sa.Boolean, nullable=False),
        sa.Column("registration_id", sa.String(40)),
        sa.Column("user_id", sa.String(40)),
        sa.Column("service_token_id", sa.String(40)),
    )
    _partial("os_session_open", "os_session", ["organization_id", "device_id"], "end_time IS NULL")
    _partial("os_session_ended", "os_session", ["end_time"], "end_time IS NOT NULL", unique=False)


def _place(name: str, columns: list[str], more: str) -> None:
    _partial(name, "registration", columns, f"state = 'ACTIVE' AND user_id IS NOT NULL{more}")


def _partial(name: str, table: str, columns: list[str], where: str, *, unique: bool = True) -> None:
    clause = sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=clause, postgresql_where=clause)
