"""Service tokens."""

from collections.abc import Sequence

from guardhouse.ids import SERVICE_TOKEN, new_id
from guardhouse_services import requests
from guardhouse_services.access import Call
from guardhouse_services.credentials import MasterKey, hash_secret
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.credentials import ServiceToken
from guardhouse_services.identity.usecases.history import present, publish
from guardhouse_services.paging import Page


class ServiceTokens:
    """Creates, shows and deletes tokens. Their secrets are derived from their ids and stored nowhere (decision 10)."""

    def __init__(self, database: Database, master_key: MasterKey) -> None:
        self._database = database
        self._master_key = master_key

    async def create(
        self, call: Call, organization_id: str, display_name: str, duration: int
    ) -> tuple[ServiceToken, str, str]:
        """The token, its secret and the revision token. Raises OrganizationNotFound."""

        def work(tx: Transaction) -> tuple[ServiceToken, str, str]:
            if (done := requests.find(tx, call.key)) is not None:
                made = store.service_tokens.get(tx, organization_id, done["service_token_id"])
                return made, self._secret(made.service_token_id), present(tx, organization_id)
            store.organizations.require(tx, organization_id)
            service_token_id = new_id(SERVICE_TOKEN, tx.now)
            secret = self._secret(service_token_id)
            client_id = f"{self._master_key.derive('service token client', service_token_id)[:16].hex()}.access"
            made = ServiceToken(
                service_token_id, display_name, client_id, hash_secret(secret), tx.now, tx.now + duration
            )
            store.service_tokens.insert(tx, organization_id, made)
            requests.record(tx, call.key, service_token_id=service_token_id)
            return made, secret, publish(tx, organization_id)

        return await self._database.write(work)

    async def get(self, organization_id: str, service_token_id: str) -> ServiceToken:
        """Raises ServiceTokenNotFound."""
        return await self._database.read(lambda tx: store.service_tokens.get(tx, organization_id, service_token_id))

    async def page(self, organization_id: str, page: Page) -> Sequence[ServiceToken]:
        return await self._database.read(lambda tx: store.service_tokens.page(tx, organization_id, page))

    async def delete(self, call: Call, organization_id: str, service_token_id: str) -> str:
        """The revision token. Raises ServiceTokenNotFound, and ServiceTokenInUse (decision 11)."""

        def work(tx: Transaction) -> str:
            if requests.find(tx, call.key) is not None:
                return present(tx, organization_id)
            store.service_tokens.delete(tx, organization_id, service_token_id)
            requests.record(tx, call.key)
            return publish(tx, organization_id)

        return await self._database.write(work)

    def _secret(self, service_token_id: str) -> str:
        """256 bits."""
        return self._master_key.derive("service token", service_token_id).hex()
