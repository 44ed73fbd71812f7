"""Access applications."""

from collections.abc import Callable, Sequence
from typing import Any

from guardhouse.applications import Application, DeviceSessionSettings
from guardhouse.ids import APPLICATION, SIGNING_KEY, new_id
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services import etags, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.directory import Directory
from guardhouse_services.paging import Page
from guardhouse_services.session import messages, store
from guardhouse_services.session.domain.applications import check, check_duration
from guardhouse_services.session.domain.signing_keys import rotate
from guardhouse_services.session.usecases import signing_keys
from guardhouse_services.session.usecases.history import begin, publish

Shown = tuple[Application, DeviceSessionSettings]
"""An application, and the settings that decide whether it takes the session of a device."""


class Applications:
    """Creates, shows, changes and deletes them."""

    def __init__(self, database: Database, directory: Directory) -> None:
        self._database = database
        self._directory = directory

    async def create(
        self, call: Call, organization_id: str, draft: Callable[[str, int], Application]
    ) -> tuple[Shown, str]:
        """The application, which is drafted with its id and the time, and the revision token. An organization's first
        one comes with its first signing key.

        Raises OrganizationNotFound, LimitReached, DeviceSessionDurationRequired, and InvalidField for what cannot be
        used together.
        """
        check(draft("", 0))
        await self._directory.organization(organization_id)

        def work(tx: Transaction) -> tuple[Shown, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return _remembered(done), tx.token(organization_id, done["revision"])
            revision = begin(tx, organization_id)
            store.applications.check_room(tx, organization_id)
            made = draft(new_id(APPLICATION, tx.now), tx.now)
            settings = store.device_session_settings.get(tx, organization_id)
            check_duration(settings, [""] if made.device_session else [])
            store.applications.insert(tx, organization_id, made)
            events = [messages.application_event(made)]
            if not (keys := store.signing_keys.all_of(tx, organization_id)):
                first = rotate(keys, new_id(SIGNING_KEY, tx.now), tx.now)
                events += signing_keys.write(tx, organization_id, first)
            return (made, settings), _publish(tx, call, organization_id, revision, (made, settings), events)

        return await self._database.write(work)

    async def get(self, organization_id: str, application_id: str) -> Shown:
        """Raises ApplicationNotFound."""

        def work(tx: Transaction) -> Shown:
            found = store.applications.get(tx, organization_id, application_id)
            return found, store.device_session_settings.get(tx, organization_id)

        return await self._database.read(work)

    async def page(self, organization_id: str, page: Page) -> Sequence[Shown]:
        """The page's applications, and one more if there is one."""

        def work(tx: Transaction) -> Sequence[Shown]:
            settings = store.device_session_settings.get(tx, organization_id)
            return [(it, settings) for it in store.applications.page(tx, organization_id, page)]

        return await self._database.read(work)

    async def update(
        self,
        call: Call,
        organization_id: str,
        application_id: str,
        etag: str,
        change: Callable[[Application, int], Application],
    ) -> tuple[Shown, str]:
        """The application, changed at the time, and the revision token. Raises ApplicationNotFound, EtagMismatch, and
        as create for a whole that cannot be."""

        def work(tx: Transaction) -> tuple[Shown, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return _remembered(done), tx.token(organization_id, done["revision"])
            revision = begin(tx, organization_id)
            found = store.applications.get(tx, organization_id, application_id)
            etags.check(messages.application(found).etag, etag)
            changed = change(found, tx.now)
            check(changed)
            settings = store.device_session_settings.get(tx, organization_id)
            check_duration(settings, [application_id] if changed.device_session else [])
            store.applications.update(tx, organization_id, changed)
            events = [messages.application_event(changed)]
            return (changed, settings), _publish(tx, call, organization_id, revision, (changed, settings), events)

        return await self._database.write(work)

    async def delete(
        self, call: Call, organization_id: str, application_id: str, etag: str, *, validate_only: bool
    ) -> tuple[Shown, str]:
        """The application as it was, and the revision token. Raises ApplicationNotFound and EtagMismatch."""

        def work(tx: Transaction) -> tuple[Shown, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return _remembered(done), tx.token(organization_id, done["revision"])
            revision = begin(tx, organization_id)
            found = store.applications.get(tx, organization_id, application_id)
            etags.check(messages.application(found).etag, etag)
            settings = store.device_session_settings.get(tx, organization_id)
            store.applications.delete(tx, organization_id, application_id)
            events = [messages.application_deleted_event(application_id)]
            return (found, settings), _publish(tx, call, organization_id, revision, (found, settings), events)

        return await self._database.write(work, validate_only=validate_only)


def _publish(
    tx: Transaction, call: Call, organization_id: str, revision: int, shown: Shown, events: Sequence[pb.Event]
) -> str:
    """What is answered is remembered as it is now, because by the time of a repetition it may be gone."""
    application, settings = shown
    requests.record(
        tx,
        call,
        application.application_id,
        application=store.applications.to_row(application),
        settings=store.device_session_settings.to_row(settings),
        revision=revision,
    )
    return publish(tx, organization_id, revision, events)


def _remembered(done: dict[str, Any]) -> Shown:
    return (
        store.applications.from_row(done["application"]),
        store.device_session_settings.from_row(done["settings"]),
    )
