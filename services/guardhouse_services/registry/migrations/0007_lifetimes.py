"""Registrations that end by themselves, the breaker, and former keys."""

import sqlalchemy as sa
from alembic import op

revision = "registry_0007"
down_revision = "registry_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("registration", sa.Column("expire_after", sa.BigInteger))
    columns: list[str | sa.TextClause] = ["organization_id", "revoke_time", "registration_id"]
    _partial("registration_by_revocation", columns, "state = 'REVOKED'")
    columns = ["organization_id", sa.text("(coalesce(seen_time, create_time) + expire_after)"), "registration_id"]
    _partial("registration_by_expiry", columns, "state IN ('ACTIVE', 'REVOKED') AND expire_after IS NOT NULL")
    op.create_table(
        "former_key",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("registration_id", sa.String(40), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("key_type", sa.Integer, nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("begin_time", sa.BigInteger, nullable=False),
        sa.Column("end_time", sa.BigInteger, nullable=False),
    )
    op.create_index("former_key_by_key", "former_key", ["public_key"])
    op.create_table("breaker", sa.Column("organization_id", sa.String(40), primary_key=True))
    op.create_table(
        "automatic_action",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("registration_id", sa.String(40), primary_key=True),
        sa.Column("action_time", sa.BigInteger, nullable=False),
    )
    op.create_index("automatic_action_by_time", "automatic_action", ["action_time"])
    op.create_table(
        "held_action",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("held_action_id", sa.String(40), primary_key=True),
        sa.Column("source", sa.String(100), nullable=False),
        sa.Column("effect", sa.SmallInteger, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("decide_time", sa.BigInteger),
    )
    op.create_index("held_action_by_state", "held_action", ["state", "decide_time"])
    op.create_table(
        "held_registration",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("held_action_id", sa.String(40), primary_key=True),
        sa.Column("registration_id", sa.String(40), primary_key=True),
        sa.Column("hold_time", sa.BigInteger, nullable=False),
        sa.Column("done_time", sa.BigInteger),
    )


def _partial(name: str, columns: list[str | sa.TextClause], where: str) -> None:
    clause = sa.text(where)
    op.create_index(name, "registration", columns, sqlite_where=clause, postgresql_where=clause)
