"""The tables of identity. Every key begins with the organization, but for the ones whose comment says why not."""

import sqlalchemy as sa

metadata = sa.MetaData()


def _id(name: str = "organization_id", *, primary_key: bool = True) -> sa.Column[str]:
    return sa.Column(name, sa.String(40), primary_key=primary_key, nullable=False)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    """Times, revisions and counts."""
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def _claims() -> sa.Column[list[str]]:
    return sa.Column("oidc_claims", sa.JSON, nullable=False, server_default="[]")


def _methods() -> sa.Column[list[str]]:
    return sa.Column("methods", sa.JSON, nullable=False, server_default="[]")


organization = sa.Table(
    "organization",
    metadata,
    _id(),
    sa.Column("display_name", sa.String(100), nullable=False),
    _number("create_time"),
    _number("update_time"),
    sa.Column("default_action", sa.SmallInteger, nullable=False, server_default="1"),
    sa.Column("device_flow", sa.Boolean, nullable=False, server_default=sa.false()),
    _number("seat_expiration", nullable=True),
    _number("delete_revoked_after", nullable=True),
    sa.Column("multi_user_platforms", sa.JSON, nullable=False, server_default="[1]"),
)

deleted_organization = sa.Table("deleted_organization", metadata, _id(), _number("delete_time"))
"""Organizations that are gone. Every service looks for what is left of them, so these stay."""

seat_pool = sa.Table(
    "seat_pool",
    metadata,
    _id(),
    _number("purchased", nullable=True),
    _number("used"),
    sa.CheckConstraint("used >= 0 AND (purchased IS NULL OR used <= purchased)", name="seat_pool_bounds"),
)
"""How many seats an organization has and uses; nothing else counts them (invariant I-04)."""

api_key = sa.Table(
    "api_key",
    metadata,
    _id(),
    _id("api_key_id"),
    sa.Column("display_name", sa.String(100), nullable=False),
    sa.Column("role", sa.SmallInteger, nullable=False),
    _number("create_time"),
    _number("expire_time", nullable=True),
    _number("revoke_time", nullable=True),
    sa.Column("secret_hash", sa.LargeBinary, nullable=False),
)
"""An empty organization_id is the installation."""

identity_provider = sa.Table(
    "identity_provider",
    metadata,
    _id(),
    _id("identity_provider_id"),
    sa.Column("display_name", sa.String(100), nullable=False),
    sa.Column("issuer", sa.String(255), nullable=False),
    sa.Column("client_ids", sa.JSON, nullable=False),
    _number("create_time"),
    sa.Column("force_interaction", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("update_time", sa.BigInteger, nullable=False, server_default="0"),
    _claims(),
    sa.Column("groups_claim", sa.String(200), nullable=False, server_default="groups"),
    sa.Column("allow_unverified_email", sa.Boolean, nullable=False, server_default=sa.false()),
    # A release that does not know of it fetches from wherever the documents say.
    sa.Column("allow_private_addresses", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("jwks_host", sa.String(255), nullable=False, server_default=""),
    # Absent: SCIM was never set up.
    sa.Column("scim", sa.JSON(none_as_null=True)),
)
provider_by_issuer = sa.UniqueConstraint(
    identity_provider.c.organization_id, identity_provider.c.issuer, name="provider_by_issuer"
)

service_token = sa.Table(
    "service_token",
    metadata,
    _id(),
    _id("service_token_id"),
    sa.Column("display_name", sa.String(100), nullable=False),
    sa.Column("client_id", sa.String(40), nullable=False),
    sa.Column("secret_hash", sa.LargeBinary, nullable=False),
    _number("create_time"),
    _number("expire_time"),
    sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
    _number("last_seen_time", nullable=True),
    # Of the secret before the present one, while it is good as well.
    sa.Column("previous_secret_hash", sa.LargeBinary),
    _number("previous_secret_expire_time", nullable=True),
    sa.Column("update_time", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("secret_version", sa.BigInteger, nullable=False, server_default="1"),
    _number("expire_registrations_after", nullable=True),
    sa.UniqueConstraint("organization_id", "client_id", name="service_token_by_client"),
)

enrollment_policy = sa.Table(
    "enrollment_policy",
    metadata,
    _id(),
    _id("enrollment_policy_id"),
    sa.Column("display_name", sa.String(100), nullable=False),
    sa.Column("decision", sa.SmallInteger, nullable=False),
    sa.Column("precedence", sa.Integer, nullable=False),
    sa.Column("include", sa.JSON, nullable=False),
    sa.Column("require", sa.JSON, nullable=False),
    sa.Column("exclude", sa.JSON, nullable=False),
    _number("create_time"),
    _number("update_time"),
)
policy_by_precedence = sa.UniqueConstraint(
    enrollment_policy.c.organization_id, enrollment_policy.c.precedence, name="policy_by_precedence"
)

policy_token = sa.Table(
    "policy_token",
    metadata,
    _id(),
    _id("service_token_id"),
    _id("enrollment_policy_id"),
    sa.ForeignKeyConstraint(
        ["organization_id", "service_token_id"],
        ["service_token.organization_id", "service_token.service_token_id"],
        name="policy_token_service_token",
    ),
)
"""Which policies name a service token: it cannot be deleted while one does (decision 11)."""

rule_group = sa.Table(
    "rule_group",
    metadata,
    _id(),
    _id("rule_group_id"),
    sa.Column("display_name", sa.String(100), nullable=False),
    sa.Column("include", sa.JSON, nullable=False),
    sa.Column("require", sa.JSON, nullable=False),
    sa.Column("exclude", sa.JSON, nullable=False),
    _number("create_time"),
    _number("update_time"),
)

policy_rule_group = sa.Table(
    "policy_rule_group",
    metadata,
    _id(),
    _id("rule_group_id"),
    _id("enrollment_policy_id"),
    sa.ForeignKeyConstraint(
        ["organization_id", "rule_group_id"],
        ["rule_group.organization_id", "rule_group.rule_group_id"],
        name="policy_rule_group_rule_group",
    ),
)
"""Which policies name a rule group: it cannot be deleted while one does."""

users = sa.Table(
    "users",
    metadata,
    _id(),
    _id("user_id"),
    sa.Column("issuer", sa.String(255), nullable=False),
    sa.Column("subject", sa.String(255), nullable=False),
    sa.Column("email", sa.String(254), nullable=False),
    # The address as it is compared.
    sa.Column("email_key", sa.String(254), nullable=False),
    sa.Column("display_name", sa.String(1024), nullable=False),
    sa.Column("groups", sa.JSON, nullable=False),
    _number("create_time", nullable=True),
    _number("authenticate_time", nullable=True),
    _number("seat_time", nullable=True),
    _number("removed_revision"),
    _number("revoked_revision"),
    _number("registrations_revoked_revision"),
    sa.Column("removal_id", sa.String(40), nullable=False),
    sa.Column("seat_event", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("seat_event_id", sa.String(64), nullable=False, server_default=""),
    sa.Column("access_seat", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("gateway_seat", sa.Boolean, nullable=False, server_default=sa.false()),
    _number("seen_time", nullable=True),
    _claims(),
    _methods(),
    # Since when the user may not authenticate.
    _number("block_time", nullable=True),
    # When SCIM said last which groups the user is in.
    _number("groups_time", nullable=True),
    sa.UniqueConstraint("organization_id", "issuer", "subject", name="user_by_subject"),
    sa.Index("user_by_email", "organization_id", "email_key"),
)
for _name, _column in (("user_with_seat", users.c.user_id), ("user_by_seat_time", users.c.seat_time)):
    _held = users.c.seat_time.is_not(None)
    sa.Index(_name, users.c.organization_id, _column, sqlite_where=_held, postgresql_where=_held)

freed_seat = sa.Table(
    "freed_seat",
    metadata,
    _id(),
    _id("user_id"),
    sa.Column("take_time", sa.BigInteger, primary_key=True, autoincrement=False),
    _number("free_time"),
    sa.Column("seat_event", sa.SmallInteger, nullable=False),
    sa.Column("seat_event_id", sa.String(64), nullable=False),
    sa.Column("cause", sa.SmallInteger, nullable=False),
    sa.Column("removal_id", sa.String(40), nullable=False),
    sa.Index("freed_seat_by_free_time", "organization_id", "free_time"),
)
"""Seats that users held before; the one that is held stands with the user."""

seat_activity = sa.Table(
    "seat_activity",
    metadata,
    _id(),
    _number("watermark_time", nullable=True),
    _number("sweep_time", nullable=True),
)
"""Up to when the registry has reported the activity of devices, and when seats were last looked through."""

used_token = sa.Table(
    "used_token",
    metadata,
    _id(),
    sa.Column("token_hash", sa.LargeBinary, primary_key=True),
    sa.Column("use", sa.String(200), nullable=False),
    _number("use_time"),
    # For the job that forgets, in every organization.
    sa.Index("used_token_by_time", "use_time"),
)
"""ID tokens that were accepted, and for which request: another one is refused (decision 27, invariant I-08)."""

intent = sa.Table(
    "intent",
    metadata,
    _id(),
    _id("intent_id"),
    sa.Column("state", sa.SmallInteger, nullable=False),
    sa.Column("user_id", sa.String(40), nullable=False),
    sa.Column("service_token_id", sa.String(40), nullable=False),
    sa.Column("enrollment_policy_id", sa.String(40), nullable=False),
    sa.Column("email", sa.String(254), nullable=False),
    sa.Column("display_name", sa.String(1024), nullable=False),
    sa.Column("groups", sa.JSON, nullable=False),
    _number("authenticate_time"),
    _number("authorize_revision"),
    _number("create_time"),
    # Of the two, an intent has the first while it is undecided, and the second afterwards.
    _number("ask_time", nullable=True),
    _number("end_time", nullable=True),
    _claims(),
    _methods(),
    _number("expire_after", nullable=True),
    sa.Index("intent_by_user", "organization_id", "user_id"),
    # For the jobs that ask and forget, in every organization.
    sa.Index("intent_by_ask_time", "ask_time"),
    sa.Index("intent_by_end_time", "end_time"),
)

registration = sa.Table(
    "registration",
    metadata,
    _id(),
    _id("registration_id"),
    sa.Column("user_id", sa.String(40), nullable=False),
    sa.Column("service_token_id", sa.String(40), nullable=False),
    _number("authorize_revision"),
    _number("authenticate_time"),
    sa.Column("lease_id", sa.String(40), nullable=False),
    _number("delete_time", nullable=True),
    _number("release_time", nullable=True),
    sa.Column("enrollment_policy_id", sa.String(40), nullable=False, server_default=""),
    sa.Index("registration_by_user", "organization_id", "user_id"),
    sa.Index("registration_by_policy", "organization_id", "enrollment_policy_id", "registration_id"),
    sa.Index("registration_by_lease", "organization_id", "lease_id"),
    # For the job that forgets, in every organization.
    sa.Index("registration_by_delete_time", "delete_time"),
    sa.Index("registration_by_release_time", "release_time"),
)
"""What the registry's feed says. Nothing is held or freed because of a row here."""

authentication = sa.Table(
    "authentication",
    metadata,
    _id(),
    _id("registration_id"),
    _number("authenticate_time"),
    _number("revision"),
    sa.Column("revoked_revision", sa.BigInteger, nullable=False, server_default="0"),
)

removal = sa.Table(
    "removal",
    metadata,
    _id(),
    _id("removal_id"),
    _number("create_time"),
    _number("users"),
    _number("seats_freed"),
)

removal_item = sa.Table(
    "removal_item",
    metadata,
    _id(),
    _id("removal_id"),
    _id("registration_id"),
    sa.Index("removal_item_by_registration", "organization_id", "registration_id"),
)
"""The registrations that a removal deletes, and intents that may have become one."""

automatic_action = sa.Table(
    "automatic_action",
    metadata,
    _id(),
    _id("user_id"),
    _number("action_time"),
    sa.Column("frees_seat", sa.Boolean, nullable=False),
    # For the job that forgets, in every organization.
    sa.Index("automatic_action_by_time", "action_time"),
)
"""When the system last removed or revoked a user of its own accord: what the breaker counts."""

held_action = sa.Table(
    "held_action",
    metadata,
    _id(),
    _id("held_action_id"),
    sa.Column("source", sa.String(100), nullable=False),
    sa.Column("effect", sa.SmallInteger, nullable=False),
    sa.Column("state", sa.SmallInteger, nullable=False),
    _number("create_time"),
    _number("decide_time", nullable=True),
    # For the job that carries out and the one that forgets, in every organization.
    sa.Index("held_action_by_state", "state", "decide_time"),
)

held_user = sa.Table(
    "held_user",
    metadata,
    _id(),
    _id("held_action_id"),
    _id("user_id"),
    _number("hold_time"),
    _number("done_time", nullable=True),
    sa.Column("removal_id", sa.String(40), nullable=False),
)

scim_secret = sa.Table(
    "scim_secret",
    metadata,
    sa.Column("identity_provider_id", sa.String(40), primary_key=True),
    _id(primary_key=False),
    sa.Column("secret_hash", sa.LargeBinary, nullable=False),
)
"""What SCIM clients call with. The path of a request names the provider alone, and so does the key."""

scim_resource = sa.Table(
    "scim_resource",
    metadata,
    _id(),
    _id("identity_provider_id"),
    _id("resource_id"),
    sa.Column("kind", sa.SmallInteger, nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("name_key", sa.String(255), nullable=False),
    sa.Column("external_id", sa.String(255)),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("document", sa.JSON, nullable=False),
    _number("version"),
    _number("create_time"),
    _number("update_time"),
    sa.Column("user_id", sa.String(40)),
    sa.Index("scim_resource_by_name", "organization_id", "identity_provider_id", "kind", "name_key"),
)
scim_user_by_name = sa.Index(
    "scim_user_by_name",
    scim_resource.c.organization_id,
    scim_resource.c.identity_provider_id,
    scim_resource.c.name_key,
    unique=True,
    sqlite_where=scim_resource.c.kind == 1,
    postgresql_where=scim_resource.c.kind == 1,
)
scim_resource_by_external_id = sa.Index(
    "scim_resource_by_external_id",
    scim_resource.c.organization_id,
    scim_resource.c.identity_provider_id,
    scim_resource.c.kind,
    scim_resource.c.external_id,
    unique=True,
)
scim_resource_by_user = sa.Index(
    "scim_resource_by_user", scim_resource.c.organization_id, scim_resource.c.user_id, unique=True
)
"""Two SCIM users never stand for one user (decision 8)."""

scim_member = sa.Table(
    "scim_member",
    metadata,
    _id(),
    _id("identity_provider_id"),
    _id("group_id"),
    _id("member_id"),
    sa.Column("display", sa.String(255)),
    sa.Index("scim_member_by_member", "organization_id", "identity_provider_id", "member_id"),
)

scim_event = sa.Table(
    "scim_event",
    metadata,
    _id(),
    _id("identity_provider_id"),
    _id("scim_event_id"),
    _number("event_time"),
    sa.Column("method", sa.String(10), nullable=False),
    sa.Column("resource_type", sa.String(10), nullable=False),
    sa.Column("resource_id", sa.String(40), nullable=False),
    sa.Column("external_id", sa.String(255), nullable=False),
    sa.Column("user_id", sa.String(40), nullable=False),
    sa.Column("status", sa.SmallInteger, nullable=False),
    sa.Column("error", sa.String(300), nullable=False),
    sa.Column("held", sa.Boolean, nullable=False),
    # For the job that forgets, in every organization.
    sa.Index("scim_event_by_time", "event_time"),
)
