"""The tables that every service's database has: history, feed, followers, requests, leases."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "platform_0001"
down_revision = None
branch_labels = ("platform",)
depends_on = None


def upgrade() -> None:
    epoch = op.create_table("epoch", sa.Column("epoch", sa.String(32), primary_key=True))
    op.bulk_insert(epoch, [{"epoch": uuid.uuid4().hex}])
    op.create_table(
        "head",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("compacted", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "change",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("change_time", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "applied",
        sa.Column("source", sa.String(16), primary_key=True),
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("epoch", sa.String(32), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "request",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("caller", sa.String(100), primary_key=True),
        sa.Column("method", sa.String(100), primary_key=True),
        sa.Column("request_id", sa.String(64), primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("result", sa.JSON, nullable=False),
        sa.Column("request_time", sa.BigInteger, nullable=False),
    )
    op.create_index("request_by_time", "request", ["request_time"])
    op.create_table(
        "job_lease",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("expire_time", sa.BigInteger, nullable=False),
    )
