"""Service tokens."""

from collections.abc import Sequence
from dataclasses import replace

from guardhouse.ids import SERVICE_TOKEN, new_id
from guardhouse_services import requests
from guardhouse_services.access import Call
from guardhouse_services.credentials import MasterKey, hash_secret
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.credentials import ServiceToken, TokenDeletion
from guardhouse_services.identity.store.tables import service_token
from guardhouse_services.identity.usecases.history import present, publish
from guardhouse_services.paging import Page

LIMIT = 1000
"""How many an organization may have."""


class ServiceTokens:
    """Creates, shows and deletes tokens. Their secrets are derived from their ids and stored nowhere (decision 10)."""

    def __init__(self, database: Database, master_key: MasterKey) -> None:
        self._database = database
        self._master_key = master_key

    async def create(
        self, call: Call, organization_id: str, display_name: str, duration: int
    ) -> tuple[ServiceToken, str, str]:
        """The token, its secret and the revision token. Raises OrganizationNotFound and LimitReached."""

        def work(tx: Transaction) -> tuple[ServiceToken, str, str]:
            if (done := requests.find(tx, call.key)) is not None:
                service_token_id = done["service_token_id"]
                made = requests.recall(ServiceToken, done) or store.service_tokens.get(
                    tx, organization_id, service_token_id
                )
                secret = self._secret(service_token_id)
                return replace(made, secret_hash=hash_secret(secret)), secret, present(tx, organization_id)
            store.organizations.require(tx, organization_id, lock=True)
            store.organizations.check_room(tx, organization_id, service_token, LIMIT)
            service_token_id = new_id(SERVICE_TOKEN, tx.now)
            secret = self._secret(service_token_id)
            client_id = f"{self._master_key.derive('service token client', service_token_id)[:16].hex()}.access"
            made = ServiceToken(
                service_token_id, display_name, client_id, hash_secret(secret), tx.now, tx.now + duration
            )
            store.service_tokens.insert(tx, organization_id, made)
            value = requests.remember(replace(made, secret_hash=b""))
            requests.record(tx, call, service_token_id, service_token_id=service_token_id, value=value)
            return made, secret, publish(tx, organization_id)

        return await self._database.write(work)

    async def get(self, organization_id: str, service_token_id: str) -> ServiceToken:
        """Raises ServiceTokenNotFound."""
        return await self._database.read(lambda tx: store.service_tokens.get(tx, organization_id, service_token_id))

    async def page(self, organization_id: str, page: Page) -> Sequence[ServiceToken]:
        return await self._database.read(lambda tx: store.service_tokens.page(tx, organization_id, page))

    async def delete(
        self, call: Call, organization_id: str, service_token_id: str, *, validate_only: bool = False
    ) -> tuple[TokenDeletion, str]:
        """What goes and whom it leaves behind, and the revision token.

        Raises ServiceTokenNotFound, and ServiceTokenInUse (decision 11).
        """

        def work(tx: Transaction) -> tuple[TokenDeletion, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return requests.recall(TokenDeletion, done) or TokenDeletion(), present(tx, organization_id)
            found = store.service_tokens.get(tx, organization_id, service_token_id, lock=True)
            store.service_tokens.delete(tx, organization_id, service_token_id)
            registrations = store.registrations.count_of_token(tx, organization_id, service_token_id)
            deletion = TokenDeletion(replace(found, secret_hash=b""), registrations)
            requests.record(tx, call, service_token_id, value=requests.remember(deletion))
            return deletion, publish(tx, organization_id)

        return await self._database.write(work, validate_only=validate_only)

    def _secret(self, service_token_id: str) -> str:
        """256 bits."""
        return self._master_key.derive("service token", service_token_id).hex()
