"""The present state as the feed's events, in pages."""

from collections.abc import Callable, Sequence
from typing import Any

from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse_services.database import Transaction
from guardhouse_services.identity import messages, store
from guardhouse_services.paging import Page

Read = Callable[[Transaction, str, Page], Sequence[Any]]

_SECTIONS: dict[str, tuple[Read, Callable[[Any], pb.Event], Callable[[Any], str]]] = {
    "organization": (
        # The installation has all of them, and an organization has none.
        lambda tx, organization_id, page: () if organization_id else store.organizations.page(tx, page),
        messages.organization_event,
        lambda it: it.organization_id,
    ),
    "api_key": (store.api_keys.page, messages.api_key_event, lambda it: it.api_key_id),
    "identity_provider": (
        store.identity_providers.page,
        messages.identity_provider_event,
        lambda it: it.identity_provider_id,
    ),
    "user": (store.users.page_of_all, messages.user_event, lambda it: it.user_id),
    "authentication": (
        store.registrations.page_of_authentications,
        messages.authentication_event,
        lambda it: it.registration_id,
    ),
}


def snapshot(tx: Transaction, organization_id: str, after: str, limit: int) -> tuple[Sequence[pb.Event], str]:
    """A page of the state behind `after`, and the next `after`. It is "section:id", or empty at either end."""
    section, _, last = after.partition(":")
    events: list[pb.Event] = []
    names = list(_SECTIONS)
    for name in names[names.index(section) if section else 0 :]:
        read, event, id_of = _SECTIONS[name]
        size = limit - len(events)
        rows = read(tx, organization_id, Page(last, size))
        events += map(event, rows[:size])
        if len(rows) > size:
            return events, f"{name}:{id_of(rows[size - 1])}" if size else f"{name}:{last}"
        last = ""
    return events, ""
