"""What a checker's file holds: the events that make what its three views know of an organization."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Any, Final, TypeVar

from guardhouse.decisions import RegistrationState, User
from guardhouse.following import View
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.replica.arrivals import Arrivals
from guardhouse.replica.people import Authentication, IdentityState
from guardhouse.replica.policies import PolicyState
from guardhouse.replica.registrations import RegistryState, Subject
from guardhouse.session.v1 import session_pb2 as session
from guardhouse.snapshots import Captured
from guardhouse.times import set_time

T = TypeVar("T")


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


def _present(of: Mapping[str, T], arrivals: Arrivals) -> Iterator[tuple[str, T]]:
    """What is there when its turn comes, each as it is when it is read; whoever has gone since is left out."""
    for key in arrivals.those_in(of):
        if (value := of.get(key)) is not None:
            yield key, value


def _of_people(state: IdentityState) -> Iterator[Iterator[identity.Event]]:
    yield (identity.Event(organization=it) for it in list(state.organizations.values()))
    yield (identity.Event(organization_deleted=it) for it in sorted(state.deleted))
    yield (identity.Event(identity_provider=it) for it in list(state.identity_providers.values()))
    yield itertools.starmap(_user, _present(state.users, state.user_arrivals))
    yield itertools.starmap(_authentication, _present(state.authentications, state.authentication_arrivals))


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
    yield itertools.starmap(_registration, _present(state.registrations, state.arrivals))


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
