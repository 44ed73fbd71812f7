"""Shared devices: which registration is current, and who had the device when (decision 19)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from guardhouse.errors import DeviceNotShared, RegistrationNotFound
from guardhouse.os_sessions import NOBODY, Desk, OsEvent, Seat, after, current, registered
from guardhouse_services import requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import LISTED, Holder, OsSession, Registration, State
from guardhouse_services.registry.messages import to_event


@dataclass(frozen=True, slots=True)
class Report:
    """What a device says has happened on it."""

    organization_id: str
    registration_id: str
    event: OsEvent
    os_user: str
    sequence: int


class OsSessions:
    """What devices report, and what administrators ask."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def report(self, call: Call, said: Report) -> tuple[OsSession, str]:
        """What is so now, and the revision token. Raises RegistrationNotFound and DeviceNotShared.

        The sequence is compared under the device's lock, so an event that comes late, or again, changes nothing.
        """
        organization_id = said.organization_id

        def report(tx: Transaction) -> tuple[OsSession, str]:
            done = requests.find(tx, call.key)
            caller = store.registrations.find(tx, organization_id, said.registration_id)
            if caller is None or caller.state not in LISTED:
                raise RegistrationNotFound(said.registration_id)
            store.devices.lock(tx, organization_id, [caller.device_id])
            session = store.os_sessions.present(tx, organization_id, caller.device_id)
            if session is None:
                raise DeviceNotShared(
                    "the device is not in multi-user mode; somebody must enroll in it first", device_id=caller.device_id
                )
            revision = None
            if done is None and said.sequence > session.sequence:
                desk = after(session.desk, said.event, said.os_user)
                session, switched = _move(tx, session, desk, said.sequence)
                requests.record(tx, call, caller.device_id, *(it.registration_id for it in switched))
                revision = tx.publish(organization_id, [to_event(it) for it in switched]) if switched else None
            return session, tx.token(organization_id, revision or tx.revision(organization_id))

        return await self._database.write(report)

    async def page(
        self, organization_id: str, device_id: str, time: int | None, before: int | None, limit: int
    ) -> Sequence[OsSession]:
        return await self._database.read(
            lambda tx: store.os_sessions.page(tx, organization_id, device_id, time, before, limit)
        )


def enrolled(tx: Transaction, made: Registration, changed: Sequence[Registration]) -> list[Registration]:
    """What a registration that became active changes beside what has changed, all as it is now.

    One in multi-user mode begins it on its device, and one outside of it ends it that takes the place of such a one.
    """
    organization_id, device_id = made.organization_id, made.device_id
    if made.os_user is not None:
        session = store.os_sessions.present(tx, organization_id, device_id)
        session = session or OsSession(organization_id, device_id, 0, NOBODY)
        _, switched = _move(tx, session, registered(session.desk, made.os_user), session.sequence)
        return _as_now(changed, switched)
    if any(it.os_user is not None and it.state == State.DELETED for it in changed):
        store.os_sessions.end(tx, organization_id, device_id, tx.now)
        return _as_now(changed, store.os_sessions.set_current(tx, organization_id, device_id, ""))
    return list(changed)


def settle(tx: Transaction, organization_id: str, changed: Sequence[Registration]) -> list[Registration]:
    """What follows on shared devices from registrations that were revoked, restored or deleted, beside these.

    The devices are locked since before the registrations were.
    """
    switched: list[Registration] = []
    for device_id in sorted({it.device_id for it in changed if it.os_user is not None}):
        session = store.os_sessions.present(tx, organization_id, device_id)
        if session is not None:
            switched += _move(tx, session, session.desk, session.sequence)[1]
    return _as_now(changed, switched)


def _move(tx: Transaction, session: OsSession, desk: Desk, sequence: int) -> tuple[OsSession, list[Registration]]:
    """The session as it is with this desk, and the registrations that are or were current. A switch is recorded."""
    organization_id, device_id = session.organization_id, session.device_id
    active = {it.registration_id: it for it in store.os_sessions.seats(tx, organization_id, device_id)}
    now = current(desk, [Seat(key, it.os_user or "") for key, it in active.items()])
    switched = store.os_sessions.set_current(tx, organization_id, device_id, now)
    if (desk, now) != (session.desk, session.registration_id):
        holder = active[now].holder if now else Holder()
        # No two begin at one time, whatever the clocks of replicas say.
        time = max(tx.now, session.begin_time + 1)
        begun = OsSession(organization_id, device_id, time, desk, sequence, now, holder)
        store.os_sessions.begin(tx, begun)
        return begun, switched
    if sequence != session.sequence:
        store.os_sessions.note(tx, organization_id, device_id, sequence)
    return replace(session, sequence=sequence), switched


def _as_now(changed: Iterable[Registration], switched: Iterable[Registration]) -> list[Registration]:
    """Each once, in the order in which they changed. Nobody is told of the switch of one that is gone."""
    now = {it.registration_id: it for it in changed}
    now |= {it.registration_id: it for it in switched if it.registration_id in now or it.state != State.DELETED}
    return list(now.values())
