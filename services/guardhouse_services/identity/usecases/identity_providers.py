"""Identity providers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.ids import IDENTITY_PROVIDER, new_id
from guardhouse_services import etags, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import messages, store
from guardhouse_services.identity.domain.credentials import IdentityProvider, ProviderDeletion
from guardhouse_services.identity.domain.scim import ScimSettings
from guardhouse_services.identity.store.tables import identity_provider
from guardhouse_services.identity.usecases.history import present, publish
from guardhouse_services.paging import Page

LIMIT = 50
"""How many an organization may have. Every device that enrolls is told of them all."""


class IdentityProviders:
    """Adds, shows, changes and removes providers. Nothing of them is fetched before a token arrives."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, call: Call, organization_id: str, draft: IdentityProvider) -> tuple[IdentityProvider, str]:
        """The provider and the revision token. Raises OrganizationNotFound, LimitReached and IdentityProviderExists."""

        def work(tx: Transaction) -> tuple[IdentityProvider, str]:
            if (done := requests.find(tx, call.key)) is not None:
                made = requests.recall(IdentityProvider, done) or store.identity_providers.get(
                    tx, organization_id, done["identity_provider_id"]
                )
                return made, present(tx, organization_id)
            store.organizations.require(tx, organization_id, lock=True)
            store.organizations.check_room(tx, organization_id, identity_provider, LIMIT)
            made = replace(draft, identity_provider_id=new_id(IDENTITY_PROVIDER, tx.now), create_time=tx.now)
            store.identity_providers.insert(tx, organization_id, made)
            provider_id = made.identity_provider_id
            requests.record(tx, call, provider_id, identity_provider_id=provider_id, value=requests.remember(made))
            return made, publish(tx, organization_id, [messages.identity_provider_event(made)])

        return await self._database.write(work)

    async def get(self, organization_id: str, identity_provider_id: str) -> IdentityProvider:
        """Raises IdentityProviderNotFound."""
        return await self._database.read(
            lambda tx: store.identity_providers.get(tx, organization_id, identity_provider_id)
        )

    async def page(self, organization_id: str, page: Page) -> Sequence[IdentityProvider]:
        return await self._database.read(lambda tx: store.identity_providers.page(tx, organization_id, page))

    async def update(
        self, call: Call, organization_id: str, identity_provider_id: str, changes: dict[str, Any], etag: str = ""
    ) -> tuple[IdentityProvider, str]:
        """Changes these fields. Raises IdentityProviderNotFound and EtagMismatch."""

        def work(tx: Transaction) -> tuple[IdentityProvider, str]:
            if (done := requests.find(tx, call.key)) is not None:
                changed = requests.recall(IdentityProvider, done) or store.identity_providers.get(
                    tx, organization_id, identity_provider_id
                )
                return changed, present(tx, organization_id)
            found = store.identity_providers.get(tx, organization_id, identity_provider_id, lock=True)
            etags.check(messages.identity_provider(found).etag, etag)
            changed = replace(found, **changes, update_time=tx.now)
            store.identity_providers.update(tx, organization_id, changed)
            if _match(changed.scim) != _match(found.scim):
                store.scim.unlink_all(tx, organization_id, identity_provider_id)
            requests.record(tx, call, identity_provider_id, value=requests.remember(changed))
            return changed, publish(tx, organization_id, [messages.identity_provider_event(changed)])

        return await self._database.write(work)

    async def delete(
        self,
        call: Call,
        organization_id: str,
        identity_provider_id: str,
        etag: str = "",
        *,
        validate_only: bool = False,
    ) -> tuple[ProviderDeletion, str]:
        """What goes and whom it leaves behind, and the revision token.

        Raises IdentityProviderNotFound and EtagMismatch.
        """

        def work(tx: Transaction) -> tuple[ProviderDeletion, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return requests.recall(ProviderDeletion, done) or ProviderDeletion(), present(tx, organization_id)
            found = store.identity_providers.get(tx, organization_id, identity_provider_id, lock=True)
            etags.check(messages.identity_provider(found).etag, etag)
            deletion = ProviderDeletion(
                found,
                store.users.count_of_issuer(tx, organization_id, found.issuer),
                store.registrations.count_of_issuer(tx, organization_id, found.issuer),
            )
            store.identity_providers.delete(tx, organization_id, identity_provider_id)
            # A job drops what was provisioned.
            store.scim.drop_secret(tx, organization_id, identity_provider_id)
            requests.record(tx, call, identity_provider_id, value=requests.remember(deletion))
            token = publish(tx, organization_id, [pb.Event(identity_provider_deleted=identity_provider_id)])
            return deletion, token

        return await self._database.write(work, validate_only=validate_only)


def _match(settings: ScimSettings | None) -> tuple[int, int] | None:
    """By what SCIM users are the users whom they stand for."""
    return (settings.match_attribute, settings.match_claim) if settings else None
