"""Registrations: showing, revoking, restoring and deleting them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from guardhouse.errors import BY_REASON, CredentialsInvalid, GuardhouseError, LeaveNotAllowed, RegistrationNotFound
from guardhouse_services import audit, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import (
    LISTED,
    FormerKey,
    Listed,
    Range,
    Registration,
    RegistrationFilter,
    State,
    held,
    rival,
)
from guardhouse_services.registry.messages import to_event
from guardhouse_services.registry.usecases.os_sessions import settle

Outcome = Registration | GuardhouseError
"""Of one item of a batch."""

Failures = dict[str, GuardhouseError]


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch did, in the order that was asked for."""

    outcomes: Sequence[tuple[str, Outcome]]
    revision_token: str


class Registrations:
    """What administrators do with registrations (decision 16), and a device with its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, organization_id: str, registration_id: str) -> Registration:
        """Raises RegistrationNotFound."""

        def read(tx: Transaction) -> Registration:
            found = store.registrations.find(tx, organization_id, registration_id)
            if found is None or found.state not in LISTED:
                raise RegistrationNotFound(registration_id)
            return _with_devices(tx, organization_id, [found])[0]

        return await self._database.read(read)

    async def keys(
        self, organization_id: str, registration_id: str, after: int, limit: int
    ) -> tuple[Registration, list[FormerKey], int]:
        """The registration, its former keys behind this number, and since when it has the present one.

        Raises RegistrationNotFound.
        """

        def read(tx: Transaction) -> tuple[Registration, list[FormerKey], int]:
            found = store.registrations.find(tx, organization_id, registration_id)
            if found is None or found.state not in LISTED:
                raise RegistrationNotFound(registration_id)
            newest = store.former_keys.newest(tx, organization_id, registration_id)
            since = newest.end_time if newest else found.create_time or 0
            return found, store.former_keys.page(tx, organization_id, registration_id, after, limit), since

        return await self._database.read(read)

    async def page(self, organization_id: str, wanted: RegistrationFilter, page: Range) -> Listed[Registration]:
        def read(tx: Transaction) -> Listed[Registration]:
            found = store.registrations.page(tx, organization_id, wanted, page)
            return replace(found, rows=_with_devices(tx, organization_id, found.rows))

        return await self._database.read(read)

    async def revoke(
        self, call: Call, organization_id: str, ids: Sequence[str], *, validate_only: bool = False
    ) -> Batch:
        def work(tx: Transaction) -> tuple[Failures, list[Registration]]:
            store.os_sessions.lock_devices(tx, organization_id, ids)
            present = store.registrations.lock(tx, organization_id, ids)
            return _missing(ids, present), store.registrations.revoke(tx, organization_id, ids)

        return await self._batch(call, organization_id, ids, work, validate_only)

    async def unrevoke(
        self, call: Call, organization_id: str, ids: Sequence[str], *, validate_only: bool = False
    ) -> Batch:
        """Restores those whose place on the device is free, the first of several for one place (decisions 18, 19)."""

        def work(tx: Transaction) -> tuple[Failures, list[Registration]]:
            known = store.registrations.by_id(tx, organization_id, ids)
            device_ids = {it.device_id for it in known.values()}
            store.devices.lock(tx, organization_id, device_ids)
            present = store.registrations.lock(tx, organization_id, ids)
            places: dict[str, list[Registration]] = {it: [] for it in device_ids}
            for active in store.registrations.active_of_users(tx, organization_id, device_ids):
                places[active.device_id].append(active)
            failures, wanted = _missing(ids, present), []
            for registration in present.values():
                if registration.state != State.REVOKED:
                    continue
                if registration.holder.user_id:
                    occupant = rival(registration, places[registration.device_id])
                    if occupant is not None:
                        failures[registration.registration_id] = held(occupant, registration.holder.user_id)
                        continue
                    places[registration.device_id].append(registration)
                wanted.append(registration.registration_id)
            return failures, store.registrations.unrevoke(tx, organization_id, wanted)

        return await self._batch(call, organization_id, ids, work, validate_only)

    async def delete(
        self, call: Call, organization_id: str, ids: Sequence[str], *, validate_only: bool = False
    ) -> Batch:
        def work(tx: Transaction) -> tuple[Failures, list[Registration]]:
            store.os_sessions.lock_devices(tx, organization_id, ids)
            present = store.registrations.lock(tx, organization_id, ids)
            return _missing(ids, present), store.registrations.delete(tx, organization_id, ids)

        return await self._batch(call, organization_id, ids, work, validate_only)

    async def leave(self, call: Call, organization_id: str, registration_id: str) -> str:
        """Deletes the caller's own registration, if it may. The revision token.

        Raises RegistrationNotFound and LeaveNotAllowed, which is on record.
        """

        def leave(tx: Transaction) -> str | LeaveNotAllowed:
            if requests.find(tx, call.key) is not None:
                return tx.token(organization_id, tx.revision(organization_id))
            store.os_sessions.lock_devices(tx, organization_id, [registration_id])
            present = store.registrations.lock(tx, organization_id, [registration_id]).get(registration_id)
            if present is None:
                raise RegistrationNotFound(registration_id)
            if present.state != State.ACTIVE:
                # It was revoked since its device was recognised, which can do nothing any more.
                raise CredentialsInvalid("the registration token is of no active registration")
            refusal = _leave_refusal(tx, present)
            if refusal is not None:
                audit.note(tx, call, registration_id, reason=refusal.reason)
                return refusal
            gone = settle(tx, organization_id, store.registrations.delete(tx, organization_id, [registration_id]))
            requests.record(tx, call, registration_id)
            return tx.token(organization_id, tx.publish(organization_id, [to_event(it) for it in gone]))

        outcome = await self._database.write(leave)
        if isinstance(outcome, LeaveNotAllowed):
            raise outcome
        return outcome

    async def _batch(
        self,
        call: Call,
        organization_id: str,
        ids: Sequence[str],
        work: Callable[[Transaction], tuple[Failures, list[Registration]]],
        validate_only: bool,
    ) -> Batch:
        """Runs a change of many registrations once, and answers a repeated request with the same outcomes."""

        def write(tx: Transaction) -> Batch:
            done = requests.find(tx, call.key)
            if done is None:
                failures, changed = work(tx)
                reasons = {key: [failure.reason, failure.message] for key, failure in failures.items()}
                now = store.registrations.by_id(tx, organization_id, ids)
                requests.record(tx, call, *(it.registration_id for it in changed), failures=reasons)
                changed = settle(tx, organization_id, changed)
                revision = (
                    tx.publish(organization_id, [to_event(it) for it in changed])
                    if changed
                    else tx.revision(organization_id)
                )
            else:
                failures = {key: _failure(*failure) for key, failure in done["failures"].items()}
                now = store.registrations.by_id(tx, organization_id, ids)
                revision = tx.revision(organization_id)
            outcomes: list[tuple[str, Outcome]] = [(key, failures.get(key) or now[key]) for key in ids]
            return Batch(outcomes, tx.token(organization_id, revision))

        return await self._database.write(write, validate_only=validate_only)


def _with_devices(tx: Transaction, organization_id: str, rows: Sequence[Registration]) -> list[Registration]:
    """With what their devices are called and run."""
    systems = store.devices.systems(tx, organization_id, {it.device_id for it in rows})
    shown = []
    for it in rows:
        # A deletion may have come between the two reads.
        of = systems.get(it.device_id)
        shown.append(
            replace(it, device_display_name=of.display_name, device_client_version=of.client_version) if of else it
        )
    return shown


def _leave_refusal(tx: Transaction, present: Registration) -> LeaveNotAllowed | None:
    """Why it may not leave, if it may not (decision 18)."""
    registration_id, what_to_do = present.registration_id, "an administrator can delete the registration"
    if present.managed:
        return LeaveNotAllowed(f"the device is managed and cannot leave; {what_to_do}", registration_id=registration_id)
    profile = store.device_profiles.in_force(tx, present.organization_id, present.device_profile_id)
    if profile.settings.allowed_to_leave:
        return None
    return LeaveNotAllowed(
        f"the device profile {profile.name!r} does not let devices leave; {what_to_do}", registration_id=registration_id
    )


def _missing(ids: Sequence[str], present: Mapping[str, Registration]) -> Failures:
    return {key: RegistrationNotFound(key) for key in ids if key not in present}


def _failure(reason: str, message: str) -> GuardhouseError:
    error = BY_REASON[reason].__new__(BY_REASON[reason])
    GuardhouseError.__init__(error, message)
    return error
