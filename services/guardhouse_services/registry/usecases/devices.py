"""Devices: showing, revoking and deleting them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from guardhouse.errors import DeviceNotFound
from guardhouse_services import etags, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import Device, DeviceFilter, Listed, Range, State, count_users
from guardhouse_services.registry.messages import device_etag, to_event
from guardhouse_services.registry.usecases.os_sessions import settle


@dataclass(frozen=True, slots=True)
class Revocation:
    """How many registrations were active, and how many revoked ones the device has now, of how many users."""

    revoked: int
    held: int
    users: int
    revision_token: str


@dataclass(frozen=True, slots=True)
class Deletion:
    """How many registrations went with a device, of how many users."""

    deleted: int
    users: int
    revision_token: str


class Devices:
    """What administrators do with devices (decisions 14 to 16)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, organization_id: str, device_id: str) -> Device:
        """Raises DeviceNotFound."""
        found = await self._database.read(lambda tx: store.devices.find(tx, organization_id, device_id))
        if found is None:
            raise DeviceNotFound(device_id)
        return found

    async def page(self, organization_id: str, wanted: DeviceFilter, page: Range) -> Listed[Device]:
        return await self._database.read(lambda tx: store.devices.page(tx, organization_id, wanted, page))

    async def update(
        self,
        call: Call,
        organization_id: str,
        device_id: str,
        tags: Mapping[str, str],
        etag: str = "",
        *,
        validate_only: bool = False,
    ) -> tuple[Device, str]:
        """Replaces the tags. The device and the revision token. Raises DeviceNotFound and EtagMismatch."""

        def update(tx: Transaction) -> tuple[Device, str]:
            done = requests.find(tx, call.key)
            if done is not None and (changed := requests.recall(Device, done)) is not None:
                return changed, tx.token(organization_id, tx.revision(organization_id))
            store.devices.lock(tx, organization_id, [device_id])
            found = store.devices.find(tx, organization_id, device_id)
            if found is None:
                raise DeviceNotFound(device_id)
            etags.check(device_etag(found), etag)
            changed = replace(found, tags=tags, update_time=tx.now)
            store.devices.tag(tx, organization_id, device_id, tags)
            requests.record(tx, call, device_id, value=requests.remember(changed))
            return changed, tx.token(organization_id, tx.publish(organization_id, []))

        return await self._database.write(update, validate_only=validate_only)

    async def revoke(
        self, call: Call, organization_id: str, device_id: str, *, validate_only: bool = False
    ) -> Revocation:
        """Revokes every active registration of the device. Raises DeviceNotFound."""

        def revoke(tx: Transaction) -> Revocation:
            done = requests.find(tx, call.key)
            if done is not None:
                token = tx.token(organization_id, tx.revision(organization_id))
                return Revocation(int(done["revoked"]), int(done["held"]), int(done.get("users", 0)), token)
            if not store.devices.lock(tx, organization_id, [device_id]):
                raise DeviceNotFound(device_id)
            present = store.registrations.lock_on_device(tx, organization_id, device_id)
            active = [it.registration_id for it in present.values() if it.state == State.ACTIVE]
            revoked = store.registrations.revoke(tx, organization_id, active)
            ids = [it.registration_id for it in revoked]
            users = count_users(present.values())
            requests.record(tx, call, device_id, *ids, revoked=len(revoked), held=len(present), users=users)
            changed = settle(tx, organization_id, revoked)
            revision = (
                tx.publish(organization_id, [to_event(it) for it in changed])
                if changed
                else tx.revision(organization_id)
            )
            return Revocation(len(revoked), len(present), users, tx.token(organization_id, revision))

        return await self._database.write(revoke, validate_only=validate_only)

    async def delete(
        self, call: Call, organization_id: str, device_id: str, *, validate_only: bool = False
    ) -> Deletion:
        """Deletes the device with its registrations, and aborts its enrollments under way. Raises DeviceNotFound."""

        def delete(tx: Transaction) -> Deletion:
            done = requests.find(tx, call.key)
            if done is not None:
                token = tx.token(organization_id, tx.revision(organization_id))
                return Deletion(int(done["deleted"]), int(done.get("users", 0)), token)
            if not store.devices.delete(tx, organization_id, device_id):
                raise DeviceNotFound(device_id)
            store.enrollments.abort_on_device(tx, organization_id, device_id)
            store.os_sessions.end(tx, organization_id, device_id, tx.now)
            present = store.registrations.lock_on_device(tx, organization_id, device_id)
            gone = store.registrations.delete(tx, organization_id, present)
            users, ids = count_users(gone), [it.registration_id for it in gone]
            requests.record(tx, call, device_id, *ids, deleted=len(gone), users=users)
            revision = tx.publish(organization_id, [to_event(it) for it in gone])
            return Deletion(len(gone), users, tx.token(organization_id, revision))

        return await self._database.write(delete, validate_only=validate_only)
