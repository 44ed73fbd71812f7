"""When the session of a device is enough for an application."""

from collections.abc import Callable

from guardhouse.applications import DeviceSessionSettings
from guardhouse_services import etags, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.directory import Directory
from guardhouse_services.session import messages, store
from guardhouse_services.session.domain.applications import check_duration
from guardhouse_services.session.usecases.history import begin, publish


class DeviceSessions:
    """Shows and changes an organization's settings."""

    def __init__(self, database: Database, directory: Directory) -> None:
        self._database = database
        self._directory = directory

    async def get(self, organization_id: str) -> DeviceSessionSettings:
        """Raises OrganizationNotFound."""
        await self._directory.organization(organization_id)
        return await self._database.read(lambda tx: store.device_session_settings.get(tx, organization_id))

    async def update(
        self,
        call: Call,
        organization_id: str,
        etag: str,
        change: Callable[[DeviceSessionSettings, int], DeviceSessionSettings],
    ) -> tuple[DeviceSessionSettings, str]:
        """The settings, changed at the time, and the revision token.

        Raises OrganizationNotFound, EtagMismatch, and DeviceSessionDurationRequired.
        """
        await self._directory.organization(organization_id)

        def work(tx: Transaction) -> tuple[DeviceSessionSettings, str]:
            if (done := requests.find(tx, call.key)) is not None:
                settings = store.device_session_settings.from_row(done["settings"])
                return settings, tx.token(organization_id, done["revision"])
            revision = begin(tx, organization_id)
            found = store.device_session_settings.get(tx, organization_id)
            etags.check(messages.device_session_settings(found).etag, etag)
            changed = change(found, tx.now)
            check_duration(changed, store.applications.with_device_session(tx, organization_id))
            store.device_session_settings.put(tx, organization_id, changed)
            row = store.device_session_settings.to_row(changed)
            requests.record(tx, call, organization_id, settings=row, revision=revision)
            event = messages.device_session_settings_event(changed)
            return changed, publish(tx, organization_id, revision, [event])

        return await self._database.write(work)
