"""The tables of ipam."""

import sqlalchemy as sa

from guardhouse_services.ipam.domain.leases import State

metadata = sa.MetaData()

space = sa.Table(
    # It is called as it was when an organization had one subnet. A release that knows no other goes on from this row,
    # so where the first subnet stands is here.
    "subnet",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("ipv4", sa.String(18), nullable=False),
    sa.Column("ipv6", sa.String(43), nullable=False),
    sa.Column("next_ipv4", sa.BigInteger, nullable=False),
    sa.Column("rested_time", sa.BigInteger, nullable=False),
    sa.Column("last_number", sa.Integer, nullable=False, server_default="0"),
    sa.Column("profiles_version", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("is_told", sa.Boolean, nullable=False, server_default=sa.false()),
)
"""One row for each organization that ever used an address. Whoever changes what it has locks it first."""

subnet = sa.Table(
    "pool",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("subnet_id", sa.String(40), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("display_name", sa.String(100), nullable=False),
    sa.Column("description", sa.String(500), nullable=False),
    sa.Column("ipv4", sa.String(18), nullable=False),
    sa.Column("is_default", sa.Boolean, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("update_time", sa.BigInteger, nullable=False),
    sa.Column("next_ipv4", sa.BigInteger, nullable=False),
    sa.Column("rested_time", sa.BigInteger, nullable=False),
    sa.Column("held", sa.BigInteger, nullable=False),
    sa.Column("revoked", sa.BigInteger, nullable=False),
    sa.Index("pool_by_number", "organization_id", "number", unique=True),
)
"""One row for each subnet. What the first one's says of where it stands is not kept up to date: see `space`."""

subnet_default = sa.Index(
    "pool_default",
    subnet.c.organization_id,
    unique=True,
    postgresql_where=subnet.c.is_default,
    sqlite_where=subnet.c.is_default,
)

usage = sa.Table(
    "pool_usage",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("subnet_id", sa.String(40), primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("held", sa.BigInteger, nullable=False),
    # For a job, so it is one of the few indexes that do not begin with the organization.
    sa.Index("pool_usage_by_day", "day"),
)
"""How many pairs were held at the end of each day on which that changed. A day is one of UTC since the Unix epoch."""

ip_profile = sa.Table(
    "ip_profile",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("ip_profile_id", sa.String(40), primary_key=True),
    sa.Column("display_name", sa.String(100), nullable=False),
    sa.Column("description", sa.String(500), nullable=False),
    sa.Column("expression", sa.Text, nullable=False),
    sa.Column("precedence", sa.Integer, nullable=False),
    sa.Column("subnet_id", sa.String(40), nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("update_time", sa.BigInteger, nullable=False),
)

ip_profile_by_precedence = sa.Index(
    "ip_profile_by_precedence", ip_profile.c.organization_id, ip_profile.c.precedence, unique=True
)

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("ipv4", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("ipv6", sa.String(39), nullable=False),
    sa.Column("lease_id", sa.String(40), nullable=False),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("registration_id", sa.String(40)),
    sa.Column("device_id", sa.String(40), nullable=False),
    sa.Column("holder_id", sa.String(40), nullable=False),
    sa.Column("reserve_time", sa.BigInteger, nullable=False),
    sa.Column("ask_time", sa.BigInteger),
    sa.Column("hold_time", sa.BigInteger),
    sa.Column("claim_id", sa.String(40)),
    sa.Column("claim_time", sa.BigInteger),
    sa.Column("release_time", sa.BigInteger),
    sa.Column("rest_time", sa.BigInteger),
    sa.Column("subnet", sa.Integer, nullable=False, server_default="0"),
    sa.Column("revoke_time", sa.BigInteger),
    sa.Index("lease_ipv6", "organization_id", "ipv6", unique=True),
    sa.Index("lease_id", "organization_id", "lease_id", unique=True),
    # A registration has at most one pair reserved and one held. Resting pairs have none, and NULLs are distinct.
    sa.Index("lease_registration", "organization_id", "registration_id", "state", unique=True),
    sa.Index("lease_device", "organization_id", "device_id", "holder_id"),
    sa.Index("lease_holder", "organization_id", "holder_id", "lease_id"),
)
"""One row for each pair that was ever given out. Its row is the address's: two holders of one cannot be written."""

lease_claim = sa.Index(
    "lease_claim",
    lease.c.organization_id,
    lease.c.claim_id,
    postgresql_where=lease.c.claim_id.is_not(None),
    sqlite_where=lease.c.claim_id.is_not(None),
)

# For the release before, which knows one subnet only.
lease_resting = sa.Index(
    "lease_resting",
    lease.c.organization_id,
    lease.c.rest_time,
    postgresql_where=lease.c.rest_time.is_not(None),
    sqlite_where=lease.c.rest_time.is_not(None),
)

lease_rested = sa.Index(
    "lease_rested",
    lease.c.organization_id,
    lease.c.subnet,
    lease.c.rest_time,
    postgresql_where=lease.c.rest_time.is_not(None),
    sqlite_where=lease.c.rest_time.is_not(None),
)

lease_reserved = sa.Index(
    "lease_reserved",
    lease.c.organization_id,
    lease.c.subnet,
    postgresql_where=lease.c.state == State.RESERVED,
    sqlite_where=lease.c.state == State.RESERVED,
)

# For a job, so it is one of the few indexes that do not begin with the organization.
lease_asking = sa.Index(
    "lease_asking",
    lease.c.ask_time,
    postgresql_where=lease.c.ask_time.is_not(None),
    sqlite_where=lease.c.ask_time.is_not(None),
)

holding = sa.Table(
    "holding",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("lease_id", sa.String(40), primary_key=True),
    sa.Column("registration_id", sa.String(40), primary_key=True),
    sa.Column("device_id", sa.String(40), nullable=False),
    sa.Column("holder_id", sa.String(40), nullable=False),
    sa.Column("ipv4", sa.BigInteger, nullable=False),
    sa.Column("ipv6", sa.String(39), nullable=False),
    sa.Column("hold_time", sa.BigInteger, nullable=False),
    sa.Column("release_time", sa.BigInteger),
    sa.Index("holding_by_address", "organization_id", "ipv4", "hold_time"),
)
"""Who holds, and who held, which pair (decision 26)."""

holding_now = sa.Index(
    "holding_now",
    holding.c.organization_id,
    holding.c.lease_id,
    unique=True,
    postgresql_where=holding.c.release_time.is_(None),
    sqlite_where=holding.c.release_time.is_(None),
)

# For a job, so it is one of the few indexes that do not begin with the organization.
holding_ended = sa.Index(
    "holding_ended",
    holding.c.release_time,
    postgresql_where=holding.c.release_time.is_not(None),
    sqlite_where=holding.c.release_time.is_not(None),
)

pin = sa.Table(
    "pin",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("pin_id", sa.String(40), primary_key=True),
    sa.Column("first_ipv4", sa.BigInteger, nullable=False),
    sa.Column("last_ipv4", sa.BigInteger, nullable=False),
    sa.Column("device_id", sa.String(40)),
    sa.Column("holder_id", sa.String(40)),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Index("pin_first", "organization_id", "first_ipv4", unique=True),
    # An exclusion has no holder, and NULLs are distinct.
    sa.Index("pin_holder", "organization_id", "holder_id", "device_id", unique=True),
)
"""Addresses that are kept for somebody, or from everybody (decision 25)."""

tombstone = sa.Table(
    "tombstone",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("intent_id", sa.String(40), primary_key=True),
    sa.Column("bury_time", sa.BigInteger, nullable=False),
    sa.Index("tombstone_by_time", "organization_id", "bury_time"),
)
"""Intents whose reservation was given back: one that arrives late reserves nothing."""
