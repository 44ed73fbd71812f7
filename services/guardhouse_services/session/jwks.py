"""The key sets that whoever is given an application token checks it with, over HTTP (RFC 7517)."""

from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guardhouse.clock import Clock
from guardhouse.errors import InvalidField, OrganizationNotFound, StateStale
from guardhouse.ids import ORGANIZATION, check_id
from guardhouse_services.directory import Directory
from guardhouse_services.session.application_tokens import ApplicationTokens
from guardhouse_services.session.replica import Replica

# A new key is published for longer than this before it signs.
_HEADERS: Final = {"Cache-Control": "max-age=300"}


def route(clock: Clock, directory: Directory, replica: Replica, tokens: ApplicationTokens) -> Route:
    """Answers by what is replicated: 404 for an organization that there is not, and 503 while a key may have been
    withdrawn that this replica has not heard of."""

    async def show(request: Request) -> Response:
        organization_id = request.path_params["organization_id"]
        try:
            await directory.organization(check_id(organization_id, ORGANIZATION, "organization_id"))
        except (InvalidField, OrganizationNotFound):
            return Response(status_code=404)
        except StateStale:
            return Response(status_code=503)
        heard = replica.own.fresh_as_of
        if not heard or clock.steady() - heard > replica.max_staleness:
            return Response(status_code=503)
        keys = replica.applications_of(organization_id).signing_keys.values()
        return JSONResponse(tokens.key_set(organization_id, keys, replica.now()), headers=_HEADERS)

    return Route("/{organization_id}/jwks.json", show)
