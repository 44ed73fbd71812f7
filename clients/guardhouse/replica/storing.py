"""A state on disk, for a start while every service is down: what the three views hold of one organization, in one file.

The file is a header and frames, each of which holds one Snapshot of a feed, and ends with HMAC-SHA256 over all of it
under a key that is derived from the API key. So nobody else can make one, and one that was cut short, changed, or
written with another key is refused. It names the positions at which the feeds go on, and the wall time as of which what
it holds was proven, from which its staleness counts.
"""

import hashlib
import hmac
import itertools
import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Any, Final, TypeVar

from guardhouse.decisions import RegistrationState, User
from guardhouse.following import Position, View
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.replica.people import Authentication, IdentityState
from guardhouse.replica.policies import PolicyState
from guardhouse.replica.registrations import RegistryState, Subject
from guardhouse.session.v1 import session_pb2 as session
from guardhouse.times import set_time

T = TypeVar("T")

MAGIC: Final = b"guardhouse checker 1\n"
"""Names the form of what follows; another form has another number."""
PAGE_EVENTS: Final = 1000
CONTRACTS: Final = {"identity": identity, "registry": registry, "session": session}
_FRAME: Final = struct.Struct(">BI")
_MAC_BYTES: Final = 32

Positions = Mapping[str, Mapping[str, Position]]
"""By service and by organization."""


class SnapshotRefused(Exception):
    """The file holds nothing to start from; the message says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself. `fresh_as_of` is a wall time, in microseconds."""

    organization_id: str
    fresh_as_of: int
    positions: Positions


class StoredPolicyState(PolicyState):
    """It keeps what was written beside what is made of it, for the next file."""

    def __init__(self, organization_id: str, max_open: int = 0) -> None:
        super().__init__(organization_id, max_open)
        self.written: dict[str, session.Event] = {}

    def apply(self, event: session.Event) -> None:
        match event.WhichOneof("kind"):
            case "policy":
                self.written[event.policy.policy_id] = event
            case "policy_deleted":
                self.written.pop(event.policy_deleted, None)
            case "list":
                self.written[event.list.list_id] = event
            case "list_deleted":
                self.written.pop(event.list_deleted, None)
        super().apply(event)


def mac_key(api_key: str) -> bytes:
    """An API key is 256 random bits, so one step is enough to derive from it."""
    return hmac.digest(api_key.encode(), b"guardhouse checker snapshot", hashlib.sha256)


Captured = Sequence[tuple[str, str, Iterator[Any]]]
"""Service, organization, and the events that make what is known of it."""


def capture(service: str, view: View, organization_ids: Sequence[str]) -> Captured:
    """What a view holds: the events are made later, in any thread, while the view goes on, of what each has become.

    What is newer than the positions, which were noted before, does no harm: who reads the file is sent all that
    happened after them, whoever has gone or come included.
    """
    found: list[tuple[str, str, Iterator[Any]]] = []
    for each in organization_ids:
        if (state := view.states.get(each)) is not None:
            found += [(service, each, part) for part in _PARTS[service](state)]
    return found


def write(path: Path, key: bytes, header: Header, captured: Captured) -> None:
    """Replaces the file by a whole one that only its owner may read, or leaves it as it was. Raises OSError."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            mac = hmac.new(key, digestmod=hashlib.sha256)
            for part in _parts(header, captured):
                mac.update(part)
                file.write(part)
            file.write(mac.digest())
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: Path, key: bytes, organization_id: str) -> tuple[Header, Iterator[tuple[str, str, Sequence[Any]]]]:
    """The header, and what it holds as (service, organization, events). Raises SnapshotRefused and OSError."""
    content = memoryview(path.read_bytes())
    if bytes(content[: len(MAGIC)]) != MAGIC or len(content) < len(MAGIC) + _MAC_BYTES:
        raise SnapshotRefused("it is no snapshot of a checker, or one in another form")
    whole, mac = content[:-_MAC_BYTES], content[-_MAC_BYTES:]
    if not hmac.compare_digest(hmac.digest(key, whole, hashlib.sha256), mac):
        raise SnapshotRefused("it was cut short or changed, or written with another API key")
    frames = _frames(whole[len(MAGIC) :])
    _, first = next(frames)
    header = _header(first)
    if header.organization_id != organization_id:
        raise SnapshotRefused(f"it is of {header.organization_id}")
    return header, _pages(frames)


def _parts(header: Header, captured: Captured) -> Iterator[bytes]:
    yield MAGIC
    said = {
        "organization_id": header.organization_id,
        "fresh_as_of": header.fresh_as_of,
        "positions": {service: dict(positions) for service, positions in header.positions.items()},
    }
    yield from _framed(0, json.dumps(said).encode())
    services = list(CONTRACTS)
    for service, organization_id, events in captured:
        contract: Any = CONTRACTS[service]
        while page := list(itertools.islice(events, PAGE_EVENTS)):
            message = contract.WatchResponse(organization_id=organization_id, snapshot=contract.Snapshot(events=page))
            yield from _framed(services.index(service) + 1, message.SerializeToString())


def _framed(kind: int, content: bytes) -> tuple[bytes, bytes]:
    return _FRAME.pack(kind, len(content)), content


def _frames(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    place = 0
    while place < len(content):
        kind, length = _FRAME.unpack_from(content, place)
        place += _FRAME.size
        yield kind, content[place : place + length]
        place += length


def _header(content: memoryview) -> Header:
    said = json.loads(bytes(content))
    positions = {
        service: {organization_id: (epoch, revision) for organization_id, (epoch, revision) in each.items()}
        for service, each in said["positions"].items()
    }
    return Header(said["organization_id"], said["fresh_as_of"], positions)


def _pages(frames: Iterable[tuple[int, memoryview]]) -> Iterator[tuple[str, str, Sequence[Any]]]:
    services = list(CONTRACTS)
    for kind, content in frames:
        service = services[kind - 1]
        contract: Any = CONTRACTS[service]
        message = contract.WatchResponse.FromString(content)
        yield service, message.organization_id, message.snapshot.events


def _present(of: Mapping[str, T]) -> Iterator[tuple[str, T]]:
    """What is there when its turn comes, each as it is when it is read; whoever has gone since is left out.

    Only the keys are copied, and only while they are needed: for a million that takes some hundredths of a second, and
    as much again whenever the collector looks at them.
    """
    for key in list(of):
        if (value := of.get(key)) is not None:
            yield key, value


def _of_people(state: IdentityState) -> Iterator[Iterator[identity.Event]]:
    yield (identity.Event(organization=it) for it in list(state.organizations.values()))
    yield (identity.Event(organization_deleted=it) for it in sorted(state.deleted))
    yield (identity.Event(identity_provider=it) for it in list(state.identity_providers.values()))
    yield itertools.starmap(_user, _present(state.users))
    yield itertools.starmap(_authentication, _present(state.authentications))


def _authentication(registration_id: str, of: Authentication) -> identity.Event:
    event = identity.Event()
    event.authentication.registration_id = registration_id
    event.authentication.revision = of.revision
    event.authentication.revoked_revision = of.revoked_revision
    set_time(event.authentication.authenticate_time, of.time)
    return event


def _user(_user_id: str, of: User) -> identity.Event:
    """Users alone are changed in place. What refuses is read last: whoever was removed when the profile became what it
    is, was removed."""
    user = identity.User(user_id=of.user_id)
    if (profile := of.profile) is not None:
        user.email, user.display_name = profile.email, profile.display_name
        user.groups.extend(profile.groups)
        user.oidc_claims.extend(profile.claims)
    record = identity.UserRecord(user=user, revoked_revision=of.revoked_revision, removed_revision=of.removed_revision)
    return identity.Event(user=record)


def _of_registrations(state: RegistryState) -> Iterator[Iterator[registry.Event]]:
    yield itertools.starmap(_registration, _present(state.registrations))


def _of_policies(state: StoredPolicyState) -> Iterator[Iterator[session.Event]]:
    yield iter(list(state.written.values()))


def _registration(_registration_id: str, of: Subject) -> registry.Event:
    event = registry.Event()
    record = event.registration
    made = record.registration
    made.registration_id = of.registration_id
    active = of.state is RegistrationState.ACTIVE
    made.state = registry.REGISTRATION_STATE_ACTIVE if active else registry.REGISTRATION_STATE_REVOKED
    if of.user_id:
        made.user_id = of.user_id
    elif of.service_token_id:
        made.service_token_id = of.service_token_id
    if of.ipv4:
        made.ipv4 = inet_ntop(AF_INET, of.ipv4)
    if of.ipv6:
        made.ipv6 = inet_ntop(AF_INET6, of.ipv6)
    # The authentication comes by identity's feed.
    set_time(record.authenticate_time, of.enroll_time)
    record.authorize_revision = of.authorize_revision
    if of.report_time is not None:
        record.posture.passed.extend(of.passed)
        record.posture.failed.extend(of.failed)
        set_time(record.posture.report_time, of.report_time)
    return event


_PARTS: Final[Mapping[str, Callable[[Any], Iterator[Iterator[Any]]]]] = {
    "identity": _of_people,
    "registry": _of_registrations,
    "session": _of_policies,
}
