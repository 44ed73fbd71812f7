"""Device profiles: writing and showing them, and trying whom they match."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from guardhouse.device_profiles import DeviceProfile, Settings, Step, Subject, facts, trace
from guardhouse.errors import DeviceProfileIsDefault, RegistrationNotFound
from guardhouse.ids import DEVICE_PROFILE, default_profile_id, new_id
from guardhouse_services import etags, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.directory import Directory
from guardhouse_services.paging import Page
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import LISTED, Matching
from guardhouse_services.registry.messages import (
    to_configuration,
    to_device_profile,
    to_profile_deleted_event,
    to_profile_event,
)
from guardhouse_services.registry.usecases.profile_matching import subjects

REMEMBERED = 4096
"""Organizations whose default etag is."""

Written = tuple[DeviceProfile, str]
"""The profile, and the revision token."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What each profile makes of somebody, and the names of the profiles by id."""

    steps: Sequence[Step]
    names: dict[str, str]
    default: DeviceProfile


class DeviceProfiles:
    """Creates, shows, changes, deletes and tries profiles."""

    def __init__(self, database: Database, directory: Directory) -> None:
        self._database = database
        self._directory = directory

    async def create(
        self,
        call: Call,
        organization_id: str,
        draft: Callable[[Settings], DeviceProfile],
        *,
        validate_only: bool = False,
    ) -> Written:
        """`draft` is given the settings of the default profile. Raises what CreateDeviceProfile's comment names."""
        await self._directory.organization(organization_id)

        def create(tx: Transaction) -> Written:
            if (done := requests.find(tx, call.key)) is not None:
                return _repeated(tx, organization_id, done)
            store.matchings.begin(tx, organization_id)
            store.device_profiles.check_room(tx, organization_id)
            base = store.device_profiles.get(tx, organization_id, default_profile_id(organization_id)).settings
            made = replace(draft(base), device_profile_id=new_id(DEVICE_PROFILE, tx.now), create_time=tx.now)
            return _save(tx, call, organization_id, made)

        return await self._database.write(create, validate_only=validate_only)

    async def get(self, organization_id: str, device_profile_id: str) -> DeviceProfile:
        """Raises OrganizationNotFound and DeviceProfileNotFound."""
        await self._directory.organization(organization_id)
        return await self._database.read(lambda tx: store.device_profiles.get(tx, organization_id, device_profile_id))

    async def in_force(self, organization_id: str, device_profile_id: str) -> DeviceProfile:
        """The profile of a registration: the default one where it has just been deleted."""
        return await self._database.read(
            lambda tx: store.device_profiles.in_force(tx, organization_id, device_profile_id)
        )

    async def page(self, organization_id: str, page: Page) -> tuple[Sequence[DeviceProfile], Matching | None]:
        """The page's profiles, and one more if there is one; and how far matching has come."""
        await self._directory.organization(organization_id)

        def read(tx: Transaction) -> tuple[Sequence[DeviceProfile], Matching | None]:
            found = store.device_profiles.page(tx, organization_id, page)
            return found, store.matchings.find(tx, organization_id)

        return await self._database.read(read)

    async def update(
        self,
        call: Call,
        organization_id: str,
        device_profile_id: str,
        etag: str,
        change: Callable[[DeviceProfile], DeviceProfile],
        *,
        validate_only: bool = False,
    ) -> Written:
        """`change` is given the present profile. Raises what UpdateDeviceProfile's comment names."""
        await self._directory.organization(organization_id)

        def update(tx: Transaction) -> Written:
            if (done := requests.find(tx, call.key)) is not None:
                return _repeated(tx, organization_id, done)
            store.matchings.lock(tx, organization_id)
            found = store.device_profiles.get(tx, organization_id, device_profile_id)
            etags.check(to_device_profile(found).etag, etag)
            changed = replace(
                change(found), device_profile_id=device_profile_id, create_time=found.create_time or tx.now
            )
            if _decides_by(changed) != _decides_by(found):
                store.matchings.begin(tx, organization_id)
            return _save(tx, call, organization_id, changed)

        return await self._database.write(update, validate_only=validate_only)

    async def delete(
        self, call: Call, organization_id: str, device_profile_id: str, etag: str, *, validate_only: bool = False
    ) -> Written:
        """The profile as it was. Raises what DeleteDeviceProfile's comment names."""
        await self._directory.organization(organization_id)

        def delete(tx: Transaction) -> Written:
            if (done := requests.find(tx, call.key)) is not None:
                return _repeated(tx, organization_id, done)
            if device_profile_id == default_profile_id(organization_id):
                raise DeviceProfileIsDefault(
                    "the default device profile matches whoever no other one does, so it stays; change its settings",
                    device_profile_id=device_profile_id,
                )
            store.matchings.begin(tx, organization_id)
            gone = store.device_profiles.get(tx, organization_id, device_profile_id)
            etags.check(to_device_profile(gone).etag, etag)
            store.device_profiles.delete(tx, organization_id, device_profile_id)
            _record(tx, call, gone)
            revision = tx.publish(organization_id, [to_profile_deleted_event(device_profile_id)])
            return gone, tx.token(organization_id, revision)

        return await self._database.write(delete, validate_only=validate_only)

    async def match(self, organization_id: str, about: str | Subject) -> Tried:
        """What profiles make of a registration, by its id, or of somebody. Raises RegistrationNotFound."""
        await self._directory.organization(organization_id)

        def match(tx: Transaction) -> Tried:
            subject = about
            if isinstance(subject, str):
                found = store.registrations.find(tx, organization_id, subject)
                if found is None or found.state not in LISTED:
                    raise RegistrationNotFound(subject)
                (subject,) = subjects(tx, organization_id, [found])
            rules = store.device_profiles.rules(tx, organization_id)
            default = store.device_profiles.get(tx, organization_id, default_profile_id(organization_id))
            names = store.device_profiles.names(tx, organization_id)
            return Tried(list(trace(rules, facts(subject))), names, default)

        return await self._database.read(match)


@lru_cache(REMEMBERED)
def default_etag(organization_id: str) -> str:
    """The etag of the configuration of a default profile that nobody has changed."""
    return to_configuration(store.device_profiles.default(organization_id)).etag


def _save(tx: Transaction, call: Call, organization_id: str, profile: DeviceProfile) -> Written:
    saved = replace(profile, update_time=tx.now, settings_etag="")
    saved = replace(saved, settings_etag=to_configuration(saved).etag)
    store.device_profiles.save(tx, organization_id, saved)
    _record(tx, call, saved)
    return saved, tx.token(organization_id, tx.publish(organization_id, [to_profile_event(saved)]))


def _record(tx: Transaction, call: Call, profile: DeviceProfile) -> None:
    """The profile is remembered as it is now, because by the time of a repetition it may be gone."""
    requests.record(tx, call, profile.device_profile_id, value=requests.remember(profile))


def _repeated(tx: Transaction, organization_id: str, done: dict[str, Any]) -> Written:
    profile = requests.recall(DeviceProfile, done)
    if profile is None:
        raise AssertionError("unreachable: every release remembers the profile")
    return profile, tx.token(organization_id, tx.revision(organization_id))


def _decides_by(profile: DeviceProfile) -> tuple[Any, ...]:
    return profile.precedence, profile.match, profile.enabled
