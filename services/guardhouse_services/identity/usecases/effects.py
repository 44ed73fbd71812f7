"""What follows in identity from the feeds of the registry and of ipam.

Each effect may be applied twice, or late, and changes nothing then (invariant I-21).
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.ipam.v1 import ipam_pb2
from guardhouse.registry.v1 import registry_pb2
from guardhouse.times import from_timestamp
from guardhouse_services import audit
from guardhouse_services.database import Transaction
from guardhouse_services.failpoint import failpoint
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.enrollments import Registration
from guardhouse_services.identity.usecases import seats
from guardhouse_services.identity.usecases.history import publish


def follow_registry(tx: Transaction, organization_id: str, events: Sequence[registry_pb2.Event]) -> None:
    """Registrations that exist make what their intents reserved held for good; those that are gone are noted."""
    records = {}
    deleted = set()
    for event in events:
        if event.HasField("registration"):
            record = _registration(event.registration)
            records[record.registration_id] = record
        elif event.HasField("registration_deleted"):
            deleted.add(event.registration_deleted)
    news: list[pb.Event] = []
    if records:
        news += _registered(tx, organization_id, records)
    if deleted:
        news += _followed(tx, organization_id, gone(tx, organization_id, deleted))
        failpoint("identity.follow")
    _hand_over(tx, organization_id, {*records, *deleted})
    if news:
        publish(tx, organization_id, news)


def seen_in_registry(event: registry_pb2.Event) -> str:
    if event.HasField("registration"):
        return event.registration.registration.registration_id
    return event.registration_deleted


def missing_in_registry(tx: Transaction, organization_id: str, ids: set[str]) -> None:
    """Registrations that a snapshot lacks are gone. No seat is freed by it: only the registry's word frees one."""
    absent = store.registrations.live(tx, organization_id) - ids
    if absent and (news := _followed(tx, organization_id, gone(tx, organization_id, absent))):
        publish(tx, organization_id, news)


def follow_ipam(tx: Transaction, organization_id: str, events: Sequence[ipam_pb2.Event]) -> None:
    """Addresses that were given back; a removal counts them."""
    released = [event.lease_released for event in events if event.HasField("lease_released")]
    ids = {lease.registration_id for lease in released if lease.registration_id}
    # One that handed its lease over did not hold it at the end.
    before = store.registrations.of_leases(tx, organization_id, {lease.lease_id for lease in released})
    store.registrations.release(tx, organization_id, ids | {registration.registration_id for registration in before})


def held_in_ipam(event: ipam_pb2.Event) -> str:
    return event.lease.registration_id


def missing_in_ipam(tx: Transaction, organization_id: str, ids: set[str]) -> None:
    """A registration that is gone and for which a snapshot has no lease has given its addresses back."""
    absent = store.registrations.deleted_unreleased(tx, organization_id) - ids
    store.registrations.release(tx, organization_id, absent)


def gone(tx: Transaction, organization_id: str, registration_ids: Collection[str]) -> list[pb.Event]:
    """Notes that registrations are deleted, and drops their authentications; answers the events."""
    dropped = store.registrations.delete(tx, organization_id, registration_ids)
    return [pb.Event(authentication_deleted=registration_id) for registration_id in dropped]


def _followed(tx: Transaction, organization_id: str, dropped: list[pb.Event]) -> list[pb.Event]:
    """Puts on record that authentications went with their registrations."""
    if dropped:
        objects = [event.authentication_deleted for event in dropped]
        audit.note_entry(tx, audit.Entry(organization_id, "job:follow registry", "", objects))
    return dropped


def _registered(tx: Transaction, organization_id: str, records: dict[str, Registration]) -> list[pb.Event]:
    new = records.keys() - store.registrations.known(tx, organization_id, records.keys())
    intents = store.intents.named(tx, organization_id, records.keys())
    undecided = [intent for intent in intents if intent.is_undecided]
    # The lock keeps a removal from overlooking a registration that is being written here.
    holders = {records[registration_id].user_id for registration_id in new} | {intent.user_id for intent in undecided}
    users = {user.user_id: user for user in store.users.lock(tx, organization_id, holders - {""})}
    policies = {intent.intent_id: intent.enrollment_policy_id for intent in intents}
    store.registrations.save(
        tx,
        organization_id,
        [replace(it, enrollment_policy_id=policies.get(it.registration_id, "")) for it in records.values()],
    )
    late = [
        (users[record.user_id].removal_id, record.registration_id)
        for record in map(records.__getitem__, sorted(new))
        if record.user_id in users and users[record.user_id].removed_revision >= record.authorize_revision
    ]
    store.removals.add(tx, organization_id, late)
    return seats.hold(tx, organization_id, [intent.intent_id for intent in undecided], users)


def _hand_over(tx: Transaction, organization_id: str, registration_ids: Collection[str]) -> None:
    """A registration that was replaced does not give its addresses back: its successor has them (decision 18)."""
    leases: dict[str, list[Registration]] = {}
    for registration in store.registrations.sharing_leases(tx, organization_id, registration_ids):
        leases.setdefault(registration.lease_id, []).append(registration)
    replaced = {
        registration.registration_id
        for holders in leases.values()
        for registration in holders
        if registration.delete_time is not None and any(other.delete_time is None for other in holders)
    }
    store.registrations.release(tx, organization_id, replaced)


def _registration(record: registry_pb2.RegistrationRecord) -> Registration:
    registration = record.registration
    return Registration(
        registration_id=registration.registration_id,
        user_id=registration.user_id,
        service_token_id=registration.service_token_id,
        authorize_revision=record.authorize_revision,
        authenticate_time=from_timestamp(record.authenticate_time),
        lease_id=record.lease_id,
    )
