"""The tables of the registry, and rows as domain values."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from guardhouse.ids import DEVICE_PROFILE, ORGANIZATION, default_profile_id
from guardhouse.os_sessions import Desk
from guardhouse_services.registry.domain import (
    LISTED,
    LIVE,
    Claims,
    Device,
    Holder,
    Lease,
    OsSession,
    Posture,
    PostureChecks,
    Registration,
    State,
)

metadata = sa.MetaData()


class bytewise(FunctionElement[str]):  # noqa: N801  # named as an SQL function is
    """Text that is compared by its bytes, as SQLite does: PostgreSQL has an order for each language."""

    type = sa.String()
    inherit_cache = True


@compiles(bytewise)
def _as_it_is(element: bytewise, compiler: Any, **kwargs: Any) -> str:
    return str(compiler.process(element.clauses, **kwargs))


@compiles(bytewise, "postgresql")
def _collated(element: bytewise, compiler: Any, **kwargs: Any) -> str:
    return f'{compiler.process(element.clauses, **kwargs)} COLLATE "C"'


def _partial(name: str, *columns: Any, where: sa.ColumnElement[bool], unique: bool = False) -> sa.Index:
    return sa.Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


device = sa.Table(
    "device",
    metadata,
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
    sa.Column("mac_address", sa.String(255), nullable=False, server_default=""),
    sa.Column("os_version_extra", sa.String(255), nullable=False, server_default=""),
    sa.Column("tags", sa.JSON),
    sa.Column("create_time", sa.BigInteger),
    sa.Column("enroll_time", sa.BigInteger),
    sa.Column("seen_time", sa.BigInteger),
    sa.Column("update_time", sa.BigInteger),
    # A trigger counts.
    sa.Column("active_registrations", sa.Integer, nullable=False, server_default="0"),
)
device_by_hardware = sa.Index("device_by_hardware", device.c.organization_id, device.c.hardware_id, unique=True)

device_texts = [device.c[name] for name in ("display_name", "hardware_id", "serial_number", "mac_address")]
"""What a search looks through."""
device_activity = sa.func.coalesce(device.c.seen_time, device.c.enroll_time, device.c.create_time)
is_enrolled = device.c.create_time.is_not(None)
_never_enrolled = device.c.create_time.is_(None)
_partial("device_never_enrolled", device.c.organization_id, device.c.device_id, where=_never_enrolled)
_partial("device_by_create", device.c.organization_id, device.c.create_time, device.c.device_id, where=is_enrolled)
_partial("device_by_activity", device.c.organization_id, device_activity, device.c.device_id, where=is_enrolled)
_partial(
    "device_by_active",
    device.c.organization_id,
    device.c.active_registrations,
    device.c.device_id,
    where=is_enrolled,
)
device_name, device_version = bytewise(device.c.display_name), bytewise(device.c.client_version)
# By their bytes, as the migration has it.
for _order, _text in (("name", device.c.display_name), ("version", device.c.client_version)):
    _partial(f"device_by_{_order}", device.c.organization_id, _text, device.c.device_id, where=is_enrolled)

registration = sa.Table(
    "registration",
    metadata,
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
    sa.Column("update_time", sa.BigInteger),
    sa.Column("end_time", sa.BigInteger),
    sa.Column("seen_time", sa.BigInteger),
    sa.Column("posture", sa.JSON),
    sa.Column("posture_change_time", sa.BigInteger),
    sa.Column("posture_time", sa.BigInteger),
    sa.Column("expire_after", sa.BigInteger),
    # Empty: the default profile.
    sa.Column("device_profile_id", sa.String(40), nullable=False, server_default=""),
    sa.Column("device_profile_time", sa.BigInteger),
    sa.Column("network", sa.String(100), nullable=False, server_default=""),
    sa.Column("managed", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("os_user", sa.String(255)),
    sa.Column("is_current", sa.Boolean),
    # Triggers keep them as the person has them.
    sa.Column("user_email", sa.String(255), nullable=False, server_default=""),
    sa.Column("user_display_name", sa.String(255), nullable=False, server_default=""),
)
registration_activity = sa.func.coalesce(registration.c.seen_time, registration.c.create_time)


def spelled(*states: State) -> sa.ColumnElement[bool]:
    """Whether a registration is in one of these states, for what is to be found by an index of such.

    The states are written into the statement: SQLite takes a partial index only when it sees that its condition holds.
    Where another index serves better, they are parameters instead.
    """
    return registration.c.state.in_([sa.literal_column(f"'{state}'") for state in states])


is_live, is_listed = spelled(*LIVE), spelled(*LISTED)
is_active, is_pending = (registration.c.state == sa.literal_column(f"'{it}'") for it in (State.ACTIVE, State.PENDING))
is_users = registration.c.user_id.is_not(None)
is_shared = registration.c.os_user.is_not(None)
_is_current = registration.c.is_current.is_(sa.true())

_of_organization = registration.c.organization_id
# A key belongs to at most one live registration of the whole installation (I-09).
_partial("registration_key", registration.c.public_key, where=is_live, unique=True)
# One attempt of a request at a time.
_partial("registration_request", _of_organization, registration.c.request_id, where=is_live, unique=True)
# One active registration of a user on a device (decision 18), and on a shared device one of each user (decision 19).
_partial(
    "registration_exclusive",
    _of_organization,
    registration.c.device_id,
    where=sa.and_(is_active, is_users, registration.c.os_user.is_(None)),
    unique=True,
)
_partial(
    "registration_place_of_user",
    _of_organization,
    registration.c.device_id,
    registration.c.user_id,
    where=sa.and_(is_active, is_users),
    unique=True,
)
# At most one of a device is current.
_partial("registration_current", _of_organization, registration.c.device_id, where=_is_current, unique=True)
sa.Index("registration_by_request", _of_organization, registration.c.request_id)
sa.Index("registration_by_device", _of_organization, registration.c.device_id)
sa.Index("registration_by_user", _of_organization, registration.c.user_id)
# For recognising a device by its token, which names no organization.
sa.Index("registration_by_id", registration.c.registration_id)
_partial("registration_pending", registration.c.deadline, where=is_pending)
_partial("registration_ended", registration.c.end_time, where=registration.c.end_time.is_not(None))
# For lists, of everything and of a service token's or a profile's, which may be many. Few are a user's or a device's.
for _name, _scope, _shown in (
    ("registration", [_of_organization], is_listed),
    (
        "registration_token",
        [_of_organization, registration.c.service_token_id],
        sa.and_(is_listed, registration.c.service_token_id.is_not(None)),
    ),
    ("registration_profile", [_of_organization, registration.c.device_profile_id], is_listed),
):
    for _order, _value in (("create", registration.c.create_time), ("activity", registration_activity)):
        _columns = (*_scope, registration.c.state, _value, registration.c.registration_id)
        _partial(f"{_name}_by_{_order}", *_columns, where=_shown)
registration_email, registration_user = (bytewise(registration.c[name]) for name in ("user_email", "user_display_name"))
# By their bytes, as the migration has it.
for _order, _text in (("user_email", registration.c.user_email), ("user_name", registration.c.user_display_name)):
    _columns = (_of_organization, registration.c.state, _text, registration.c.registration_id)
    _partial(f"registration_by_{_order}", *_columns, where=is_listed)

is_revoked = registration.c.state == sa.literal_column(f"'{State.REVOKED}'")
_partial(
    "registration_by_revocation",
    _of_organization,
    registration.c.revoke_time,
    registration.c.registration_id,
    where=is_revoked,
)
# When one that may not be silent for ever expires unless it is heard of until then.
registration_expiry = registration_activity + registration.c.expire_after
may_expire = sa.and_(is_listed, registration.c.expire_after.is_not(None))
_partial(
    "registration_by_expiry",
    _of_organization,
    registration_expiry,
    registration.c.registration_id,
    where=may_expire,
)

override_rate = sa.Table(
    "override_rate",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("subject", sa.String(100), primary_key=True),
    sa.Column("full_time", sa.BigInteger, nullable=False),
    # For the job that forgets, in every organization.
    sa.Index("override_rate_by_time", "full_time"),
)
"""When whoever reads or tries override codes may do so as often as ever again."""

gateway = sa.Table(
    "gateway",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("api_key_id", sa.String(40), nullable=False),
    sa.Column("epoch", sa.String(32), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("seen_time", sa.BigInteger, nullable=False),
    sa.Column("instance", sa.String(64), nullable=False, server_default=""),
    sa.Column("former", sa.JSON, nullable=False, server_default="[]"),
    sa.Column("shared_time", sa.BigInteger, nullable=False, server_default="0"),
    # For the job that forgets, in every organization.
    sa.Index("gateway_by_time", "seen_time"),
)

former_key = sa.Table(
    "former_key",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("registration_id", sa.String(40), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("key_type", sa.Integer, nullable=False),
    sa.Column("public_key", sa.LargeBinary, nullable=False),
    sa.Column("begin_time", sa.BigInteger, nullable=False),
    sa.Column("end_time", sa.BigInteger, nullable=False),
    # As for the keys that are held: they are one's own in the whole installation (I-09).
    sa.Index("former_key_by_key", "public_key"),
)
"""The keys that a registration had before the present one, which nobody may register again."""

breaker = sa.Table("breaker", metadata, sa.Column("organization_id", sa.String(40), primary_key=True))
"""The lock of whoever counts or holds automatic actions of an organization."""

automatic_action = sa.Table(
    "automatic_action",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("registration_id", sa.String(40), primary_key=True),
    sa.Column("action_time", sa.BigInteger, nullable=False),
    # For the job that forgets, in every organization.
    sa.Index("automatic_action_by_time", "action_time"),
)
"""When a registration was deleted by nobody's order: what the breaker counts."""

held_action = sa.Table(
    "held_action",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("held_action_id", sa.String(40), primary_key=True),
    sa.Column("source", sa.String(100), nullable=False),
    sa.Column("effect", sa.SmallInteger, nullable=False),
    sa.Column("state", sa.SmallInteger, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("decide_time", sa.BigInteger),
    # For the job that carries out and the one that forgets, in every organization.
    sa.Index("held_action_by_state", "state", "decide_time"),
)

held_registration = sa.Table(
    "held_registration",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("held_action_id", sa.String(40), primary_key=True),
    sa.Column("registration_id", sa.String(40), primary_key=True),
    sa.Column("hold_time", sa.BigInteger, nullable=False),
    sa.Column("done_time", sa.BigInteger),
)
device_profile = sa.Table(
    "device_profile",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("device_profile_id", sa.String(40), primary_key=True),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("description", sa.String(500), nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("precedence", sa.Integer),
    sa.Column("match", sa.Text, nullable=False),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("settings_etag", sa.String(16), nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("update_time", sa.BigInteger, nullable=False),
)
"""The default profile is here once it has been changed; it alone has no precedence."""
device_profile_by_precedence = sa.Index(
    "device_profile_by_precedence", device_profile.c.organization_id, device_profile.c.precedence, unique=True
)

person = sa.Table(
    "person",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("user_id", sa.String(40), primary_key=True),
    sa.Column("email", sa.Text, nullable=False),
    sa.Column("display_name", sa.Text, nullable=False),
    sa.Column("groups", sa.JSON, nullable=False),
    sa.Column("claims", sa.JSON, nullable=False),
)
"""What identity says of users, as far as profiles match it and lists show it."""
sa.Index("person_by_email", person.c.organization_id, person.c.email)

profile_matching = sa.Table(
    "profile_matching",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("request_time", sa.BigInteger, nullable=False),
    sa.Column("end_time", sa.BigInteger),
    sa.Column("after_registration_id", sa.String(40), nullable=False),
    sa.Column("checked", sa.BigInteger, nullable=False),
    sa.Column("moved", sa.BigInteger, nullable=False),
)
"""How far each organization's registrations have been matched anew since its profiles were changed."""
is_under_way = profile_matching.c.end_time.is_(None)
_partial("profile_matching_under_way", profile_matching.c.organization_id, where=is_under_way)

os_session = sa.Table(
    "os_session",
    metadata,
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
"""Who had a shared device, and which registration was current."""
_partial(
    "os_session_open",
    os_session.c.organization_id,
    os_session.c.device_id,
    where=os_session.c.end_time.is_(None),
    unique=True,
)
_partial("os_session_ended", os_session.c.end_time, where=os_session.c.end_time.is_not(None))

fence = sa.Table(
    "fence",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("user_id", sa.String(40), primary_key=True),
    sa.Column("removed_revision", sa.BigInteger, nullable=False),
    sa.Column("revoked_revision", sa.BigInteger, nullable=False),
)


# As default_profile_id makes it.
profile_id = sa.case(
    (registration.c.device_profile_id != "", registration.c.device_profile_id),
    else_=sa.literal(f"{DEVICE_PROFILE}_") + sa.func.substr(registration.c.organization_id, len(ORGANIZATION) + 2),
)


def profile_column(organization_id: str, device_profile_id: str) -> str:
    """A registration's profile as its row has it."""
    return "" if device_profile_id == default_profile_id(organization_id) else device_profile_id


def to_registration(row: Any) -> Registration:
    return Registration(
        organization_id=row.organization_id,
        registration_id=row.registration_id,
        device_id=row.device_id,
        state=State(row.state),
        key_type=row.key_type,
        public_key=row.public_key,
        request_id=row.request_id,
        fingerprint=row.fingerprint,
        deadline=row.deadline,
        holder=Holder(row.user_id or "", row.service_token_id or ""),
        lease=Lease(row.lease_id, row.ipv4, row.ipv6),
        authenticate_time=row.authenticate_time,
        authorize_revision=row.authorize_revision,
        identity_token=row.identity_token,
        token_hash=row.token_hash,
        create_time=row.create_time,
        revoke_time=row.revoke_time,
        seen_time=row.seen_time,
        update_time=row.update_time,
        posture=_posture(row) if row.posture_time is not None else None,
        expire_after=row.expire_after,
        device_profile_id=row.device_profile_id or default_profile_id(row.organization_id),
        device_profile_time=row.device_profile_time,
        network=row.network,
        managed=row.managed,
        os_user=row.os_user,
        is_current=bool(row.is_current),
        user_email=row.user_email,
        user_display_name=row.user_display_name,
    )


def to_os_session(row: Any) -> OsSession:
    return OsSession(
        organization_id=row.organization_id,
        device_id=row.device_id,
        begin_time=row.begin_time,
        desk=Desk(row.os_user, row.at_login_screen),
        sequence=row.sequence,
        registration_id=row.registration_id or "",
        holder=Holder(row.user_id or "", row.service_token_id or ""),
        end_time=row.end_time,
    )


def _posture(row: Any) -> Posture:
    checks = PostureChecks(tuple(row.posture["passed"]), tuple(row.posture["failed"]))
    return Posture(checks, row.posture_change_time, row.posture_time)


def posture_values(posture: Posture) -> dict[str, Any]:
    return {
        "posture": {"passed": posture.checks.passed, "failed": posture.checks.failed},
        "posture_change_time": posture.change_time,
        "posture_time": posture.time,
    }


def to_device(row: Any) -> Device:
    return Device(
        organization_id=row.organization_id,
        device_id=row.device_id,
        claims=Claims(**{name: getattr(row, name) for name in Claims.__slots__}),
        create_time=row.create_time,
        active_registrations=row.active_registrations,
        enroll_time=row.enroll_time,
        seen_time=row.seen_time,
        update_time=row.update_time,
        tags=row.tags or {},
    )


def claims_values(claims: Claims) -> dict[str, Any]:
    return {name: getattr(claims, name) for name in Claims.__slots__}
