"""Fills the databases of a control plane in bulk, as if that many people had enrolled: through the stores' own tables.

The services are stopped meanwhile. What is written is consistent: every registration has its user with a seat, whom
the registry knows as well, its device, its fence, its lease and its holding; the subnet counts what it has held; the
heads stand where the changes would have left them, and the changes themselves count as compacted, so that a follower
which starts loads a snapshot. A test enrolls, checks and revokes behind it.
"""

import ipaddress
import json
import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from guardhouse import ids
from guardhouse.clock import SystemClock
from guardhouse.durations import DAY
from guardhouse.identity.v1 import identity_pb2
from guardhouse.ipam.v1 import ipam_pb2
from guardhouse.registry.v1 import registry_pb2
from guardhouse_services.config import Settings
from guardhouse_services.credentials import REGISTRATION_PREFIX, format_secret, hash_secret
from guardhouse_services.database import ChangeType, Database, change, epoch, head
from guardhouse_services.follower import applied
from guardhouse_services.identity.domain.users import SeatEvent
from guardhouse_services.identity.store import tables as identity
from guardhouse_services.ipam.domain.leases import Holding, Lease, State
from guardhouse_services.ipam.domain.subnets import Space, Subnet, first_subnet, new_space
from guardhouse_services.ipam.store import tables as ipam
from guardhouse_services.registry.domain import State as RegistrationState
from guardhouse_services.registry.store import tables as registry

CHUNK = 5000
CHANGES: dict[str, ChangeType] = {
    "identity": identity_pb2.Change,
    "registry": registry_pb2.Change,
    "ipam": ipam_pb2.Change,
}
# As many revisions of each service as an enrollment makes: identity publishes the user twice.
REVISIONS = {"identity": 2, "registry": 1, "ipam": 1}

LOADED = {
    "identity": (identity.users, identity.registration),
    "registry": (registry.device, registry.registration, registry.person, registry.fence),
    "ipam": (ipam.lease, ipam.holding),
}

# Whom the services follow for its effects, under the names that they keep their places by.
FOLLOWED = {
    "identity": {"registry": "registry", "ipam": "ipam"},
    "registry": {"identity": "identity", "identity people": "identity"},
    "ipam": {"registry": "registry"},
}

KINDS = (ids.USER, ids.DEVICE, ids.REGISTRATION, ids.LEASE)

Row = dict[str, Any]
Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Person:
    """One registration, with the ids of everything that belongs to it."""

    number: int
    time: int
    user_id: str
    device_id: str
    registration_id: str
    lease_id: str
    ipv4: int

    @property
    def email(self) -> str:
        return f"person{self.number}@example.com"

    @property
    def display_name(self) -> str:
        return f"Person {self.number}"

    @property
    def authorize_revision(self) -> int:
        """What identity's history would have been, one enrollment after the other, from revision 1000 on."""
        return 1000 + 2 * self.number


@dataclass(frozen=True, slots=True)
class Place:
    """Whom the people belong to, and who signs them in."""

    organization_id: str
    issuer: str


def load(settings: Settings, place: Place, count: int, tick: Tick = lambda: None) -> list[str]:
    """Adds so many registrations to an organization that has none, and answers their ids."""
    space = new_space(settings.ipv4_subnet, secrets.randbits(56))
    people = [_person(number, space.next_ipv4 + number) for number in range(count)]
    space = replace(space, next_ipv4=space.next_ipv4 + count)
    writers = {"identity": _identity, "registry": _registry, "ipam": _ipam}
    positions: dict[str, tuple[str, int]] = {}
    databases: dict[str, Database] = {}
    try:
        for service in writers:
            databases[service] = Database(settings.database(service), SystemClock(), service, CHANGES[service])
        with databases["ipam"].engine.begin() as connection:
            insert_space(connection, place.organization_id, space, [person.time for person in people])
        for service, write in writers.items():
            with databases[service].engine.begin() as connection, without_indexes(connection, *LOADED[service]):
                for part in chunks(people):
                    write(connection, place, part, space)
                    tick()
                positions[service] = _advance(connection, place.organization_id, REVISIONS[service] * count + 1000)
        for service, sources in FOLLOWED.items():
            _follow(databases[service], place.organization_id, positions, sources)
    finally:
        for database in databases.values():
            database.close()
    return [person.registration_id for person in people]


def bearer(registration_id: str) -> str:
    """What the device of a loaded registration calls with."""
    return format_secret(REGISTRATION_PREFIX, registration_id, registration_id.encode())


def parts(count: int) -> int:
    """How often `load` ticks."""
    return len(CHANGES) * math.ceil(count / CHUNK)


def chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def insert(connection: Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """Many rows at once, each with the same columns."""
    if not rows:
        return
    if connection.dialect.name != "postgresql":
        connection.execute(table.insert(), list(rows))
        return
    # However long it takes: it is nothing that a service does.
    connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
    names = list(rows[0])
    documents = [name for name in names if isinstance(table.c[name].type, sa.JSON)]
    columns = ", ".join(f'"{name}"' for name in names)
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:
        for each in rows:
            copy.write_row(list((each | {name: json.dumps(each[name]) for name in documents}).values()))


@contextmanager
def without_indexes(connection: Connection, *of: sa.Table) -> Iterator[None]:
    """On PostgreSQL makes the indexes of these tables anew behind what is written meanwhile, which costs a part of the
    time. Their triggers, which would look for rows without them, do nothing: what they keep is written as well."""
    if connection.dialect.name != "postgresql":
        yield
        return
    for table in of:
        connection.execute(sa.text(f"ALTER TABLE {table.name} DISABLE TRIGGER USER"))
    indexes = [index for table in of for index in table.indexes]
    for index in indexes:
        index.drop(connection)
    yield
    connection.execute(sa.text("SET LOCAL maintenance_work_mem = '256MB'"))
    connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
    for index in indexes:
        index.create(connection)
    for table in of:
        connection.execute(sa.text(f"ALTER TABLE {table.name} ENABLE TRIGGER USER"))


def _person(number: int, ipv4: int) -> Person:
    # Enrolled yesterday, a millisecond after one another.
    time = SystemClock().now() - DAY + 1000 * number
    user_id, device_id, registration_id, lease_id = (ids.new_id(kind, time) for kind in KINDS)
    return Person(number, time, user_id, device_id, registration_id, lease_id, ipv4)


def _identity(connection: Connection, place: Place, people: Sequence[Person], _space: Space) -> None:
    of = {"organization_id": place.organization_id}
    insert(
        connection,
        identity.users,
        [
            of
            | {
                "user_id": it.user_id,
                "issuer": place.issuer,
                "subject": it.email,
                "email": it.email,
                "email_key": it.email,
                "display_name": it.display_name,
                "groups": [],
                "create_time": it.time,
                "authenticate_time": it.time,
                "seat_time": it.time,
                "seat_event": SeatEvent.GATEWAY.value,
                "seat_event_id": it.registration_id,
                "gateway_seat": True,
                "removed_revision": 0,
                "revoked_revision": 0,
                "registrations_revoked_revision": 0,
                "removal_id": "",
            }
            for it in people
        ],
    )
    insert(
        connection,
        identity.registration,
        [
            of
            | {
                "registration_id": it.registration_id,
                "user_id": it.user_id,
                "service_token_id": "",
                "authorize_revision": it.authorize_revision,
                "authenticate_time": it.time,
                "lease_id": it.lease_id,
            }
            for it in people
        ],
    )
    pool = identity.seat_pool
    more = pool.update().where(pool.c.organization_id == place.organization_id)
    connection.execute(more.values(used=pool.c.used + len(people)))


def _registry(connection: Connection, place: Place, people: Sequence[Person], space: Space) -> None:
    of = {"organization_id": place.organization_id}
    insert(
        connection,
        registry.device,
        [
            of
            | {
                "device_id": it.device_id,
                "hardware_id": f"machine-{it.number}",
                "display_name": f"machine-{it.number}",
                "platform": registry_pb2.PLATFORM_LINUX,
                "os_version": "6.1",
                "client_version": "1.0",
                "serial_number": "",
                "model": "",
                "manufacturer": "",
                "create_time": it.time,
                "enroll_time": it.time,
                "update_time": it.time,
                "active_registrations": 1,
            }
            for it in people
        ],
    )
    insert(
        connection,
        registry.registration,
        [
            of
            | {
                "registration_id": it.registration_id,
                "device_id": it.device_id,
                "state": RegistrationState.ACTIVE,
                "key_type": registry_pb2.KEY_TYPE_CURVE25519,
                "public_key": secrets.token_bytes(32),
                "request_id": f"load-{it.number}",
                "fingerprint": hash_secret(it.email),
                "deadline": it.time,
                "user_id": it.user_id,
                "lease_id": it.lease_id,
                "ipv4": ip(it.ipv4),
                "ipv6": ipv6_of(space, it.ipv4),
                "authenticate_time": it.time,
                "authorize_revision": it.authorize_revision,
                "identity_token": "",
                "token_hash": hash_secret(bearer(it.registration_id)),
                "create_time": it.time,
                "user_email": it.email,
                "user_display_name": it.display_name,
            }
            for it in people
        ],
    )
    insert(
        connection,
        registry.person,
        [
            of
            | {
                "user_id": it.user_id,
                "email": it.email,
                "display_name": it.display_name,
                "groups": [],
                "claims": [],
            }
            for it in people
        ],
    )
    no_removal = {"removed_revision": 0, "revoked_revision": 0}
    insert(connection, registry.fence, [of | {"user_id": it.user_id} | no_removal for it in people])


def _ipam(connection: Connection, place: Place, people: Sequence[Person], space: Space) -> None:
    leases = [
        Lease(
            lease_id=it.lease_id,
            ipv4=it.ipv4,
            ipv6=ipv6_of(space, it.ipv4),
            state=State.HELD,
            registration_id=it.registration_id,
            device_id=it.device_id,
            holder_id=it.user_id,
            reserve_time=it.time,
            hold_time=it.time,
        )
        for it in people
    ]
    insert_leases(connection, place.organization_id, leases)


def insert_space(connection: Connection, organization_id: str, space: Space, holds: Sequence[int]) -> None:
    """A space and its first subnet, whose pairs are held since these times, which are in their order."""
    of = {"organization_id": organization_id}
    first = replace(first_subnet(space, ids.new_id(ids.SUBNET, holds[0]), holds[0]), held=len(holds))
    insert(connection, ipam.space, [of | row(space)])
    insert(connection, ipam.subnet, [of | row(first)])
    days = Counter(time // DAY for time in holds)
    of_days = zip(days, accumulate(days.values()), strict=True)
    insert(
        connection, ipam.usage, [of | {"subnet_id": first.subnet_id, "day": day, "held": held} for day, held in of_days]
    )


def insert_leases(connection: Connection, organization_id: str, leases: Sequence[Lease]) -> None:
    """Leases, and the holdings of those that are held."""
    of = {"organization_id": organization_id}
    insert(connection, ipam.lease, [of | row(lease) for lease in leases])
    holdings = [
        Holding(
            lease_id=lease.lease_id,
            registration_id=lease.registration_id or "",
            device_id=lease.device_id,
            holder_id=lease.holder_id,
            ipv4=lease.ipv4,
            ipv6=lease.ipv6,
            hold_time=lease.hold_time or 0,
        )
        for lease in leases
        if lease.state is State.HELD
    ]
    insert(connection, ipam.holding, [of | row(holding) for holding in holdings])


def row(value: Lease | Holding | Space | Subnet) -> Row:
    """A value's columns. dataclasses.asdict copies what is in them as well, which takes several times as long."""
    return {name: getattr(value, name) for name in value.__slots__}


def ipv6_of(space: Space, ipv4: int) -> str:
    """As the space's own method, which parses the network anew."""
    return str(ipaddress.IPv6Address(_base(space.ipv6) | ipv4))


@cache
def _base(network: str) -> int:
    return int(ipaddress.IPv6Network(network).network_address)


def ip(number: int) -> str:
    return ".".join(str(part) for part in number.to_bytes(4, "big"))


def _advance(connection: Connection, organization_id: str, by: int) -> tuple[str, int]:
    """Moves the organization's head as far as the changes would have; none of them is kept. Answers the position."""
    where = head.c.organization_id == organization_id
    revision: int = (connection.execute(sa.select(head.c.revision).where(where)).scalar() or 0) + by
    connection.execute(head.delete().where(where))
    connection.execute(head.insert().values(organization_id=organization_id, revision=revision, compacted=revision))
    connection.execute(change.delete().where(change.c.organization_id == organization_id))
    return connection.execute(sa.select(epoch.c.epoch)).scalar_one(), revision


def _follow(
    database: Database, organization_id: str, positions: Mapping[str, tuple[str, int]], sources: Mapping[str, str]
) -> None:
    """The effects of these services' changes are what was loaded."""
    with database.engine.begin() as connection:
        for source, service in sources.items():
            where = (applied.c.source == source, applied.c.organization_id == organization_id)
            at_epoch, revision = positions[service]
            connection.execute(applied.delete().where(*where))
            at = {"source": source, "organization_id": organization_id, "epoch": at_epoch, "revision": revision}
            connection.execute(applied.insert().values(at))
