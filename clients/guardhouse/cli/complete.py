"""Completing ids: what the services list, if they answer before anybody has to wait for it."""

from collections.abc import Callable
from typing import Any, Final

import typer
from google.protobuf.message import Message

from guardhouse.cli import output
from guardhouse.cli.invocation import Invocation
from guardhouse.cli.problems import KNOWN
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.ipam.v1 import ipam_pb2 as ipam
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session

SECONDS: Final = 1.0
SHOWN: Final = 1000

_REQUESTS: Final[dict[str, Callable[..., Message]]] = {
    "api_keys": identity.ListApiKeysRequest,
    "identity_providers": identity.ListIdentityProvidersRequest,
    "service_tokens": identity.ListServiceTokensRequest,
    "enrollment_policies": identity.ListEnrollmentPoliciesRequest,
    "rule_groups": identity.ListRuleGroupsRequest,
    "users": identity.ListUsersRequest,
    "held_actions": identity.ListHeldActionsRequest,
    "held_deletions": registry.ListHeldActionsRequest,
    "devices": lambda **fields: registry.ListDevicesRequest(
        active_registrations=registry.ACTIVE_REGISTRATIONS_INCLUDE, **fields
    ),
    "registrations": lambda **fields: registry.ListRegistrationsRequest(
        state=registry.REGISTRATION_FILTER_ALL, **fields
    ),
    "device_profiles": registry.ListDeviceProfilesRequest,
    "addresses": ipam.ListPinsRequest,
    "subnets": ipam.ListSubnetsRequest,
    "ip_profiles": ipam.ListIpProfilesRequest,
    "policies": session.ListPoliciesRequest,
    "lists": session.ListListsRequest,
    "applications": session.ListApplicationsRequest,
}
"""By the name of a client's stub: the request that lists what there is of it."""


def ids(stub: str, known_by: str = "display_name") -> Callable[[typer.Context, str], list[tuple[str, str]]]:
    """Completes the ids of what a stub lists, each with what people know it by."""

    def complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        given = ctx.find_root().params
        it = Invocation(given.get("profile"), given.get("organization") or "", as_json=True, deadline=SECONDS)
        try:
            organization_id = "" if ctx.params.get("installation") else it.organization_id
            request = _REQUESTS[stub](organization_id=organization_id, page_size=SHOWN)
            response: Any = _method(it, stub, request)(request)
        except (*KNOWN, typer.BadParameter):  # A shell shows nothing of it, and should not.
            return []
        finally:
            it.close()
        found = ((_id(item), output.cell(item, known_by)) for item in output.items(response))
        return [(name, text) for name, text in found if name.startswith(incomplete)]

    return complete


def _method(it: Invocation, stub: str, request: Message) -> Callable[[Message], Message]:
    method: Callable[[Message], Message] = getattr(
        getattr(it.client, stub), request.DESCRIPTOR.name.removesuffix("Request")
    )
    return method


def _id(item: Message) -> str:
    """Every message's first field is its id."""
    name: str = getattr(item, item.DESCRIPTOR.fields[0].name)
    return name
