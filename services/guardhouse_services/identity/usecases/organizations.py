"""Organizations and their seats. Their events are of the installation's feed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from guardhouse.errors import InvalidField
from guardhouse.ids import ORGANIZATION, new_id
from guardhouse_services import etags, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import messages, store
from guardhouse_services.identity.domain.organizations import (
    WINDOWS,
    DefaultAction,
    Organization,
    OrganizationDeletion,
    SeatUsage,
)
from guardhouse_services.identity.usecases.history import present, publish
from guardhouse_services.paging import Page

INSTALLATION = ""


class Organizations:
    """Creates, shows, changes and deletes organizations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        call: Call,
        display_name: str,
        seat_limit: int | None,
        default_action: DefaultAction = DefaultAction.ALLOW,
        *,
        device_flow: bool = False,
        seat_expiration: int | None = None,
        delete_revoked_after: int | None = None,
        multi_user_platforms: tuple[int, ...] = (WINDOWS,),
    ) -> tuple[Organization, str]:
        """The organization and the revision token."""

        def work(tx: Transaction) -> tuple[Organization, str]:
            if (done := requests.find(tx, call.key)) is not None:
                made = requests.recall(Organization, done) or store.organizations.get(tx, done["organization_id"])
                return made, present(tx, INSTALLATION)
            organization_id = new_id(ORGANIZATION, tx.now)
            made = Organization(
                organization_id,
                display_name,
                seat_limit,
                tx.now,
                tx.now,
                default_action,
                device_flow=device_flow,
                seat_expiration=seat_expiration,
                delete_revoked_after=delete_revoked_after,
                multi_user_platforms=multi_user_platforms,
            )
            store.organizations.insert(tx, made)
            requests.record(tx, call, organization_id, organization_id=organization_id, value=requests.remember(made))
            return made, publish(tx, INSTALLATION, [messages.organization_event(made)])

        return await self._database.write(work)

    async def get(self, organization_id: str) -> Organization:
        return await self._database.read(lambda tx: store.organizations.get(tx, organization_id))

    async def page(self, page: Page) -> Sequence[Organization]:
        """One more than the page's size, if there is one, as every such method does."""
        return await self._database.read(lambda tx: store.organizations.page(tx, page))

    async def update(
        self,
        call: Call,
        organization_id: str,
        changes: dict[str, Any],
        etag: str = "",
        *,
        validate_only: bool = False,
    ) -> tuple[Organization, int, str]:
        """Changes these fields. The organization, its seats in use, and the revision token.

        Raises OrganizationNotFound, EtagMismatch and SeatLimitBelowUse (decision 4).
        """

        def work(tx: Transaction) -> tuple[Organization, int, str]:
            if (done := requests.find(tx, call.key)) is not None:
                changed = requests.recall(Organization, done) or store.organizations.get(tx, organization_id)
                return changed, done.get("seats_used", 0), present(tx, INSTALLATION)
            found = store.organizations.get(tx, organization_id, lock=True)
            etags.check(messages.organization(found).etag, etag)
            changed = replace(found, **changes, update_time=tx.now)
            if "seat_limit" in changes:
                store.organizations.limit_seats(tx, organization_id, changed.seat_limit)
            store.organizations.update(tx, changed)
            used = store.organizations.seats(tx, organization_id).used
            requests.record(tx, call, organization_id, value=requests.remember(changed), seats_used=used)
            return changed, used, publish(tx, INSTALLATION, [messages.organization_event(changed)])

        return await self._database.write(work, validate_only=validate_only)

    async def delete(
        self, call: Call, organization_id: str, confirmation: str, etag: str = "", *, validate_only: bool = False
    ) -> tuple[OrganizationDeletion, str]:
        """Deletes an organization for everybody who asks from now on; what is stored of it goes later, see `deletion`.

        What goes, and the revision token. `confirmation` is its name or id. Raises OrganizationNotFound, InvalidField
        and EtagMismatch.
        """
        # On record with the installation: what is the organization's own goes.
        call = call._replace(key=replace(call.key, organization_id=INSTALLATION))

        def work(tx: Transaction) -> tuple[OrganizationDeletion, str]:
            if (done := requests.find(tx, call.key)) is not None:
                if (deletion := requests.recall(OrganizationDeletion, done)) is None:
                    raise AssertionError("unreachable: no release has deleted one and remembered nothing")
                return deletion, present(tx, INSTALLATION)
            found = store.organizations.get(tx, organization_id, lock=True)
            if confirmation not in (found.display_name, organization_id):
                raise InvalidField("confirmation", "confirmation is not the organization's display name or id")
            etags.check(messages.organization(found).etag, etag)
            deletion = store.organizations.delete(tx, found)
            requests.record(tx, call, organization_id, value=requests.remember(deletion))
            return deletion, publish(tx, INSTALLATION, [messages.organization_deleted_event(organization_id)])

        return await self._database.write(work, validate_only=validate_only)

    async def seats(self, organization_id: str) -> SeatUsage:
        """Raises OrganizationNotFound."""
        return await self._database.read(lambda tx: store.organizations.seats(tx, organization_id))
