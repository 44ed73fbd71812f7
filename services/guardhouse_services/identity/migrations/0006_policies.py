"""Enrollment policies complete."""

import sqlalchemy as sa
from alembic import op

revision = "identity_0006"
down_revision = "identity_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rule_group",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("rule_group_id", sa.String(40), primary_key=True),
        sa.Column("display_name", sa.String(100), nullable=False),
        sa.Column("include", sa.JSON, nullable=False),
        sa.Column("require", sa.JSON, nullable=False),
        sa.Column("exclude", sa.JSON, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "policy_rule_group",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("rule_group_id", sa.String(40), primary_key=True),
        sa.Column("enrollment_policy_id", sa.String(40), primary_key=True),
        sa.ForeignKeyConstraint(
            ["organization_id", "rule_group_id"],
            ["rule_group.organization_id", "rule_group.rule_group_id"],
            name="policy_rule_group_rule_group",
        ),
    )
    policy = ["organization_id", "enrollment_policy_id", "registration_id"]
    op.create_index("registration_by_policy", "registration", policy)
