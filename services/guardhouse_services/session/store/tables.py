"""The tables of session. Every key begins with the organization."""

import sqlalchemy as sa

metadata = sa.MetaData()

policy = sa.Table(
    "policy",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("policy_id", sa.String(40), primary_key=True),
    sa.Column("display_name", sa.String(100), nullable=False),
    sa.Column("description", sa.String(500), nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("filter", sa.SmallInteger, nullable=False),
    sa.Column("action", sa.SmallInteger, nullable=False),
    # Null: the policy has no check_session.
    sa.Column("enforce", sa.Boolean),
    sa.Column("duration", sa.BigInteger),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("update_time", sa.BigInteger, nullable=False),
    # Null: the policy has no staleness.
    sa.Column("staleness_mode", sa.SmallInteger),
    sa.Column("max_open", sa.BigInteger),
    # Null, as all that follow may be: it was written by a release that had none.
    sa.Column("precedence", sa.Integer),
    sa.Column("traffic", sa.Text),
    sa.Column("identity", sa.Text),
    sa.Column("device_posture", sa.Text),
    # The time zone, and the seven days from monday.
    sa.Column("schedule", sa.JSON(none_as_null=True)),
    sa.Column("expire_time", sa.BigInteger),
    # The names of the lists that its expressions use.
    sa.Column("lists", sa.JSON(none_as_null=True)),
)

value_list = sa.Table(
    "value_list",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("list_id", sa.String(40), primary_key=True),
    sa.Column("name", sa.String(50), nullable=False),
    sa.Column("description", sa.String(500), nullable=False),
    sa.Column("type", sa.SmallInteger, nullable=False),
    sa.Column("value_count", sa.Integer, nullable=False),
    # By itself at the end: 5000 values are read only where they are wanted.
    sa.Column("values", sa.JSON, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("update_time", sa.BigInteger, nullable=False),
)
"""Named lists. `list` is a word of SQL."""

list_by_name = sa.Index("value_list_by_name", value_list.c.organization_id, value_list.c.name, unique=True)

application = sa.Table(
    "application",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("application_id", sa.String(40), primary_key=True),
    sa.Column("display_name", sa.String(100), nullable=False),
    sa.Column("description", sa.String(500), nullable=False),
    sa.Column("session_duration", sa.BigInteger, nullable=False),
    sa.Column("identity_provider_ids", sa.JSON, nullable=False),
    sa.Column("binding_cookie", sa.Boolean, nullable=False),
    # Null: as the settings say.
    sa.Column("device_session", sa.Boolean),
    # They are only ever read and written together, in the application's order.
    sa.Column("policies", sa.JSON, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("update_time", sa.BigInteger, nullable=False),
)

device_session_settings = sa.Table(
    "device_session_settings",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    # Null: no application takes the sessions of devices.
    sa.Column("session_duration", sa.BigInteger),
    sa.Column("apply_by_default", sa.Boolean, nullable=False),
    sa.Column("update_time", sa.BigInteger, nullable=False),
)
"""No row: nobody has set them."""

signing_key = sa.Table(
    "signing_key",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("key_id", sa.String(40), primary_key=True),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("sign_time", sa.BigInteger, nullable=False),
    # Null: until the next one is made.
    sa.Column("expire_time", sa.BigInteger),
)
"""What is public of the keys that application tokens are signed with. The private halves are derived, not stored."""
