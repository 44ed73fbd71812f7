"""When devices and registrations were last heard of, and what lists go by."""

import sqlalchemy as sa
from alembic import op

revision = "registry_0002"
down_revision = "registry_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("device", sa.Column("enroll_time", sa.BigInteger))
    op.add_column("device", sa.Column("seen_time", sa.BigInteger))
    op.add_column("registration", sa.Column("seen_time", sa.BigInteger))
    enrolled = "create_time IS NOT NULL"
    activity = sa.text("coalesce(seen_time, enroll_time, create_time)")
    _partial("device_by_create", "device", ["organization_id", "create_time", "device_id"], enrolled)
    _partial("device_by_activity", "device", ["organization_id", activity, "device_id"], enrolled)
    listed = "state IN ('ACTIVE', 'REVOKED')"
    activity = sa.text("coalesce(seen_time, create_time)")
    for name, scope, shown in (
        ("registration", ["organization_id"], listed),
        (
            "registration_token",
            ["organization_id", "service_token_id"],
            f"{listed} AND service_token_id IS NOT NULL",
        ),
    ):
        _partial(f"{name}_by_create", "registration", [*scope, "state", "create_time", "registration_id"], shown)
        _partial(f"{name}_by_activity", "registration", [*scope, "state", activity, "registration_id"], shown)


def _partial(name: str, table: str, columns: "list[str | sa.TextClause]", where: str) -> None:
    clause = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=clause, postgresql_where=clause)
