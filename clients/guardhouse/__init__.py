"""Guardhouse for those who call it: stubs, client, typed errors and the command line.

    with guardhouse.connect() as client:
        users = client.users.ListUsers(ListUsersRequest(organization_id=...)).users

`guardhouse.aio.connect()` is the same for asyncio. Failures are the classes of guardhouse.errors.
"""

import importlib
from typing import TYPE_CHECKING, Any

from guardhouse.errors import GuardhouseError

if TYPE_CHECKING:
    from guardhouse import aio
    from guardhouse.client import Client, connect

__all__ = ["Client", "GuardhouseError", "aio", "connect"]


def __getattr__(name: str) -> Any:
    """Imports gRPC when it is wanted: the rules, such as guardhouse.decisions, do without."""
    if name == "aio":
        return importlib.import_module("guardhouse.aio")
    if name in ("Client", "connect"):
        return getattr(importlib.import_module("guardhouse.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
