"""What follows from the registry's feed, and what ipam's own tells of it."""

from collections.abc import Sequence

from guardhouse.ipam.v1 import ipam_pb2 as pb
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse_services import audit
from guardhouse_services.database import Transaction
from guardhouse_services.failpoint import failpoint
from guardhouse_services.ipam import store
from guardhouse_services.ipam.domain.leases import Exists, Ledger, State
from guardhouse_services.ipam.messages import from_event, to_event


def snapshot(tx: Transaction, organization_id: str, after: str, limit: int) -> tuple[Sequence[pb.Event], str]:
    """A page of the leases that are held, for the feed."""
    found = store.leases.list_holdings(tx, organization_id, after, limit)
    return [to_event(each) for each in found], found[-1].lease_id if len(found) == limit else ""


def apply(tx: Transaction, organization_id: str, events: Sequence[registry.Event]) -> None:
    """Takes over what the registry's feed says."""
    known = [each for each in map(from_event, events) if each is not None]
    space = store.subnets.lock_space(tx, organization_id) if known else None
    if space is None:
        return
    lease_ids = {each.lease_id for each in known if isinstance(each, Exists)}
    registration_ids = {each.registration_id for each in known}
    leases = store.leases.find_named(tx, organization_id, lease_ids, registration_ids)
    ledger = Ledger(leases, store.subnets.rested_time(tx, organization_id, space), tx.now)
    ledger.apply(known)
    note(tx, "job:follow registry", organization_id, ledger)
    write(tx, organization_id, ledger)


def seen(event: registry.Event) -> str:
    """The registration that a snapshot's event shows."""
    return event.registration.registration.registration_id


def missing(tx: Transaction, organization_id: str, registration_ids: set[str]) -> None:
    """Has the registry asked about the holders that its snapshot lacks. Nothing is freed by absence."""
    if unknown := store.leases.find_holders(tx, organization_id) - registration_ids:
        store.subnets.lock_space(tx, organization_id)
        store.leases.ask_about(tx, organization_id, unknown)


def note(tx: Transaction, job: str, organization_id: str, ledger: Ledger) -> None:
    """Puts on record which leases came to their end without a call."""
    if ended := [each.lease_id for each in ledger.changed.values() if each.state is State.RESTING]:
        audit.note_entry(tx, audit.Entry(organization_id, job, "", ended))


def write(tx: Transaction, organization_id: str, ledger: Ledger) -> None:
    """Writes what the ledger changed, and tells the followers."""
    store.leases.save_leases(tx, organization_id, ledger.changed.values())
    store.subnets.count(tx, organization_id, ledger.counts())
    store.leases.save_holdings(tx, organization_id, ledger.holdings.values())
    failpoint("ipam.follow")
    if events := [to_event(each) for each in ledger.events()]:
        tx.publish(organization_id, events)
