"""A SCIM client of a world's identity, over HTTP as identity providers speak it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from guardhouse_services.http import HttpServer
from guardhouse_services.identity.domain.credentials import IdentityProvider
from guardhouse_services.identity.domain.scim import ScimEvent, ScimSettings
from guardhouse_services.identity.scim.http import route
from guardhouse_services.identity.scim.tally import Tally
from guardhouse_services.paging import Page
from guardhouse_services.rate_limit import RateLimit
from tests.guardhouse_services.identity.world import EVERYBODY, World

USER = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"
PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
NONE = RateLimit(1000, 1000)


class ScimClient:
    """Of the provider of one organization."""

    def __init__(self, world: World, url: str, organization_id: str = "") -> None:
        self.world = world
        self.organization_id = organization_id or world.organization
        self.provider_id = ""
        self.secret = ""
        self.http = httpx.AsyncClient(base_url=url, timeout=60)

    async def start(self, **settings: Any) -> None:
        await self.set(**settings)
        call = self.world.call(self.organization_id)
        self.secret, _ = await self.world.identity.scim.refresh_secret(call, self.organization_id, self.provider_id)

    async def set(self, **settings: Any) -> IdentityProvider:
        """Switches SCIM on, with these settings."""
        (provider,) = await self.world.identity.identity_providers.page(self.organization_id, EVERYBODY)
        self.provider_id = provider.identity_provider_id
        changes = {"scim": ScimSettings(**{"enabled": True, **settings})}
        call = self.world.call(self.organization_id)
        changed, _ = await self.world.identity.identity_providers.update(
            call, self.organization_id, self.provider_id, changes
        )
        return changed

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        sent = {"authorization": f"Bearer {self.secret}", **{key.replace("_", "-"): it for key, it in headers.items()}}
        return await self.http.request(method, f"/scim/v2/{self.provider_id}{path}", json=body, headers=sent)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """What it answers, if that is no refusal."""
        answer = await self.send(method, path, body, **headers)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def user(self, name: str, **more: Any) -> Any:
        return await self.ask("POST", "/Users", {"schemas": [USER], "userName": name, "externalId": name, **more})

    async def group(self, name: str, *members: Any) -> Any:
        named = [{"value": it["id"]} for it in members]
        return await self.ask("POST", "/Groups", {"schemas": [GROUP], "displayName": name, "members": named})

    async def patch(self, resource: Any, *operations: Any) -> httpx.Response:
        path = resource["meta"]["location"].partition(self.provider_id)[2]
        return await self.send("PATCH", path, {"schemas": [PATCH], "Operations": list(operations)})

    async def find(self, filter_: str, kind: str = "Users", **parameters: Any) -> Any:
        query = httpx.QueryParams({"filter": filter_, **parameters})
        return await self.ask("GET", f"/{kind}?{query}")

    async def names(self, filter_: str, kind: str = "Users", **parameters: Any) -> list[str]:
        found = await self.find(filter_, kind, **parameters)
        return [it["userName" if kind == "Users" else "displayName"] for it in found["Resources"]]

    async def events(self) -> list[ScimEvent]:
        page = Page("", 1000)
        return list(await self.world.identity.scim.events(self.organization_id, self.provider_id, page))


@asynccontextmanager
async def serve(world: World, strangers: RateLimit = NONE) -> AsyncIterator[str]:
    server = HttpServer("127.0.0.1", 0, [route(world.identity.scim, "https://scim.example.com", strangers, Tally())])
    await server.start()
    yield f"http://127.0.0.1:{server.port}"
    await server.stop()
