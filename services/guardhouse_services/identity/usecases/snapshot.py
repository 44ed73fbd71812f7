"""The present state as the feed's events, in pages."""

from collections.abc import Sequence

from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse_services.database import Transaction
from guardhouse_services.feed import Section, read_sections
from guardhouse_services.identity import messages, store

_SECTIONS: dict[str, Section] = {
    "organization": (
        # The installation has all of them, and an organization has none.
        lambda tx, organization_id, page: () if organization_id else store.organizations.page(tx, page),
        messages.organization_event,
        lambda it: it.organization_id,
    ),
    "organization_deleted": (
        lambda tx, organization_id, page: () if organization_id else store.organizations.page_of_deleted(tx, page),
        messages.organization_deleted_event,
        lambda it: it,
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
    """A page of the state for the feed."""
    return read_sections(_SECTIONS, tx, organization_id, after, limit)
